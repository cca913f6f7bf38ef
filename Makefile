# nucseg: `make demo` sets up everything and runs the main job, `make test` runs the tests.
# A Python 3.12 or 3.13 is looked for on PATH, in pyenv's versions folder and through uv;
# `make PYTHON=/path/to/python3.12 demo` names one.

SHELL := /bin/sh
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= demo
WORKERS ?= 2

.PHONY: help demo test test-cluster check format bench clean

help:
	@echo "make demo    set up $(VENV), then synthetic worm -> train -> segment -> report, in ./$(DEMO)"
	@echo "make test    set up $(VENV) with the test tools and run the tests"
	@echo "make test-cluster   the failure drills on a real Slurm of three hosts on this machine (root; apt install slurm-wlm)"
	@echo "make check   ruff, mypy, import-linter"
	@echo "make bench   the measured comparisons in benchmarks/"
	@echo "make format  let ruff format the sources"
	@echo "make clean   remove $(VENV) and caches"

demo: $(VENV)/.ready-cpu
	$(BIN)/nucseg demo --folder $(DEMO)

test: $(VENV)/.ready-dev
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup

test-cluster: $(VENV)/.ready-dev
	@$(BIN)/python tests/cluster/slurm_hosts.py check
	NUCSEG_CLUSTER=1 $(BIN)/python -m pytest tests/cluster -p no:xdist --durations=5

check: $(VENV)/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.ready-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.ready-dev
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache build *.egg-info

# One environment; each extra is a stamp file. uv installs in seconds what takes pip minutes: the one on PATH, else
# one put into the environment; where neither works, pip does it.
$(VENV)/.ready-%: setup.py pyproject.toml | $(BIN)/python
	@uv=$$(command -v uv || true); \
	if [ -z "$$uv" ] && $(BIN)/python -m pip install --quiet --disable-pip-version-check uv; then uv=$(BIN)/uv; fi; \
	if [ -n "$$uv" ] && "$$uv" pip install --python $(BIN)/python -e '.[$*]'; then :; \
	else $(BIN)/python -m pip install --disable-pip-version-check -e '.[$*]'; fi
	@touch $@

$(BIN)/python:
	@set -e; \
	usable() { "$$1" -c 'import sys, venv, ensurepip; sys.exit(not (3, 12) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1; }; \
	found=''; \
	for p in "$(PYTHON)" python3.12 python3.13 python3 python \
	         $${PYENV_ROOT:-$$HOME/.pyenv}/versions/3.12.*/bin/python $${PYENV_ROOT:-$$HOME/.pyenv}/versions/3.13.*/bin/python \
	         $$(r=$$(pyenv root 2>/dev/null) && ls -d "$$r"/versions/3.12.*/bin/python "$$r"/versions/3.13.*/bin/python 2>/dev/null); do \
	  if [ -n "$$p" ] && command -v "$$p" >/dev/null 2>&1 && usable "$$p"; then found="$$p"; break; fi; \
	done; \
	if [ -n "$(PYTHON)" ] && [ "$$found" != "$(PYTHON)" ]; then \
	  echo "make: PYTHON=$(PYTHON): expected a working Python 3.12 or 3.13 with its venv module; correct the path or leave PYTHON out" >&2; exit 1; \
	fi; \
	if [ -n "$$found" ]; then \
	  echo "make: using $$("$$found" --version) ($$found)"; "$$found" -m venv $(VENV); \
	elif command -v uv >/dev/null 2>&1; then \
	  echo "make: using a Python from uv"; uv venv --seed --python '>=3.12,<3.14' $(VENV); \
	else \
	  echo "make: expected Python 3.12 or 3.13 (gunpowder and zarr need 3.12, TensorFlow ends at 3.13); found none on PATH, in pyenv or through uv." >&2; \
	  echo "make: install one (apt install python3.12-venv, pyenv install 3.12, or https://docs.astral.sh/uv), or run make PYTHON=/path/to/python3.12" >&2; \
	  exit 1; \
	fi
