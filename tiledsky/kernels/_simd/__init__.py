"""Vectors of the processor: lanes in LLVM's language, and exp, log and pow with the same bits on every machine."""
