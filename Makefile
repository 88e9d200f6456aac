# make run   sets up and runs the daemon on the embedded cluster   (ARGS="--for 120 ...")
# make test  sets up and runs every check and test                 (ARGS="-k name ...")
# make bench sets up, runs the benchmarks, writes docs/benchmarks.md (ARGS="links ...")
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: run test bench lint lock clean
.DEFAULT_GOAL := help

run: $(READY)
	@$(BIN)/pd-autoscaler run $(ARGS)

# Processes of the embedded cluster need the machine for themselves; all else shares its cores.
test: lint
ifdef ARGS
	$(BIN)/pytest $(ARGS)
else
	$(BIN)/pytest -n auto --dist worksteal --ignore tests/e2e
	$(BIN)/pytest tests/e2e
endif

bench: $(READY)
	$(BIN)/python -m benchmarks $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# One go: the lock holds every package with its hashes, the build back end included.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --no-index -e .
	@touch $@

lock:
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	  --extra simulation --group dev pyproject.toml -o requirements.lock

help:
	@sed -n 's/^# //p' Makefile

clean:
	rm -rf $(VENV)
