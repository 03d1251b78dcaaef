"""Writes gobelin.json, the Grafana dashboard: `python -m deploy.grafana.build`.

A test compares the file with what this writes, and every expression with what is exported.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from deploy.grafana.federation import FEDERATION
from deploy.grafana.machines import MACHINES
from deploy.grafana.queries import A, F, M, Query

FILE = Path(__file__).parent / "gobelin.json"
UID = "gobelin-federation"
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH, HEIGHT, COLUMNS = 8, 7, 24


def dashboard() -> dict[str, Any]:
    """The dashboard, as Grafana 9 and later import it."""
    panels: list[dict[str, Any]] = []
    top = 0
    for title, row in [*FEDERATION, *MACHINES]:
        panels.append(
            {
                "id": len(panels) + 1,
                "type": "row",
                "title": title,
                "collapsed": False,
                "panels": [],
                "gridPos": {"h": 1, "w": COLUMNS, "x": 0, "y": top},
            }
        )
        top, left, tallest = top + 1, 0, 0
        for kind, name, unit, queries in row:
            width, height = (4, 4) if kind == "stat" else (WIDTH, HEIGHT)
            if left + width > COLUMNS:
                top, left, tallest = top + tallest, 0, 0
            where = {"h": height, "w": width, "x": left, "y": top}
            panels.append(_panel(len(panels) + 1, kind, name, unit, queries, where))
            left, tallest = left + width, max(tallest, height)
        top += tallest
    return {
        "uid": UID,
        "title": "Gobelin",
        "tags": ["gobelin"],
        "schemaVersion": 37,
        "version": 1,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": _variables()},
        "annotations": {"list": []},
        "panels": panels,
    }


def _panel(
    number: int, kind: str, title: str, unit: str, queries: list[Query], where: dict[str, int]
) -> dict[str, Any]:
    targets = []
    for letter, (expr, legend) in zip("ABCDEFGH", queries, strict=False):
        target = {
            "refId": letter,
            "datasource": SOURCE,
            "expr": expr,
            "legendFormat": legend or title,
        }
        if kind == "table":
            target |= {"format": "table", "instant": True}
        targets.append(target)
    options: dict[str, Any] = {"legend": {"displayMode": "list", "placement": "bottom"}}
    if kind == "stat":
        named = any(legend for _, legend in queries)
        reduce = {"calcs": ["lastNotNull"], "fields": "", "values": False}
        options = {
            "reduceOptions": reduce,
            "textMode": "value_and_name" if named else "value",
            "colorMode": "none",
            "graphMode": "none",
        }
    return {
        "id": number,
        "type": kind,
        "title": title,
        "datasource": SOURCE,
        "gridPos": where,
        "fieldConfig": {"defaults": {"unit": unit}, "overrides": []},
        "options": options if kind != "table" else {"showHeader": True},
        "targets": targets,
    }


def _variables() -> list[dict[str, Any]]:
    asked = [
        ("federation", f"label_values({A}info, federation)", False),
        ("member", f"label_values({A}member_influence_ratio{F}, member)", True),
        ("node", f"label_values({A}node_online{M}, node)", True),
    ]
    source = {
        "name": "datasource",
        "type": "datasource",
        "query": "prometheus",
        "label": "Prometheus",
        "hide": 0,
    }
    return [source] + [
        {
            "name": name,
            "type": "query",
            "datasource": SOURCE,
            "query": query,
            "definition": query,
            "refresh": 2,
            "sort": 1,
            "multi": several,
            "includeAll": several,
            **(
                {"allValue": ".*", "current": {"text": "All", "value": "$__all"}} if several else {}
            ),
            "hide": 0,
        }
        for name, query, several in asked
    ]


def text() -> str:
    """The file's text."""
    return json.dumps(dashboard(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
