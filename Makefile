# The one contract, for people and for CI:
#   make book        the environment, every notebook executed (cached), the HTML book
#   make test        the environment if need be, and everything CI runs
#   make long        the tests that take minutes each, which CI runs once a week
#   make versions    the tests of the package on the newest and oldest versions of what it needs
# and for those who write:
#   make page        execute, store and check PAGES="02_heavy_tails ...", and build their HTML
#   make notebooks   execute all pages, or PAGES, and store their outputs
#   make html        the HTML book from the stored outputs
#   make check       formatting, lint and types; make sync: pages and their notebooks agree
#   make format      put code and pages into the house's format
#   make stamp       write the address of pyproject.toml into the book, README.md, CITATION.cff
#   make clean       remove what was built

PYTHON ?= python3
JOBS ?= 2
PAGES ?=

# The environment: an active one of conda or venv that has the extra "test", else .venv, from the lock.
HAS_ALL := -I -c 'from importlib.metadata import version as v; v("heavytail"), v("jupyter-book"), v("nbval")'
ACTIVE := $(firstword $(foreach env,$(filter-out $(CURDIR)/.venv,$(VIRTUAL_ENV) $(CONDA_PREFIX)), \
  $(shell $(env)/bin/python $(HAS_ALL) 2>/dev/null && echo $(env))))
BIN := $(or $(ACTIVE),.venv)/bin
READY := $(if $(ACTIVE),,.venv/.ready)
BUILD := $(BIN)/jupyter-book build . -W -n --keep-going -q

.PHONY: book test long versions env check sync unit nbval page notebooks html format stamp clean

book: env
	$(BUILD)
	@echo "The book: file://$(CURDIR)/_build/html/index.html"

test: env check unit nbval

env: $(READY)

# Plain torch in the lock: elsewhere than on PyPI's default, see README.
.venv/.ready: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python >= 3.11 is needed, this is " + sys.version)'
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install -q --disable-pip-version-check -r requirements.txt
	.venv/bin/python -m pip install -q --disable-pip-version-check --no-deps -e .
	@touch $@

check: env
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

sync: env
	$(BIN)/pytest -q tests/test_book.py -k "sync or address or stored"

unit: env
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS) --dist loadfile

long: env
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS) -m long

versions:
	OMP_NUM_THREADS=1 $(PYTHON) -m tools.versions

# Every cell is run again and its output compared with the stored one. Kernels that run side by
# side take a thread each: with more they wait for each other, tenfold.
nbval: env
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS) --dist loadscope --nbval --nbval-current-env --nbval-cell-timeout 300 \
	  --nbval-sanitize-with tools/nbval.cfg \
	  -p no:cacheprovider book

page:
	$(if $(PAGES),,$(error which? PAGES="02_heavy_tails ..."))
	$(MAKE) notebooks html
	$(BIN)/pytest -q tests/test_book.py tests/test_site.py -k "$(firstword $(PAGES))$(foreach page,$(wordlist 2,99,$(PAGES)), or $(page))"
	@for page in $(PAGES); do echo "file://$(CURDIR)/_build/html/book/$$page.html"; done

notebooks: env
	$(BIN)/python -m tools.notebooks $(PAGES)

html: env
	BOOK_OUTPUTS=stored $(BUILD)

format: env
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

stamp: env
	$(BIN)/python -m tools.stamp

clean:
	rm -rf _build build dist .versions
