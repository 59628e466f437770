#!/usr/bin/env bash
# The coordinator's page and CapFilt's report in headless Chromium, of real runs; screenshots go to out/ui/.
# usage: scripts/ui.sh [page|report]     CHROMIUM: another browser than /usr/bin/chromium
set -euo pipefail
cd "$(dirname "$0")/.."
quern="${QUERN:-target/release/quern}"
for what in ${1:-page report}; do
  case "$what" in
    page) "${PYTHON:-.venv/bin/python}" tests/ui/page.py "$quern" "${QUERN_WORKER:-target/release/quern-worker}" ;;
    report) "${PYTHON:-.venv/bin/python}" tests/ui/report.py "$quern" ;;
    *) echo "usage: scripts/ui.sh [page|report]" >&2; exit 2 ;;
  esac
done
