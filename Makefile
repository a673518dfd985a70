# make demo   environment, install, train on the digits, evaluate, draw
# make test   environment, install, test suite
# make lint   ruff

PYTHON ?= python3
VENV ?= .venv
RUN ?= runs/demo

.PHONY: demo test lint clean

demo: $(VENV)/installed
	$(VENV)/bin/python experiments/train.py --config=configs/digits.py --workdir=$(RUN)
	$(VENV)/bin/python experiments/evaluate.py --workdir=$(RUN)
	$(VENV)/bin/python experiments/visualize.py --workdir=$(RUN)
	@echo "Figures: $(RUN)/figures and $(RUN)/evaluation. Results: $(RUN)/summary.json"

test: $(VENV)/installed-dev
	$(VENV)/bin/python -m pytest -q -n auto --maxprocesses=4 --dist=loadfile

lint: $(VENV)/installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

clean:
	rm -rf $(VENV)

# Without compiling 20,000 files to bytecode that will never run, installing takes a third less.
$(VENV)/installed: setup.cfg constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install -q --no-compile -c constraints.txt -e .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(VENV)/bin/pip install -q --no-compile -c constraints.txt -e ".[dev]"
	touch $@
