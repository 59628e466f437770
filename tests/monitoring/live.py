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
            waiting = [expression for expression in dashboard() if expression.asker not in MAY_BE_EMPTY]

            def all_seen_and_over() -> bool:
                waiting[:] = [expression for expression in waiting if not prometheus.series(expression)]
                phase = cluster.status(run)["phase"]
                assert phase not in ("failed", "cancelled"), cluster.status(run)["explanation"]
                return not waiting and phase == "done"

            try:
                cluster.until("every panel has shown something, and the run is done", all_seen_and_over)
            except AssertionError as error:
                empty = [f"{expression.asker}: {expression.text}" for expression in waiting]
                raise AssertionError("\n".join([str(error), "panels without data:", *empty])) from None
            wrong = refusals(prometheus, alerts() + dashboard())
            assert not wrong, "\n".join(wrong)
            check_refusals(prometheus)
            check_page(cluster)
    print(f"monitoring: {len(alerts())} alerts, {len(dashboard())} expressions of the dashboard, all against a real run")


if __name__ == "__main__":
    main(*sys.argv[1:])
