# make quickstart   the whole chain on this machine's CPU, from text to a model that can be talked to
# make recipe R=NAME SMALL=1   a recipe's small form from raw text to report; without SMALL=1 its full size
# make test         everything the project promises, checked
# make venv         only the environment; make lint, make clean

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
READY := $(VENV)/.ready

.PHONY: quickstart recipe test lint venv clean

quickstart: $(READY)
	$(VENV)/bin/python -m langadapt.runs quickstart --small --again

# WITH passes more on: make recipe R=NAME SMALL=1 WITH="DATA=FOLDER STEPS=200"
recipe: $(READY)
	$(VENV)/bin/python -m langadapt.runs $(R) $(if $(SMALL),--small) $(WITH)

test: $(READY)
	$(VENV)/bin/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

venv: $(READY)

# torch goes first and alone: DeepSpeed is built from source and looks for it.
$(READY): requirements.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: Python 3.11 or newer is needed; found $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.11" >&2; exit 2; }
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check $$(grep '^torch==' requirements.txt)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-dev.txt
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
