# `make train` and `make test` work on a fresh machine: they create .venv, install their requirements into it, and run.
# Another Python: make test PYTHON=python3.12      Another run: make train CONFIG=configs/acrobot.toml ARGS="--seed 1"

VENV   := .venv
BIN    := $(VENV)/bin
CONFIG ?= configs/cartpole.toml
ARGS   ?=
COMMA  := ,

.DEFAULT_GOAL := help
.PHONY: help train test test-slow test-perf test-suites results mutants check format install clean

help: ## List the targets
	@echo "usage: make TARGET [PYTHON=python3.12] [CONFIG=configs/cartpole.toml] [ARGS='--seed 1']"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1 \2/p' $(MAKEFILE_LIST) | while read -r name text; do \
	  printf '  %-11s %s\n' "$$name" "$$text"; done

train: $(VENV)/.core-ready ## Train an agent with CONFIG; its results go to a folder in runs/
	@echo "==> purejaxppo train $(CONFIG) $(ARGS)"
	@$(BIN)/purejaxppo train $(CONFIG) $(ARGS)

test: $(VENV)/.test-ready ## Run the tests, two files at a time (about 8 minutes on 2 cores)
	@echo "==> pytest"
	@$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

test-slow: $(VENV)/.test-ready ## Run the slow tests: whole learning runs, every environment (about an hour)
	@echo "==> pytest -m slow"
	@XLA_FLAGS="$$XLA_FLAGS" $(BIN)/python -m pytest -m slow $(ARGS)

test-perf: $(VENV)/.test-ready ## Compare kernels and memory of the compiled programs with the recorded numbers
	@echo "==> pytest -m perf"
	@$(BIN)/python -m pytest -m perf $(ARGS)

test-suites: $(VENV)/.suites-ready ## Install every environment suite and run their tests but the slow ones
	@echo "==> pytest -m 'suites and not slow'"
	@$(BIN)/python -m pytest -n 2 --dist loadfile -m "suites and not slow" tests/envs/suites $(ARGS)

results: $(VENV)/.test-ready ## Train every run of docs/results.md and print its tables (about an hour)
	@$(BIN)/python tests/learning.py gates
	@$(BIN)/python tests/learning.py others
	@$(BIN)/python tests/learning.py combinations

mutants: $(VENV)/.test-ready ## Apply each fault of tests/mutants.toml to a copy and check that a test fails
	@$(BIN)/python tests/mutants.py $(ARGS)

check: $(VENV)/.dev-ready ## Check format, lint, types, spelling and notebooks, then run the tests and test-perf
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/codespell
	$(BIN)/nbstripout --verify notebooks/*.ipynb
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not costly" $(ARGS)

format: $(VENV)/.dev-ready ## Fix lint and format the code
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

install: $(VENV)/.dev-ready ## Create .venv with all development tools
	@echo "==> ready: . $(BIN)/activate"

clean: ## Remove .venv and caches (runs/ stays)
	rm -rf $(VENV) .pytest_cache .ruff_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# ---- set-up: runs once, and again after a change of pyproject.toml or constraints.txt

$(BIN)/python:
	@for candidate in "$(PYTHON)" python3.12 python3.11 python3.13 python3 python; do \
	  if [ -n "$$candidate" ] && "$$candidate" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
	  then found="$$candidate"; break; \
	  elif [ -n "$$candidate" ] && [ "$$candidate" = "$(PYTHON)" ]; \
	  then echo "make: PYTHON=$(PYTHON) is not a Python >= 3.11 with venv" >&2; exit 1; fi; done; \
	if [ -z "$$found" ]; then echo "make: found no Python >= 3.11 with venv; name one: make $(MAKECMDGOALS) PYTHON=/path/to/python" >&2; exit 1; fi; \
	echo "==> creating $(VENV) with $$("$$found" --version)"; \
	"$$found" -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

define install_with
	@echo "==> installing $(1) into $(VENV) (takes minutes the first time, about 1 GB)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '$(1)'
	@touch $@
endef

$(VENV)/.core-ready: pyproject.toml constraints.txt | $(BIN)/python
	$(call install_with,.)

$(VENV)/.test-ready: pyproject.toml constraints.txt | $(BIN)/python
	$(call install_with,.[test])
	@touch $(VENV)/.core-ready

$(VENV)/.suites-ready: pyproject.toml constraints.txt | $(BIN)/python
	$(call install_with,.[test$(COMMA)suites])
	@touch $(VENV)/.core-ready $(VENV)/.test-ready

$(VENV)/.dev-ready: pyproject.toml constraints.txt | $(BIN)/python
	$(call install_with,.[dev])
	@touch $(VENV)/.core-ready $(VENV)/.test-ready
