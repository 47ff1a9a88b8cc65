# make demo, make test: everything else is for those who work on rlalign.

PYTHON ?= python3
VENV ?= .venv
# A process for each core, up to four; a file's tests stay together and share what they prepare.
PYTEST_ARGS ?= --numprocesses auto --maxprocesses 4 --dist loadfile
DEMO_ARGS ?=
BENCH_ARGS ?=
# Interpreters of the peers' environments; `make bench-setup` makes them.
PEERS_PYTHON ?= .bench/peers/bin/python
JAX_PYTHON ?= .bench/jax/bin/python

export OMP_NUM_THREADS ?= 1

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all check format typing bench bench-setup constraints clean

help:  ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

# torch comes first and alone, so that pip takes the build its configuration prefers
# (a CPU build, say) instead of settling the question among all other packages.
$(VENV)/.core: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "rlalign needs Python 3.11 or newer: make PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet "$$(grep '^torch==' constraints.txt)"
	$(PIP) install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.core
	$(PIP) install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

install: $(VENV)/.dev  ## install rlalign and the tools into .venv

demo: $(VENV)/.core  ## learn offline, improve online, report: about four minutes on two cores
	$(BIN)/python -m rlalign.demo $(DEMO_ARGS)

test: $(VENV)/.dev  ## the quick tests
	$(BIN)/python -m pytest $(PYTEST_ARGS)

test-all: $(VENV)/.dev  ## the slow tests too
	$(BIN)/python -m pytest -m "slow or not slow" $(PYTEST_ARGS)

# Type checkers do not follow the finder of an editable install, and a strict one has to be
# repeated for each new file; this tree of links shows them the installed layout instead.
typing:  ## build/typing: the installed layout as links, for mypy and editors
	@rm -rf build/typing && mkdir -p build/typing/rlalign
	@ln -s $(CURDIR)/rlalign/* build/typing/rlalign/
	@ln -s $(CURDIR)/agents $(CURDIR)/envs $(CURDIR)/recipes build/typing/rlalign/
	@ln -s $(CURDIR)/tests $(CURDIR)/benchmarks $(CURDIR)/scripts build/typing/

check: $(VENV)/.dev typing  ## format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	cd build/typing && $(abspath $(BIN))/mypy --config-file $(CURDIR)/pyproject.toml \
	  --cache-dir $(CURDIR)/.mypy_cache rlalign tests benchmarks scripts

format: $(VENV)/.dev  ## put format and import order right
	$(BIN)/ruff check --fix --exit-zero --quiet .
	$(BIN)/ruff format .

bench-setup:  ## the peers' environments, in .bench
	bash benchmarks/setup.sh $(PYTHON)

BENCH := --peers-python $(PEERS_PYTHON) --jax-python $(JAX_PYTHON) $(BENCH_ARGS)

bench: $(VENV)/.dev  ## speed next to the peers (after bench-setup): 40 minutes at least
	$(BIN)/python -m benchmarks.updates $(BENCH)
	$(BIN)/python -m benchmarks.updates --threads 2 $(BENCH)
	$(BIN)/python -m benchmarks.online $(BENCH)
	$(BIN)/python -m benchmarks.memory > benchmarks/results/memory.md
	@cat benchmarks/results/memory.md

constraints: $(VENV)/.dev  ## write constraints.txt from what is installed
	@{ sed -n '/^#/p' constraints.txt; \
	   $(PIP) freeze --exclude-editable --exclude rlalign | sed -E 's/\+[a-z0-9.]+$$//'; } > constraints.new
	@mv constraints.new constraints.txt

clean:  ## remove what was built, keep .venv
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
