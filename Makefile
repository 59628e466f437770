# `make demo` and `make test` set everything up by themselves; see README.md.
SHELL := /bin/bash
.PHONY: setup setup-dev build demo test check parity golden k8s fuzz sim sim-mutations bench-capfilt bench-coordinator bench-loader bench-memory zoo deny readers stores ui monitoring

# System packages, .venv with the pinned torch, links in .deps/. Idempotent and quick the second time.
setup:
	@scripts/setup.sh

# The same, and what zoo/train.py, tests/parity, tests/k8s and the tests' Python side need.
setup-dev:
	@scripts/setup.sh --dev

build: setup
	cargo build --release --workspace --bins

# The whole pipeline on two workers: corpus, CapFilt, stage 1, evaluation, report. Output: out/demo.
demo: build
	target/release/quern demo --out out/demo

# Everything that must hold: formatting, lints, docs, every test, fresh parity cases, manifests. CI runs this.
test: setup-dev check
	cargo build --release --workspace --bins
	cargo test --release --workspace
	target/release/bench-coordinator --quick --without-postgres
	$(MAKE) sim-mutations
	scripts/parity.sh 1 1
	scripts/exports.sh 1
	scripts/k8s.sh
	scripts/readers.sh
	scripts/stores.sh
	scripts/ui.sh
	scripts/monitoring.sh

check:
	cargo fmt --all --check
	cargo clippy --release --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --release --workspace --no-deps --quiet

# The numbers of the original implementations, as committed.
golden: build
	cargo run --release -p quern-tests --bin golden -- tests/golden/cases

# Fresh random cases from the installed transformers, and exports that it loads, checked by the same runner.
parity: setup-dev
	scripts/parity.sh
	scripts/exports.sh

# What `quern k8s render` prints and the files of k8s/base, against Kubernetes' schemas.
k8s: setup-dev build
	scripts/k8s.sh

# DuckDB, pandas and `datasets` on what real runs wrote.
readers: setup-dev build
	scripts/readers.sh

# CapFilt from and to S3, Azure and Google Cloud Storage, as servers here that stand in for them, and through faults.
stores: setup-dev build
	scripts/stores.sh

# The coordinator's page and CapFilt's report in headless Chromium, of real runs. Screenshots: out/ui.
ui: setup-dev build
	scripts/ui.sh

# The alerts and the dashboard of monitoring/, against promtool and a real Prometheus that scrapes a real run.
monitoring: setup-dev build
	scripts/monitoring.sh

# Simulated clusters, one per seed: `make sim SEEDS=200000 START=0`.
SEEDS ?= 2000
START ?= 0
sim:
	cargo build --release --workspace --bins
	target/release/sim --seeds $(SEEDS) --start $(START)

# Damaged bytes for one parser, for as long as you like: `make fuzz TARGET=images SECONDS=600 FIRST=0`. `make test` feeds all of
# them a fixed number. The targets are the tests of tests/fuzz/tests/parsers and models/tests/foreign; seeds lie in tests/fuzz/corpus and corpus/tests/broken.
TARGET ?= images
SECONDS ?= 60
FIRST ?= 1
fuzz:
	QUERN_FUZZ_SECONDS=$(SECONDS) QUERN_FUZZ_SEED=$(FIRST) \
		cargo test --release --workspace --test parsers --test foreign -- --nocapture ::$(TARGET)

# Every bug that can be planted is caught. The feature reaches this test alone: no binary for use has a bug to plant.
sim-mutations:
	cargo test --release --workspace --features quern-sim/mutations --test mutations

# The coordinator's speed: planning, leases and commits, restart; against its goals and a PostgreSQL queue (ten minutes).
bench-coordinator:
	@scripts/setup.sh --bench
	cargo build --release -p quern-bench-coordinator
	target/release/bench-coordinator $(BENCH_FLAGS)

# Rows decoded and transformed per second against PyTorch's DataLoader with Pillow and torchvision, in alternation.
bench-loader: setup-dev
	@scripts/setup.sh --bench
	cargo build --release -p quern-bench-loader -p quern-cli -p quern-worker
	.venv/bin/python benches/loader/run.py

# The memory of a CapFilt worker over 50,000 rows (fifteen minutes).
bench-memory: build
	.venv/bin/python benches/capfilt/memory.py

# Images per second against the script that a Hugging Face user writes, in alternation: base size, then large.
bench-capfilt: setup-dev
	cargo build --release -p quern-bench-capfilt
	.venv/bin/python benches/capfilt/run.py --size base
	.venv/bin/python benches/capfilt/run.py --size large --images 4 --rounds 2

# Trains the tiny models of zoo/ anew (about an hour).
zoo: setup-dev build
	.venv/bin/python zoo/train.py

# Licences, bans and sources, offline. Needs cargo-deny (`cargo install cargo-deny --locked`).
deny:
	cargo fetch --locked --quiet
	cargo deny --offline check bans licenses sources
