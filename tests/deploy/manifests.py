"""`make manifests`: the rules of Prometheus as the PrometheusRule that its operator reads.

DOCS is where people read the folder `docs`, as in `make manifests DOCS=https://git.example.com/ingress/blob/main/docs`:
alerts and dashboards link to it.
"""

import json
import os
from pathlib import Path
from typing import Any

import yaml

MONITORING = Path(__file__).parents[2] / "k8s" / "components" / "monitoring"
RULES = sorted((MONITORING / "rules").glob("*.yaml"))
WRITTEN = MONITORING / "prometheus-rule.yaml"
DASHBOARDS = sorted((MONITORING / "dashboards").glob("*.json"))


class _Dumper(yaml.SafeDumper):
    """Without aliases, which the rules have, and with several lines as they were."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def groups() -> list[Any]:
    """Of all rules."""
    return [group for path in RULES for group in yaml.safe_load(path.read_text("utf-8"))["groups"]]


def prometheus_rule(docs: str) -> str:
    """All groups as one object, with runbooks below *docs*."""
    found = groups()
    for rule in (rule for group in found for rule in group["rules"] if "alert" in rule):
        page = rule["annotations"]["runbook_url"].removeprefix("docs")
        rule["annotations"] = {**rule["annotations"], "runbook_url": docs + page}
    written = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "whatsapp-ingress", "labels": {"app.kubernetes.io/name": "whatsapp-ingress"}},
        "spec": {"groups": found},
    }
    head = "# Written by `make manifests` from rules/*.yaml, where each has its reasons: edit those.\n"
    return head + yaml.dump(written, Dumper=_Dumper, sort_keys=False, width=1000, allow_unicode=True)


def dashboard(text: str, docs: str) -> str:
    """The same with links below *docs*."""
    variables = {each["name"]: each for each in json.loads(text)["templating"]["list"]}
    return text.replace(variables["docs"]["query"], docs)


if __name__ == "__main__":
    docs = os.environ.get("DOCS", "").rstrip("/")
    WRITTEN.write_text(prometheus_rule(docs or "docs"), "utf-8")
    for path in DASHBOARDS if docs else ():
        path.write_text(dashboard(path.read_text("utf-8"), docs), "utf-8")
