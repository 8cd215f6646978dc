# Needs Linux, make and Python 3.10 or newer. Everything else goes into .venv; nothing is installed on the machine.
PYTHON ?= python3
VENV ?= .venv
DEMO_HOST ?= 127.0.0.1
DEMO_PORT ?= 8000
PYTEST_ARGS ?=
BENCH_ARGS ?=

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help demo test test-quick test-lowest docs bench lint format lock release-check up down clean

bin := $(VENV)/bin
# how each stamp file is made: .venv/.installed-EXTRA stands for "the package, editable, with the extra EXTRA",
# .venv-EXTRA/.installed for the same in an environment of its own
define install
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "make: $(PYTHON) is $$($(PYTHON) -V 2>&1); Python 3.10 or newer is needed: make $(MAKECMDGOALS) PYTHON=python3.13" >&2; exit 1; }
	@test -x $(@D)/bin/pip || $(PYTHON) -m venv $(@D) || { \
	  echo "make: $(PYTHON) -m venv failed; on Debian and Ubuntu: apt-get install python3-venv" >&2; rm -rf $(@D); exit 1; }
	@echo "make: installing into $(@D) (the first time this takes a minute)" >&2
	@$(@D)/bin/pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch $@
endef

help:
	@echo 'make demo    the demo app under entrypoint.sh, on SQLite, at http://$(DEMO_HOST):$(DEMO_PORT)/ until Ctrl-C'
	@echo 'make test    all tests; those that need Docker are skipped, and counted, where there is none'
	@echo 'make test-quick  those of tests/unit and the tasks on SQLite: under two minutes, no Docker'
	@echo 'make docs    the site, into build/site; no network is needed once it is installed'
	@echo 'make test-lowest  those of tests/unit, database and fuzz, with the lowest versions that pyproject.toml allows'
	@echo 'make bench   speed and memory against peers, 20 minutes; BENCH_ARGS="--quick 1 3" for some rows, in short'
	@echo 'make lint    ruff, mypy --strict, import-linter, shellcheck, actionlint, zizmor'
	@echo 'make lock    new hashes of what the images are made of'
	@echo 'make release-check  builds and tries all that is released; into dist/'
	@echo 'make format  what ruff can mend by itself'
	@echo 'make up      the demo on PostgreSQL: docker compose up --build --wait; make down ends it'
	@echo 'make clean   remove what make has made'

# entrypoint.sh and bin/ are copied into the environment's bin, unlike the package, which stays where it is
$(VENV)/.installed-%: pyproject.toml entrypoint.sh bin/startup
	$(install)

.venv-%/.installed: pyproject.toml
	$(install)

demo: $(VENV)/.installed-demo
	@STARTUP_ENV=dev STARTUP_PYTHON=$(bin)/python STARTUP_STATE_DIR=$(VENV)/state PATH="$(CURDIR)/$(bin):$$PATH" \
	  ./entrypoint.sh uvicorn --app-dir examples/demo --host $(DEMO_HOST) --port $(DEMO_PORT) app:app

test: $(VENV)/.installed-dev
	@$(bin)/pytest --numprocesses auto --dist loadgroup $(PYTEST_ARGS)

test-quick: $(VENV)/.installed-dev
	@$(bin)/pytest --numprocesses auto --dist loadgroup $(PYTEST_ARGS) -k 'not docker and not postgresql' tests/unit tests/database/test_tasks.py

docs: .venv-docs/.installed
	@NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build # with --quiet no warning would count

# pyproject.toml's lower bounds, and no newer versions
test-lowest:
	@$(MAKE) VENV=.venv-lowest .venv-lowest/.installed-test
	@sed -n '/^dependencies = /,/^]/s/^ *"\(.*\)>=\(.*\)",$$/\1==\2/p' pyproject.toml \
	  | xargs .venv-lowest/bin/pip install --quiet --disable-pip-version-check
	@.venv-lowest/bin/pytest --numprocesses auto --dist loadgroup $(PYTEST_ARGS) tests/unit tests/database tests/fuzz

bench: .venv-bench/.installed
	@.venv-bench/bin/python -m bench $(BENCH_ARGS)

lint: $(VENV)/.installed-dev
	@$(bin)/ruff check
	@$(bin)/ruff format --check
	@$(bin)/mypy
	@$(bin)/lint-imports --no-logo --no-cache
	@$(bin)/shellcheck --shell=sh entrypoint.sh
	@$(bin)/shellcheck --exclude=SC1091,SC2034,SC2086,SC2154 release/bundle.sh # as entrypoint.sh has it
	@$(bin)/shellcheck .ci/run bench/by_hand.sh
	@PATH="$(CURDIR)/$(bin):$$PATH" $(bin)/actionlint
	@$(bin)/zizmor --offline --quiet .github

format: $(VENV)/.installed-dev
	@$(bin)/ruff check --fix
	@$(bin)/ruff format

# The hashes of everything that the images are made of; UPGRADE= keeps what is in the files already.
UPGRADE ?= --upgrade
lock := $(VENV)-lock/bin/uv pip compile --quiet --universal --python-version 3.13 --generate-hashes --no-emit-index-url \
  --no-python-downloads --no-header $(UPGRADE)
lock: .venv-lock/.installed
	@$(lock) --output-file release/packages.txt pyproject.toml
	@sed -n '/^requires = /s/[^"]*"\([^"]*\)".*/\1/p' pyproject.toml | $(lock) --output-file release/build.txt -

release-check:
	@$(PYTHON) -m release.check

up:
	docker compose up --build --detach --wait
	@echo "http://$$(docker compose port app 8000)/"

down:
	docker compose down

clean:
	rm -rf .venv .venv-* build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis startup.db startup.db-* startup.db.startup.lock
	find . -name __pycache__ -prune -exec rm -rf {} +
