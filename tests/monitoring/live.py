"""Everything that monitoring/ asks, asked of a real Prometheus that scrapes a real run.

usage: live.py QUERN QUERN_WORKER     PROMETHEUS, PROMTOOL: the programs
"""

import os
import pathlib
import subprocess
import sys
import tempfile
import urllib.request

from cluster import Cluster, captioned, corpus
from expressions import Expression, alerts, dashboard, untidy
from prometheus import Prometheus, Refused

# Panels that a good run may leave empty.
MAY_BE_EMPTY = {"Alerts", "Calls that failed", "Tasks"}
# What only other runs expose, or Prometheus itself does.
NOT_OF_THIS_RUN = {"ALERTS", "quern_task_done"}


def refusals(prometheus: Prometheus, expressions: list[Expression]) -> list[str]:
    """What is wrong with expressions: Prometheus can't read them, or they ask for what nobody exposes."""
    known, wrong = prometheus.metrics() | NOT_OF_THIS_RUN, []
    for expression in expressions:
        unknown = expression.metrics() - known
        if unknown:
            wrong.append(f"{expression.asker}: nobody exposes {', '.join(sorted(unknown))}")
        try:
            prometheus.series(expression)
        except Refused as error:
            wrong.append(f"{expression.asker}: {error}")
    return wrong


def check_page(cluster: Cluster):
    """Prometheus' own linter on the page as it is now."""
    with urllib.request.urlopen(cluster.request("metrics"), timeout=20) as reply:
        page = reply.read()
    lint = subprocess.run([os.environ.get("PROMTOOL", "promtool"), "check", "metrics"], input=page, capture_output=True)
    said = (lint.stdout + lint.stderr).decode()
    assert lint.returncode == 0 and not said.strip(), said


def check_refusals(prometheus: Prometheus):
    """The check itself can fail."""
    for text, said in (
        ("sum(rate(quern_rows_setled_total[1m])) by (run) > 0", "quern_rows_setled_total"),
        ("quern_shard == 1 unless ignoring (state) quern_run_paused", "quern_shard"),
        ("sum(quern_shards", "parse error"),
    ):
        wrong = refusals(prometheus, [Expression("misspelt", text)])
        assert wrong and said in wrong[0], f"{text} is not refused: {wrong}"


def look_at_dashboard(prometheus: Prometheus, run: str):
    """Every panel shows something, once at least, while the run goes on or when it is done."""
    empty = [expression for expression in dashboard() if expression.asker not in MAY_BE_EMPTY]
    done = Expression("run", f'quern_run_phase{{run="{run}",phase="done"}} == 1')

    def is_done() -> bool:
        empty[:] = [expression for expression in empty if not prometheus.series(expression)]
        status = prometheus.cluster.status(run)
        assert status["phase"] not in ("failed", "cancelled"), status["explanation"]
        return bool(prometheus.series(done))

    prometheus.cluster.until("Prometheus sees that the run is done", is_done)
    is_done()
    assert not empty, "\n".join(["panels without data:", *(f"{panel.asker}: {panel.text}" for panel in empty)])


def main(quern: str, quern_worker: str):
    assert not untidy(), "\n".join(untidy())
    with tempfile.TemporaryDirectory() as place:
        folder = pathlib.Path(place)
        data = corpus(folder / "corpus", quern, 80)
        with Cluster(folder, quern, quern_worker) as cluster:
            run = cluster.submit(captioned(folder, data))
            prometheus = Prometheus(folder, cluster)
            cluster.until("Prometheus has scraped the coordinator", prometheus.has_scraped)
            for worker in ("one", "two"):
                cluster.worker(worker)
            look_at_dashboard(prometheus, run)
            wrong = refusals(prometheus, alerts() + dashboard())
            assert not wrong, "\n".join(wrong)
            check_refusals(prometheus)
            check_page(cluster)
    print(f"monitoring: {len(alerts())} alerts, {len(dashboard())} expressions of the dashboard, all against a real run")


if __name__ == "__main__":
    main(*sys.argv[1:])
