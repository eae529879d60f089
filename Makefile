# ScalingNote's two commands are `make index` and `make test`; `make help` lists the rest.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# No target that is a plain word is a file.
.PHONY: $(shell sed -n 's/^\([a-z0-9-]*\):.*/\1/p' $(MAKEFILE_LIST))

CARGO ?= cargo
PYTHON ?= python3
CACHE := .cache
# Which notes `make index` reads: 699 (399 notes) or 1000 (938 notes).
NOTES ?= 699
QUICK_ROOT := $(CACHE)/quickstart-$(NOTES)
# pipelines/quickstart.toml says 699; another view gets its own root, so that neither looks like a fall in count.
ifneq ($(NOTES),699)
QUICK_SET := --set corpus.tables.0.uri=../$(CACHE)/notes/cwe-$(NOTES).csv --set publish.root=../$(QUICK_ROOT)
endif
# Where the Python packages live that some tests read our files with.
VENV ?= $(CACHE)/venv
# Where the servers of `make test-stores` live.
STORES ?= $(CACHE)/stores
VENV_PYTHON := $(abspath $(VENV))/bin/python
# cargo knows best where it builds (CARGO_TARGET_DIR, build.target-dir); asked only when needed.
TARGET_DIR = $(shell $(CARGO) metadata --no-deps --format-version 1 | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
BIN = $(TARGET_DIR)/release/scalingnote
# What `scalingnote --version` says that it was built from.
export SCALINGNOTE_COMMIT := $(shell git describe --always --dirty --abbrev=12 2>/dev/null)

help: ## Print this list.
	@echo "usage: make TARGET"
	@sed -n 's/^\([a-z0-9-]*\):[^#]*## \(.*\)/  \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-16s %s\n", $$1, $$2 }'

index: check-tools ## Fresh machine to searchable snapshot: fetch, build, index, search (NOTES=1000 for more).
	@$(PYTHON) pipelines/fetch_quickstart.py --cache $(CACHE) --notes "$(NOTES)"
	@echo "building the program (the first time: some 360 crates)"
	$(CARGO) build --release
	@bin="$(BIN)"; set -e; \
	echo "$$bin run pipelines/quickstart.toml $(QUICK_SET)"; \
	"$$bin" run pipelines/quickstart.toml $(QUICK_SET); \
	for query in \
		"attacker runs SQL through a form field" \
		"memory is used after it has been released" \
		"a password is written in the source code"; \
	do \
		echo; echo "search: $$query"; \
		"$$bin" search "$(QUICK_ROOT)" "$$query" -k 3; \
	done; \
	echo; \
	echo "The tower is a small chat LLM with an adapter that was trained for four core-hours: good enough to show,"; \
	echo "not to ship. pipelines/quickstart/README.md has its scores."; \
	echo; \
	echo "  snapshot   $(QUICK_ROOT)/snapshots/   (what serving reads)"; \
	echo "  vectors    $(QUICK_ROOT)/embeddings/  (Parquet)"; \
	echo "  indexes    $(QUICK_ROOT)/indexes/     (usearch files)"; \
	echo "  report     $(QUICK_ROOT)/runs/        (report.html of each run)"; \
	echo "  pipeline   pipelines/quickstart.toml"; \
	echo "  program    $$bin"; \
	echo; \
	echo "search yourself:  $$bin search $(QUICK_ROOT) \"your words\""

check-tools: ## Check that this machine has what the build and `make index` need.
	@case "$(NOTES)" in 699|1000) ;; \
		*) echo "error: NOTES=$(NOTES) is not known: use NOTES=699 (399 notes) or NOTES=1000 (938 notes)" >&2; exit 2;; esac
	@command -v $(CARGO) >/dev/null || { echo "error: cargo is missing: install Rust 1.94 or newer with rustup (rust-lang.org)" >&2; exit 2; }
	@version=$$($(CARGO) --version | awk '{ print $$2 }'); \
	[ -n "$$version" ] || { echo "error: cargo does not run (see above; without a toolchain: rustup default stable)" >&2; exit 2; }; \
	major=$${version%%.*}; rest=$${version#*.}; minor=$${rest%%.*}; \
	if [ "$$major" -lt 1 ] || { [ "$$major" -eq 1 ] && [ "$$minor" -lt 94 ]; }; then \
		echo "error: cargo $$version is too old: 1.94 or newer is needed (rustup update stable)" >&2; exit 2; fi
	@for tool in "$${CC:-cc}" "$${CXX:-c++}"; do \
		command -v $${tool%% *} >/dev/null || { \
			echo "error: no C/C++ compiler: \`$$tool\` is missing (Debian, Ubuntu: apt install build-essential; macOS: xcode-select --install)" >&2; exit 2; }; done
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) is missing: it fetches the model and the notes (Debian, Ubuntu: apt install python3 python3-pip)" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 8))' || { echo "error: $(PYTHON) is older than 3.8" >&2; exit 2; }
	@$(PYTHON) -m pip --version >/dev/null 2>&1 || { echo "error: $(PYTHON) has no pip (Debian, Ubuntu: apt install python3-pip; elsewhere: $(PYTHON) -m ensurepip)" >&2; exit 2; }

