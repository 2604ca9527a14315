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
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' Makefile | while IFS='|' read -r verb what; do printf '  make %-14s%s\n' "$$verb" "$$what"; done

.PHONY: serve
serve: $(VENV) ## serve the built-in inspector on http://127.0.0.1:8000
	.venv/bin/forkserve -w 4 -c config.example.toml forkserve.apps.demo:app

.PHONY: test
test: $(VENV) ## run the tests; ARGS="-k reload -x" goes to pytest
	$(PYTHON_OF_VENV) -m pytest -n 4 --dist loadfile $(ARGS)
	@[ "$$(id -u)" != 0 ] || [ -n "$(ARGS)" ] || $(MAKE) test-plain

.PHONY: test-plain
test-plain: $(VENV) ## as root: how the service starts, stops and becomes another one without any capability
	FORKSERVE_TEST_PLAIN=1 $(PYTHON_OF_VENV) -m pytest -n 4 tests/process/test_stopping.py \
	    tests/process/test_drain_delay.py tests/process/test_upgrade.py tests/process/test_listener_changes.py $(ARGS)

.PHONY: test-long
test-long: $(VENV) ## the mind at length: 10,000 random lives, not 300, and storms of signals; takes minutes
	FORKSERVE_LIVES=34 $(PYTHON_OF_VENV) -m pytest tests/unit/test_supervisor_lives.py tests/unit/test_supervisor_signals.py $(ARGS)

.PHONY: test-systemd
test-systemd: $(VENV) ## the service under a real systemd 252 and 257, in containers; needs root and Debian, else it is skipped
	FORKSERVE_SYSTEMD=1 $(PYTHON_OF_VENV) -m pytest -rs tests/systemd $(ARGS)

# Every run has a seed of its own; FORKSERVE_FUZZ_SEED=<the one that was printed> make fuzz repeats it.
.PHONY: fuzz
fuzz: $(VENV) ## every front end with 5,000 examples of each kind, and 200,000 mutated requests to a running server
	FORKSERVE_FUZZ=5000 FORKSERVE_FUZZ_REQUESTS=200000 FORKSERVE_FUZZ_SEED=$${FORKSERVE_FUZZ_SEED:-$$(date +%s)} \
	    $(PYTHON_OF_VENV) -m pytest -s tests/fuzz tests/unit/test_fuzz_gateways.py $(ARGS)

.PHONY: fuzz-http
fuzz-http: $(VENV) ## the HTTP decoder under atheris, where that is installed (.venv/bin/pip install atheris); for two minutes
	$(PYTHON_OF_VENV) -m tests.fuzz.atheris_http -max_total_time=120 $(ARGS)

# A failing soak prints its seed; FORKSERVE_SOAK_SEED=<it> asks the same again.
# The figures of the drills are written into docs/promises.md; peers that are not built are left out of them.
.PHONY: promises
promises: $(VENV) .bench/peers/.installed ## the promises at length: 200 reloads under 100,000 requests, the random lives, the drills; takes long
	FORKSERVE_FULL=1 $(PYTHON_OF_VENV) -m pytest tests/process $(ARGS)
	FORKSERVE_LIVES=34 $(PYTHON_OF_VENV) -m pytest tests/unit/test_supervisor_lives.py tests/unit/test_supervisor_signals.py
	$(PYTHON_OF_VENV) benchmarks/drills.py --peers .bench/peers --write docs/promises.md

.PHONY: test-gateways
test-gateways: $(VENV) ## forkserve behind real nginx, Apache and HAProxy; installs them on Debian where they are missing, as root
	tests/gateways/install
	FORKSERVE_GATEWAYS=1 $(PYTHON_OF_VENV) -m pytest tests/gateways $(ARGS)

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
	$(PYTHON_OF_VENV) benchmarks/mix.py --peers .bench/peers --write docs/performance.md
	$(PYTHON_OF_VENV) benchmarks/streams.py --peers .bench/peers --write docs/performance.md
	$(PYTHON_OF_VENV) benchmarks/accepts.py --peers .bench/peers --write docs/performance.md
bench: $(VENV) ## measure beside the peers and write docs/performance.md; takes minutes

.PHONY: probes
probes: $(VENV) .bench/peers/.installed ## ask forkserve and its peers the questions of docs/wsgi.md
	$(PYTHON_OF_VENV) -m benchmarks.probes --peers .bench/peers --write docs/wsgi.md

.PHONY: ends
ends: $(VENV) .bench/peers/.installed ## end responses in every way behind a caching nginx, into docs/wsgi.md; takes minutes
	$(PYTHON_OF_VENV) benchmarks/ends.py --peers .bench/peers --write docs/wsgi.md $(ARGS)

.PHONY: bench-slow
bench-slow: $(VENV) .bench/peers/.installed ## slow and hostile clients, and bodies of 5 GiB, into docs/performance.md; takes minutes
	$(PYTHON_OF_VENV) benchmarks/slow_clients.py --peers .bench/peers --write docs/performance.md
	-$(PYTHON_OF_VENV) benchmarks/slow_hostile.py --write docs/performance.md
	$(PYTHON_OF_VENV) benchmarks/big_bodies.py --write docs/performance.md

# One package at a time: a peer that cannot be built here must not keep the others away; the next run tries again.
.bench/peers/.installed: benchmarks/requirements-peers.txt
	rm -rf .bench/peers
	$(PYTHON) -m venv .bench/peers
	-grep '^[a-z]' $< | xargs -n 1 .bench/peers/bin/python -m pip install --quiet && touch $@

.PHONY: clean
clean: ## remove all that these verbs made
	rm -rf .venv .bench .box build dist *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache
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
