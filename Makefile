# `make demo` and `make test` work on a fresh machine with Python 3.11 or later, git and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
SOURCES := pyproject.toml constraints.txt $(shell find goodparts -name '*.py' -o -name '*.jinja' -o -path '*/pages/*')

.PHONY: demo serve test lint fuzz clean
FUZZ_SECONDS ?= 120
FUZZ_SEED ?=

demo: $(VENV)/installed  ## install, then the whole main job on rendered parts; the report is demo/results/report.html
	$(BIN)/goodparts demo --out demo

serve: $(VENV)/server-installed  ## the demo's model as a service: prints the address, a password and a line for curl
	test -f demo/results/flange.goodparts || $(BIN)/goodparts demo --out demo
	$(BIN)/goodparts serve demo/results/flange.goodparts --data demo/history --example demo/flange/test/good/000.png

test: $(VENV)/test-installed  ## install with what the tests need, then run them
	$(BIN)/python -m pytest

lint: $(VENV)/test-installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

fuzz: $(VENV)/test-installed  ## hand broken images, models, backbones, recipes and zones to it; FUZZ_SECONDS for all, FUZZ_SEED
	PYTHONPATH=tests $(BIN)/python -m fuzz --seconds $(FUZZ_SECONDS) $(if $(FUZZ_SEED),--seed $(FUZZ_SEED))

$(VENV)/installed: $(SOURCES)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt .
	touch $@

$(VENV)/server-installed: $(VENV)/installed
	$(PIP) install -c constraints.txt '.[server]'
	touch $@

$(VENV)/test-installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt torch==2.13.0
	$(PIP) install -c constraints.txt -e '.[test]'
	touch $@

clean:
	rm -rf $(VENV) build dist demo .mypy_cache .ruff_cache .pytest_cache .hypothesis fuzz-faults
