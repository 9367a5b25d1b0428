.PHONY: help setup demo test lint

help:
	@echo "make setup   create the environment in .venv (Python >= 3.12 needed)"
	@echo "make demo    train, evaluate and show a small translation model in runs/demo (2 to 7 minutes)"
	@echo "make test    run the test suite (half an hour to an hour, less when it is run again)"
	@echo "make lint    check style, format, types and banned interfaces"

setup:
	@sh .ci/setup.sh

demo: setup
	.venv/bin/python -m experiments.train --config=configs/translation/phrasebook.py --workdir=runs/demo

test: setup
	.venv/bin/python -m pytest -n 2 --dist worksteal

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/pyrefly check
	.venv/bin/hadolint Dockerfile
	.venv/bin/python -m pytest tests/test_architecture.py
