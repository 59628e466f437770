#!/usr/bin/env bash
# Alerts and dashboard of monitoring/: promtool's checks and unit tests, then every expression asked of a real Prometheus
# that scrapes a real run.
# usage: scripts/monitoring.sh     PROMETHEUS, PROMTOOL: others than those that scripts/setup.sh --dev unpacks
set -euo pipefail
cd "$(dirname "$0")/.."
export PROMETHEUS="${PROMETHEUS:-.deps/prometheus/usr/bin/prometheus}"
export PROMTOOL="${PROMTOOL:-.deps/prometheus/usr/bin/promtool}"
"$PROMTOOL" check rules monitoring/alerts.yml
"$PROMTOOL" test rules monitoring/alerts_test.yml
"$PROMTOOL" check config --syntax-only monitoring/prometheus.yml
PYTHONPATH=tests/ui exec "${PYTHON:-.venv/bin/python}" tests/monitoring/live.py \
  "${QUERN:-target/release/quern}" "${QUERN_WORKER:-target/release/quern-worker}"
