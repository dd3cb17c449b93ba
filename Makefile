# Needs Python 3.11, make and a package index. Only `make check` wants npx as well, for buf.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
INSTALLED := .venv/.installed
BUF := npx --yes @bufbuild/buf@1.75.0

# Each test process imports torch and binds ports: past eight of them more processes only cost memory.
CORES := $(shell getconf _NPROCESSORS_ONLN)
TEST_PROCESSES ?= $(shell test $(CORES) -lt 8 && echo $(CORES) || echo 8)

.DEFAULT_GOAL := help
.PHONY: help install protos format check check-format check-lint check-types check-imports check-sources \
        check-stubs check-protos test demo bench clean

help:  ## Show this list
	@sed -n 's/^\([a-z][a-z-]*\):.*  ## \(.*\)/\1\t\2/p' Makefile | while IFS="$$(printf '\t')" read -r name text; \
	    do printf '  make %-15s %s\n' "$$name" "$$text"; done

install: $(INSTALLED)  ## Create .venv and install headrace into it, with all that development needs

$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "No python3 found; install Python 3.11 or newer, or name one: make install PYTHON=/path/to/python"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "$(PYTHON) is older than 3.11; name a newer one: make install PYTHON=/path/to/python"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/python -m headrace_parameters.precompile
	touch $@

protos: $(INSTALLED)  ## Generate the stubs below libs/ from protos/
	$(BIN)/python tools/generate_stubs.py

format: $(INSTALLED)  ## Rewrite the sources in the house format
	$(BIN)/ruff format
	$(BIN)/ruff check --fix
	if command -v npx >/dev/null; then $(BUF) format --write; fi

check: check-format check-lint check-types check-imports check-sources check-stubs check-protos  ## Run every check that is not a test

check-format: $(INSTALLED)
	$(BIN)/ruff format --check

check-lint: $(INSTALLED)
	$(BIN)/ruff check

check-types: $(INSTALLED)
	$(BIN)/mypy

check-imports: $(INSTALLED)
	$(BIN)/lint-imports

check-sources: $(INSTALLED)
	$(BIN)/python tools/forbid_unsafe_loading.py
	$(BIN)/python tools/check_file_length.py

check-stubs: $(INSTALLED)
	$(BIN)/python tools/generate_stubs.py --check

check-protos:
	@command -v npx >/dev/null || { echo "npx is missing, and buf comes through it: install npm (on Debian: apt-get install npm)"; exit 1; }
	$(BUF) lint
	$(BUF) format --diff --exit-code

test: $(INSTALLED)  ## Run all tests; none needs npm or Docker
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(TEST_PROCESSES) --dist loadgroup --no-loadscope-reorder

demo: $(INSTALLED)  ## Train, optimize, deploy and query the digits model on this machine
	$(BIN)/headrace demo

bench: $(INSTALLED)  ## Measure every number the documentation claims
	set -e; for name in $(basename $(notdir $(wildcard benchmarks/[a-z]*.py))); do $(BIN)/python -m benchmarks.$$name; done

clean:  ## Remove caches and builds, not .venv
	rm -rf build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
