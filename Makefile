# Everything a person types. `make help` lists it.
.DEFAULT_GOAL := help
SHELL := /bin/bash

# The first Python on PATH that is new enough; override with `make PYTHON=…`.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.14; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
# As pip does: certificates the machine trusts, which may be those of a proxy.
export UV_SYSTEM_CERTS ?= 1
UV_VERSION := $(shell sed -n 's/^uv==\([^ ]*\).*/\1/p' requirements.lock)

.PHONY: help install demo test faults test-engines check lint types format bench bench-quick lock clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

$(VENV)/.installed: requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; none was found on PATH." >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m uv --version 2>/dev/null | grep -q "uv $(UV_VERSION)" || \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@echo "Installing packages into $(VENV) …"
	@$(BIN)/python -m uv pip install --quiet --python $(BIN)/python --no-deps --require-hashes -r requirements.lock
	@$(BIN)/python -m uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

install: $(VENV)/.installed ## Set up .venv with every optional part

demo: install ## Redis, llama.cpp, a worker and real tasks on this machine
	@$(BIN)/kc-worker demo

test: install ## All tests on real Redis, real workers and real llama.cpp
	@$(BIN)/pytest -n 3 -m "not engines" --dist loadfile $(ARGS)

faults: install ## The fault suite in its long form, about an hour and a half; FAULT_SEED=… repeats choices, FAULT_SOAK_S=… shortens
	@FAULTS=long $(BIN)/pytest tests/faults tests/integration/test_documents.py tests/integration/test_stories.py \
		--timeout 7200 $(ARGS)

test-engines: install ## The behavioural suite on every real engine (installs them into .engines)
	@$(BIN)/python tests/engines/run.py $(ARGS)

check: install lint types ## Lint, types, import contracts, compose files and Dockerfiles
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/pytest -q -p no:cacheprovider tests/containers/test_static.py

lint: install
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .

types: install
	@$(BIN)/mypy

format: install ## Format the code and fix what lint can fix
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: install ## Side-by-side measurements, half an hour; results under docs/benchmarks
	@$(BIN)/python -m bench $(ARGS)

bench-quick: install ## The short form, under 3 minutes; results on the screen only
	@$(BIN)/python -m bench --quick $(ARGS)

lock: install ## Resolve the dependencies again: requirements.lock, docker/worker.lock, bench/*.lock
	@$(BIN)/python -m uv pip compile --quiet pyproject.toml --all-extras --universal --generate-hashes \
		--no-annotate --no-header --python-version 3.11 --upgrade -o requirements.lock
	@$(BIN)/python -m uv pip compile --quiet pyproject.toml --extra models --extra gateway --extra s3 --extra ocr \
		--extra postgresql --extra rdf --universal --generate-hashes --no-annotate --no-header --python-version 3.11 \
		--constraint requirements.lock -o docker/worker.lock
	@for group in arq peers; do \
		$(BIN)/python -m uv pip compile --quiet --group bench-$$group --universal --generate-hashes --no-annotate \
			--no-header --python-version 3.11 --upgrade -o bench/$$group.lock || exit 1; \
	done

clean: ## Remove .venv, .engines and caches
	@rm -rf $(VENV) .engines .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
