"""A real Prometheus that scrapes a coordinator as monitoring/prometheus.yml says."""

import json
import os
import pathlib
import urllib.error
import urllib.parse
import urllib.request

import yaml
from cluster import Cluster, free_address
from expressions import MONITORING, Expression


class Refused(Exception):
    """Prometheus doesn't take a question."""


class Prometheus:
    """The API of one that is started beside `cluster`, and ends with it."""

    def __init__(self, folder: pathlib.Path, cluster: Cluster):
        address = free_address()
        self.url, self.cluster = f"http://{address}", cluster
        config = folder / "prometheus.yml"
        config.write_text(yaml.safe_dump(self.configuration(folder)))
        cluster.start(
            "prometheus",
            [
                os.environ.get("PROMETHEUS", "prometheus"),
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'series'}",
                f"--web.listen-address={address}",
            ],
        )

    def configuration(self, folder: pathlib.Path) -> dict:
        """The example, with this coordinator's address and token, and in a hurry."""
        config = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["rule_files"] = [str(MONITORING / name) for name in config["rule_files"]]
        (scrape,) = config["scrape_configs"]
        del scrape["tls_config"]
        scrape["scheme"] = "http"
        scrape["authorization"]["credentials_file"] = str(folder / "viewer")
        scrape["static_configs"] = [{"targets": [self.cluster.url.removeprefix("http://")]}]
        return config

    def ask(self, path: str, **arguments: str):
        query = urllib.parse.urlencode(arguments)
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=20) as reply:
                return json.load(reply)["data"]
        except urllib.error.HTTPError as error:
            if error.code not in (400, 422):  # it is still starting
                raise
            raise Refused(json.load(error)["error"]) from None

    def series(self, expression: Expression) -> list:
        return self.ask("query", query=expression.text)["result"]

    def metrics(self) -> set[str]:
        return set(self.ask("label/__name__/values"))

    def has_scraped(self) -> bool:
        targets = self.ask("targets", state="active")["activeTargets"]
        return [target["health"] for target in targets] == ["up"] and "quern_run_info" in self.metrics()
