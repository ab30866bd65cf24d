# All targets but docs run in an environment that scripts/setup_env.py finds or
# creates. `make help` lists the targets.
PYTHON ?= python3
TASK ?= maskrcnn
# Classification has an environment of its own.
SETUP = $(PYTHON) scripts/setup_env.py \
	$(if $(filter classification,$(TASK)),--classification)
IN_ENV = $(SETUP) --

export TORCH FAMILY

.PHONY: help setup demo demo-page lint test test-slow test-classification docs

help:  ## list the targets and their settings
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-19s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo 'TASK=NAME         what the demo trains: maskrcnn (the default), retinanet,'
	@echo '                  sfpn, upernet or classification, whose environment is'
	@echo '                  .venv-classification'
	@echo 'ARGS=...          arguments of pytest, e.g. ARGS="-k maskrcnn"'
	@echo 'TORCH=VERSION     another torch, e.g. TORCH=2.9.1 or'
	@echo '                  TORCH="torch==2.9.1 --index-url URL"'
	@echo 'FAMILY=onedl      the maintained forks of OpenMMLab, in .venv-onedl'
	@echo 'PYTHON=PATH       another Python, 3.10 to 3.13, or 3.14 with FAMILY=onedl'

setup:  ## set up torch, OpenMMLab and mmbiformer in .venv
	@$(SETUP)

demo:  ## train and test on handwritten digits, and draw the results
	@$(IN_ENV) python scripts/demo.py --task $(TASK)

# Where `make demo` has trained it; needs the packages of requirements/deploy.txt.
DIGITS = work_dirs/maskrcnn_biformer_digits
demo-page:  ## build a page that runs the Mask R-CNN of the demo in browsers
	@$(IN_ENV) python tools/deployment/export.py --force \
		configs/detection/maskrcnn_biformer_digits.py $(DIGITS)/epoch_7.pth \
		$(DIGITS)/digits.onnx --shape 160x160 --batch 1 --routing
	@$(IN_ENV) python tools/deployment/build_demo.py --force \
		$(DIGITS)/digits.onnx work_dirs/demo_page

lint:  ## check the style and the types
	@$(IN_ENV) ruff check .
	@$(IN_ENV) ruff format --check .
	@$(IN_ENV) mypy

# Each core runs a file of tests; more threads would only compete for the cores.
test: lint  ## lint, and run the tests that are not slow
	@OMP_NUM_THREADS=1 $(IN_ENV) \
		python -m pytest -m 'not slow and not classification' -n auto --dist loadfile

test-slow:  ## run the tests that take minutes, such as the accuracy of the demo
	@$(IN_ENV) python -m pytest -m 'slow and not classification' $(ARGS)

test-classification: TASK = classification
test-classification:  ## run the tests that need mmpretrain and are not slow
	@OMP_NUM_THREADS=1 $(IN_ENV) python -m pytest \
		-m 'classification and not slow' -n auto --dist loadfile $(ARGS)

# The pages are built without importing torch or OpenMMLab.
docs:  ## build the documentation site in site/
	@$(PYTHON) -m venv .venv-docs
	@.venv-docs/bin/python -m pip install --quiet -r requirements/docs.txt
	@NO_MKDOCS_2_WARNING=1 .venv-docs/bin/python -m mkdocs build --strict