build: ## Build the release program.
	$(CARGO) build --release

# A team builds once, on the oldest system that it serves; `pip install` of the files in .cache/wheel takes everybody seconds.
WHEEL := $(CACHE)/wheel
wheel: check-tools build ## Pack the release program, and the package of schemas/python, as Python wheels into .cache/wheel.
	rm -rf $(WHEEL)
	$(PYTHON) tests/python/make_wheel.py "$(BIN)" $(WHEEL)
	$(PYTHON) -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir $(WHEEL) ./schemas/python

test-wheel: wheel ## Install the wheels into a clean environment and run the quick start from them.
	$(PYTHON) pipelines/fetch_quickstart.py --cache $(CACHE) --notes 699
	$(PYTHON) tests/python/wheel.py $(WHEEL) .

test: export SCALINGNOTE_PYTHON = $(VENV_PYTHON)
test: check-tools python-packages ## Run every test that needs no service (cargo-nextest where installed, else cargo test).
	$(CARGO) test --release --doc
	@if command -v cargo-nextest >/dev/null; then \
		set -x; $(CARGO) nextest run --cargo-profile release; \
	else \
		set -x; $(CARGO) test --release --tests; \
	fi

# From a changed line to its test: this package unoptimised and compiled incrementally, beside the dependencies that the release
# build has already.
UNOPTIMISED = --config profile.release.incremental=true --config profile.release.package.scalingnote.opt-level=0
unit: ## Run the unit tests whose names contain TEST, with this package unoptimised.
	$(CARGO) $(UNOPTIMISED) test --release --lib $(TEST)

test-airflow: check-tools build ## Run the Airflow DAG under the real Airflow (installed into .cache/airflow).
	$(PYTHON) pipelines/fetch_quickstart.py --cache $(CACHE) --notes 699
	tests/python/airflow_daily.sh "$(BIN)" "$(abspath $(CACHE))"

# An environment gets its mark when everything is in it: one whose installation was cut off is made again.
$(CACHE)/%-venv/installed:
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/python -m pip install -q --disable-pip-version-check $(PACKAGES)
	@touch $@

# PyTorch has some gigabytes; MODELS_PYTHON may name an interpreter that has it.
ifeq ($(origin MODELS_PYTHON),undefined)
MODELS_PYTHON := $(CACHE)/models-venv/bin/python
test-models: $(CACHE)/models-venv/installed
endif
$(CACHE)/models-venv/installed: PACKAGES = "sentence-transformers>=5" torch numpy gguf
test-models: check-tools build ## Compare towers with sentence-transformers on folders it saved itself (installed into .cache/models-venv).
	$(MODELS_PYTHON) tests/python/parity.py "$(BIN)" "$(abspath $(CACHE))/parity"
	$(MODELS_PYTHON) tests/python/parity_decoders.py "$(BIN)" "$(abspath $(CACHE))/parity"
	$(MODELS_PYTHON) tests/python/model_files.py "$(BIN)" "$(abspath $(CACHE))/parity"

# These tests skip themselves where no root is given, so `make test` passes them by. One at a time: they share the servers.
test-stores: check-tools ## Run the store's tests and whole runs in bad weather on Azurite and an S3 server (installed into .cache/stores).
	$(CARGO) test --release --test it --no-run
	$(PYTHON) tests/python/stores.py "$(STORES)" -- \
		$(CARGO) test --release --test it roots_of_the_environment -- --nocapture --test-threads=1

# A build of its own, with what reads Delta tables and databases (Rust 1.95). What is not installed of PostgreSQL and MariaDB is
# said, and its tests are skipped.
ifeq ($(origin SOURCES_PYTHON),undefined)
SOURCES_PYTHON := $(CACHE)/sources-venv/bin/python
test-sources: $(CACHE)/sources-venv/installed
endif
$(CACHE)/sources-venv/installed: PACKAGES = "deltalake>=1.6" pyarrow
test-sources: export SCALINGNOTE_PYTHON = $(abspath $(SOURCES_PYTHON))
test-sources: check-tools ## Read Delta tables that Python wrote, here and on an S3 server, and tables of PostgreSQL, MariaDB and SQLite.
	$(CARGO) test --release --features delta,databases --lib corpus::source::
	$(CARGO) test --release --features delta,databases --test it --no-run
	$(PYTHON) tests/python/stores.py "$(STORES)" -- $(PYTHON) tests/python/sources.py -- \
		$(CARGO) test --release --features delta,databases --test it sources:: -- --nocapture --test-threads=2

