# Two commands need nothing but Python 3.11+ and make:  make serve  ·  make test
# PYTHON=python3.12 chooses the interpreter; TORCH_BACKEND=cpu leaves the CUDA libraries out (CONTRIBUTING.md).

PYTHON ?= python3
TORCH_BACKEND ?=
UPGRADE ?=
TEST_PROCESSES ?= 2
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
INSTALLED := $(VENV)/.installed
LOCK := requirements.lock
DEFAULT_MODEL := models/pretrained/default

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install serve test check format lock default-model experiment clean

help:  ## show this list
	@awk -F ':.*  ## ' '/^[a-z-]+:.*  ## / {printf "%-16s%s\n", $$1, $$2}' Makefile

install: $(INSTALLED)  ## make .venv from requirements.lock

# What Python compiles stays in .venv whatever the shell says: the second start takes a third of the first one's time.
serve: $(INSTALLED)  ## run the service on http://127.0.0.1:8000
	@exec env -u PYTHONDONTWRITEBYTECODE $(BIN)/semicap serve

# The tests start hundreds of processes: each would compile what it imports where Python may not write bytecode.
test check: export UV_COMPILE_BYTECODE = 1

test: $(INSTALLED)  ## run every test
	OMP_WAIT_POLICY=passive $(BIN)/pytest --numprocesses $(TEST_PROCESSES) --dist loadfile --durations 15 --durations-min 10

check: $(INSTALLED)  ## lint, types, import contracts, Dockerfile, compose file, manifests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint docker/Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml
	$(BIN)/kubernetes-validate --strict --quiet $(filter-out %/kustomization.yaml %/autoscaling.yaml,$(wildcard docker/kubernetes/*.yaml))

format: $(INSTALLED)  ## lay the code out and mend what ruff can mend
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

lock: $(UV)  ## pin what pyproject.toml asks for, with hashes; UPGRADE=--upgrade takes the newest of all
	$(UV) pip compile pyproject.toml --group dev --universal --python-version 3.11 $(UPGRADE) \
		--generate-hashes --no-emit-index-url --no-annotate --no-header --quiet --output-file $(LOCK)

default-model: $(INSTALLED)  ## train the default model again: DATA=folder of photos
	@test -n "$(DATA)" || { echo "make default-model needs DATA=FOLDER, the photos to learn from" >&2; exit 2; }
	$(BIN)/semicap train recipe training/recipes/default --data "$(DATA)" --out runs/default
	rm -rf $(DEFAULT_MODEL).new
	cp -R runs/default/10-release/model $(DEFAULT_MODEL).new
	rm -rf $(DEFAULT_MODEL).old
	test ! -e $(DEFAULT_MODEL) || mv $(DEFAULT_MODEL) $(DEFAULT_MODEL).old
	mv $(DEFAULT_MODEL).new $(DEFAULT_MODEL)
	rm -rf $(DEFAULT_MODEL).old

experiment: $(INSTALLED)  ## train and measure the arms of docs/experiment.md: DATA=folder of photos
	@test -n "$(DATA)" || { echo "make experiment needs DATA=FOLDER, the photos to learn from" >&2; exit 2; }
	$(BIN)/semicap train recipe training/recipes/default --data "$(DATA)" --out runs/default
	$(BIN)/semicap train experiment training/recipes/experiment --data "$(DATA)" --out runs/experiment

clean:  ## remove .venv, caches and build output; runs/ and semicap-data/ stay
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A sync removes what is not locked. With TORCH_BACKEND, torch comes first, from that backend's own index, so
# its hash is not the locked one; the rest still has to match the lock.
$(INSTALLED): $(LOCK) pyproject.toml | $(UV)
ifeq ($(TORCH_BACKEND),)
	@echo "filling $(VENV) from $(LOCK): some 3 GB to download the first time, most of it torch and CUDA"
	$(UV) pip sync --python $(BIN)/python $(LOCK)
	$(UV) pip install --python $(BIN)/python --quiet --no-deps --no-build-isolation --editable .
else
	$(UV) pip install --python $(BIN)/python --torch-backend $(TORCH_BACKEND) \
		$$(sed -n 's/^\(torch\(vision\)\{0,1\}==[^ ]*\).*/\1/p' $(LOCK))
	$(UV) pip install --python $(BIN)/python --constraint $(LOCK) --group dev --editable .
endif
	@touch $@

$(UV):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "semicap needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." >&2; \
		echo "Install one and name it: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "'$(PYTHON)' cannot make virtual environments. On Debian or Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv>=0.9,<1'
