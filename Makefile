# The commands of the house. `make demo` needs nothing but git, make and Python; `make test` skips
# loudly, naming what to install, where Java and Maven are missing.
#
# PYTHON=/path/to/python3.12  chooses the interpreter of .venv
# TESTS="tests/core -k dam"   chooses tests for `make test`
# JOBS=1                      runs them in one process; each that is more has a broker of its own

BIN := .venv/bin
READY := .venv/.complete
TESTS ?=
JOBS ?= 2

# Where this is set, each of the thousand processes of a test run compiles all it imports anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo test broker lint check format bench lock wheel clean

help: ## Say what can be made
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 16

setup: $(READY) ## Make .venv hold what the lock names; nothing to do when it does

# Done again when the lock or the project's metadata change, or another Python is asked for.
$(READY): requirements.lock pyproject.toml .ci/setup $(if $(PYTHON),FORCE)
	@.ci/setup

FORCE:

demo: $(READY) ## Simulate a capture, replay it, and show what came out
	@$(BIN)/python -m flows.demo

test: $(READY) ## Run the whole suite
	@$(BIN)/python -m tests.kernels
	@$(BIN)/python -m pytest --numprocesses $(JOBS) --dist worksteal $(TESTS)

broker: $(READY) ## Fetch the Kafka broker that tests run (they do it themselves when it is missing)
	@$(BIN)/python -m tests.kafka.jars

lint: $(READY) ## Check style, types, floors and spelling
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/codespell

check: lint test ## Everything that must pass before a commit

format: $(READY) ## Rewrite the sources as ruff wants them
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(READY) ## Run every benchmark; JSON lines on standard output
	@set -e; for module in $(subst /,.,$(basename $(wildcard tests/bench/bench_*.py))); do \
		$(BIN)/python -m $$module; \
	done

lock: $(READY) ## Resolve the dependencies anew, newest first
	$(BIN)/uv pip compile pyproject.toml --group dev --output-file requirements.lock --upgrade \
		--universal --python-version 3.11 --fork-strategy fewest --generate-hashes \
		--no-emit-index-url --custom-compile-command "make lock" --quiet
	@.ci/setup

# uv does not read pip's settings; a certificate meant for pip is meant for it too.
wheel: $(READY) ## Build the wheel into dist/
	@SSL_CERT_FILE="$${SSL_CERT_FILE:-$${PIP_CERT:-}}"; [ -n "$$SSL_CERT_FILE" ] \
		&& export SSL_CERT_FILE || unset SSL_CERT_FILE; $(BIN)/uv build --quiet --wheel && ls dist/*.whl

clean: ## Remove everything make made, .venv included
	rm -rf .venv build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
