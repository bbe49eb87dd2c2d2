# `make demo` and `make test` do all the set-up themselves; they need Python 3.11 or later.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

# the tiers of `make test`; `test-all` adds what is marked wide in them, learning, compiled to run fast in a process of
# its own, and process
TIERS := tests/unit tests/contract tests/runs -m 'not wide'
PYTEST = $(BIN)/python -m pytest -n 2 --dist loadfile

.PHONY: demo test test-all smoke coverage mutants lint bench notebooks docs docs-serve constraints clean

demo: $(VENV)/core
	$(BIN)/purerl train ppo CartPole-v1 --value-clip 0.2

test: $(VENV)/dev
	$(PYTEST) $(TIERS)

test-all: $(VENV)/dev
	$(BIN)/python scripts/test_all.py

smoke: $(VENV)/dev
	$(PYTEST) -m smoke

# lines of purerl/ that the tests reach
coverage: $(VENV)/dev
	$(PYTEST) $(TIERS) --cov --cov-report=term-missing:skip-covered

# faults planted one at a time in a copy of the package, and the test that catches each: those whose source or test has
# changed since their result; all of them take more than an hour
mutants: $(VENV)/dev
	$(BIN)/python scripts/mutants.py --changed --jobs 2

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

# trains the reproductions, all or KEYS="ppo-CartPole-v1 ...", beside the recorded results; all of them take long
bench: $(VENV)/core
	$(BIN)/python benchmarks/papers/reproduce.py $(KEYS)

notebooks: $(VENV)/notebooks
	$(BIN)/python scripts/run_notebooks.py --jobs 2 notebooks/*.ipynb

# the site of documentation, into docs/_build; it needs no network, to be built or to be read
docs: $(VENV)/docs
	$(BIN)/python -m sphinx -q -j 2 -W --keep-going docs docs/_build/html
	@echo "the site is docs/_build/html/index.html; make docs-serve shows it, with its search"

docs-serve: docs
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory docs/_build/html 8000

# Pins what this Python resolves to today; run it once with 3.11 and once with 3.12 or later, then test.
constraints:
	$(PYTHON) scripts/constraints.py

$(VENV)/ready:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "purerl needs Python 3.11 or later, and $(PYTHON) is $$($(PYTHON) --version); set PYTHON=..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/core: $(VENV)/ready pyproject.toml constraints.txt
	$(PIP) -e '.[render]'
	@touch $@

$(VENV)/dev: $(VENV)/ready pyproject.toml constraints.txt
	$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/core

$(VENV)/notebooks: $(VENV)/ready pyproject.toml constraints.txt
	$(PIP) -e '.[notebooks]'
	@touch $@ $(VENV)/core

$(VENV)/docs: $(VENV)/ready pyproject.toml constraints.txt
	$(PIP) -e '.[docs]'
	@touch $@ $(VENV)/core

clean:
	rm -rf $(VENV) docs/_build
