#!/usr/bin/env bash
# DuckDB, pandas and `datasets` on the outputs of two real runs, with the zoo's models.
# usage: scripts/readers.sh     PYTHON: another interpreter than .venv's that has requirements-dev.txt
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHONPATH=tests/ui exec "${PYTHON:-.venv/bin/python}" tests/readers/readers.py "${QUERN:-target/release/quern}"
