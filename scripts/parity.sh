#!/usr/bin/env bash
# Makes fresh random cases from the installed transformers and checks them with the golden runner.
# usage: scripts/parity.sh [COUNT] [SEED]     COUNT cases of each kind (3); SEED: random, printed by a failing case's folder
set -euo pipefail
cd "$(dirname "$0")/.."
count=${1:-3} seed=${2:-$RANDOM}
cases=$(mktemp -d)
trap 'rm -rf "$cases"' EXIT
echo "parity: $count case(s) of each kind, seed $seed"
.venv/bin/python tests/parity/make_cases.py "$cases" --count "$count" --seed "$seed"
cargo run --release --quiet -p quern-tests --bin golden -- "$cases"
