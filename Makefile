# The two commands of the README are `make demo` and `make test`. Everything they need is installed by `make setup`.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
unexport PYTHONDONTWRITEBYTECODE
UV := $(shell infra/bin/find-uv)
PY := .venv/bin/python
ENGINE := serving/engines/vllm
export UV_PYTHON_DOWNLOADS := never

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: .venv/.done $(ENGINE)/.venv/.done ## install uv and both locked environments

.tools/bin/uv:
	infra/bin/install-uv

.venv/.done: pyproject.toml uv.lock client/pyproject.toml infra/local/database_templates.py | $(if $(UV),,.tools/bin/uv)
	$$(infra/bin/find-uv) sync --locked --compile-bytecode
	$(PY) -m infra.local.database_templates
	touch $@

$(ENGINE)/.venv/.done: $(ENGINE)/pyproject.toml $(ENGINE)/uv.lock | $(if $(UV),,.tools/bin/uv)
	cd $(ENGINE) && $$($(CURDIR)/infra/bin/find-uv) sync --locked --compile-bytecode
	touch $@

demo: setup ## run the main job on real parts; the last line is a JSON document
	.venv/bin/seatrial demo --json

up: setup ## start the embedded stack in the foreground
	.venv/bin/seatrial up

# The parts of the gate mostly wait, so two run at a time, the longest first. The output of a part appears when it ends.
ifneq ($(filter test test-kubernetes test-release,$(MAKECMDGOALS)),)
MAKEFLAGS += --jobs=2 --output-sync=target
endif

check: .venv/.done ## the quick part: format, lint, types, layers, unit tests
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	$(PY) -m pytest tests/unit -q -m "not slow and not release" -n auto --dist loadfile

GATE := -m "not release"
test: test-e2e check test-contract test-engine-env test-slow ## the gate on one machine, two parts at a time: all of these (about 30 minutes)

test-e2e: setup ## whole stacks, with fake engines and with real vLLM
	$(PY) -m pytest -q tests/e2e $(GATE)

test-contract: setup equipment ## one suite per port, on every adapter
	$(PY) -m pytest -q tests/contract $(GATE) -n 2 --dist loadfile

test-engine-env: setup ## our part of vLLM's environment, and real models in it
	$(ENGINE)/.venv/bin/python -m pytest -q -c tests/engine_env/pytest.ini tests/engine_env $(GATE)

test-slow: setup equipment ## the unit tests that start servers
	$(PY) -m pytest -q tests/unit -m "slow and not release" -n 2 --dist loadfile

test-release: test test-kubernetes ## everything that takes long as well, run before a release: adds what is marked `release` (hours)
	$(PY) -m pytest -q tests/unit tests/contract -m release
	$(ENGINE)/.venv/bin/python -m pytest -q -c tests/engine_env/pytest.ini tests/engine_env -m release
	$(PY) -m pytest -q tests/e2e -m release
	$(PY) -m infra.testcluster build
	$(on_cluster) release
	$(MAKE) test-images

equipment: ## install what the tests need of the system (PostgreSQL)
	infra/bin/install-equipment

cluster: cluster-equipment .venv/.done ## bring a real Kubernetes cluster up on this machine (without Docker; down: python -m infra.testcluster down)
	$(PY) -m infra.testcluster up --own

cluster-equipment: ## install what a cluster needs of the system (containerd, runc, CNI plugins and more)
	infra/bin/install-cluster-equipment

cluster-programs: .venv/.done ## compile the cluster's programs that the gate needs into the cache (minutes; once)
	$(PY) -m infra.testcluster build helm etcd kubernetes coredns

with_programs = PATH="$$($(PY) -c 'from infra.testcluster.build import default_cache; print(default_cache())'):$$PATH"
on_cluster = trap '$(PY) -m tests.equipment.clusters' EXIT; $(with_programs) $(PY) -m pytest -q tests/kubernetes -m

test-rendered: setup equipment cluster-programs ## chart, alerts, Terraform and Dockerfiles without a cluster
	$(with_programs) $(PY) -m pytest -q tests/rendered -m "not images and not release" -n 2 --dist loadfile

test-kubernetes: test-rendered cluster-equipment ## the gate on a real cluster, after test-rendered (about 17 minutes)
	$(on_cluster) "not release"

test-images: setup ## build every image but the GPUs' without Docker and run it (20 minutes, 22 GB of disk for a while)
	infra/bin/install-image-equipment
	$(PY) -m pytest -q tests/rendered/test_images.py

render: .venv/.done ## render the chart into .render, one file to review and a kustomization; VALUES=file instead of the example's
	$(PY) -m infra.kubernetes.render $(if $(VALUES),--values $(VALUES))

bench: setup ## measure; prints tables and writes .bench/results.json
	$(PY) -m tests.bench

docs: ## check that the documentation's links and commands exist
	$(PY) -m pytest -q tests/unit/test_docs.py

.PHONY: help setup demo up check test test-e2e test-contract test-engine-env test-slow test-release equipment cluster cluster-equipment cluster-programs test-rendered test-kubernetes test-images render bench docs
