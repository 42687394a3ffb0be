# Every target does its own set-up first; see infra/setup.sh for the variables that steer it.

.DEFAULT_GOAL := help
PYTHON_PATHS := infra algorithms tasks flows deployments tests $(wildcard benchmarks/*.py)
VENV := .venv/bin

.PHONY: help setup run up test lint bench lock clean

help: ## what there is to make
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

setup: ## .venv with everything, Horovod included; nothing to do: ends at once
	@infra/setup.sh

run: setup ## the bundled digits through the whole pipeline: 6 trials, 2 Horovod ranks, compression, into the registry
	@$(VENV)/python -m infra.datasets.digits data/digits
	$(VENV)/atelier run image-classification/small-cnn --data data/digits --name digits --workers 2 --trials 6 --compress auto

up: setup ## the local stack until Ctrl-C: Prefect and its pages, Dask, MLflow, triggers, inference server
	@$(VENV)/atelier up

test: ## lint, types and all tests
	@infra/setup.sh --test
	@$(MAKE) --no-print-directory lint
	timeout 4500 $(VENV)/pytest

lint: setup ## style and types
	$(VENV)/ruff check .
	$(VENV)/ruff format --check .
	timeout 900 $(VENV)/mypy $(PYTHON_PATHS)

bench: setup ## the scripts in benchmarks/, one after the other
	@set -e; for script in benchmarks/[a-z]*.py; do echo "== $$script"; timeout 3600 $(VENV)/python $$script; done

lock: setup ## requirements.lock and infra/bootstrap.lock anew; what the constraints allow is taken as it is in the lock
	$(VENV)/python -m infra.with_uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 \
		--no-emit-index-url --generate-hashes --no-header -q -o requirements.lock
	sed -n 's/^\(uv==[^ ]*\).*/\1/p' infra/bootstrap.lock | $(VENV)/python -m infra.with_uv pip compile - --universal --python-version 3.11 \
		--no-emit-index-url --generate-hashes --no-header --no-annotate -q -o infra/bootstrap.lock

clean: ## removes .venv and what tools left; keeps the workspace (.atelier) and the caches in your home
	rm -rf .venv .venv.lock build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache data/digits
	find $(PYTHON_PATHS) -name __pycache__ -type d -prune -exec rm -rf {} +
