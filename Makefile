# make demo    train, attack and compare on scikit-learn's digits, in minutes
# make test    all tests: those that need no cluster two at a time, then the others
# make test-robustbench    RobustBench's own code on an exported model, in an environment of its own (.venv-robustbench)
# make lint    formatting and lint, as CI checks them; make format mends what can be mended
# make types   the type checker
# make slurm-up, slurm-down    start and stop a private Slurm of two nodes, to try things on (needs root)
# make bench   all benchmarks, one after the other: about two and a half hours on 2 idle cores; records under results/
# Everything is installed into .venv (about 6 GB: torch brings its GPU libraries along).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ROBUSTBENCH := .venv-robustbench

.PHONY: demo test test-robustbench slurm-up slurm-down bench lint format types clean

demo: $(VENV)/.demo
	$(BIN)/python jobs/pipeline.py --config recipes/digits.yaml

test: $(VENV)/.test
	$(BIN)/python -m pytest -n 2 -m "not ray and not slurm"
	$(BIN)/python -m pytest -m "ray or slurm"

slurm-up: $(VENV)/.test
	$(BIN)/python -m tests.slurm.private up

slurm-down:
	$(BIN)/python -m tests.slurm.private down

test-robustbench: $(ROBUSTBENCH)/.made
	$(ROBUSTBENCH)/bin/python -m pytest tests/robustbench

bench: $(VENV)/.test
	for name in loss traffic startup step scaling threads autoattack tune data preparing; do $(BIN)/python benchmarks/$$name.py || exit 1; done

lint: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: $(VENV)/.test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: $(VENV)/.test
	$(BIN)/mypy

$(VENV)/.demo: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "afa-dist needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; choose another one with make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[plots,timm,analysis,hub,diffusion]'
	@touch $@

# torchattacks pins versions of requests from 2021, which it needs for downloads only: without its dependencies.
$(VENV)/.test: $(VENV)/.demo
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[test,dev]'
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt --no-deps torchattacks
	@touch $@

# A .pth file puts the packages of .venv behind its own, so that its timm and setuptools win, and torch (6 GB) is shared.
$(ROBUSTBENCH)/.made: constraints-robustbench.txt $(VENV)/.test
	$(BIN)/python -m venv --clear $(ROBUSTBENCH)
	$(ROBUSTBENCH)/bin/python -m pip install --disable-pip-version-check --no-deps -r constraints-robustbench.txt
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > $(ROBUSTBENCH)/behind.pth
	mv $(ROBUSTBENCH)/behind.pth "$$($(ROBUSTBENCH)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
	@touch $@

clean:
	rm -rf $(VENV) $(ROBUSTBENCH) .pytest_cache .mypy_cache .ruff_cache
