PYTHON_ENV := .venv/bin/python

.DEFAULT_GOAL := help
.PHONY: help setup run test lint bench clean

help:  ## show the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## */  make \1\t/' | expand -t 14

setup:  ## make .venv from the lock files, after checking Python, Java and the disk
	@.ci/setup

run: setup  ## the whole sample: features, training, recommendations, and what five users then see
	@$(PYTHON_ENV) -m jobs.cli.run_sample

test: setup  ## all tests, on two workers
	@$(PYTHON_ENV) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: setup  ## style, formatting, types
	@$(PYTHON_ENV) -m ruff check .
	@$(PYTHON_ENV) -m ruff format --check .
	@$(PYTHON_ENV) -m mypy

bench: setup  ## every benchmark at its small size
	@set -e; for file in $$(grep -l -- '"--quick"' benchmarks/*.py); do \
	    $(PYTHON_ENV) -m benchmarks.$$(basename $$file .py) --quick; \
	done

clean:  ## remove what runs made: the lake, Airflow's home, caches (.venv stays)
	rm -rf lake .airflow .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis spark-warehouse
