# One-word targets; each bootstraps what it needs into .venv. ARGS passes arguments on: make demo ARGS="--limit 30000".
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV_VERSION := 0.13.9
MEMBERS := schemas producers cache streams tasks ops
ARGS ?=
JOBS ?= 3

# Container images often set this; every process would then compile every module anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup servers demo test lint format docs bench lock clean

help: ## show the targets
	@grep -hE '^[a-z-]+:.*?## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1\t/' | expand -t 18

setup: $(VENV)/.ready ## install everything into .venv (pinned by hash)

$(BIN)/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "the venv module is missing: apt-get install python3-venv"; exit 1; }
	@$(BIN)/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

$(VENV)/.ready: $(BIN)/uv requirements.lock $(addsuffix /pyproject.toml,$(MEMBERS))
	@echo "setting up .venv"
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip sync --quiet --require-hashes requirements.lock
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps $(addprefix -e ./,$(MEMBERS))
	@touch $@

demo: setup ## replay a year of real flights through the whole pipeline and check every figure
	@$(BIN)/headwater demo $(ARGS)

# Other backends need no servers of ours; and what cannot be prepared starts more slowly.
servers: setup
	-@[ "$${HEADWATER_TEST_BACKEND:-embedded}" != embedded ] || $(BIN)/headwater prepare

test: servers ## unit and integration tests on the real embedded stack, in JOBS processes (3), each with servers of its own
	@$(BIN)/pytest -n $(JOBS) --dist worksteal $(ARGS)

lint: setup ## ruff, strict typing, import layers
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports
	@$(BIN)/mypy schemas/headwater_schemas producers/headwater_producers cache/headwater_cache streams/headwater_streams tasks/headwater_tasks ops/headwater_ops
	@$(BIN)/mypy tests
	@MYPYPATH=bench $(BIN)/mypy bench

format: setup ## let ruff rewrite what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

lock: $(BIN)/uv ## resolve requirements.lock and the pins of bench/ anew
	@$(BIN)/uv pip compile --quiet --upgrade --universal --generate-hashes --no-header --no-annotate --python-version 3.11 \
		pyproject.toml --group dev $(foreach m,$(MEMBERS),--no-emit-package headwater-$(m)) -o requirements.lock
	@$(BIN)/uv pip compile --quiet --upgrade --universal --generate-hashes --no-header --no-annotate --python-version 3.11 \
		bench/handler_peers.in -o bench/handler_peers.txt

clean: ## remove what the targets made (not the download cache)
	@rm -rf $(VENV) .state .bench site .mypy_cache .ruff_cache .hypothesis

lock-keep: $(BIN)/uv ## resolve requirements.lock, keeping the versions that still fit
	@$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate --python-version 3.11 \
		pyproject.toml --group dev $(foreach m,$(MEMBERS),--no-emit-package headwater-$(m)) -o requirements.lock

# --- chart and documentation -------------------------------------------------------------------------------------
.PHONY: docs test-helm test-alerts chart-readme
TOOLS := $(CURDIR)/.tools/bin
CHART_TESTS := helm/headwater/tests

# helm, helm-unittest and crdcheck, built once at the versions that helm/tools pins by hash.
$(TOOLS)/helm: helm/tools/go.mod helm/tools/go.sum helm/tools/crdcheck/go.mod helm/tools/crdcheck/main.go
	@command -v go > /dev/null || { echo "Go 1.26 or newer is missing: install it to build helm and its test tools"; exit 1; }
	@echo "building helm and its test tools into .tools (some minutes, once)"
	@GOBIN=$(TOOLS) nice go -C helm/tools install tool
	@GOBIN=$(TOOLS) nice go -C helm/tools/crdcheck install .
	@touch $@

test-helm: setup $(TOOLS)/helm ## the chart: lint, three Kubernetes versions, helm-unittest, refused values
	@$(TOOLS)/helm-unittest helm/headwater
	@MYPYPATH=$(CHART_TESTS) $(BIN)/mypy $(CHART_TESTS)
	@$(BIN)/pytest -o pythonpath=$(CHART_TESTS) $(CHART_TESTS) $(ARGS)

