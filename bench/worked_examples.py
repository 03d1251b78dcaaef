"""The worked examples of the sovereign build over seeds: what each came to, in one result file.

An example that has not run is run with `--seeds`; what it needs it says itself. Its rows lie in
runs/sovereign_NAME/results.json, and are taken from there.

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
from examples.sovereign import table_of
from gobelin.shared.files import read_json

EXAMPLES = ("clothing", "language", "sensors", "world")


def found_by(name: str, seeds: Sequence[int]) -> dict[str, Any]:
    """The seeds and rows of an example, which is run first where nothing is there."""
    file = Path("runs") / f"sovereign_{name}" / "results.json"
    if not file.exists():
        chosen = [str(seed) for seed in seeds]
        command = ["-m", f"examples.sovereign_{name}", "--out", str(file.parent), "--seeds"]
        subprocess.run([sys.executable, *command, *chosen], check=True)
    return read_json(file)


def main() -> None:
    """Gather every example's rows."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
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
        columns = import_module(f"examples.sovereign_{name}").COLUMNS
        heading = f"### {name.capitalize()}, seeds {found['seeds']}\n"
        parts += [heading, f"{table_of(found['rows'], columns)}\n"]
    return "\n".join(parts)


if __name__ == "__main__":
    main()
