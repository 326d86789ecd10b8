# The one contract, for people and for CI:
#   make book        the environment, every notebook executed (cached), the HTML book
#   make test        the environment if need be, and everything CI runs
#   make long        the tests that take minutes each, which CI runs once a week
# and for those who write:
#   make notebooks   execute the pages (PAGES="01_one_page ..." for some) and store their outputs
#   make format      put code and pages into the house's format
#   make stamp       write the address of pyproject.toml into the book, README.md, CITATION.cff
#   make clean       remove what was built

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
JOBS ?= 2
PAGES ?=

.PHONY: book test long env check unit nbval notebooks format stamp clean

book: env
	$(BIN)/jupyter-book build . -W -n --keep-going -q
	@echo "The book: file://$(CURDIR)/_build/html/index.html"

test: env check unit nbval

env: $(READY)

# Plain torch in the lock: elsewhere than on PyPI's default, see README.
$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python >= 3.11 is needed, this is " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps -e .
	@touch $@

check: env
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

unit: env
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS) --dist loadfile

long: env
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS) -m long

# Every cell is run again and its output compared with the stored one. Kernels that run side by
# side take a thread each: with more they wait for each other, tenfold.
nbval: env
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS) --dist loadscope --nbval --nbval-current-env --nbval-cell-timeout 300 \
	  --nbval-sanitize-with tools/nbval.cfg \
	  -p no:cacheprovider book

notebooks: env
	$(BIN)/python -m tools.notebooks $(PAGES)

format: env
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

stamp: env
	$(BIN)/python -m tools.stamp

clean:
	rm -rf _build build dist
