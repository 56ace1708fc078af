#!/usr/bin/env bash
# Prints the path of an interpreter that tiledsky supports: `python.sh newest`, `python.sh oldest`, `python.sh 3.12`.
# Looks on PATH and among pyenv's versions; without one it says so in a line and ends with 1.
supported="3.14 3.13 3.12 3.11"
case "${1:-newest}" in
  newest) wanted=$supported ;;
  oldest) wanted=$(printf '%s\n' $supported | tac) ;;
  *) wanted=$1 ;;
esac
for version in $wanted; do
  for candidate in "python$version" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$version".*/bin/python python3; do
    # a shim of pyenv is there for versions that are not chosen, too, and ends in an error
    if found=$("$candidate" -c 'import sys, venv; print("%d.%d" % sys.version_info[:2], sys.executable)' 2>/dev/null) &&
      [ "${found%% *}" = "$version" ]; then
      echo "${found#* }"
      exit 0
    fi
  done
done
echo "no Python of these is there: $(echo $wanted); install one, or name one: make test PYTHON=/path/to/python" >&2
exit 1
