"""The dashboard and the rules name what is exported, all of it, and the alerts that there are."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import promql_parser
import pytest
import yaml
from deploy.grafana.build import text

from gobelin.client import metrics as node
from gobelin.server import metrics as aggregator
from gobelin.server.alerts import Code

DEPLOY = Path(__file__).parents[1] / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana" / "gobelin.json").read_text())
RULES = DEPLOY / "prometheus" / "alerts.yml"
GROUPS = {group["name"]: group["rules"] for group in yaml.safe_load(RULES.read_text())["groups"]}
LABELS = {family.name: {*aggregator.COMMON, *family.labels} for family in aggregator.FAMILIES}
LABELS |= {family.name: {*node.COMMON, *family.labels} for family in node.FAMILIES}
OURS = re.compile(r"gobelin_\w+")
SELECTOR = re.compile(r"(gobelin_\w+)(?:\{([^}]*)\})?")
MATCHED = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")

PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = [
    *((panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]),
    *((rule["alert"], rule["expr"]) for rules in GROUPS.values() for rule in rules),
]


@pytest.mark.parametrize(("where", "expr"), EXPRESSIONS)
def test_an_expression_is_promql_over_what_is_exported(where: str, expr: str) -> None:
    promql_parser.parse(expr)
    selectors = SELECTOR.findall(expr)
    assert selectors or expr.startswith("up{")
    for name, matchers in selectors:
        assert name in LABELS
        assert {match[1] for match in MATCHED.finditer(matchers)} <= LABELS[name]


def test_a_metric_that_is_not_exported_would_be_found() -> None:
    assert "gobelin_aggregator_round" in LABELS
    assert "gobelin_aggregator_rund" not in LABELS


def test_the_dashboard_shows_every_metric() -> None:
    shown = {name for _, expr in EXPRESSIONS for name in OURS.findall(expr)}
    assert shown == LABELS.keys()


def test_the_dashboard_is_what_its_script_writes() -> None:
    assert (DEPLOY / "grafana" / "gobelin.json").read_text() == text()


def test_the_dashboard_can_be_imported() -> None:
    assert DASHBOARD["uid"] == "gobelin-federation"
    assert DASHBOARD["schemaVersion"] >= 37
    names = [variable["name"] for variable in DASHBOARD["templating"]["list"]]
    assert names == ["datasource", "federation", "member", "node"]
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        where = panel["gridPos"]
        assert where["x"] + where["w"] <= 24
        cells = {
            (where["x"] + x, where["y"] + y) for x in range(where["w"]) for y in range(where["h"])
        }
        assert not taken & cells, panel["title"]
        taken |= cells
    for panel in PANELS:
        refs = [target["refId"] for target in panel["targets"]]
        assert len(set(refs)) == len(refs)
        assert panel["datasource"]["uid"] == "${datasource}"
        asked = re.findall(r"\$(\w+)", json.dumps(panel["targets"]))
        assert set(asked) - {"__all"} <= {*names}
        assert all(target["legendFormat"] for target in panel["targets"])


def test_variables_are_asked_of_metrics_that_have_the_label() -> None:
    for variable in DASHBOARD["templating"]["list"][1:]:
        query = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"])
        assert query is not None
        ((name, _),) = SELECTOR.findall(query[1])
        assert query[2] == variable["name"]
        assert variable["name"] in LABELS[name]


def test_rules_and_alerts_are_the_same_one_to_one() -> None:
    coded = [rule for rule in GROUPS["gobelin"] if "code" in rule["labels"]]
    assert sorted(rule["labels"]["code"] for rule in coded) == sorted(Code)
    others = [rule["alert"] for rule in GROUPS["gobelin"] if rule not in coded]
    assert others == ["GobelinUnreachable"]
    for rule in coded:
        code = rule["labels"]["code"]
        asked = re.findall(r'gobelin_aggregator_alert\{code="(\w+)"\}', rule["expr"])
        assert asked == [code]
        assert rule["alert"] == "Gobelin" + code.title().replace("_", "")
        assert "for" not in rule  # the overview has waited as long as it takes


def test_every_rule_says_what_is_wrong_and_what_to_do() -> None:
    rules = [rule for rules in GROUPS.values() for rule in rules]
    names = [rule["alert"] for rule in rules]
    assert len(set(names)) == len(names)
    manual = (DEPLOY.parent / "docs" / "observability.md").read_text()
    for rule in rules:
        assert set(rule["annotations"]) == {"summary", "description"}
        assert f"`{rule['alert']}`" in manual
        asked = set(re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"])))
        metric = OURS.search(rule["expr"])
        assert asked <= (LABELS[metric[0]] if metric else {"instance"})


def test_promtool_agrees() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not here (Debian: prometheus)")
    for command in (["check", "rules", "alerts.yml"], ["test", "rules", "alerts.test.yml"]):
        subprocess.run([promtool, *command], cwd=RULES.parent, check=True, capture_output=True)
