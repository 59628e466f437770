#!/usr/bin/env bash
# Exports random checkpoints, loads the exports with the installed transformers, and checks with the golden runner that
# both compute the same, and that an export reads back.
# usage: scripts/exports.sh [SEED]     SEED: random, printed
set -euo pipefail
cd "$(dirname "$0")/.."
seed=${1:-$RANDOM}
cases=$(mktemp -d)
trap 'rm -rf "$cases"' EXIT
echo "exports: seed $seed"
.venv/bin/python tests/parity/exports.py "$cases" --seed "$seed"
cargo run --release --quiet -p quern-tests --bin golden -- "$cases"
