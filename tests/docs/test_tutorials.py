"""The tutorials do what they say: every command is typed as it stands, and compared."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from examples.pages import Reader

PAGES = Path(__file__).parents[2] / "docs" / "tutorials"
# The smallest model stands in for the page's, where the whole is tried in minutes of CPU, not here.
SMALL = {"--recipe tiny": "--recipe toy"}


def environment() -> dict[str, str]:
    """What a reader's shell has once the page's own Install section is done."""
    kept = {name: os.environ[name] for name in ("HOME", "PYTHONPATH") if name in os.environ}
    own = str(Path(sys.executable).parent)
    return {
        **kept,
        "PATH": f"{own}:{os.environ['PATH']}",
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "200",
    }


@pytest.mark.timeout(900)
def test_a_stranger_founds_a_federation_of_three_by_the_first_tutorial(tmp_path: Path) -> None:
    with Reader(tmp_path, environment(), timeout_s=250, replace=SMALL) as reader:
        assert reader.follow(PAGES / "first-federation.md", without=["Install"]) > 20
    assert (tmp_path / "hill-model" / "lineage.json").is_file()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_role_goes_on_from_there_by_its_own_tutorial(tmp_path: Path) -> None:
    with Reader(tmp_path, environment()) as reader:
        for page in ("first-federation", "aggregator", "node", "finetuner"):
            assert reader.follow(PAGES / f"{page}.md", without=["Install"]) > 5


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_researcher_compares_two_federations_on_one_machine(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    with Reader(tmp_path, environment()) as reader:
        assert reader.follow(PAGES / "researcher.md", without=["Install"]) > 5
