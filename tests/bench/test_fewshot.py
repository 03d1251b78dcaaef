"""Few labels: leads are over the best from scratch, seed by seed, and both regions are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import community
from bench.build_tables import fewshot_table
from bench.fewshot import AUTO, ROWS, SCRATCH, summary
from gobelin.client.sovereign import BuildSettings, Given
from gobelin.client.sovereign.build import chosen_method
from tests.client.sovereign_world import labelled


def test_the_consensus_is_compared_with_the_best_from_scratch_of_every_seed() -> None:
    right = {(seed, name): 50.0 for seed in (0, 1) for name in ROWS}
    right |= {(0, "consensus.full"): 70.0, (1, "consensus.full"): 80.0}
    right |= {(0, SCRATCH[0]): 65.0, (1, SCRATCH[-1]): 60.0, (0, "solo.linear"): 71.0}
    found = summary(right, [0, 1])
    assert found["gain_over_scratch"]["mean"] == (5 + 20) / 2
    assert found["gain_over_solo"]["mean"] == (-1 + 30) / 2
    told = {f"{column}.{key}": v for column in ("10", "texts.10") for key, v in found.items()}
    about = {
        "shots": [10],
        "text_shots": [10],
        "text_steps": 600,
        "pretrain": 400,
        "seeds": [0, 1],
        "goal": "-",
    }
    table = fewshot_table({**told, **about, "release": "-", "machine": "a machine"})
    assert "| `auto` over the best from scratch, points | +12.5 ± 10.6 | +12.5 ± 10.6 |" in table


def test_the_method_compared_is_the_one_a_build_takes_by_itself() -> None:
    given = {"release": "-", "data": "-", "out": "-"}
    assert chosen_method(BuildSettings.model_validate(given), Given(labelled())) == AUTO


@pytest.mark.skipif(not Path(".cache/udhr").is_dir(), reason="needs .cache/udhr")
def test_no_member_has_the_communitys_languages() -> None:
    regions, ours = community.languages(seed=0)
    assert len(ours) == 12
    elsewhere = {s.language for n, each in regions.items() if n != "africa" for s in each}
    assert not elsewhere & set(ours)
    assert community.given(seed=0, shots=3).data.class_names == ours
