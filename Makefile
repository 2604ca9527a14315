# What a developer does with forkserve. `make` alone lists the verbs.
#
# .venv is made once, and anew when the interpreter or this folder's place is another; it is refreshed when
# pyproject.toml changes. PYTHON=python3.13 make test chooses the interpreter.

# Without a choice: the first of these that is new enough. Looked up only by a verb that needs it.
IS_NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
new_enough = $(shell $(1) -c '$(IS_NEW_ENOUGH)' 2>/dev/null && echo $(1))
ifeq ($(origin PYTHON),undefined)
PYTHON = $(or $(call new_enough,python3),$(call new_enough,python3.14),$(call new_enough,python3.13),$(call new_enough,python3.12),$(call new_enough,python3.11),python3)
endif

PYTHON_OF_VENV := .venv/bin/python
VENV := .venv/.installed

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help: ## list the verbs
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' Makefile | while IFS='|' read -r verb what; do printf '  make %-11s%s\n' "$$verb" "$$what"; done

.PHONY: serve
serve: $(VENV) ## serve the built-in inspector on http://127.0.0.1:8000
	.venv/bin/forkserve -w 4 -c config.example.toml forkserve.apps.demo:app

.PHONY: test
test: $(VENV) ## run the tests; ARGS="-k reload -x" goes to pytest
	$(PYTHON_OF_VENV) -m pytest $(ARGS)

.PHONY: test-long
test-long: $(VENV) ## the mind at length: 10,000 random lives, not 300, and storms of signals; takes minutes
	FORKSERVE_LIVES=34 $(PYTHON_OF_VENV) -m pytest tests/unit/test_supervisor_lives.py tests/unit/test_supervisor_signals.py $(ARGS)

# The figures of the drills are written into docs/promises.md; peers that are not built are left out of them.
.PHONY: promises
promises: $(VENV) .bench/peers/.installed ## the promises at length: 200 reloads under 100,000 requests, the random lives, the drills; takes long
	FORKSERVE_FULL=1 $(PYTHON_OF_VENV) -m pytest tests/process $(ARGS)
		FORKSERVE_LIVES=34 $(PYTHON_OF_VENV) -m pytest tests/unit/test_supervisor_lives.py tests/unit/test_supervisor_signals.py
	$(PYTHON_OF_VENV) benchmarks/drills.py --peers .bench/peers --write docs/promises.md

.PHONY: check
check: $(VENV) ## ruff, formatting, mypy --strict
	$(PYTHON_OF_VENV) -m ruff check .
	$(PYTHON_OF_VENV) -m ruff format --check .
	$(PYTHON_OF_VENV) -m mypy

.PHONY: format
format: $(VENV) ## format the code and sort the imports
	$(PYTHON_OF_VENV) -m ruff check --select I --fix .
	$(PYTHON_OF_VENV) -m ruff format .

.PHONY: docs
docs: $(VENV) ## write docs/settings.md anew from the declarations
	$(PYTHON_OF_VENV) -m forkserve.config.reference > docs/settings.md.new
	mv docs/settings.md.new docs/settings.md

.PHONY: bench
bench: .bench/peers/.installed
	$(PYTHON_OF_VENV) benchmarks/compare.py --peers .bench/peers --write docs/performance.md --json .bench/figures.json
bench: $(VENV) ## measure beside the peers and write docs/performance.md; takes minutes

# One package at a time: a peer that cannot be built here must not keep the others away; the next run tries again.
.bench/peers/.installed: benchmarks/requirements-peers.txt
	rm -rf .bench/peers
	$(PYTHON) -m venv .bench/peers
	-grep '^[a-z]' $< | xargs -n 1 .bench/peers/bin/python -m pip install --quiet && touch $@

.PHONY: clean
clean: ## remove all that these verbs made
	rm -rf .venv .bench build dist *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

# The virtual environment, in two steps: the interpreter, then the packages.

.PHONY: FORCE
FORCE:

# Written only when it changes, so that the packages are installed anew just then.
.venv/.made-by: FORCE
	@$(PYTHON) -c '$(IS_NEW_ENOUGH)' 2>/dev/null || { \
	    echo 'forkserve needs CPython 3.11 or newer, and $(PYTHON) is none: name one, such as PYTHON=python3.13 make test' >&2; exit 1; }
	@base=$$($(PYTHON) -c 'import os, sys; print(os.path.realpath(sys.executable))') && \
	made_by="$$($$base -VV) $$base $(CURDIR)" && \
	if [ "$$made_by" != "$$(cat $@ 2>/dev/null)" ]; then \
	    echo "making .venv with $$base" && rm -rf .venv && \
	    { "$$base" -m venv .venv || { rm -rf .venv; \
	        echo 'this Python makes no virtual environments: on Debian, apt-get install python3-venv' >&2; exit 1; }; } && \
	    echo "$$made_by" > $@; \
	fi

$(VENV): pyproject.toml .venv/.made-by
	$(PYTHON_OF_VENV) -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@
