"""The worked examples of the sovereign build over seeds: what each came to, in one result file.

What an example has left in runs/sovereign_NAME/results.json is taken from there. It is run first
where nothing is there, or what is there is of other seeds than `--seeds`; what it needs it says
itself.

Writes bench/results/worked_examples.json.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from bench.measure import write_result
from examples.sovereign import Rows, table_of
from gobelin.shared.files import find_json, read_json

EXAMPLES = ("clothing", "language", "sensors", "world")
SEEDS = range(5)


def found_by(name: str, seeds: Sequence[int] | None) -> dict[str, Any]:
    """The seeds and rows of an example; without `seeds`, of any that are there, else of SEEDS."""
    file = Path("runs") / f"sovereign_{name}" / "results.json"
    found = find_json(file)
    if found is None or (seeds is not None and found["seeds"] != list(seeds)):
        chosen = [str(seed) for seed in (SEEDS if seeds is None else seeds)]
        command = ["-m", f"examples.sovereign_{name}", "--out", str(file.parent), "--seeds"]
        command += chosen
        subprocess.run([sys.executable, *command], check=True)
        found = read_json(file)
    return found


def main() -> None:
    """Gather every example's rows."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", help="unset: those that are there")
    parser.add_argument("--examples", nargs="+", default=list(EXAMPLES), choices=EXAMPLES)
    options = parser.parse_args()
    found = {name: found_by(name, options.seeds) for name in options.examples}
    print(write_result("worked_examples", {"examples": found}))


def worked_examples_table(values: Mapping[str, Any]) -> str:
    """A table of each example."""
    parts = [
        "## Worked examples of the sovereign build\n",
        f"`make bench-worked_examples`: {values['machine']}; mean ± standard deviation over seeds. "
        "Percent where nothing else is said, differences in points; what each region is and has, "
        "[the manual](sovereign.md#worked-examples) says.\n",
    ]
    for name, found in values["examples"].items():
        example = import_module(f"examples.sovereign_{name}")
        heading = f"### {name.capitalize()}, seeds {found['seeds']}\n"
        rows = [rivals_first(each, example.METHODS) for each in found["rows"]]
        parts += [heading, f"{table_of(rows, example.COLUMNS)}\n"]
    return "\n".join(parts)


def rivals_first(rows: Rows, methods: Mapping[str, Any]) -> Rows:
    """What a build is compared with, then the builds by their methods, in the example's order."""
    rivals = [name for name in rows if name not in methods]
    return {name: rows[name] for name in (*rivals, *methods) if name in rows}


if __name__ == "__main__":
    main()
