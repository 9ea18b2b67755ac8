# `make demo` and `make test` install what they need into .venv; both can be repeated.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check \
	--constraint Testing/constraints.txt --editable

.PHONY: demo test lint clean

demo: $(VENV)/.demo
	$(BIN)/mrfunet demo --output demo-output --overwrite

test: $(VENV)/.test lint
	$(BIN)/python -m pytest

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

$(VENV)/.demo: $(VENV)/.made
	$(INSTALL) '.[demo]'
	touch $@

$(VENV)/.test: $(VENV)/.made
	sh Testing/system_libraries.sh
	$(INSTALL) '.[test]'
	touch $@

$(VENV)/.made: pyproject.toml Testing/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Python 3.10 or newer is needed: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || \
		{ echo "Python lacks venv: apt-get install python3-venv, then again"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	touch $@

clean:
	rm -rf $(VENV) demo-output
