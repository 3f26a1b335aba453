# `make demo` and `make test` need nothing but Python 3.10-3.13 and make.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.10; do \
	$$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
OLDEST := .venv-oldest/bin
export TF_CPP_MIN_LOG_LEVEL ?= 3

.PHONY: demo test test-fast test-slow test-all coverage test-oldest test-jax test-jax-fast test-torch test-zoo test-browser docs fuzz lint format clean

demo: .venv/installed
	@$(BIN)/python -m keras_rmda demo

# Two processes, to which tests/scheduling.py deals the tests out.
PYTEST := python -m pytest -n 2

test: .venv/installed
	$(BIN)/$(PYTEST)

# What one runs after every change; it says what it leaves out.
test-fast: .venv/installed
	$(BIN)/$(PYTEST) -m "not slow"

test-slow: .venv/installed
	$(BIN)/$(PYTEST) -m slow

# Also what is rare, and every combination of parameters; the others run so many that every value is among them.
test-all: .venv/installed
	$(BIN)/$(PYTEST) --everything

# Lines and branches of keras_rmda that the tests run, also in the processes that they start.
coverage: .venv/installed
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -n 2
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

test-oldest: .venv-oldest/installed
	$(OLDEST)/$(PYTEST)

# What does not need TensorFlow, on the other backends of Keras.
BACKEND_TESTS := $(addprefix tests/test_,regularizers.py reference.py optimizers.py algorithms.py path.py callbacks.py backup.py sparsify.py coupled.py target.py target_choice.py opaque.py saving.py gates.py gates_insertion.py structured.py session.py numbers.py finite.py binding.py settings.py compress.py compress_callbacks.py)

test-jax: .venv/installed
	KERAS_BACKEND=jax $(BIN)/$(PYTEST) $(BACKEND_TESTS)

# What the gate runs of them: algorithms, penalties and callbacks, not the longest files of what is built on them.
LONG_ON_JAX := $(addprefix tests/test_,compress.py gates_insertion.py saving.py sparsify.py)

test-jax-fast: .venv/installed
	KERAS_BACKEND=jax $(BIN)/$(PYTEST) -m "not slow" $(filter-out $(LONG_ON_JAX),$(BACKEND_TESTS))

test-torch: .venv/installed-torch
	KERAS_BACKEND=torch $(BIN)/$(PYTEST) $(BACKEND_TESTS)

# Networks of keras-hub, stripped: about half an hour.
test-zoo: .venv/installed-zoo
	$(BIN)/$(PYTEST) tests/zoo_keras_hub.py tests/test_keras_hub.py

# The pages of docs/ as a site in site/; links that lead nowhere are errors.
docs: .venv/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The page of `keras-rmda report`, and the site, in Chromium, which comes from the system's packages (Debian: chromium).
test-browser: .venv/installed-browser docs
	$(BIN)/python -m pytest tests/test_browser.py

# Two thousand random models, and four hundred with blocks as people write them; FUZZ="--first 5000 --count 100" chooses others.
fuzz: .venv/installed
	$(BIN)/python tests/graphs.py --first 1000 $(FUZZ)
	$(BIN)/python tests/graphs.py --first 1000 --count 400 --people $(FUZZ)

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The stamp is written last: an installation that was interrupted is made again.
.venv/installed: pyproject.toml
	@test -n "$(PYTHON)" || { echo "keras_rmda needs Python 3.10 to 3.13; set PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "installing into .venv (once; about a minute and 3 GB) ..."
	@rm -f .venv/installed
	@test -x $(BIN)/python || "$(PYTHON)" -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	@touch .venv/installed

.venv/installed-torch: .venv/installed
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "torch>=2.4"
	@touch .venv/installed-torch

.venv/installed-browser: .venv/installed
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check playwright
	@touch .venv/installed-browser

.venv/installed-docs: .venv/installed
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[docs]"
	@touch .venv/installed-docs

.venv/installed-zoo: .venv/installed
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[zoo]"
	@touch .venv/installed-zoo

.venv-oldest/installed: pyproject.toml tests/oldest.txt
	@rm -f .venv-oldest/installed
	@test -x $(OLDEST)/python || "$(PYTHON)" -m venv .venv-oldest
	@$(OLDEST)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]" --constraint tests/oldest.txt
	@touch .venv-oldest/installed

clean:
	rm -rf .venv .venv-oldest site .pytest_cache .ruff_cache .hypothesis
