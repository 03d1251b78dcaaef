"""Protocols: what an older gobelin sent is read for ever, and a newer one is named as such."""

from __future__ import annotations

import json

import pytest

from gobelin.protocols.enrolment import Enrolment
from gobelin.protocols.ledger import RoundRecord
from gobelin.protocols.messages import (
    Contribution,
    Farewell,
    MalformedMessageError,
    Message,
    Receipt,
    RoundPlan,
)
from gobelin.protocols.version import FIRST, OLDEST, PROTOCOL, protocol_of
from gobelin.shared.errors import AggregatorTooOldError, NodeTooOldError
from gobelin.shared.formats import refusal_of_node, require_plan
from tests.protocols.make_golden import EXAMPLES, GOLDEN

KINDS: list[type[Message]] = [
    *(RoundPlan, Contribution, Receipt, Farewell, Enrolment, RoundRecord),
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_what_protocol_1_wrote_has_the_same_bytes_for_ever(kind: type[Message]) -> None:
    data = (GOLDEN / "v1" / f"{kind.__name__}.json").read_bytes()
    message = kind.from_bytes(data)
    assert message.to_bytes() == data
    assert protocol_of(data) == FIRST
    ours = next(one for one in EXAMPLES if type(one) is kind)
    assert {**message.plain(), "protocol": 0} == {**ours.plain(), "protocol": 0}


def test_a_plan_of_this_protocol_says_so_and_one_of_the_first_does_not() -> None:
    plan = EXAMPLES[0]
    assert isinstance(plan, RoundPlan)
    assert protocol_of(plan.to_bytes()) == plan.protocol == PROTOCOL
    old = RoundPlan.from_bytes((GOLDEN / "v1" / "RoundPlan.json").read_bytes())
    assert old.protocol == FIRST
    said = json.dumps({**old.plain(), "protocol": 1}, sort_keys=True, separators=(",", ":"))
    with pytest.raises(MalformedMessageError, match="canonical"):
        RoundPlan.from_bytes(said.encode())


def test_who_must_upgrade_is_said_on_either_side() -> None:
    later = json.dumps({"kind": "RoundPlan", "protocol": PROTOCOL + 1, "of": "tomorrow"}).encode()
    with pytest.raises(NodeTooOldError, match=f"protocol {PROTOCOL + 1}, this node") as newer:
        require_plan(protocol_of(later))
    assert "upgrade this node" in newer.value.remedy
    with pytest.raises(AggregatorTooOldError, match="protocol 0, this node") as older:
        require_plan(OLDEST - 1)
    assert "aggregator's operator" in older.value.remedy
    assert newer.value.exit_code == older.value.exit_code == 77
    require_plan(FIRST)
    require_plan(PROTOCOL)
    assert "upgrade the node" in refusal_of_node(PROTOCOL - 1)
    assert "upgrade the aggregator" in refusal_of_node(PROTOCOL + 1)
    assert refusal_of_node(PROTOCOL) == ""


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b'{"protocol":true}', b'{"protocol":"9"}'])
def test_what_says_no_protocol_is_of_the_first(data: bytes) -> None:
    assert protocol_of(data) == FIRST
