# Everything runs inside an environment that scripts/setup_env.py makes or
# finds. `make help` lists the targets.
PYTHON ?= python3
TASK ?= maskrcnn
IN_ENV = $(PYTHON) scripts/setup_env.py --

export TORCH FAMILY

.PHONY: help setup demo lint test test-slow

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo 'TASK=NAME         what the demo trains: maskrcnn (the default), retinanet,'
	@echo '                  sfpn or upernet'
	@echo 'ARGS=...          some of the slow tests only, e.g. ARGS="-k maskrcnn"'
	@echo 'TORCH=VERSION     another torch, e.g. TORCH=2.9.1 or'
	@echo '                  TORCH="torch==2.9.1 --index-url URL"'
	@echo 'FAMILY=onedl      the maintained forks of OpenMMLab, in .venv-onedl'
	@echo 'PYTHON=PATH       another Python, 3.10 to 3.12'

setup:  ## set up torch, OpenMMLab and mmbiformer in .venv
	@$(PYTHON) scripts/setup_env.py

demo:  ## set up, make the digits, train, test, show the results
	@$(IN_ENV) python scripts/demo.py --task $(TASK)

lint:  ## set up and lint
	@$(IN_ENV) ruff check .
	@$(IN_ENV) ruff format --check .

# A file of tests on each core; more threads would only wait for each other.
test: lint  ## set up, lint and run the tests
	@OMP_NUM_THREADS=1 $(IN_ENV) \
		python -m pytest -m 'not slow' -n auto --dist loadfile

test-slow:  ## set up and run the tests that take minutes, the demo's AP among them
	@$(IN_ENV) python -m pytest -m slow $(ARGS)
