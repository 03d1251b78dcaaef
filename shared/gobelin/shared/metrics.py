"""Metrics for Prometheus: tables of what is exported, and the page that a scraper asks for.

A `Family` says what one metric is and takes its samples from an overview, so that a metric shows
what the page shows. Names are `gobelin_ROLE_THING_UNIT`, in base units; labels are names on the
roster, phases and codes, never a digest, so that their number is bounded.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from gobelin.shared.errors import ConfigError

if TYPE_CHECKING:
    from fastapi import FastAPI, Response

Seen = TypeVar("Seen")
Sample = tuple[tuple[str, ...], float | int | None]  # values of the labels, and the value
PATH = "/metrics"
MAX_BYTES = 4096  # of a request: a scraper sends none


@dataclass(frozen=True)
class Family(Generic[Seen]):
    """One metric: a counter's name ends in `_total`."""

    name: str
    kind: Literal["gauge", "counter"]
    help: str
    labels: tuple[str, ...]
    samples: Callable[[Seen], Iterable[Sample]]


def one(name: str, help: str, of: Callable[[Seen], float | int | None]) -> Family[Seen]:
    """A metric with a single value; without a sample where that is None."""
    kind: Literal["gauge", "counter"] = "counter" if name.endswith("_total") else "gauge"
    return Family(name, kind, help, (), lambda seen: [((), of(seen))])


def many(
    name: str, help: str, labels: Sequence[str], of: Callable[[Seen], Iterable[Sample]]
) -> Family[Seen]:
    """A metric with a value for each combination of labels that there is."""
    kind: Literal["gauge", "counter"] = "counter" if name.endswith("_total") else "gauge"
    return Family(name, kind, help, tuple(labels), of)


def of_the_look(prefix: str) -> list[Family[Any]]:
    """Metrics of either role: the version that answers, and when the home was looked at."""
    info: Family[Any] = many(
        f"{prefix}info",
        "1; the version that answers.",
        ["version"],
        lambda seen: [((version("gobelin"),), 1)],
    )
    when = "When the home was looked at."
    return [info, one(f"{prefix}observed_timestamp_seconds", when, lambda seen: seen.at)]


class Exporter(Generic[Seen]):
    """Families of metrics, of whatever a look has seen.

    `labels` are of every sample (`federation`, say). Raises ConfigError without prometheus-client.
    """

    def __init__(
        self, families: Sequence[Family[Seen]], labels: Callable[[Seen], Mapping[str, str]]
    ) -> None:
        try:
            import prometheus_client
            import prometheus_client.core
        except ImportError:
            what = "metrics need prometheus-client, which is not installed"
            raise ConfigError(what, "pip install 'gobelin[metrics]'") from None
        self._families, self._labels = families, labels
        self._client = prometheus_client

    def text(self, seen: Seen) -> bytes:
        """The exposition, in Prometheus's text format."""
        registry = self._client.CollectorRegistry(auto_describe=False)
        registry.register(_Collected(list(self._collect(seen))))
        exposition: bytes = self._client.generate_latest(registry)
        return exposition

    def response(self, seen: Seen) -> Response:
        """The same as an HTTP answer."""
        from fastapi import Response

        return Response(self.text(seen), media_type=self._client.CONTENT_TYPE_LATEST)

    def _collect(self, seen: Seen) -> Iterator[Any]:
        common = self._labels(seen)
        core = self._client.core
        for family in self._families:
            counts = family.kind == "counter"
            kind = core.CounterMetricFamily if counts else core.GaugeMetricFamily
            made = kind(family.name, family.help, labels=[*common, *family.labels])
            for values, value in family.samples(seen):
                if value is not None:
                    made.add_metric([*common.values(), *values], value)
            yield made


class _Collected:
    """prometheus_client's protocol of a collector, of what is there already."""

    def __init__(self, found: list[Any]) -> None:
        self._found = found

    def collect(self) -> list[Any]:
        return self._found


def metrics_app(
    exporter: Exporter[Seen], look: Callable[[], Seen], hosts: Collection[str] | None, token: str
) -> FastAPI:
    """An app that answers /metrics and nothing else; `hosts` and `token` as in `guarded_app`."""
    from gobelin.shared.http_server import guarded_app

    app = guarded_app("metrics", MAX_BYTES, hosts, token)
    lock = threading.Lock()  # an observer is not for several threads at a time

    def metrics() -> Any:
        with lock:
            seen = look()
        return exporter.response(seen)

    app.add_api_route(PATH, metrics, include_in_schema=False, response_model=None)
    return app


def table(families: Sequence[Family[Any]], common: Sequence[str]) -> str:
    """The metrics as a table for docs/observability.md."""
    rows = ["| metric | kind | labels | what |", "|---|---|---|---|"]
    for family in families:
        labels = ", ".join(f"`{label}`" for label in (*common, *family.labels))
        rows.append(f"| `{family.name}` | {family.kind} | {labels} | {family.help} |")
    return "\n".join(rows) + "\n"
