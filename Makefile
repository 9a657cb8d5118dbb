# Everything runs in a virtual environment that `make install` sets up once.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
# What CI tests. Other machines take what pyproject.toml allows.
TORCH ?= torch==2.14.1 torchvision==0.29.1
STAMP := $(VENV)/.installed

.PHONY: install demo explain test stress check docs clean

install: $(STAMP)

$(STAMP): pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: install
	$(BIN)/nextscale generate --classes all --count 16 --out out/demo
	@echo "look at out/demo/grid.png; what comes next:"
	@echo "  . $(BIN)/activate          # once a shell; or write $(BIN)/nextscale"
	@echo "  nextscale generate --classes maze,coinrun --count 8 --out out/eight"
	@echo "  nextscale --help"

# The interactive page: its bundle, and models that draw in the browser. Needs node 20 or newer.
explain: install
	@command -v npm >/dev/null || { echo "node 20 or newer is needed (Debian: apt-get install npm)"; exit 1; }
	cd web && npm ci --no-fund --no-audit --ignore-scripts && npm run build
	$(BIN)/python -m nextscale.explain.build
	@echo "look at it: $(BIN)/nextscale explain"

test: install
	$(BIN)/python -m pytest

# Trainings that are killed, hostile requests, a server under load, scripts for a GPU: too long for every change.
stress: install
	$(BIN)/python tests/stress/interruptions.py
	$(BIN)/python tests/stress/hostile.py
	$(BIN)/python tests/stress/serving.py
	$(BIN)/python -m pytest tests/stress/rehearsals.py

check: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright --pythonpath $(BIN)/python

docs: $(STAMP)-docs
	$(BIN)/python -m sphinx -W -q -b html docs docs/_build/html
	@test -f docs/_build/html/explain/index.html || echo "without the interactive page, which make explain builds"
	@echo "look at it: $(BIN)/python -m http.server --directory docs/_build/html"

$(STAMP)-docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	@touch $@

clean:
	rm -rf out build dist docs/_build .pytest_cache .ruff_cache .hypothesis
