"""A contributor answers each plan once, with the same bytes whatever happens in between."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from gobelin.client.contributor import Contributor
from gobelin.client.home import NodeHome, NodeStatus
from gobelin.client.node_seed import node_seed
from gobelin.client.plan import schema_of
from gobelin.client.spool import Spool
from gobelin.client.trainer import LocalSteps, LocalTrainer
from gobelin.shared.data import BatchStream
from gobelin.shared.data.export import write_idx
from gobelin.shared.errors import StateError
from gobelin.shared.keys import write_authority
from tests.client.contributing import (
    BASE,
    RECIPE,
    STEPS,
    Node,
    home_at,
    in_spool,
    plan,
    rounds_of,
)


@pytest.fixture
def home(tmp_path: Path) -> NodeHome:
    return home_at(tmp_path)


def test_a_contribution_answers_its_plan(home: NodeHome) -> None:
    node = Node(home)
    asked = plan(1, BASE)
    done = node(asked, BASE)
    header = done.contribution
    assert (header.federation, header.round, header.local_steps) == ("fed", 1, STEPS)
    assert (header.plan_digest, header.base_digest) == (asked.digest, BASE.digest)
    assert header.delta_digest == done.delta.digest
    assert header.samples == STEPS * RECIPE.inner.batch_size
    assert set(header.metrics) == {
        *("loss", "prediction", "anti_collapse", "effective_rank"),
        *("sent_bytes", "distortion"),
    }
    assert done.delta.norm() > 0
    assert done.delta.schema == BASE.schema


def test_progress_is_shown_step_by_step(home: NodeHome) -> None:
    node = Node(home)
    node(plan(1, BASE), BASE)
    assert [(s.state, s.round, s.rounds, s.step, s.steps) for s in node.statuses] == [
        ("training", 1, 4, step, STEPS) for step in (1, 2, 3)
    ]


def test_a_slow_node_says_how_many_steps_it_took_and_sends_those_again(tmp_path: Path) -> None:
    home = home_at(tmp_path, seconds_per_round=1e-9)
    node = Node(home)
    done = node(plan(1, BASE), BASE)
    assert done.contribution.local_steps == 1
    steps = [status.step for status in node.statuses if status.state == "training"]
    assert steps == [1]
    again = Node(home)(plan(1, BASE), BASE)  # after a kill: as it is in the spool, at any speed
    assert again.contribution == done.contribution
    assert again.payload.digest == done.payload.digest


def test_a_deadline_bounds_a_generous_budget(tmp_path: Path) -> None:
    node = Node(home_at(tmp_path, seconds_per_round=1e9))
    assert node(plan(1, BASE), BASE).contribution.local_steps == STEPS
    short = plan(2, BASE, deadline_s=1e-9)
    assert node(short, BASE).contribution.local_steps == 1


def test_without_a_budget_every_step_is_taken_whatever_the_deadline(home: NodeHome) -> None:
    done = Node(home)(plan(1, BASE, deadline_s=1e-9), BASE)
    assert done.contribution.local_steps == STEPS


def test_in_warmup_rounds_a_node_takes_one_step_and_then_goes_on_from_there(
    home: NodeHome,
) -> None:
    node, warm = Node(home), {"warmup_rounds": 2}
    steps = [node(plan(n, BASE, **warm), BASE).contribution.local_steps for n in (1, 2, 3)]
    assert steps == [1, 1, STEPS]
    assert [status.steps for status in node.statuses] == [1, 1, *[STEPS] * STEPS]
    assert [status.step for status in node.statuses] == [1, 1, *range(1, STEPS + 1)]


def test_the_same_plan_twice_is_trained_once(home: NodeHome) -> None:
    node = Node(home)
    first = node(plan(1, BASE), BASE)
    again = node(plan(1, BASE), BASE)
    assert len(node.statuses) == STEPS
    assert again.contribution == first.contribution
    assert bytes(again.delta.canonical_bytes) == bytes(first.delta.canonical_bytes)


def test_what_is_finished_is_found_without_its_base_and_nothing_is_trained_for_a_recall(
    home: NodeHome,
) -> None:
    node = Node(home)
    assert node.contributor.finished(plan(1, BASE)) is None
    assert node.statuses == []
    done = node(plan(1, BASE), BASE)
    found = Node(home).contributor.finished(plan(1, BASE))
    assert found is not None
    assert found.contribution == done.contribution
    assert bytes(found.delta.canonical_bytes) == bytes(done.delta.canonical_bytes)
    assert node.contributor.finished(plan(1, BASE, local_steps=STEPS + 1)) is None


def test_a_plan_answered_before_a_kill_comes_from_the_spool(home: NodeHome) -> None:
    first = Node(home)(plan(1, BASE), BASE)
    restarted = Node(home)
    again = restarted(plan(1, BASE), BASE)
    assert restarted.statuses == []
    assert again.contribution == first.contribution
    assert again.delta.digest == first.delta.digest


def test_after_a_kill_the_next_round_has_the_bytes_it_would_have_had(tmp_path: Path) -> None:
    undisturbed = rounds_of(Node(home_at(tmp_path / "a")), 2)
    home = home_at(tmp_path / "b")
    (first,) = rounds_of(Node(home), 1)
    assert first.delta.digest == undisturbed[0].delta.digest
    base = BASE + first.delta
    second = Node(home)(plan(2, base), base)
    assert bytes(second.delta.canonical_bytes) == bytes(undisturbed[1].delta.canonical_bytes)


def test_what_is_prepared_is_in_the_spool_once_it_is_flushed(
    home: NodeHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, put = threading.Event(), Spool.put

    def waits(spool: Spool, *args: Any) -> None:
        assert held.wait(60)
        put(spool, *args)

    monkeypatch.setattr(Spool, "put", waits)
    contributor = Node(home).contributor
    prepared = contributor.prepare(plan(1, BASE), BASE.segments())
    assert Spool(home.spool).rounds() == []
    held.set()
    contributor.flush()
    assert Spool(home.spool).entry(1).contribution == prepared.contribution


def test_what_cannot_be_spooled_is_an_error_once(
    home: NodeHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(Spool, "put", full)
        contributor = Node(home).contributor
        contributor.prepare(plan(1, BASE), BASE.segments())
        with pytest.raises(OSError, match="no space"):
            contributor.flush()
    again = in_spool(contributor, plan(1, BASE), BASE.segments())
    assert again.contribution.delta_digest == (
        in_spool(Node(home).contributor, plan(1, BASE), BASE.segments()).contribution.delta_digest
    )


def test_a_kill_in_the_middle_of_a_round_leaves_no_trace(tmp_path: Path) -> None:
    undisturbed = rounds_of(Node(home_at(tmp_path / "a")), 2)
    home = home_at(tmp_path / "b")
    (first,) = rounds_of(Node(home), 1)
    base = BASE + first.delta

    class Killed(BaseException):
        pass

    def kill(status: NodeStatus) -> None:
        if status.step == 2:
            raise Killed

    with pytest.raises(Killed):
        in_spool(Contributor(home, kill), plan(2, base), base.segments())
    second = Node(home)(plan(2, base), base)
    assert second.delta.digest == undisturbed[1].delta.digest


def test_the_inner_optimizer_stays_warm_between_rounds(tmp_path: Path) -> None:
    warm = rounds_of(Node(home_at(tmp_path / "a")), 2)[1]
    base = BASE + rounds_of(Node(home_at(tmp_path / "b")), 1)[0].delta
    cold = Node(home_at(tmp_path / "c"))(plan(2, base), base)  # it missed the first round
    assert cold.delta.digest != warm.delta.digest


def test_a_round_asked_for_again_on_another_base_starts_from_the_same_inner_state(
    tmp_path: Path,
) -> None:
    """The aggregator went back a round: what the node trained meanwhile must not leak in."""
    node, fresh = Node(home_at(tmp_path / "a")), Node(home_at(tmp_path / "b"))
    rounds_of(node, 2)
    (first,) = rounds_of(fresh, 1)
    other = BASE + first.delta + first.delta
    assert node(plan(2, other), other).delta.digest == fresh(plan(2, other), other).delta.digest


def test_a_federation_that_begins_anew_finds_a_fresh_optimizer(tmp_path: Path) -> None:
    node = Node(home_at(tmp_path / "a"))
    rounds_of(node, 2)
    anew = plan(1, BASE, seed=8)
    fresh = Node(home_at(tmp_path / "b"))
    assert node(anew, BASE).delta.digest == fresh(anew, BASE).delta.digest


def test_two_nodes_with_the_same_images_learn_different_things(tmp_path: Path) -> None:
    north, south = Node(home_at(tmp_path, "north")), Node(home_at(tmp_path, "south"))
    one, two = north(plan(1, BASE), BASE), south(plan(1, BASE), BASE)
    assert one.delta.digest != two.delta.digest


def test_the_seed_of_the_federation_matters(tmp_path: Path) -> None:
    one = Node(home_at(tmp_path / "a"))(plan(1, BASE), BASE)
    two = Node(home_at(tmp_path / "b"))(plan(1, BASE, seed=8), BASE)
    assert one.delta.digest != two.delta.digest


def test_the_schema_of_a_recipe_is_that_of_its_model() -> None:
    assert schema_of(RECIPE) == BASE.schema


def test_an_operator_is_warned_of_a_collapsed_model(tmp_path: Path) -> None:
    same = torch.full((40, 1, 28, 28), 90, dtype=torch.uint8)  # all images become one embedding
    write_idx(tmp_path / "data", same, torch.zeros(40, dtype=torch.int64))
    write_authority(tmp_path / "tls", "fed", ["localhost"])
    node = Node(home_at(tmp_path))
    node(plan(1, BASE), BASE)
    (warning,) = [status for status in node.statuses if status.state == "warning"]
    assert "collapsed model (point)" in warning.note


def test_nobody_is_warned_of_a_sound_model(home: NodeHome) -> None:
    node = Node(home)
    rounds_of(node, 2)
    assert {status.state for status in node.statuses} == {"training"}


def test_a_private_order_is_known_to_who_has_the_home_alone(tmp_path: Path) -> None:
    told = {}
    for name, secret in (("plan", ""), ("one", "11"), ("other", "22"), ("one again", "11")):
        home = home_at(tmp_path / name)
        if secret:
            text = home.settings_file.read_text()
            home.settings_file.write_text(text.replace('order = "plan"', 'order = "private"'))
            home.secret_file.write_text(secret * 32)
        asked = plan(1, BASE)
        told[name] = Node(home)(asked, BASE).delta
        seed = node_seed(home, asked)
        source = RECIPE.modality().open(home.settings().data.path)
        trainer = LocalTrainer(RECIPE, BatchStream(source, RECIPE.inner.batch_size, seed).batch)
        local = LocalSteps(0, STEPS, 4 * STEPS, asked.seed, seed)
        assert (trainer.train(BASE, local)[0] - BASE).digest == told[name].digest
    digests = {name: delta.digest for name, delta in told.items()}
    assert digests["one"] == digests["one again"]
    assert len(set(digests.values())) == 3


def test_a_homes_secret_is_made_once_and_is_its_owners_alone(home: NodeHome) -> None:
    secret = home.secret()
    assert (len(secret), home.secret()) == (32, secret)
    assert home.secret_file.stat().st_mode & 0o777 == 0o600
    home.secret_file.write_text("short")
    with pytest.raises(StateError, match="damaged"):
        home.secret()


@pytest.mark.parametrize("to", [0, 1], ids=["the beginning", "round 1"])
def test_after_a_rollback_a_node_goes_on_from_what_it_had_then(home: NodeHome, to: int) -> None:
    """Rounds 1 to 3, of which round 4 goes back to `to`; round 5 is as if 2 and 3 had not been."""
    node = Node(home)
    done = rounds_of(node, 2)
    base = BASE + done[0].delta if to else BASE
    after = plan(4, base, rollbacks=f"3:{to}")
    found = node(after, base)
    kept = {1, 4} if to else {4}
    assert set(Spool(home.spool).rounds()) == kept
    note = next(s.note for s in node.statuses if s.state == "warning")
    assert f"went back behind {'2' if to else '1, 2'}:" in note
    assert Node(home)(after, base).contribution == found.contribution  # from the spool


def test_the_state_after_a_rollback_is_that_of_the_round_it_went_back_to(
    home: NodeHome, tmp_path: Path
) -> None:
    node = Node(home)
    (first,) = rounds_of(node, 1)
    base = BASE + first.delta
    after = plan(4, base, rollbacks="3:1")
    straight = node(after, base)  # round 2 was never trained here
    far = Node(home_at(tmp_path / "again"))
    rounds_of(far, 2)
    assert far(after, base).contribution.delta_digest == straight.contribution.delta_digest


def test_a_warm_node_does_not_read_its_own_state_again(
    home: NodeHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is as large as two models; and what safetensors reads it never wholly gives back."""
    node, read = Node(home), []
    monkeypatch.setattr(Spool, "inner_after", lambda spool, number: read.append(number) or {})
    rounds_of(node, 3)
    assert read == []