test-alerts: setup ## the alert rules: every one firing and quiet, every one with a runbook
	@command -v promtool > /dev/null || { echo "promtool is missing: apt-get install prometheus"; exit 1; }
	@promtool check rules helm/headwater/files/alerts.yaml
	@promtool test rules $(CHART_TESTS)/*.promtool.yaml
	@$(BIN)/pytest -o pythonpath=$(CHART_TESTS) $(CHART_TESTS)/test_alerts.py $(ARGS)

docs: setup ## build the documentation into site/, with warnings as errors
	@MYPYPATH=docs/hooks $(BIN)/mypy docs/hooks
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

chart-readme: setup ## write the chart's README from its values and their schema
	@$(BIN)/python docs/hooks/chart.py > helm/headwater/README.md

# --- producers ---------------------------------------------------------------------------------------------------
.PHONY: bench-emit bench-spool bench-outbox chaos-producers

bench-emit: setup ## emit against the bare loop and other clients (ARGS="--json")
	@$(BIN)/python bench/emit.py $(ARGS)

bench-spool: setup ## events/s accepted on disk while the broker is away, and drained when it is back
	@$(BIN)/python bench/spool.py $(ARGS)

bench-outbox: setup ## from the row to the topic at 2,000 rows/s, and rows/s drained by one relay (ARGS="--json")
	@PYTHONPATH=tests $(BIN)/python bench/outbox.py $(ARGS)

chaos-producers: setup ## kill processes, broker, relays and PostgreSQL; lost and out of order must be 0 (ARGS="--seeds 5")
	@PYTHONPATH=tests $(BIN)/python tests/producers/chaos.py $(ARGS)

# --- the whole path ----------------------------------------------------------------------------------------------
bench: setup ## the demo's path, emit to visible, beside the same by hand (ARGS="--json")
	@$(BIN)/python bench/path.py $(ARGS)

# --- contracts ---------------------------------------------------------------------------------------------------
.PHONY: gate bench-codec
gate: setup ## the contracts: nothing breaks since main and the releases, typed events are up to date
	@$(BIN)/headwater schemas check
	@$(BIN)/headwater schemas generate --check

bench-codec: setup ## the codec against bare fastavro, as ratios
	@$(BIN)/python bench/codec.py $(ARGS)

# --- cache -------------------------------------------------------------------------------------------------------
.PHONY: chaos-cache bench-stampede bench-cache bench-cache-memory bench-cache-sync bench-cache-reads
CACHE_BENCH := PYTHONPATH=tests $(BIN)/python bench

chaos-cache: setup ## random schedules of the cache with accidents: ARGS="--schedules 10000 --json"
	@$(CACHE_BENCH)/cache_chaos.py $(ARGS)

bench-stampede: setup ## one cold key, 200 readers in 8 processes: loads and Redis commands, ours and others'
	@$(CACHE_BENCH)/cache_stampede.py $(ARGS)

bench-cache: setup ## the cache's hot paths against bare redis-py and other caches
	@$(CACHE_BENCH)/cache_paths.py $(ARGS)

bench-cache-memory: setup ## bytes of Redis memory per entry, against plain keys and JSON
	@$(CACHE_BENCH)/cache_memory.py $(ARGS)

bench-cache-sync: setup ## change events into Redis per second, and emit to visible at 10,000/s (ARGS="--json")
	@$(CACHE_BENCH)/cache_sync.py $(ARGS)

bench-cache-reads: setup ## reads with the cache against PostgreSQL alone: hits, p99, and Redis silent or killed (ARGS="--json")
	@$(CACHE_BENCH)/cache_reads.py $(ARGS)

# --- streams -----------------------------------------------------------------------------------------------------
.PHONY: chaos chaos-app chaos-demo bench-handler bench-io bench-retry bench-rebalance bench-soak
HANDLER_PEERS := .bench/handler-peers

$(HANDLER_PEERS)/.ready: $(BIN)/uv bench/handler_peers.txt
	@echo "setting up $(HANDLER_PEERS)"
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(HANDLER_PEERS)
	@VIRTUAL_ENV=$(HANDLER_PEERS) $(BIN)/uv pip sync --quiet --require-hashes bench/handler_peers.txt
	@touch $@

bench-handler: setup $(HANDLER_PEERS)/.ready ## a no-op handler against the bare loop, Faust, Quix Streams and Arroyo (ARGS="--json")
	@$(BIN)/python bench/handler.py $(ARGS)

bench-io: setup ## a handler of 5 ms of asynchronous I/O, 1,000 keys, in order (ARGS="--json")
	@$(BIN)/python bench/handler.py --io $(ARGS)

bench-retry: setup ## how exact retry delays are, beside 500 events/s (ARGS="--seconds 120 --json")
	@$(BIN)/python bench/retry_delay.py $(ARGS)

bench-rebalance: setup ## pauses when workers join, leave and are killed; seconds to a restarted worker's first event
	@$(BIN)/python bench/rebalance.py $(ARGS)

bench-soak: setup ## a worker's memory over 10 million events, 1 % retried (ARGS="--events 1000000 --json")
	@$(BIN)/python bench/soak.py $(ARGS)

chaos-demo: setup ## the demo with its worker killed twice in the middle
	@$(BIN)/pytest -m chaos tests/demo $(ARGS)

chaos-app: setup ## the pytest fixtures for users' apps: an app that is right, one that loses
	@$(BIN)/pytest -m chaos tests/ops $(ARGS)

chaos: setup ## seeded faults on real processes: lost, order violations, duplicates (ARGS="--seeds 5 --start 1 --json")
	@PYTHONPATH=tests $(BIN)/python -m chaos.run $(ARGS)