# A build of its own: Ballista needs more of DataFusion.
test-cluster: check-tools ## Run pipelines on a Ballista cluster of processes that are killed, on disk and on an S3 server.
	$(PYTHON) pipelines/fetch_quickstart.py --cache $(CACHE) --notes 699
	$(CARGO) test --release --features cluster --lib exec::
	$(CARGO) test --release --features cluster --test it --no-run
	SCALINGNOTE_CLUSTER_MODEL="$(abspath $(CACHE))/models/SmolLM2-135M-Instruct.Q4_1.gguf" \
	$(PYTHON) tests/python/stores.py "$(STORES)" -- \
		$(CARGO) test --release --features cluster --test it cluster:: -- --nocapture --test-threads=2
	$(PYTHON) tests/python/machines.py "$(BIN)" "$(STORES)"

# Network namespaces need root; where they cannot be made the test says so. A program with `cluster` runs a cluster on them too.
test-machines: check-tools build ## Run on three machines (namespaces) that share a slow bucket, and cut each off for two minutes.
	$(PYTHON) tests/python/machines.py "$(BIN)" "$(STORES)"

# Damaged files, thoroughly: thousands of each kind.
test-hostile: check-tools ## Read thousands of damaged files of every kind in processes with little memory.
	SCALINGNOTE_MUTATIONS=2000 $(CARGO) test --release --test it hostile:: -- --nocapture

# How long each of the targets is fuzzed.
SECONDS ?= 60
fuzz: check-tools ## Fuzz every reader of foreign bytes with coverage feedback (SECONDS=60 for each target).
	tests/fuzz/run.sh $(SECONDS) "$(abspath $(CACHE))" "$(CARGO)"

test-kubernetes: ## Validate the Kubernetes manifests and lint the Containerfile (tools installed into .cache/kubernetes).
	$(PYTHON) tests/python/kubernetes_manifests.py $(CACHE)

test-alerts: export SCALINGNOTE_REQUIRE_PROMTOOL = 1
test-alerts: ## Check metrics of real runs and test the alert rules with promtool.
	@command -v promtool >/dev/null || { echo "error: promtool is missing (Debian, Ubuntu: apt install prometheus)" >&2; exit 2; }
	$(CARGO) test --release --test it metrics::

test-serve: check-tools ## Search under load for some minutes while 300 snapshots are published and collected.
	SCALINGNOTE_SERVE_PUBLISHES=300 $(CARGO) test --release --test it publishing_beside_queries -- --nocapture

test-page: check-tools build ## Search and compare on the page of `serve` in a headless Chromium; pictures of it in .cache/page.
	$(PYTHON) tests/python/page.py "$(BIN)" $(CACHE)/page

# An hour is SOAK_SECONDS=3600.
SOAK_SECONDS ?= 600
test-soak: check-tools ## Serve honest clients among hostile ones for SOAK_SECONDS while runs publish; prints latencies and memory.
	SCALINGNOTE_SOAK_SECONDS=$(SOAK_SECONDS) $(CARGO) test --release --test it honest_clients_are_served -- --nocapture

# A failure prints the seed; SCALINGNOTE_FAULT_SEED=SEED make test-faults FAULT_SCHEDULES=1 repeats it.
FAULT_SCHEDULES ?= 2000
KILL_SCHEDULES ?= 40
MODEL_SCHEDULES ?= 24
test-faults: check-tools ## Run FAULT_SCHEDULES seeded fault schedules, some with the real tower, and KILL_SCHEDULES of kill -9.
	$(PYTHON) pipelines/fetch_quickstart.py --cache $(CACHE) --notes 699
	SCALINGNOTE_FAULT_SCHEDULES=$(FAULT_SCHEDULES) SCALINGNOTE_KILL_SCHEDULES=$(KILL_SCHEDULES) \
	SCALINGNOTE_FAULT_MODEL_SCHEDULES=$(MODEL_SCHEDULES) \
	SCALINGNOTE_FAULT_MODEL="$(abspath $(CACHE))/models/SmolLM2-135M-Instruct.Q4_1.gguf" \
		$(CARGO) test --release --test it -- --nocapture --test-threads=1 schedules:: kills::

