PYTHON ?= python3
ARGS ?=
SECONDS ?= 60
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

EXAMPLE ?= kink exact_penalty correlated_dictionary digits_classifier deep_plain_network text_transformer \
	sparse_autoencoder planted_subspaces penalty_comparison denoising
.DEFAULT_GOAL := help
.PHONY: help learn test test-slow fuzz check format docs bench bench-quick examples clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' Makefile

learn: $(VENV)/.run  ## learn groups of atoms from natural images (about 75 s); more by ARGS="--groups 96"
	@$(BIN)/gramian learn $(ARGS)

test: $(VENV)/.dev  ## run the test suite
	@$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow and not gpu" $(ARGS)

test-slow: $(VENV)/.dev  ## run the tests that take minutes
	@$(BIN)/python -m pytest -m "slow" $(ARGS)

fuzz: $(VENV)/.dev  ## feed hostile files, tensors and command lines for SECONDS=60; ARGS="--seed N" repeats a run
	@$(BIN)/python -m tests.faults.fuzz --seconds $(SECONDS) $(ARGS)

check: $(VENV)/.dev  ## format, lint and types, without changing anything
	@$(BIN)/ruff format --check
	@$(BIN)/ruff check
	@$(BIN)/pyright

format: $(VENV)/.dev  ## put the code into the house's format
	@$(BIN)/ruff format
	@$(BIN)/ruff check --fix

docs: $(VENV)/.docs  ## build the site into site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(VENV)/.bench  ## measure the kernels beside their peers, the rules and learning (about half an hour)
	@$(BIN)/python benchmarks/kernels.py
	@$(BIN)/python benchmarks/low_precision.py
	@$(BIN)/python benchmarks/update_rules.py
	@$(BIN)/python benchmarks/penalties.py
	@$(BIN)/python benchmarks/learning_step.py
	@$(BIN)/python benchmarks/sparse_coding.py
	@$(BIN)/python benchmarks/processes.py

bench-quick: $(VENV)/.bench  ## the kernels alone, fewer shapes (under 2 minutes)
	@$(BIN)/python benchmarks/kernels.py --quick

examples: $(VENV)/.dev  ## measure what the penalties are good for (about an hour); one by EXAMPLE=exact_penalty
	@for each in $(EXAMPLE); do $(BIN)/python examples/$$each.py $(ARGS) || exit 1; done

clean:  ## take away the virtual environment and everything that was built
	rm -rf $(VENV) site .pytest_cache .ruff_cache .hypothesis

# Each stamp is written only after its installation succeeded, so an interrupted one is made again.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 10) else "gramian needs Python 3.10 or later; got " + sys.version.split()[0] + "; try make PYTHON=python3.12")'
	@echo "making the virtual environment $(VENV)"
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.run: $(VENV)/.made pyproject.toml constraints.txt
	@echo "installing gramian (a few minutes, once)"
	@$(PIP) -e ".[cli]"
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	@echo "installing the tools for tests and checks (once)"
	@$(PIP) -e ".[cli,fast,dev]"
	@touch $@

$(VENV)/.bench: $(VENV)/.dev
	@echo "installing the peers that the benchmark compares with (once)"
	@$(PIP) -e ".[cli,fast,dev,bench]"
	@touch $@

$(VENV)/.docs: $(VENV)/.dev
	@echo "installing the tools for the site (once)"
	@$(PIP) -e ".[cli,fast,dev,docs]"
	@touch $@
