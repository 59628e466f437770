#!/usr/bin/env bash
# CapFilt from and to object stores: S3 (moto), Azure (Azurite), Google Cloud Storage, with the zoo's models.
# usage: scripts/stores.sh     PYTHON: another interpreter than .venv's that has requirements-dev.txt
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHONPATH=tests/ui exec "${PYTHON:-.venv/bin/python}" tests/stores/stores.py "${QUERN:-target/release/quern}"