# A failure prints the schedule and every step of it.
MODEL_SECONDS ?= 600
test-model: check-tools ## Search the interleavings of runs, tasks, publishers, gc, purge and readers for MODEL_SECONDS.
	SCALINGNOTE_MODEL_SECONDS=$(MODEL_SECONDS) \
		$(CARGO) test --release --test it -- --nocapture --test-threads=1 model::

test-all: test test-wheel test-models test-airflow test-kubernetes test-alerts test-stores test-machines test-sources test-serve test-page test-soak test-faults test-model test-hostile test-cluster ## Run every suite there is, the slow ones too.
	$(MAKE) fuzz SECONDS=10

# `cuda`, or `flash-attn` for the fused attention kernels too (hours of nvcc, once).
FEATURES ?= cuda
CUDA_TOOLKIT = $(PYTHON) tests/python/cuda_toolkit.py $(CACHE)/cuda
CUDA = FEATURES=$(FEATURES) CANDLE_FLASH_ATTN_BUILD_DIR="$(abspath $(CACHE))/cuda-kernels" $(CUDA_TOOLKIT) --
# To build: an nvcc of CUDA 13 on the PATH, or the network, from which NVIDIA's is fetched into .cache/cuda; no GPU. It is built
# for this machine's card or for CUDA_COMPUTE_CAP (90, Hopper, where there is neither).
# To run: a driver, 580 or newer, and the libraries that this target names at its end, with the packages that have them. They are
# searched in lib/ beside the program, in /usr/local/cuda/lib64 and where the build had them. On a read-only root CUDA_CACHE_PATH
# must name a folder that can be written. What needs no card (drivers of a cluster, schedulers, plans) takes release/scalingnote,
# which runs without a driver.
cuda: check-tools ## Build gpu/scalingnote for NVIDIA GPUs (FEATURES=flash-attn: with fused attention) beside release/scalingnote.
	@mkdir -p $(CACHE)/cuda-kernels "$(TARGET_DIR)/gpu"
	$(CUDA) $(CARGO) rustc --release --bin scalingnote --features $(FEATURES) -- @rpath
	mv "$(BIN)" "$(TARGET_DIR)/gpu/scalingnote"
	$(CARGO) build --release
	$(CUDA_TOOLKIT) --check "$(TARGET_DIR)/gpu/scalingnote"

# Fused attention for the heads of the bench's shapes only, some 20 minutes of nvcc; FEATURES=cuda leaves it out.
gpu-pack: FEATURES = flash-attn
gpu-pack: check-tools ## Pack the `gpu` bench into .cache/gpu/gpu.xz, to be carried to a card (benches/gpu/first.sh).
	@mkdir -p $(CACHE)/gpu $(CACHE)/cuda-kernels
	@bench=$$(HEAD_DIMS="64 128" $(CUDA) $(CARGO) rustc --release --features $(FEATURES) --bench gpu \
		--message-format json-render-diagnostics -- @rpath | sed -n 's/.*"executable":"\([^"]*\/gpu-[^"\/]*\)".*/\1/p'); \
	test -n "$$bench" && $(PYTHON) -c 'import lzma, os, sys; packed = lzma.compress(open(sys.argv[1], "rb").read(), preset=9); \
	open(sys.argv[2], "wb").write(packed); size = len(packed) / 2**20; print(f"{sys.argv[2]}: {size:.1f} MiB"); \
	sys.exit(size > 24 and "error: more than the 24 MiB that travel")' "$$bench" $(CACHE)/gpu/gpu.xz

smoke-gpu: check-tools ## The steps of the first minutes on a card, on the processor: do vectors depend on their batch?
	SMOKE=1 benches/gpu/first.sh 1

cuda-check-flash: FEATURES = flash-attn
cuda-check-flash: check-tools ## Compile the library with feature flash-attn, its kernels left empty.
	EMPTY_KERNELS=1 $(CUDA) $(CARGO) build --release --lib --features flash-attn

lint: ## Check formatting and run clippy, with the optional readers and drivers too; warnings are errors.
	$(CARGO) fmt --all --check
	$(CARGO) clippy --profile release --all-targets -- -D warnings
	$(CARGO) clippy --profile release --all-targets --features cluster,databases,delta -- -D warnings

docs: ## Build the documentation, that of the rooms behind the library's interface too; warnings are errors.
	RUSTDOCFLAGS="-D warnings --cfg rooms" $(CARGO) doc --profile release --no-deps

