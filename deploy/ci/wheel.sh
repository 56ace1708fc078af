#!/usr/bin/env bash
# Builds a wheel and a source distribution and uses each as somebody would who has nothing else of the project.
#   wheel.sh PYTHON_WITH_BUILD PYTHON
set -euo pipefail
builder=$(realpath -s "$1")
python=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$builder" -m build --outdir "$work/dist" . >"$work/build.log" 2>&1 || { cat "$work/build.log"; exit 1; }
cd "$work"
for package in dist/*.whl dist/*.tar.gz; do
  "$python" -m venv --clear env
  env/bin/python -m pip install --quiet "$package"
  env/bin/tiledsky --version
  env/bin/tiledsky recipes >recipes.txt && grep -q deep-sky recipes.txt
  env/bin/tiledsky simulate scene.fits --size 300 --seed 4 --overwrite
  rm -rf sky.zarr sky.report.html page.html
  env/bin/tiledsky run scene.fits --recipe complex-sky --out sky.zarr --workers 1
  env/bin/tiledsky report sky.zarr -o page.html
  grep -q '</html>' page.html
  env/bin/python -c "import tiledsky, pathlib; assert '$work' in tiledsky.__file__; assert pathlib.Path(tiledsky.__file__).with_name('py.typed')"
  echo "$(basename "$package"): simulate, run, report, import work"
done
