# Every target installs first if need be: `make demo` and `make test` work on a machine with only Python and make.
PYTHON ?= python3
BIN := .venv/bin
UV = $$(command -v uv || echo $(BIN)/uv)
IN_PARALLEL := --numprocesses=4 --dist=loadfile

.PHONY: install uv browser demo docs test test-slow slow-cluster slow-driver slow-sweep slow-rest test-gpu check format package

install: .venv/.installed

uv:
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@command -v uv >/dev/null || test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv

.venv/.installed: pyproject.toml constraints.txt | uv
	@echo "installing into .venv (about 6 GB)"
	@$(UV) pip install --quiet --compile-bytecode --python $(BIN)/python \
		--constraint constraints.txt --editable '.[test,demo]'
	@touch $@

demo: install
	$(BIN)/python jobs/demo.py

# To look at it: python -m http.server --directory site
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --clean
	@echo "the site is in site/; to look at it: python -m http.server --directory site"

# For the tests that look at pages. Where there is none, and apt-get can be used, Debian's is installed.
browser:
	@if command -v chromedriver >/dev/null && { command -v chromium || command -v chromium-browser || \
			command -v google-chrome || command -v google-chrome-stable; } >/dev/null; then :; \
	elif command -v apt-get >/dev/null && { test "$$(id -u)" = 0 || sudo -n true 2>/dev/null; }; then \
		echo "installing chromium, for the tests that look at pages"; \
		root="$$(test "$$(id -u)" = 0 || echo sudo -n) env DEBIAN_FRONTEND=noninteractive"; \
		{ $$root apt-get update -qq && \
		  $$root apt-get install -qq --yes --no-install-recommends chromium chromium-driver; } >/dev/null 2>&1 || \
		{ echo "chromium and chromium-driver could not be installed with apt-get; install a Chromium and its chromedriver" >&2; exit 1; }; \
	else \
		echo "no chromium and chromedriver, and no apt-get to install them with: tests that look at pages will fail" >&2; \
	fi

test: install browser
	$(BIN)/python -m pytest -m "not slow and not gpu" $(IN_PARALLEL)

# Two at a time: clusters that start and wait leave much of two cores to tests that compute. A process for each of the
# first three: they start clusters, sweeps and runs on Rays of their own.
test-slow: install browser
	$(MAKE) --jobs=2 --keep-going --output-sync=target slow-cluster slow-driver slow-sweep slow-rest

slow-cluster slow-driver slow-sweep:
	$(BIN)/python -m pytest -m "slow and not gpu" --durations=10 tests/$(@:slow-%=%)

slow-rest:
	$(BIN)/python -m pytest -m "slow and not gpu" --durations=10 --ignore=tests/cluster --ignore=tests/driver --ignore=tests/sweep \
		--numprocesses=2 --dist=worksteal

test-gpu: install
	$(BIN)/python -m pytest -m gpu

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# dist/: a source distribution, and the wheel that is built from it. Needs neither PyTorch nor Ray.
package: uv
	@$(UV) build --quiet --out-dir dist
	@ls dist/*
