"""A node in rounds of fragments goes on from its own model, and survives what it survives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from gobelin.client.contributor import Contributor
from gobelin.client.home import NodeHome, NodeStatus
from gobelin.client.spool import Spool, Spooled
from gobelin.protocols.messages import RoundPlan
from gobelin.shared.errors import ContributionError
from gobelin.shared.fragments import fragment_of_round, fragments_of
from gobelin.shared.vector import ParameterVector
from tests.client.contributing import BASE, Node, home_at, in_spool, plan

COUNT = 2


def due(number: int) -> Any:
    return fragment_of_round(BASE.schema, COUNT, number)


def moved(base: ParameterVector, number: int, done: Spooled) -> ParameterVector:
    """The consensus of a federation of this one node."""
    return base + due(number).widen(done.delta)


def asked(number: int, base: ParameterVector, **changes: Any) -> RoundPlan:
    return plan(number, base, **{"fragments": COUNT, **changes})


def rounds(node: Node, count: int, **changes: Any) -> list[Spooled]:
    base, done = BASE, []
    for number in range(1, count + 1):
        done.append(node(asked(number, base, **changes), base))
        base = moved(base, number, done[-1])
    return done


def test_a_round_sends_its_fragment_and_no_more(tmp_path: Path) -> None:
    done = rounds(Node(home_at(tmp_path)), 2)
    assert [one.delta.schema for one in done] == [due(1).schema, due(2).schema]
    assert sum(one.payload.size for one in done) == 4 * BASE.schema.size


def test_what_is_not_exchanged_is_not_frozen(tmp_path: Path) -> None:
    """The second fragment's first delta is of two rounds of training, not of one."""
    done = rounds(Node(home_at(tmp_path / "a")), 2)
    fresh = Node(home_at(tmp_path / "b"))
    fresh(plan(1, BASE), BASE)  # the same inner state, but no model of its own
    one_round = fresh(asked(2, moved(BASE, 1, done[0])), moved(BASE, 1, done[0]))
    assert done[1].delta.norm() > 1.3 * one_round.delta.norm()


@pytest.mark.parametrize("alpha", [1.0, 0.5])
@pytest.mark.parametrize("codec", ["fp32", "topk"])
def test_after_a_kill_the_next_round_has_the_bytes_it_would_have_had(
    codec: str, alpha: float, tmp_path: Path
) -> None:
    options = {"codec": codec, "alpha": alpha}
    undisturbed = rounds(Node(home_at(tmp_path / "a")), 4, **options)
    home, base = home_at(tmp_path / "b"), BASE
    for number in range(1, 5):  # a new process every round, killed on its second step
        done = killed_once(home, asked(number, base, **options), base)
        assert done.payload.digest == undisturbed[number - 1].payload.digest
        base = moved(base, number, done)


def killed_once(home: NodeHome, wanted: RoundPlan, base: ParameterVector) -> Spooled:
    class Killed(BaseException):
        pass

    def kill(status: NodeStatus) -> None:
        if status.step == 2:
            raise Killed

    with pytest.raises(Killed):
        in_spool(Contributor(home, kill), wanted, base.segments())
    Node(home)(wanted, base)
    return Node(home)(wanted, base)  # and once more, from the spool


def test_a_share_of_the_shared_value_is_taken_in(tmp_path: Path) -> None:
    """Where the consensus is elsewhere: α = 1 leaves nothing of the node's own in that fragment."""
    elsewhere = ParameterVector(BASE.schema, due(1).put(BASE.values, 0.9 * due(1).of(BASE).values))
    deltas = {}
    for alpha in (1.0, 0.5, 1e-6):
        node = Node(home_at(tmp_path / str(alpha)))
        node(asked(1, BASE, alpha=alpha), BASE)
        deltas[alpha] = node(asked(2, elsewhere, alpha=alpha), elsewhere).delta.values
    assert not torch.equal(deltas[1.0], deltas[0.5])
    assert not torch.equal(deltas[0.5], deltas[1e-6])


def test_a_late_joiner_and_a_long_absent_node_start_from_the_whole_consensus(
    tmp_path: Path,
) -> None:
    late = Node(home_at(tmp_path / "a"))
    back = Node(home_at(tmp_path / "b"))
    back(asked(1, BASE), BASE)
    consensus = ParameterVector(BASE.schema, 0.99 * BASE.values)
    whole = plan(4, consensus)
    joined = late(asked(4, consensus), consensus).delta
    expected = Node(home_at(tmp_path / "c"))(whole, consensus).delta
    assert joined.digest == due(4).of(expected).digest
    again = back(asked(4, consensus), consensus).delta  # its inner state is warm, its model is not
    other = Node(home_at(tmp_path / "d"))
    other(plan(1, BASE), BASE)
    assert again.digest == due(4).of(other(whole, consensus).delta).digest


def test_what_the_codec_loses_waits_for_the_fragments_next_turn(tmp_path: Path) -> None:
    home = home_at(tmp_path)
    rounds(Node(home), 1, codec="topk")
    first, second = fragments_of(BASE.schema, COUNT)
    owed = Spool(home.spool).debt_before(2).owed
    assert owed is not None
    assert float(first.take(owed).norm()) > 0
    assert float(second.take(owed).norm()) == 0


@pytest.mark.parametrize("changes", [{"fragments": 0}, {"fragments": 10**9}, {"alpha": 0.0}])
def test_a_plan_that_cuts_the_model_impossibly_is_refused(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(ContributionError):
        Node(home_at(tmp_path))(asked(1, BASE, **changes), BASE)
