# Every task of this project has a target. CI runs `make check`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
INSTALLED := $(VENV)/.installed
NODE_CLIENTS := tests/clients/node/node_modules/.installed
# The locks are complete, so nothing is resolved: a resolver also considers newer releases, and pip 23.2, which comes with
# Python 3.11, then stops at a package that is required with an extra. `pip check` finds what is missing or in conflict.
PIP := -m pip --disable-pip-version-check
LOCKED := $(PIP) install --quiet --no-deps --require-hashes
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --custom-compile-command "make lock"

.DEFAULT_GOAL := help
.PHONY: help install demo run test clients check lint types own-coverage mutants format docs-tables screenshots docs bench bench-peers fuzz simulate soak fleet lock build release-check clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(INSTALLED) ## Create .venv/ with all locked packages; PYTHON=python3.12 chooses the interpreter

# Running the server needs a fifth of the packages that tests and tools need, so `make demo` installs only these. `app` is
# compiled as pip compiles a package: where Python may not write beside its sources, each start would do it, for 0.15 s.
$(READY): requirements.lock requirements-build.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Limner needs Python 3.11 or newer: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(LOCKED) -r requirements.lock -r requirements-build.lock
	$(BIN)/python $(PIP) install --quiet --no-deps --no-build-isolation -e .
	$(BIN)/python $(PIP) check
	$(BIN)/python -m compileall -q app
	@touch $@

$(INSTALLED): $(READY) requirements-dev.lock
	$(BIN)/python $(LOCKED) -r requirements-dev.lock
	$(BIN)/python $(PIP) check
	@touch $@

demo: $(READY) ## Start a demo upstream with Limner in front of it: no key, no network
	$(BIN)/limner demo $(ARGS)

run: $(READY) ## Start the server with the settings of LIMNER_ variables or .env
	$(BIN)/limner serve $(ARGS)

ifneq ($(shell command -v npm),)
test: $(NODE_CLIENTS)
endif

# One process per core. `worksteal` begins with one contiguous half of the tests each, so the servers that a module's
# fixtures start are started once or twice, and evens out the rest while the tests run.
test: install ## Run all tests with branch coverage; ARGS="-k sizes" goes to pytest, ARGS="-n 0" uses one process
	$(BIN)/pytest -n auto --maxprocesses 8 --dist worksteal --cov $(REPORT:%=--junitxml=%/tests.xml) $(ARGS)

$(NODE_CLIENTS): tests/clients/node/package.json tests/clients/node/package-lock.json
	cd tests/clients/node && npm ci --loglevel=error
	@touch $@

clients: install .venv-clients/.installed ## Run the recipes of docs/clients.md whose clients are too large for the tests
	$(BIN)/pytest tests/clients/python/recipes.py $(REPORT:%=--junitxml=%/clients.xml) $(ARGS)

.venv-clients/.installed: tests/clients/python/requirements.lock
	$(PYTHON) -m venv .venv-clients
	.venv-clients/bin/python $(LOCKED) -r $<
	.venv-clients/bin/python $(PIP) check
	@touch $@

check: lint types test clients docs ## Run everything that CI runs; REPORT=folder writes the results as JUnit XML

lint: install ## Check rules and layout with ruff
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: install ## Check types with mypy --strict
	$(BIN)/mypy

PURE_UPSTREAM := selection circuit_breaker retry error_mapping error_body error_words request_fields wait_windows work_evidence decoding mending
OWN := $(BIN)/pytest -qq --no-header

own-coverage: install ## Check that the unit tests of each pure package cover it in full, without the other tests
	$(OWN) tests/unit/protocol --cov=app.protocol
	$(OWN) tests/unit/extraction --cov=app.extraction
	$(OWN) tests/unit/upstream $(PURE_UPSTREAM:%=--cov=app.upstream.%)
	$(OWN) tests/unit/images/test_ssrf.py tests/unit/images/test_host_names.py --cov=app.images.ssrf

mutants: install ## Measure for half an hour how many random changes of the pure code its unit tests notice
	$(BIN)/python -m bench.mutants $(ARGS)

format: install ## Format the code and fix what ruff can fix
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs-tables: install ## Regenerate the tables of docs/ that come from the code
	$(BIN)/python docs/tables.py

screenshots: install ## Take the screenshots of docs/page.md again; needs Chromium
	$(BIN)/python -m docs.screenshots

docs: docs-tables .venv-docs/.installed ## Build the documentation into site/; a warning is an error
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict --quiet

.venv-docs/.installed: requirements-docs.lock
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python $(LOCKED) -r $<
	.venv-docs/bin/python $(PIP) check
	@touch $@

bench: install ## Measure CPU and memory beside nginx and a minimal translator in the same run
	$(BIN)/python -m bench $(ARGS)

bench-peers: install ## Measure LiteLLM and Portkey in the same table; installs them into .venv-peers (1 GB, Node.js)
	$(BIN)/python -m bench.peers $(ARGS)

fuzz: install ## Send randomly damaged input to all parsers, for a minute; ARGS="--seconds 600" for longer
	$(BIN)/python -m fuzz $(ARGS)

simulate: install ## Play schedules of three replicas with faults for a minute: no rule may break; ARGS="--seconds 600" for longer
	$(BIN)/python -m simulate $(ARGS)

soak: install ## Run mixed load with 30 % faults for a minute: no resource may grow; ARGS="--seconds 300" for longer
	$(BIN)/python -m bench.soak $(ARGS)

fleet: install ## Kill replicas, stop Redis, disconnect clients, for a minute: no image may be paid for twice
	$(BIN)/python -m bench.fleet $(ARGS)

lock: install ## Update the lock files from pyproject.toml; ARGS=--upgrade takes newer releases
	$(COMPILE) pyproject.toml --extra otel --output-file requirements.lock $(ARGS)
	$(COMPILE) pyproject.toml --extra otel --extra c2pa --constraint requirements.lock --output-file requirements-c2pa.lock $(ARGS)
	$(COMPILE) pyproject.toml --extra dev --extra otel --extra c2pa --constraint requirements-c2pa.lock --output-file requirements-dev.lock $(ARGS)
	$(COMPILE) docs/requirements.in --output-file requirements-docs.lock $(ARGS)
	$(COMPILE) tests/clients/python/requirements.in --output-file tests/clients/python/requirements.lock $(ARGS)
	echo hatchling | $(COMPILE) - --constraint requirements-dev.lock --output-file requirements-build.lock $(ARGS)

build: install ## Build the wheel and the sdist in dist/, with the locked build tools and no network
	$(BIN)/uv build --quiet --offline --no-build-isolation --python $(BIN)/python --clear

release-check: ## Check that the tag TAG=v1.2.3 is the version, and that CHANGELOG.md begins with it
	@grep -qxF '__version__ = "$(TAG:v%=%)"' app/__init__.py || { echo "$(TAG) is not the version in app/__init__.py"; exit 1; }
	@grep -m 1 '^## ' CHANGELOG.md | grep -qF '## [$(TAG:v%=%)] - ' || { echo "CHANGELOG.md does not begin with $(TAG)"; exit 1; }

clean: ## Remove .venv/ and the files that tools have written
	rm -rf $(VENV) .venv-clients .venv-docs .venv-peers site tests/clients/node/node_modules .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage dist
	find app tests -name __pycache__ -prune -exec rm -rf {} +
