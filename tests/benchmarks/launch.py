"""Run a command and write down what it took: python -ISs launch.py FACTS COMMAND [WORD ...].

Linux counts in the peak memory of a process what the one that started it held at that moment. So commands are started
from here, a process of some 10 MB, not from the benchmark with all its arrays and libraries.
"""

import os
import sys
import time

facts, *words = sys.argv[1:]
began = time.perf_counter()
process = os.posix_spawnp(words[0], words, os.environ)
_, status, used = os.wait4(process, 0)
wall = time.perf_counter() - began
with open(facts, "w") as file:
    file.write(f"{wall} {used.ru_utime + used.ru_stime} {used.ru_maxrss * 1024}\n")
sys.exit(os.waitstatus_to_exitcode(status) & 255)
