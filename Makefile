# Every target does its own set-up in .venv. Needed beforehand: Python 3.11 or newer (`make demo PYTHON=python3.12` chooses one).

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
INSTALL := $(PIP) install --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo bench test sweep check check-latest check-oldest docs serve clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST)

demo: .venv/.run  ## decode the bundled pair with every strategy, and print the table
	$(BIN)/specdec bench --strategy speculative,pearl,elastic,hedged,saguaro

# The hardware by a short name, and the date: another day or machine does not overwrite a result.
CPU = $(shell sed -n 's/^model name[^:]*: //p' /proc/cpuinfo 2>/dev/null | head -n 1 \
	| sed 's/([A-Z]*)//g; s/ CPU.*//; s/ Processor.*//' | tr 'A-Z ' 'a-z_')
RESULT = benchmarks/results/cpu_$(or $(CPU),$(shell uname -m))_$(shell getconf _NPROCESSORS_ONLN)_cores_$(shell date +%F)_bench

bench: .venv/.run  ## the full benchmark against Hugging Face's generate, into benchmarks/results/; takes long
	$(BIN)/specdec bench --full --against hf --json $(RESULT).json --output $(RESULT).png --output $(RESULT).svg

test: .venv/.test  ## all tests, in two processes
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal

sweep: .venv/.sweep  ## decode by a tiny model of every type that transformers knows, and write their page; takes long
	$(BIN)/python -m pytest -m sweep tests/sweep

validation: .venv/.run  ## write the page of errors from published tables: make validation TABLES=FOLDER
	$(BIN)/python scripts/validation_page.py $(TABLES)

check: .venv/.check .venv/.docs  ## lint, format, strict types here and from an installed wheel, exports, and who may import whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/python -m pytest tests/docs/test_rooms.py tests/docs/test_exports.py tests/docs/installed.py

LATEST := .venv-latest/bin/python

check-latest: .venv/.python pyproject.toml  ## all tests with the newest allowed versions, in .venv-latest; writes their page; takes long
	@$(PYTHON) -m venv --clear .venv-latest
	@$(LATEST) -m pip --disable-pip-version-check --quiet install --upgrade 'pip>=25.1'
	@echo "Installing the newest allowed versions into .venv-latest"
	@$(LATEST) -m pip --disable-pip-version-check --quiet install --editable . --group test
	@$(LATEST) -m pytest --numprocesses 2 --dist worksteal --junitxml .venv-latest/tests.xml; \
		$(LATEST) scripts/versions_page.py newest .venv-latest/tests.xml

OLDEST := .venv-oldest/bin/python

check-oldest: .venv/.python pyproject.toml  ## all tests with the oldest allowed versions, in .venv-oldest; writes their page; takes long
	@$(PYTHON) -m venv --clear .venv-oldest
	@$(OLDEST) -m pip --disable-pip-version-check --quiet install --upgrade 'pip>=25.1'
	@$(OLDEST) scripts/versions_page.py bounds > .venv-oldest/bounds.txt
	@echo "Installing the oldest allowed versions into .venv-oldest"
	@$(OLDEST) -m pip --disable-pip-version-check --quiet install --constraint .venv-oldest/bounds.txt --editable . --group test
	@$(OLDEST) -m pytest --numprocesses 2 --dist worksteal --junitxml .venv-oldest/tests.xml; \
		$(OLDEST) scripts/versions_page.py oldest .venv-oldest/tests.xml

docs: .venv/.docs  ## build the site into site/; warnings are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "The site is in site/index.html"

serve: .venv/.docs  ## the site at http://127.0.0.1:8000, rebuilt when a page changes
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

clean:  ## remove everything that make made
	rm -rf .venv .venv-latest .venv-oldest site build dist .pytest_cache .ruff_cache .hypothesis

.venv/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON) is $$($(PYTHON) --version 2>&1), and 3.11 or newer is needed: make PYTHON=python3.12"; exit 2; }
	@echo "Creating .venv"
	@$(PYTHON) -m venv .venv
	@$(PIP) install --upgrade 'pip>=25.1'
	@touch $@

.venv/.run: .venv/.python pyproject.toml constraints.txt
	@echo "Installing pearl-specdec and what it needs into .venv (torch is large: minutes the first time)"
	@$(INSTALL) --editable .
	@touch $@

.venv/.test: .venv/.run
	@echo "Installing what the tests need"
	@$(INSTALL) --group test
	@touch $@

.venv/.sweep: .venv/.test
	@echo "Installing what the sweep needs"
	@$(INSTALL) --group sweep
	@touch $@

.venv/.check: .venv/.test
	@echo "Installing what the checks need"
	@$(INSTALL) --group check
	@touch $@

.venv/.docs: .venv/.run
	@echo "Installing what the site needs"
	@$(INSTALL) --group docs
	@touch $@
