"""The round as a state machine: what closes it, what voids it, what its journal brings back."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gobelin.server.admission import Refusal
from gobelin.server.reasons import RefusalCode
from gobelin.server.round_events import (
    Aggregate,
    Aggregated,
    Asked,
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
    Recall,
    Record,
    Refused,
    Reopened,
    Resumed,
    Seal,
    Sealed,
    Seat,
    Tell,
    Ticked,
    Undelivered,
    Voided,
)
from gobelin.server.round_state import Phase, Round, Terms, screen
from gobelin.server.round_steps import fold, step

TERMS = Terms(
    quorum=Fraction(1, 2),
    min_members=2,
    deadline_s=60.0,
    grace_s=math.inf,
    wait_s=600.0,
    attempts=3,
    rejoin_s=30.0,
)
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
        Counted(2.0, "n", 4, ROW),
        Counted(3.0, "s1", 4, ROW),
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
    assert shell.asked(Aggregate) == [Aggregate((Asked("n", 4), Asked("s1", 4)))]
    assert shell.asked(Seal) == [Seal()]
    assert [type(event) for event in shell.journal] == [Convened, Counted, Counted, Closed]


def test_one_members_nodes_are_not_two_members() -> None:
    shell = Shell().on(looked(0.0, "s1", "s2"))
    assert shell.state.phase is Phase.OPEN
    shell = collecting().on(Counted(1.0, "s1", 4, ROW), Counted(1.0, "s2", 4, ROW), Ticked(60.0))
    assert shell.state.phase is Phase.VOID


def test_the_deadline_closes_with_enough_members_and_voids_without() -> None:
    enough = collecting().on(Counted(1.0, "n", 4, ROW), Counted(1.0, "s1", 4, ROW))
    assert enough.on(Ticked(59.9)).state.phase is Phase.COLLECTING
    assert enough.on(Ticked(60.0)).state.phase is Phase.CLOSED
    assert collecting().on(Counted(1.0, "n", 4, ROW), Ticked(60.0)).state.phase is Phase.VOID


def test_what_a_void_attempt_gathered_stays_and_others_are_asked_again() -> None:
    shell = collecting().on(Counted(1.0, "n", 4, ROW), Ticked(60.0), Reopened(61.0))
    assert (shell.state.phase, shell.state.attempt) == (Phase.OPEN, 2)
    shell.on(looked(62.0, "s1", "s2"))
    assert shell.state.phase is Phase.COLLECTING
    assert shell.asked(Offer)[-1] == Offer(("s1", "s2"))
    assert shell.state.answered == {"n"}


def test_a_round_that_revocations_leave_without_its_quorum_is_void_at_once() -> None:
    both = replace(TERMS, quorum=Fraction(1))
    shell = Shell(replace(OPEN, terms=both)).on(looked(0.0, "n", "s1", "s2"))
    left = {name: seat for name, seat in ROSTER.items() if seat.member == "north"}
    shell.on(Looked(5.0, left, {"n": "0"}), Ticked(5.0))
    assert shell.state.phase is Phase.VOID  # it need not run to its deadline
    (void,) = (each for each in shell.asked(Tell) if each.event == "round_void")
    assert "off the roster: south" in void.facts["reason"]


def test_a_revoked_member_that_is_not_needed_changes_nothing() -> None:
    three = {**ROSTER, "w": Seat("west", "w")}
    shell = Shell().on(Looked(0.0, three, {"n": "0", "s1": "0", "w": "0"}))
    left = {name: seat for name, seat in three.items() if seat.member != "west"}
    shell.on(Looked(5.0, left, {"n": "0", "s1": "0"}), Ticked(5.0))
    assert shell.state.phase is Phase.COLLECTING
    shell.on(Counted(6.0, "n", 4, ROW), Looked(7.0, {}, {}), Ticked(7.0))
    assert shell.state.phase is Phase.COLLECTING  # no roster is not one that lacks them


def test_the_last_attempt_gives_up_and_says_who_was_missing() -> None:
    last = replace(OPEN, attempt=3)
    shell = Shell(last).on(looked(0.0, "n", "s1"), Counted(1.0, "n", 4, ROW), Ticked(60.0))
    (given_up,) = shell.asked(GiveUp)
    assert "3 times" in given_up.what
    assert "none yet from south" in given_up.what
    assert shell.on(Resumed(99.0)).state.attempt == 1


def test_a_refused_node_is_not_waited_for_until_it_restarts() -> None:
    shell = collecting().on(Counted(1.0, "n", 4, ROW), Counted(1.0, "s1", 4, ROW))
    shell.on(Refused("s2", 4, Refusal(RefusalCode.COLLAPSE, "")), looked(2.0, "n", "s1", "s2"))
    assert shell.asked(Offer) == [Offer(("n", "s1", "s2"))]
    shell.on(Looked(3.0, ROSTER, {"n": "monday", "s1": "monday", "s2": "tuesday"}))
    assert shell.asked(Offer)[-1] == Offer(("s2",))
    assert shell.on(Ticked(4.0)).state.phase is Phase.COLLECTING


@pytest.mark.parametrize("reason", [RefusalCode.ROUND, RefusalCode.PLAN_DIGEST, RefusalCode.STALE])
def test_an_answer_to_another_plan_leaves_its_node_owing(reason: RefusalCode) -> None:
    shell = collecting().on(Refused("s2", 4, Refusal(reason, "")))
    assert "s2" in shell.state.owing(1.0)


def test_who_has_no_seat_or_has_answered_is_screened_out() -> None:
    state = collecting().on(Counted(1.0, "n", 4, ROW)).state
    reasons = [screen(state, node, 4) for node in ("n", "stranger", "s1")]
    assert [r and r.reason for r in reasons] == ["duplicate", "not_on_roster", None]
    gone = step(state, Looked(2.0, {"n": ROSTER["n"]}, {}))[0]
    assert screen(gone, "s1", 4) == Refusal(RefusalCode.NOT_ON_ROSTER, "")


@pytest.mark.parametrize(
    ("phase", "event"),
    [
        (Phase.OPEN, Counted(0.0, "n", 4, ROW)),
        (Phase.OPEN, Closed(0.0)),
        (Phase.COLLECTING, Aggregated()),
        (Phase.CLOSED, Counted(0.0, "n", 4, ROW)),
        (Phase.CLOSED, Sealed()),
        (Phase.SEALED, Lost(0.0, "n", 4)),
        (Phase.SEALED, Voided(0.0, "")),
        (Phase.COLLECTING, Reopened(0.0)),
    ],
)
def test_what_cannot_happen_in_a_phase_is_refused(phase: Phase, event: Event) -> None:
    state = replace(OPEN, phase=phase, seats=ROSTER)
    with pytest.raises(ValueError, match=f"that is {phase} "):
        step(state, event)


def test_nothing_is_counted_twice() -> None:
    state = collecting().on(Counted(1.0, "n", 4, ROW)).state
    with pytest.raises(ValueError, match="duplicate"):
        step(state, Counted(2.0, "n", 4, ROW))


def test_a_lost_contribution_opens_a_closed_round_again() -> None:
    shell = collecting().on(Counted(1.0, "n", 4, ROW), Counted(1.0, "s1", 4, ROW), Closed(2.0))
    shell.on(Lost(3.0, "n", 4), Resumed(3.0), looked(3.0, "n", "s1"))
    assert shell.state.phase is Phase.COLLECTING
    assert shell.asked(Offer)[-1] == Offer(("n",))


def scored(member: str, score: float) -> dict[str, Any]:
    return {"node": "x", "member": member, "measured": {"score": score}}


WITH_HISTORY = replace(OPEN, terms=replace(TERMS, quality_floor=4.0, history=(0.2, 0.25, 0.3, 0.2)))


def test_what_lies_below_the_floor_is_refused_when_the_round_closes_and_not_before() -> None:
    shell = Shell(WITH_HISTORY).on(looked(0.0, "n", "s1", "s2"))
    shell.on(
        Counted(1.0, "n", 4, scored("north", 0.2)), Counted(1.0, "s1", 4, scored("south", 0.1))
    )
    shell.on(Counted(2.0, "s2", 4, scored("south", -0.9)))
    assert shell.asked(Aggregate) == []
    assert shell.state.answered == {"n", "s1", "s2"}
    shell.on(Ticked(3.0))
    assert shell.asked(Aggregate) == [Aggregate((Asked("n", 4), Asked("s1", 4)))]
    assert shell.state.refused == {Asked("s2", 4): "quality_floor"}
    (told,) = [tell for tell in shell.asked(Tell) if tell.event == "refused"]
    assert (told.facts["node"], told.facts["reason"]) == ("s2", "quality_floor")
    assert fold(WITH_HISTORY, shell.journal).counted == shell.state.counted


def test_members_below_the_floor_do_not_make_up_the_quorum() -> None:
    shell = Shell(WITH_HISTORY).on(looked(0.0, "n", "s1"))
    shell.on(
        Counted(1.0, "n", 4, scored("north", 0.2)), Counted(1.0, "s1", 4, scored("south", -0.9))
    )
    assert shell.on(Ticked(2.0)).state.phase is Phase.COLLECTING
    expected = "1 of 2 members contributed, none yet from south; below the quality floor: s1"
    assert shell.state.waiting_for == expected
    assert shell.on(Ticked(60.0)).state.phase is Phase.VOID


MISSING = Refusal(RefusalCode.BASE_MISSING, "")


def test_a_node_without_the_base_is_offered_it_once_more_at_the_next_look() -> None:
    shell = collecting().on(Refused("n", 4, MISSING), looked(1.0, "n", "s1", "s2"))
    assert shell.state.baseless == {"n"}
    assert shell.asked(Offer) == [Offer(("n", "s1", "s2")), Offer(("n",))]
    assert "n" in shell.state.owing(1.0)
    # An answer to an offer that had crossed the first one: the node still owes the one it is due.
    shell.on(Refused("n", 4, MISSING), looked(2.0, "n", "s1", "s2"))
    assert len(shell.asked(Offer)) == 2
    assert "n" in shell.state.owing(2.0)


def test_what_a_counted_node_lacks_changes_nothing() -> None:
    shell = collecting().on(Counted(1.0, "n", 4, ROW), Refused("n", 4, MISSING))
    assert len(shell.asked(Offer)) == 1
    assert "n" in shell.state.answered


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
        elif state.phase is Phase.COLLECTING and screen(state, what, 4) is None:
            shell.on(Counted(now, what, 4, ROW) if kind == "count" else Refused(what, 4, REFUSAL))
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


REFUSAL = Refusal(RefusalCode.COLLAPSE, "")


def test_everything_said_names_its_round() -> None:
    told = collecting().on(Counted(1.0, "n", 4, ROW)).asked(Tell)
    assert {tell.facts["round"] for tell in told} == {4}


# ---------------------------------------------------------------- participation


def crowd(*members: str) -> dict[str, Seat]:
    return {name: Seat(name, name) for name in members}


@pytest.mark.parametrize(
    ("quorum", "members", "needed"),
    [("0.5", 3, 2), ("0.5", 10, 5), ("0.1", 30, 3), ("1", 4, 4), ("0.01", 50, 2), ("0.6", 5, 3)],
)
def test_the_quorum_is_a_share_of_the_members_and_never_under_the_minimum(
    quorum: str, members: int, needed: int
) -> None:
    terms = replace(TERMS, quorum=Fraction(quorum))
    assert terms.needed(crowd(*(f"m{i}" for i in range(members)))) == needed


def test_the_grace_begins_with_the_quorum_and_ends_the_wait() -> None:
    terms = replace(TERMS, grace_s=5.0)
    shell = Shell(replace(OPEN, terms=terms)).on(looked(0.0, "n", "s1", "s2"))
    shell.on(Counted(10.0, "n", 4, ROW), Ticked(30.0))
    assert shell.state.phase is Phase.COLLECTING
    shell.on(Counted(30.0, "s1", 4, ROW), Ticked(34.9))
    assert shell.state.phase is Phase.COLLECTING
    assert shell.on(Ticked(35.0)).state.phase is Phase.CLOSED


PAST = replace(OPEN, past={2: frozenset({"n", "x"}), 3: frozenset({"s1"})})


def test_nodes_are_asked_once_for_what_they_may_still_answer_and_that_comes_first() -> None:
    shell = Shell(PAST).on(looked(0.0, "n", "s1"), looked(1.0, "n", "s1"))
    asked = [effect for effect in shell.effects if isinstance(effect, Offer | Recall)]
    assert asked == [Recall(2, ("n",)), Recall(3, ("s1",)), Offer(("n", "s1"))]
    shell.on(Looked(2.0, ROSTER, {"n": "tuesday"}))
    asked = [effect for effect in shell.effects if isinstance(effect, Offer | Recall)]
    assert asked[3:] == [Recall(2, ("n",)), Offer(("n",))]


def test_what_is_on_its_way_is_not_asked_for() -> None:
    on_its_way = replace(PAST, offered={Asked("n", 2): "monday", Asked("s1", 3): "sunday"})
    shell = Shell(on_its_way).on(looked(0.0, "n", "s1"))
    assert shell.asked(Recall) == [Recall(3, ("s1",))]


def test_what_the_wire_has_lost_is_asked_for_again() -> None:
    shell = Shell(PAST).on(looked(0.0, "n", "s1"))
    shell.on(Undelivered("n", 4), Undelivered("s1", 3), looked(1.0, "n", "s1"))
    asked = [effect for effect in shell.effects if isinstance(effect, Offer | Recall)]
    assert asked[3:] == [Recall(3, ("s1",)), Offer(("n",))]


def test_a_late_answer_counts_once_and_is_no_part_of_the_quorum() -> None:
    shell = Shell(PAST).on(looked(0.0, "n", "s1"))
    assert screen(shell.state, "s1", 3) is None
    shell.on(Counted(1.0, "s1", 3, ROW), Counted(1.0, "n", 4, ROW))
    assert shell.state.members == {"north"}
    assert "s1" in shell.state.owing(1.0)
    again, never, old = (screen(shell.state, *who) for who in [("s1", 3), ("s2", 3), ("n", 1)])
    assert [r and r.reason for r in (again, never, old)] == ["duplicate", "duplicate", "stale"]
    with pytest.raises(ValueError, match="duplicate"):
        shell.on(Counted(2.0, "s1", 3, ROW))
    with pytest.raises(ValueError, match="stale"):
        shell.on(Counted(2.0, "s1", 1, ROW))
    assert [tell.event for tell in shell.asked(Tell)] == ["round_opened", "late", "contribution"]


def test_a_refused_late_answer_is_the_last_word_on_it_and_leaves_its_node_owing() -> None:
    shell = Shell(PAST).on(looked(0.0, "n", "s1"), Refused("s1", 3, REFUSAL))
    assert "s1" in shell.state.owing(1.0)
    assert shell.state.refused == {Asked("s1", 3): "collapse"}
    shell.on(Looked(2.0, ROSTER, {"s1": "tuesday"}))
    assert shell.asked(Recall) == [Recall(2, ("n",)), Recall(3, ("s1",))]
