"""The round as a state machine: what closes it, what voids it, what its journal brings back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gobelin.server.admission import Refusal
from gobelin.server.round_state import (
    Aggregate,
    Aggregated,
    Closed,
    Convened,
    Counted,
    Durable,
    Effect,
    Event,
    GiveUp,
    Looked,
    Lost,
    Offer,
    Phase,
    Record,
    Refused,
    Reopened,
    Resumed,
    Round,
    Seal,
    Sealed,
    Seat,
    Tell,
    Terms,
    Ticked,
    Voided,
    screen,
    step,
)

TERMS = Terms(needed=2, deadline_s=60.0, wait_s=600.0, attempts=3, rejoin_s=30.0)
ROSTER = {"n": Seat("north", "n"), "s1": Seat("south", "s1"), "s2": Seat("south", "s2")}
OPEN = Round(number=4, plan_digest="plan", base_digest="base", terms=TERMS, since=0.0)
ROW: dict[str, Any] = {"node": "x"}


class Shell:
    """Steps on events, and on what the state machine wants journalled; keeps what it asks for."""

    def __init__(self, state: Round = OPEN) -> None:
        self.state = state
        self.journal: list[Durable] = []
        self.effects: list[Effect] = []

    def on(self, *events: Event) -> Shell:
        for event in events:
            self.state, effects = step(self.state, event)
            if isinstance(event, Durable):
                self.journal.append(event)
            for effect in effects:
                self.effects.append(effect)
                if isinstance(effect, Record):
                    self.on(effect.event)
        return self

    def asked(self, kind: type[Effect]) -> list[Any]:
        return [effect for effect in self.effects if isinstance(effect, kind)]


def looked(at: float, *online: str) -> Looked:
    return Looked(at, ROSTER, dict.fromkeys(online, "monday"))


def collecting() -> Shell:
    return Shell().on(looked(0.0, "n", "s1", "s2"))


def test_an_undisturbed_round_goes_through_every_phase() -> None:
    shell = Shell()
    phases = [shell.state.phase]
    way: list[Event] = [
        looked(1.0, "n", "s1"),
        Counted(2.0, "n", ROW),
        Counted(3.0, "s1", ROW),
        Ticked(3.0),
        Aggregated(),
        Sealed(),
    ]
    for event in way:
        phases.append(shell.on(event).state.phase)
    assert list(dict.fromkeys(phases)) == [
        Phase.OPEN,
        Phase.COLLECTING,
        Phase.CLOSED,
        Phase.AGGREGATED,
        Phase.SEALED,
    ]
    assert shell.asked(Offer) == [Offer(("n", "s1"))]
    assert shell.asked(Aggregate) == [Aggregate(("n", "s1"))]
    assert shell.asked(Seal) == [Seal()]
    assert [type(event) for event in shell.journal] == [Convened, Counted, Counted, Closed]


def test_one_members_nodes_are_not_two_members() -> None:
    shell = Shell().on(looked(0.0, "s1", "s2"))
    assert shell.state.phase is Phase.OPEN
    shell = collecting().on(Counted(1.0, "s1", ROW), Counted(1.0, "s2", ROW), Ticked(60.0))
    assert shell.state.phase is Phase.VOID


def test_the_deadline_closes_with_enough_members_and_voids_without() -> None:
    enough = collecting().on(Counted(1.0, "n", ROW), Counted(1.0, "s1", ROW))
    assert enough.on(Ticked(59.9)).state.phase is Phase.COLLECTING
    assert enough.on(Ticked(60.0)).state.phase is Phase.CLOSED
    assert collecting().on(Counted(1.0, "n", ROW), Ticked(60.0)).state.phase is Phase.VOID


def test_what_a_void_attempt_gathered_stays_and_others_are_asked_again() -> None:
    shell = collecting().on(Counted(1.0, "n", ROW), Ticked(60.0), Reopened(61.0))
    assert (shell.state.phase, shell.state.attempt) == (Phase.OPEN, 2)
    shell.on(looked(62.0, "s1", "s2"))
    assert shell.state.phase is Phase.COLLECTING
    assert shell.asked(Offer)[-1] == Offer(("s1", "s2"))
    assert set(shell.state.counted) == {"n"}


def test_the_last_attempt_gives_up_and_says_who_was_missing() -> None:
    last = replace(OPEN, attempt=3)
    shell = Shell(last).on(looked(0.0, "n", "s1"), Counted(1.0, "n", ROW), Ticked(60.0))
    (given_up,) = shell.asked(GiveUp)
    assert "3 times" in given_up.what
    assert "none yet from south" in given_up.what
    assert shell.on(Resumed(99.0)).state.attempt == 1


def test_a_refused_node_is_not_waited_for_until_it_restarts() -> None:
    shell = collecting().on(Counted(1.0, "n", ROW), Counted(1.0, "s1", ROW))
    shell.on(Refused("s2", Refusal("collapse", "")), looked(2.0, "n", "s1", "s2"))
    assert shell.asked(Offer) == [Offer(("n", "s1", "s2"))]
    shell.on(Looked(3.0, ROSTER, {"n": "monday", "s1": "monday", "s2": "tuesday"}))
    assert shell.asked(Offer)[-1] == Offer(("s2",))
    assert shell.on(Ticked(4.0)).state.phase is Phase.COLLECTING


@pytest.mark.parametrize("reason", ["round", "plan_digest"])
def test_an_answer_to_another_plan_leaves_its_node_owing(reason: str) -> None:
    shell = collecting().on(Refused("s2", Refusal(reason, "")))
    assert "s2" in shell.state.owing(1.0)


def test_who_is_not_seated_has_answered_or_has_failed_is_screened_out() -> None:
    state = collecting().on(Counted(1.0, "n", ROW)).state
    reasons = [screen(state, node, "") for node in ("n", "stranger", "s1")]
    assert [r and r.reason for r in reasons] == ["duplicate", "not_on_roster", None]
    failed = screen(state, "s1", "gobelin:data")
    assert failed == Refusal("node_error", "gobelin:data")
    gone = step(state, Looked(2.0, {"n": ROSTER["n"]}, {}))[0]
    assert screen(gone, "s1", "") == Refusal("not_on_roster", "")


@pytest.mark.parametrize(
    ("phase", "event"),
    [
        (Phase.OPEN, Counted(0.0, "n", ROW)),
        (Phase.OPEN, Closed(0.0)),
        (Phase.COLLECTING, Aggregated()),
        (Phase.CLOSED, Counted(0.0, "n", ROW)),
        (Phase.CLOSED, Sealed()),
        (Phase.SEALED, Lost(0.0, "n")),
        (Phase.SEALED, Voided(0.0, "")),
        (Phase.COLLECTING, Reopened(0.0)),
    ],
)
def test_what_cannot_happen_in_a_phase_is_refused(phase: Phase, event: Event) -> None:
    state = replace(OPEN, phase=phase, seats=ROSTER)
    with pytest.raises(ValueError, match=f"that is {phase} "):
        step(state, event)


def test_nothing_is_counted_twice() -> None:
    state = collecting().on(Counted(1.0, "n", ROW)).state
    with pytest.raises(ValueError, match="already"):
        step(state, Counted(2.0, "n", ROW))


def test_a_lost_contribution_opens_a_closed_round_again() -> None:
    shell = collecting().on(Counted(1.0, "n", ROW), Counted(1.0, "s1", ROW), Closed(2.0))
    shell.on(Lost(3.0, "n"), Resumed(3.0), looked(3.0, "n", "s1"))
    assert shell.state.phase is Phase.COLLECTING
    assert shell.asked(Offer)[-1] == Offer(("n",))


def scored(member: str, score: float) -> dict[str, Any]:
    return {"node": "x", "member": member, "measured": {"score": score}}


WITH_HISTORY = replace(OPEN, terms=replace(TERMS, quality_floor=4.0, history=(0.2, 0.25, 0.3, 0.2)))


def test_what_lies_below_the_floor_is_refused_when_the_round_closes_and_not_before() -> None:
    shell = Shell(WITH_HISTORY).on(looked(0.0, "n", "s1", "s2"))
    shell.on(Counted(1.0, "n", scored("north", 0.2)), Counted(1.0, "s1", scored("south", 0.1)))
    shell.on(Counted(2.0, "s2", scored("south", -0.9)))
    assert shell.asked(Aggregate) == []
    assert set(shell.state.counted) == {"n", "s1", "s2"}
    shell.on(Ticked(3.0))
    assert shell.asked(Aggregate) == [Aggregate(("n", "s1"))]
    assert shell.state.refused == {"s2": "quality_floor"}
    (told,) = [tell for tell in shell.asked(Tell) if tell.event == "refused"]
    assert (told.facts["node"], told.facts["reason"]) == ("s2", "quality_floor")
    folded = WITH_HISTORY
    for event in shell.journal:
        folded, _ = step(folded, event)
    assert folded.counted == shell.state.counted


def test_members_below_the_floor_do_not_make_up_the_minimum() -> None:
    shell = Shell(WITH_HISTORY).on(looked(0.0, "n", "s1"))
    shell.on(Counted(1.0, "n", scored("north", 0.2)), Counted(1.0, "s1", scored("south", -0.9)))
    assert shell.on(Ticked(2.0)).state.phase is Phase.COLLECTING
    expected = "1 of 2 members contributed, none yet from south; below the quality floor: s1"
    assert shell.state.waiting_for == expected
    assert shell.on(Ticked(60.0)).state.phase is Phase.VOID


EVENTS = st.one_of(
    st.sampled_from(["n", "s1", "s2"]).map(lambda node: ("count", node)),
    st.sampled_from(["n", "s1", "s2"]).map(lambda node: ("refuse", node)),
    st.sets(st.sampled_from(["n", "s1", "s2"])).map(lambda nodes: ("look", tuple(sorted(nodes)))),
    st.sampled_from([0.1, 20.0, 59.0]).map(lambda seconds: ("tick", seconds)),
)


@given(st.lists(EVENTS, max_size=40))
@settings(max_examples=300, deadline=None)
def test_the_journal_brings_back_what_counts(steps: list[tuple[str, Any]]) -> None:
    """At any moment, folding the journal gives the phase, the attempt and what was counted."""
    shell, now = Shell(), 0.0
    for kind, what in steps:
        state = shell.state
        if kind == "tick":
            now += what
            shell.on(Ticked(now))
        elif kind == "look":
            shell.on(looked(now, *what))
        elif state.phase is Phase.COLLECTING and screen(state, what, "") is None:
            shell.on(Counted(now, what, ROW) if kind == "count" else Refused(what, REFUSAL))
        if shell.asked(GiveUp) or shell.state.phase is Phase.CLOSED:
            break
        if shell.state.phase is Phase.VOID:
            shell.on(Reopened(now))
        folded = OPEN
        for event in shell.journal:
            folded, _ = step(folded, event)
        resumed = step(folded, Resumed(now))[0]
        for name in ("phase", "attempt", "seats"):
            assert getattr(resumed, name) == getattr(shell.state, name)
        assert resumed.counted == shell.state.counted
        assert not resumed.offered


REFUSAL = Refusal("collapse", "")


def test_everything_said_names_its_round() -> None:
    told = collecting().on(Counted(1.0, "n", ROW)).asked(Tell)
    assert {tell.facts["round"] for tell in told} == {4}


def test_a_node_without_the_base_is_offered_it_once_more_at_the_next_look() -> None:
    shell = collecting()
    missing = screen(shell.state, "n", "gobelin:contribution.base_missing")
    assert missing is not None
    assert missing.reason == "contribution.base_missing"
    shell.on(Refused("n", missing), looked(1.0, "n", "s1", "s2"))
    assert shell.state.baseless == {"n"}
    assert shell.asked(Offer) == [Offer(("n", "s1", "s2")), Offer(("n",))]
    assert "n" in shell.state.owing(1.0)
    # An answer to an offer that had crossed the first one: the node still owes the one it is due.
    shell.on(Refused("n", missing), looked(2.0, "n", "s1", "s2"))
    assert len(shell.asked(Offer)) == 2
    assert "n" in shell.state.owing(2.0)


def test_what_a_counted_node_lacks_changes_nothing() -> None:
    shell = collecting().on(Counted(1.0, "n", ROW))
    missing = screen(shell.state, "n", "gobelin:contribution.base_missing")
    assert missing is not None
    shell.on(Refused("n", missing))
    assert len(shell.asked(Offer)) == 1
    assert "n" in shell.state.counted
