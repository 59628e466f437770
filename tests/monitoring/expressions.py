"""What monitoring/ asks of Prometheus: the expressions of its alerts and its dashboard, and the metrics in them."""

import json
import pathlib
import re
from dataclasses import dataclass

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
MONITORING = ROOT / "monitoring"

# Grafana's own variables, as for a short run that is scraped every second.
GRAFANA = {"$__rate_interval": "30s", "$instance": ".*", "$run": ".*"}
# What is written as a metric is, and isn't one.
WORDS = {"and", "or", "unless", "bool", "offset", "Inf", "NaN"}


@dataclass(frozen=True)
class Expression:
    """One expression, and who asks."""

    asker: str
    text: str

    def metrics(self) -> set[str]:
        """The metrics in it: names outside of braces, brackets and lists of labels that aren't called."""
        bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]", " ", self.text)
        bare = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", bare)
        names = re.findall(r"\b([a-zA-Z_:][a-zA-Z0-9_:]*)\b(?!\s*\()", bare)
        return set(names) - WORDS


def alerts(path: pathlib.Path = MONITORING / "alerts.yml") -> list[Expression]:
    groups = yaml.safe_load(path.read_text())["groups"]
    return [Expression(rule["alert"], rule["expr"]) for group in groups for rule in group["rules"]]


def dashboard(path: pathlib.Path = MONITORING / "grafana" / "quern.json") -> list[Expression]:
    board, found = json.loads(path.read_text()), []
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":  # label_values(SERIES, LABEL)
            series = variable["definition"].removeprefix("label_values(").rpartition(",")[0]
            found.append(Expression(f"variable {variable['name']}", filled(series)))
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            found.append(Expression(panel["title"], filled(target["expr"])))
    return found


def filled(text: str) -> str:
    for variable, value in GRAFANA.items():
        text = text.replace(variable, value)
    return text


def untidy() -> list[str]:
    """What is wrong with the files themselves."""
    wrong = []
    tests = (MONITORING / "alerts_test.yml").read_text()
    for group in yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]:
        for rule in group["rules"]:
            name, notes = rule["alert"], rule.get("annotations", {})
            if rule.get("labels", {}).get("severity") not in ("critical", "warning", "info"):
                wrong.append(f"the alert {name} has no severity")
            if not notes.get("summary") or not notes.get("description"):
                wrong.append(f"the alert {name} doesn't say what happened and what to do")
            if f'alertname="{name}"' not in tests:
                wrong.append(f"the alert {name} has no test")
    for panel in json.loads((MONITORING / "grafana" / "quern.json").read_text())["panels"]:
        if panel["type"] == "row":
            continue
        title = panel["title"]
        if not panel["description"] or not panel["fieldConfig"]["defaults"]["unit"]:
            wrong.append(f"the panel {title} has no description or no unit")
        if {panel["datasource"]["uid"]} | {target["datasource"]["uid"] for target in panel["targets"]} != {"${datasource}"}:
            wrong.append(f"the panel {title} names a data source of its own")
    return wrong
