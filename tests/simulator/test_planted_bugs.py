"""The simulator has teeth: planted bugs are found, and their seeds find them again."""

from __future__ import annotations

import dataclasses
import math
import os
import types
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from gobelin.server import history, seal
from gobelin.server.history import Past
from gobelin.server.journal import Journal
from gobelin.server.round_events import Asked, Durable
from gobelin.server.round_state import Round, Terms
from gobelin.server.seal import Standing
from gobelin.shared.checkpoint import Checkpoint
from tests.simulator.audit import Violation
from tests.simulator.history import run_history

ENOUGH = 200  # histories in which every planted bug shows
Plant = Callable[[pytest.MonkeyPatch], None]


def forgets_records(patch: pytest.MonkeyPatch) -> None:
    """The journal says that it has written what it has not."""
    append = Journal.append

    def forgetful(journal: Journal, event: Durable) -> None:
        if event.kind != "counted" or hash(event.at) % 3:
            append(journal, event)

    patch.setattr(Journal, "append", forgetful)


def does_not_flush(patch: pytest.MonkeyPatch) -> None:
    """The journal leaves its lines to the page cache."""
    patch.setattr("gobelin.server.journal.os", _without_fsync())


def _without_fsync() -> Any:
    return types.SimpleNamespace(**{**vars(os), "fsync": lambda fd: None})


def writes_behind_torn_lines(patch: pytest.MonkeyPatch) -> None:
    """Lines go behind whatever lies there, so that a torn one hides all later ones."""
    append = Journal.append

    def behind(journal: Journal, event: Durable) -> None:
        file = journal._file
        journal._end = file.stat().st_size if file.exists() else 0
        append(journal, event)

    patch.setattr(Journal, "append", behind)


def counts_late_answers_again(patch: pytest.MonkeyPatch) -> None:
    """A round that has taken a late contribution does not tell the next ones."""

    def forgetful(facts: Mapping[int, Any], plan: Any) -> dict[int, Past]:
        absent = {n: {**of, "contributions": [], "refused": []} for n, of in facts.items()}
        return history.past_rounds(absent, plan)

    patch.setattr("gobelin.server.rounds.past_rounds", forgetful)


def rounds_the_quorum_down(patch: pytest.MonkeyPatch) -> None:
    """Half of three members is one."""

    def needed(terms: Terms, seats: Mapping[str, Any]) -> int:
        members = {seat.member for seat in seats.values()}
        return max(1, math.floor(terms.quorum * len(members)))

    patch.setattr(Terms, "needed", needed)


def takes_anything_on_time(patch: pytest.MonkeyPatch) -> None:
    """Late contributions count as fresh ones."""
    patch.setattr(seal, "freshness", lambda staleness, decay: 1)


def lifts_the_cap(patch: pytest.MonkeyPatch) -> None:
    """What members below the cap leave is shared out among all."""
    member_weights = seal.Merger.merge.__globals__["member_weights"]

    def renormalised(scores: Mapping[str, Any], cap: float = 1.0) -> Mapping[str, Any]:
        weights = member_weights(scores, cap)
        whole = sum(weights.values())
        return {member: weight / whole for member, weight in weights.items()}

    patch.setattr("gobelin.server.merge.member_weights", renormalised)


def forgets_the_momentum(patch: pytest.MonkeyPatch) -> None:
    """The outer optimizer's state lives in memory alone."""
    of = Standing.of

    def without(checkpoint: Checkpoint) -> Standing:
        return dataclasses.replace(of(checkpoint), outer={})

    patch.setattr(Standing, "of", without)


def asks_for_what_is_in(patch: pytest.MonkeyPatch) -> None:
    """Whoever is online is offered the plan after a kill."""

    def lacking(state: Round, number: int) -> tuple[str, ...]:
        return tuple(
            node
            for node, since in sorted(state.online.items())
            if node in state.seats and state.offered.get(Asked(node, number)) != since
        )

    patch.setattr(Round, "lacking", lacking)


BUGS: list[Plant] = [
    forgets_records,
    does_not_flush,
    writes_behind_torn_lines,
    counts_late_answers_again,
    rounds_the_quorum_down,
    takes_anything_on_time,
    lifts_the_cap,
    forgets_the_momentum,
    asks_for_what_is_in,
]


@pytest.mark.parametrize("plant", BUGS, ids=lambda plant: plant.__name__)
def test_a_planted_bug_is_found_and_its_seed_finds_it_again(
    plant: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        plant(patch)
        seed, found = first_violation(tmp_path, range(ENOUGH))
        with pytest.raises(Violation) as again:
            run_history(seed, tmp_path)
        assert str(again.value) == found
        assert f"seed {seed}:" in found
    run_history(seed, tmp_path)


def first_violation(folder: Path, seeds: Iterable[int]) -> tuple[int, str]:
    for seed in seeds:
        try:
            run_history(seed, folder)
        except Violation as violation:
            return seed, str(violation)
    raise AssertionError("no history finds this bug")
