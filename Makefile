# Every target installs first if need be: `make demo` and `make test` work on a machine with only Python and make.
PYTHON ?= python3
BIN := .venv/bin
export RAY_AUTH_MODE ?= token
export RAY_DEDUP_LOGS ?= 0

.PHONY: install demo test test-slow check format

install: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	@command -v uv >/dev/null || $(PYTHON) -m pip install --quiet uv
	@test -x $(BIN)/python || $$(command -v uv || echo $(PYTHON) -m uv) venv --quiet --python $(PYTHON) .venv
	$$(command -v uv || echo $(PYTHON) -m uv) pip install --compile-bytecode --python $(BIN)/python --constraint constraints.txt --editable '.[test,demo]'
	@touch $@

demo: install
	$(BIN)/python jobs/demo.py

test: install
	$(BIN)/python -m pytest -m "not slow and not gpu"

test-slow: install
	$(BIN)/python -m pytest -m "slow and not gpu"

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
