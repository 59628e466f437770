#!/usr/bin/env bash
# Validates, strictly, what `quern k8s render` prints and the files of k8s/base; no cluster is needed.
# usage: scripts/k8s.sh     PYTHON: another interpreter than .venv's that has requirements-dev.txt
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${PYTHON:-.venv/bin/python}" tests/k8s/validate.py target/release/quern