# STEP_SECONDS bounds each step of each bench (benches/README.md).
# Where the retrieval sets of the benches below lie (BEIR layout); without them the benches say `skipped`.
DATA ?= ../shared/data
bench-encode: ## Measure the document tower beside PyTorch, sentence-transformers and llama.cpp (benches/README.md).
	$(PYTHON) pipelines/fetch_quickstart.py --cache $(CACHE) --notes 1000
	benches/encode.sh

bench-encoders: ## Measure encoders (MiniLM, ModernBERT's size) beside sentence-transformers and ONNX Runtime (benches/README.md).
	benches/encoders.sh

bench-gpu: check-tools ## Measure the document tower on a GPU beside PyTorch and sentence-transformers (benches/README.md).
	$(PYTHON) pipelines/fetch_quickstart.py --cache $(CACHE) --notes 1000
	@mkdir -p $(CACHE)/cuda-kernels
	$(CUDA) benches/gpu.sh

bench-memory: build ## Follow the memory of one run over a million short notes (benches/README.md).
	$(PYTHON) benches/memory.py "$(BIN)"

bench-index: ## Measure index building and recall beside usearch, hnswlib and faiss (DATA=DIR, benches/README.md).
	DATA="$(DATA)" benches/index.sh

bench-index-build: ## Measure index building beside usearch and hnswlib, and what of it is not insertion (DATA=DIR, CORE=N).
	DATA="$(DATA)" benches/build_index.sh

bench-serve: ## Measure what a request to `scalingnote serve` costs beside the search itself (benches/README.md).
	$(CARGO) bench --bench serve

bench-e2e: build ## Measure whole runs over real texts: stages, overlap, and the same with 1% changed (DATA=DIR, benches/README.md).
	$(PYTHON) pipelines/fetch_quickstart.py --cache $(CACHE) --notes 699
	$(PYTHON) benches/e2e.py "$(BIN)" --data "$(DATA)" --svg benches/e2e.svg

# BUILD passes options on: BUILD="--compare REV --inner-loop --json FILE".
BUILD ?=
bench-build: check-tools ## Time a cold release build, crate by crate (BUILD="options", benches/README.md).
	CARGO="$(CARGO)" $(PYTHON) benches/build.py $(BUILD)

# What the paper claims, on public data: hours on two cores. CLAIMS passes options on: CLAIMS="--only 1 --train-pairs 4800".
PAIRS ?= $(CACHE)/pairs
SETS ?= $(CACHE)/sets
CLAIMS ?=
bench-claims: build ## Train and judge what the paper claims; goes on where it was stopped (PAIRS=dir SETS=dir CLAIMS="options").
	$(PYTHON) pipelines/fetch_quickstart.py --cache $(CACHE) --notes 699 --minilm
	$(PYTHON) benches/claims.py "$(BIN)" --pairs "$(PAIRS)" --sets "$(SETS)" --models $(CACHE)/models --out $(CACHE)/claims $(CLAIMS)

bench-daily: build ## Measure a day on which 1% of 100,000 notes changed beside a full run (benches/README.md).
	$(PYTHON) benches/daily.py "$(BIN)"

bench-scale: build ## Measure planning and metadata, and simulate 100 million notes on 100 GPUs (benches/README.md).
	$(PYTHON) benches/scale.py "$(BIN)"

bench-cluster: ## Measure the way over a Ballista cluster beside one process (benches/README.md).
	$(PYTHON) pipelines/fetch_quickstart.py --cache $(CACHE) --notes 699
	$(CARGO) build --release --features cluster
	$(PYTHON) benches/cluster.py "$(BIN)" $(CACHE)/models/SmolLM2-135M-Instruct.Q4_1.gguf

# The copy of the list tells what is installed, so a new package reaches an old checkout. Without a network the
# tests that need these packages say `skipped`; SCALINGNOTE_REQUIRE_PYTHON=1 makes that an error.
python-packages: ## Install what the Python tests import into a virtual environment of their own.
	@cmp -s tests/python/requirements.txt $(VENV)/requirements.txt && "$(VENV_PYTHON)" -c "" 2>/dev/null || { \
		$(PYTHON) -m venv --clear $(VENV) && \
		"$(VENV_PYTHON)" -m pip install --quiet --disable-pip-version-check -r tests/python/requirements.txt && \
		cp tests/python/requirements.txt $(VENV)/requirements.txt; } || { \
		echo "warning: the Python packages of tests/python/requirements.txt could not be installed; tests that need them will be skipped" >&2; \
		[ -z "$$SCALINGNOTE_REQUIRE_PYTHON" ]; }

clean: ## Remove what was built here; the fetched model, the notes and the indexes in .cache stay.
	$(CARGO) clean

clean-cache: ## Remove .cache: the fetched model, the notes, the quick start's indexes, the test packages.
	rm -rf $(CACHE)
