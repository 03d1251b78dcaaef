"""What an installation takes on disk, with each extra: from the metadata of what is installed here.

A distribution is as large as the files its RECORD lists. An extra's size is that of all it brings,
directly or not, beyond the base installation; what several extras share counts in each. Nothing is
downloaded: extras of which something is missing here are told as not installed.

Writes bench/results/install_size.json and, with --page, the table of docs/install.md.
"""

from __future__ import annotations

import argparse
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from bench.measure import write_result

PAGE = Path(__file__).parent.parent / "docs" / "install.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
NOT_FOR_USERS = ("all", "dev", "docs", "peft")


def main() -> None:
    """Measure this environment."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--page", action="store_true", help="write the table of docs/install.md")
    options = parser.parse_args()
    found = measure()
    print(write_result("install_size", {"extras": found, **machine()}))
    if options.page:
        text = PAGE.read_text()
        before, rest = text.split(BEGIN)
        after = rest.split(END)[1]
        facts = machine()
        where = f"Python {facts['python']}, {facts['system']}, torch {facts['torch']}."
        PAGE.write_text(f"{before}{BEGIN}\n{table(found)}\n{where}\n{END}{after}")


def machine() -> dict[str, str]:
    """What sizes depend on."""
    return {
        "torch": distribution("torch").version,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def measure() -> dict[str, dict[str, object]]:
    """Of the base ("") and of each extra: megabytes, packages and what is missing."""
    base = closure("gobelin", "")
    rows = {"": told(base, set())}
    extras = distribution("gobelin").metadata.get_all("Provides-Extra") or []
    for extra in sorted(set(extras) - set(NOT_FOR_USERS)):
        rows[extra] = told(closure("gobelin", extra) - base, base)
    return rows


def told(names: set[str], base: set[str]) -> dict[str, object]:
    """What so many distributions take, in megabytes of 10⁶ bytes."""
    missing = sorted(name for name in names if size(name) is None)
    sizes = {name: size(name) or 0 for name in names}
    largest = sorted(sizes, key=lambda name: -sizes[name])[:3]
    return {
        "mb": round(sum(sizes.values()) / 1e6, 1),
        "packages": len(names),
        "largest": {name: round(sizes[name] / 1e6, 1) for name in largest},
        "missing": missing,
    }


def closure(name: str, extra: str) -> set[str]:
    """A distribution, with an extra, and all that it requires here."""
    found: set[str] = set()
    waiting = [(canonicalize_name(name), extra)]
    seen: set[tuple[str, str]] = set()
    while waiting:
        key = waiting.pop()
        if key in seen:
            continue
        seen.add(key)
        found.add(key[0])
        for requirement in required(*key):
            child = canonicalize_name(requirement.name)
            waiting += [(child, more) for more in (*requirement.extras, "")]
    return found


@cache
def required(name: str, extra: str) -> tuple[Requirement, ...]:
    """What a distribution requires on this machine, with an extra."""
    try:
        listed = distribution(name).requires or []
    except PackageNotFoundError:
        return ()
    wanted = map(Requirement, listed)
    return tuple(
        one for one in wanted if one.marker is None or one.marker.evaluate({"extra": extra})
    )


@cache
def size(name: str) -> int | None:
    """Bytes of a distribution's files, None where it is not installed."""
    try:
        files = distribution(name).files or []
    except PackageNotFoundError:
        return None
    places = (Path(str(file.locate())) for file in files)
    return sum(place.stat().st_size for place in places if place.is_file())


def _by_size(row: tuple[str, float]) -> float:
    return -row[1]


def table(found: dict[str, dict[str, object]]) -> str:
    """The rows as Markdown."""
    lines = ["| extra | MB | packages | largest |\n", "| --- | --: | --: | --- |\n"]
    for name, row in found.items():
        shown = f"`[{name}]`" if name else "`gobelin`"
        largest = row["largest"]
        assert isinstance(largest, dict)
        of = ", ".join(f"{one} {mb:g}" for one, mb in sorted(largest.items(), key=_by_size))
        missing = row["missing"]
        mb = "not measured here" if missing else f"{'+' if name else ''}{row['mb']}"
        lines.append(f"| {shown} | {mb} | {row['packages']} | {'' if missing else of} |\n")
    return "".join(lines)


if __name__ == "__main__":
    main()
