# make demo        environment, install, train on the digits, evaluate, draw
# make test        environment, install, test suite
# make test-slow   single tests of the suite that take seconds each; .ci/run runs both
# make test-math   the mathematics alone: operations, kernels, routing, layers, statistics
# make test-ci     processes, faults, installations, and single tests of many seconds
# make test-long   the longest tests; the workflow runs both in a job of their own
# make test-browser  pages in a real browser; installs Gradio, and needs Chromium or Chrome
# make faults      damage every file of a run in many ways, and show what becomes of it
# make lint        ruff

PYTHON ?= python3
VENV ?= .venv
RUN ?= runs/demo
# Another jax than that of constraints.txt to test with, such as "jax==0.9.0", or "jax" for the newest.
JAX ?=

# Where bytecode is not kept, every process compiles JAX's sources anew, for ten seconds.
unexport PYTHONDONTWRITEBYTECODE

PYTEST = $(VENV)/bin/python -m pytest -q -n auto --maxprocesses=4 --dist=loadfile

.PHONY: demo test test-slow test-math test-ci test-long test-browser faults lint clean

demo: $(VENV)/installed
	$(VENV)/bin/python experiments/train.py --config=configs/digits.py --workdir=$(RUN)
	$(VENV)/bin/python experiments/evaluate.py --workdir=$(RUN)
	$(VENV)/bin/python experiments/visualize.py --workdir=$(RUN)
	$(VENV)/bin/python experiments/report.py --workdir=$(RUN)
	@echo "Figures: $(RUN)/figures and $(RUN)/evaluation. Results: $(RUN)/summary.json. Page: $(RUN)/report.html"

test: $(VENV)/installed-dev
	$(PYTEST)

test-slow: $(VENV)/installed-dev
	$(PYTEST) tests -m "slow and not ci and not long"

test-math: $(VENV)/installed-dev
	$(PYTEST) tests/core tests/kernels tests/routing tests/testing tests/layers tests/analysis

test-ci: $(VENV)/installed-dev
	$(PYTEST) --no-loadscope-reorder -m "ci and not long"

test-long: $(VENV)/installed-dev
	$(PYTEST) --no-loadscope-reorder -m long

test-browser: $(VENV)/installed-browser
	$(VENV)/bin/python -m pytest -q -n 0 -m browser tests/browser

faults: $(VENV)/installed-dev
	PYTHONPATH=. $(VENV)/bin/python tests/faults/inject.py

lint: $(VENV)/installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

clean:
	rm -rf $(VENV)

# Without compiling 20,000 files to bytecode that will never run, installing takes a third less.
$(VENV)/installed: setup.cfg constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install -q --no-compile -c constraints.txt -e ".[train]"
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(VENV)/bin/pip install -q --no-compile -c constraints.txt -e ".[dev]"
	$(if $(JAX),$(VENV)/bin/pip install -q --no-compile --upgrade "$(JAX)")
	touch $@

$(VENV)/installed-browser: $(VENV)/installed-dev
	$(VENV)/bin/pip install -q --no-compile -c constraints.txt -e ".[dev,explore]"
	touch $@
