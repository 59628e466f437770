#!/usr/bin/env bash
# Makes fresh random cases from the installed transformers and checks them with the golden runner.
# usage: scripts/parity.sh [small] [SEED]     small: one size per kind, for `make test`
set -euo pipefail
cd "$(dirname "$0")/.."
cases=$(mktemp -d)
trap 'rm -rf "$cases"' EXIT
.venv/bin/python tests/parity/make_cases.py --out "$cases" ${1:+--sizes "$1"} --seed "${2:-$RANDOM}"
cargo run --release --quiet -p quern-tests --bin golden -- "$cases"
