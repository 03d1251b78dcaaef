"""A stranger from the README to a running federation of three, by the first tutorial alone.

A copy of what git has of this checkout, and a Python without any package, stand for the stranger's
machine. `examples.pages` types every command of docs/tutorials/first-federation.md as it stands,
`pip install` included, and compares what is printed; it does nothing that the page does not say,
so steps that are not documented end it. Downloading torch depends on the network, and is in
`install_s`.

Writes bench/results/tutorial.json.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.measure import write_result
from examples.pages import Reader

CHECKOUT = Path(__file__).parent.parent
PAGE = Path("docs/tutorials/first-federation.md")
INSTALL, JOIN = "Install", "Each member trains"


def main() -> None:
    """Follow the tutorial on this machine."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--name", default="tutorial", help="of the result file")
    options = parser.parse_args()
    with TemporaryDirectory() as tmp:
        print(write_result(options.name, follow(Path(tmp))))


def follow(folder: Path) -> dict[str, object]:
    """Seconds of the whole page and of its parts."""
    checkout = copy_of_checkout(folder / "gobelin")
    start = time.monotonic()
    with Reader(checkout, environment(folder)) as stranger:
        commands = stranger.follow(checkout / PAGE)
        seconds = time.monotonic() - start
    used = resource.getrusage(resource.RUSAGE_CHILDREN)  # of all, now that the terminals are closed
    spent = stranger.seconds
    running = list(spent)[: list(spent).index(JOIN) + 1]
    return {
        "goal": "at most 600 seconds and no undocumented step",
        "undocumented_steps": 0,  # by construction: see above
        "commands": commands,
        "install_s": spent[INSTALL],
        "running_s": sum(spent[section] for section in running),  # all rounds sealed
        "sections_s": spent,
        "processor_s": used.ru_utime + used.ru_stime,
        "seconds": seconds,
    }


def copy_of_checkout(to: Path) -> Path:
    """The files that git knows of here, as they are now."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=CHECKOUT, capture_output=True, check=True, text=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (CHECKOUT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(CHECKOUT / name, to / name)
    return to


def environment(folder: Path) -> dict[str, str]:
    """A shell with this Python as python3, without its packages and with a home of its own."""
    own = folder / "bin"
    own.mkdir()
    python = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"
    (own / "python3").symlink_to(python)
    (folder / "home").mkdir()
    kept = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_"))}
    return {
        **kept,
        "PATH": f"{own}:/usr/bin:/bin",
        "HOME": str(folder / "home"),
        "LANG": "C.UTF-8",
        "COLUMNS": "120",
    }


if __name__ == "__main__":
    main()
