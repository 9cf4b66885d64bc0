# Every verb that a person needs. CI calls these and nothing else.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
SETTINGS := pyproject.toml constraints.txt client/pyproject.toml model_export/pyproject.toml \
	pipelines/pyproject.toml

# What `make export` and `make serve` use; override on the command line.
WEIGHTS ?= random:0
PRECISION ?= float32
MODEL ?= models/c3d
PORT ?= 8500
VIDEO ?=
ARGS ?=
ENGINE ?= $(shell command -v docker || command -v podman)

.DEFAULT_GOAL := help
.PHONY: help install example test fidelity bench-client bench-estimate pipeline-example test-faults test-k8s manifests debian torch lint format typecheck protos docs export serve serve-docker weights build clean

help:  ## Show the verbs
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

install: $(VENV)/.developer  ## Install the three distributions and the tools into .venv

example: $(VENV)/.example  ## Classify a video and extract its features (VIDEO=path for your own)
	@$(BIN)/python examples/first_run.py "$(VIDEO)"

pipeline-example: $(VENV)/.pipelines  ## Run the bulk pipeline over six videos, two of them broken
	@$(BIN)/python examples/pipeline_run.py

test: $(VENV)/.developer  ## Run the tests (ARGS="-k words" for some of them)
	@$(BIN)/python -m pytest $(ARGS)

test-faults: $(VENV)/.developer  ## Run the tests that kill, cut and starve what runs (minutes)
	@$(BIN)/python -m pytest -m faults $(ARGS)

fidelity: $(VENV)/.developer  ## Measure the served network against the oracle (some minutes)
	@cd tests && ../$(BIN)/python -m benchmarks.fidelity

bench-client: $(VENV)/.developer  ## Measure the client against its bounds (minutes; ARGS="memory")
	@cd tests && ../$(BIN)/python -m benchmarks.client $(ARGS)

bench-estimate: $(VENV)/.developer  ## Hold the estimate of a bulk run against a measured one
	@cd tests && ../$(BIN)/python -m benchmarks.estimate $(ARGS)

test-k8s: $(VENV)/.developer .venv-checkov/.done  ## Check k8s/ with everything there is, checkov too
	@$(BIN)/python -m pytest tests/k8s $(ARGS)

manifests: $(VENV)/.developer  ## Render every overlay and component of k8s/ into build/manifests
	@cd tests && ../$(BIN)/python -m k8s.render ../build/manifests

debian:  ## Install what some tests use of Debian: Chromium and promtool (as root)
	@{ command -v chromium && command -v promtool; } >/dev/null || { \
		apt-get update -qq && apt-get install -y -qq chromium prometheus >/dev/null; }

torch: $(VENV)/.developer  ## Add torch, to read torch's weight files and test that
	@$(PIP) torch==2.13.0

lint: $(VENV)/.developer  ## Check style, imports between the rooms, and Dockerfiles
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/hadolint model_export/Dockerfile pipelines/Dockerfile

format: $(VENV)/.developer  ## Rewrite the code in the project's style
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

typecheck: $(VENV)/.developer  ## Check the types (mypy, strict)
	@$(BIN)/mypy

protos: $(VENV)/.developer  ## Generate the client's messages from wire.proto
	@cd client && ../$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. \
		c3d_client/serving/wire.proto

docs: $(VENV)/.developer  ## Write the commands' references in docs/ from their help
	@$(BIN)/python docs/generate_cli.py

export: $(VENV)/.example  ## Build and verify a servable (WEIGHTS, PRECISION, MODEL)
	@$(BIN)/c3d-export build --weights "$(WEIGHTS)" --precision "$(PRECISION)" --out "$(MODEL)" $(ARGS)

serve: $(VENV)/.example  ## Serve MODEL on this machine (PORT)
	@$(BIN)/c3d-export serve "$(MODEL)" --port "$(PORT)" $(ARGS)

serve-docker:  ## Serve models/c3d with TensorFlow Serving itself (needs Docker)
	$(ENGINE) run --rm --init --name c3d-serving --publish $(PORT):8500 \
		--publish 127.0.0.1:8501:8501 --user 65532:65532 --read-only --tmpfs /tmp:size=64m \
		--cap-drop ALL --security-opt no-new-privileges \
		--volume "$(CURDIR)/models:/models:ro" --volume "$(CURDIR)/k8s/base/config:/etc/c3d:ro" \
		--entrypoint /usr/bin/tensorflow_model_server tensorflow/serving:2.20.0 \
		--port=8500 --rest_api_port=8501 --model_config_file=/etc/c3d/models.config \
		--monitoring_config_file=/etc/c3d/monitoring.config --enable_batching=true \
		--batching_parameters_file=/etc/c3d/batching.config \
		--file_system_poll_wait_seconds=30 --max_num_load_retries=1 \
		--load_retry_interval_micros=10000000 --grpc_max_threads=256 \
		--enable_grpc_healthcheck_service=true --enable_profiler=false

weights: $(VENV)/.example  ## Fetch the published weights, mean and labels into models/
	@$(BIN)/c3d-export fetch $(ARGS)

build:  ## Build the container images (ENGINE=docker or podman)
	@[ -n "$(ENGINE)" ] && $(ENGINE) info >/dev/null 2>&1 || { \
		echo "make build: no container engine answers (docker or podman); no image was built" >&2; \
		exit 1; }
	$(ENGINE) build --file model_export/Dockerfile --tag c3d-export:dev .
	$(ENGINE) build --file pipelines/Dockerfile --tag c3d-pipelines:dev .

clean:  ## Remove what was made here; models/ stays
	rm -rf $(VENV) .venv-checkov build out .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# ---- the environment: made once, again when a pyproject.toml or constraints.txt changes

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' || \
		{ echo "make: $(PYTHON) is not Python 3.10 to 3.13; name one: make PYTHON=python3.11" >&2; exit 1; }
	@echo "making $(VENV) (once; some minutes on a slow connection)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) pip

$(VENV)/.example: $(BIN)/python $(SETTINGS)
	@$(PIP) --editable client --editable model_export
	@touch $@

$(VENV)/.pipelines: $(VENV)/.example
	@$(PIP) --editable pipelines
	@touch $@

$(VENV)/.developer: $(VENV)/.pipelines
	@$(PIP) --group dev
	@touch $@

# Its pins are not ours: an environment of its own.
.venv-checkov/.done: Makefile
	@$(PYTHON) -m venv .venv-checkov
	@.venv-checkov/bin/python -m pip install --quiet --disable-pip-version-check checkov==3.3.30
	@touch $@
