#!/usr/bin/env bash
# The coordinator's page in headless Chromium against a real run; screenshots go to out/ui/.
# usage: scripts/ui.sh     CHROMIUM: another browser than /usr/bin/chromium
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${PYTHON:-.venv/bin/python}" tests/ui/page.py "${QUERN:-target/release/quern}" "${QUERN_WORKER:-target/release/quern-worker}"
