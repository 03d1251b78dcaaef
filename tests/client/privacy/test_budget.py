"""What private contributions spend is on record before they leave, once each, and is held to."""

from __future__ import annotations

import dataclasses
import json
import math
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gobelin.client.egress import Egress, clear
from gobelin.client.egress_ledger import CONTRIBUTION, Departure, EgressLedger
from gobelin.client.egress_report import print_egress, print_policy
from gobelin.client.home import NodeHome
from gobelin.client.privacy.accounting import Spend, epsilon
from gobelin.client.privacy.budget import Spent, spent_by
from gobelin.client.site_policy import SitePolicy, read_policy
from gobelin.client.spool import Spooled
from gobelin.protocols.messages import RoundPlan
from gobelin.shared.errors import ConfigError, EgressError, PrivacyError, SitePolicyError
from gobelin.shared.model import build_jepa
from gobelin.shared.vector import ParameterVector
from tests.client.contributing import Node, home_at, plan
from tests.client.privacy.recipes import I_JEPA, MASKED, toy

pytest.importorskip("dp_accounting")

BASE = ParameterVector.of(build_jepa(MASKED, seed=0))
SIGMA, BATCH, SAMPLES, STEPS = 2.0, 32, 40, 3
SPEND = Spend(SIGMA, BATCH / SAMPLES, STEPS)
DELTA = 1e-5


def private(folder: Path, secret: str = "00", **keys: Any) -> NodeHome:
    """A node home of 40 images that trains privately."""
    home = home_at(folder)
    lines = {"noise_multiplier": SIGMA, "batch_size": BATCH, **keys}
    table = "\n".join(f"{key} = {json.dumps(value)}" for key, value in lines.items())
    with home.settings_file.open("a") as file:
        file.write(f"\n[privacy]\n{table}\n")
    home.secret_file.write_text(secret * 32)
    return home


@pytest.fixture
def home(tmp_path: Path) -> NodeHome:
    return private(tmp_path)


def asked(number: int = 1, base: ParameterVector = BASE, **changes: Any) -> RoundPlan:
    return plan(number, base, recipe=MASKED.canonical(), **changes)


def policy(home: NodeHome, **keys: Any) -> None:
    home.policy_file.write_text("\n".join(f"{k} = {json.dumps(v)}" for k, v in keys.items()))


def leave(home: NodeHome, done: Spooled, on_way: Callable[[], None] = lambda: None) -> None:
    """A contribution departs, as the connection lets it."""
    made = done.contribution
    departure = Departure(CONTRIBUTION, round=made.round, codec=made.codec, digest=made.digest)
    with Egress(home).departing(departure, frozenset()):
        on_way()


def test_a_private_contribution_says_nothing_of_its_data_but_the_delta(home: NodeHome) -> None:
    done = Node(home)(asked(cross_node=True), BASE)
    made = done.contribution
    assert set(made.metrics) == {"distortion", "sent_bytes"}
    assert (made.samples, made.seconds) == (STEPS * MASKED.inner.batch_size, 0.0)
    assert (done.moments, made.moments_digest) == (b"", "")
    assert done.spend == SPEND
    assert done.delta.norm() > 0
    told = dataclasses.replace(made, metrics={**made.metrics, "loss": 1.0})
    with pytest.raises(EgressError, match="beside a delta"):
        clear(dataclasses.replace(done, contribution=told), SitePolicy())


def test_local_steps_done_again_end_at_the_same_bytes_and_nobody_can_foretell_them(
    tmp_path: Path,
) -> None:
    deltas = []
    for number, secret in enumerate(("00", "00", "11")):
        deltas.append(Node(private(tmp_path / str(number), secret))(asked(), BASE).contribution)
    assert deltas[0].digest == deltas[1].digest  # a kill before the spool costs nothing
    assert deltas[0].delta_digest != deltas[2].delta_digest


def test_what_is_spent_is_on_record_before_anything_leaves(home: NodeHome) -> None:
    done = Node(home)(asked(), BASE)
    assert spent_by(home) == Spent({}, 0)  # what is not sent costs nothing
    found = []
    leave(home, done, lambda: found.append(spent_by(home)))
    assert found == [Spent({done.contribution.digest: SPEND}, 0)]


def test_a_kill_between_debit_and_release_loses_no_debit(home: NodeHome) -> None:
    done = Node(home)(asked(), BASE)
    fork = multiprocessing.get_context("fork")
    child = fork.Process(
        target=leave, args=(home, done, lambda: os.kill(os.getpid(), signal.SIGKILL))
    )
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    once = Spent({done.contribution.digest: SPEND}, 0)
    assert spent_by(home) == once
    again = Node(home)(asked(), BASE)  # out of the spool, and sent again: the same message
    leave(home, again)
    assert spent_by(home) == once
    assert spent_by(home).epsilon(DELTA) == epsilon([SPEND], DELTA)


def test_a_budget_that_would_be_overspent_refuses_the_plan_before_it_is_trained_for(
    home: NodeHome,
) -> None:
    policy(home, max_epsilon=epsilon([SPEND, SPEND], DELTA) - 0.01)
    node = Node(home)
    first = node(asked(), BASE)
    clear(first, read_policy(home), spent_by(home))
    leave(home, first)
    steps = len(node.statuses)
    following = BASE + first.delta
    with pytest.raises(SitePolicyError, match=r"max_epsilon: ε = .* and .* is allowed"):
        node(asked(2, following), following)
    assert len(node.statuses) == steps
    clear(first, read_policy(home), spent_by(home))  # the first may still be sent again
    policy(home, max_epsilon=epsilon([SPEND], DELTA) / 2)  # what is spooled keeps to it, too
    with pytest.raises(SitePolicyError, match=r"where .* is allowed"):
        clear(first, read_policy(home), spent_by(home))


def test_a_plan_that_would_be_trained_without_privacy_is_refused_where_the_site_demands_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = home_at(tmp_path)
    policy(home, max_epsilon=8.0)
    with pytest.raises(SitePolicyError, match=r"max_epsilon.*no \[privacy\]"):
        Node(home)(asked(), BASE)
    home.plan_file.write_bytes(asked().to_bytes())
    print_policy(home, None, as_json=False)
    assert "refused   max_epsilon: training without differential privacy" in capsys.readouterr().out


def test_explain_tells_what_a_plan_would_have_spent(
    home: NodeHome, capsys: pytest.CaptureFixture[str]
) -> None:
    policy(home, max_epsilon=100.0)
    home.plan_file.write_bytes(asked(cross_node=True).to_bytes())
    print_policy(home, None, as_json=True)
    told = {row["rule"]: row for row in json.loads(capsys.readouterr().out)["rules"]}
    assert told["max_epsilon"]["asks"] == "DP-SGD: noise 2, 3 steps of 0.8 of the samples"
    assert f"ε = {epsilon([SPEND], DELTA):.3g} at δ = 1e-05" in told["max_epsilon"]["why"]
    assert told["moments"]["verdict"] == told["metrics"]["verdict"] == "narrowed"
    leave(home, Node(home)(asked(), BASE))
    print_egress(home, as_json=False)
    assert "one sample, added or removed" in capsys.readouterr().out


COUPLED = {
    "lejepa": ({"kind": "lejepa"}, "SIGReg tests a batch as a whole"),
    "lejepa without SIGReg": ({"kind": "lejepa", "weight": 0}, "agree in one point"),
    "vicreg": ({"kind": "vicreg"}, "variance and covariance"),
    "info_nce": ({"kind": "info_nce"}, "the others of its batch"),
    "byol with BatchNorm": ({"kind": "byol"}, "BatchNorm mixes a batch"),
    "masked with SIGReg": ({**I_JEPA, "weight": 0.05}, "teacher = true and weight = 0"),
    "masked without a teacher": ({**I_JEPA, "teacher": False}, "teacher = true and weight = 0"),
}


@pytest.mark.parametrize("name", COUPLED)
def test_an_objective_that_couples_samples_is_refused_and_another_offered(
    name: str, home: NodeHome
) -> None:
    objective, why = COUPLED[name]
    recipe = toy(objective=objective)
    base = ParameterVector.of(build_jepa(recipe, seed=0))
    with pytest.raises(SitePolicyError) as refusal:
        Node(home)(plan(1, base, recipe=recipe.canonical()), base)
    assert why in str(refusal.value)
    assert "I-JEPA" in str(refusal.value)


def test_padded_samples_are_refused(home: NodeHome) -> None:
    from gobelin.shared.objective.per_example import require_per_example
    from gobelin.shared.recipe import Recipe, load_recipe

    facts = load_recipe("text_tiny").model_dump(mode="json")
    recipe = Recipe.model_validate({**facts, "objective": I_JEPA})
    with pytest.raises(PrivacyError, match="padded"):
        require_per_example(recipe.objective_of(), recipe)


def test_what_was_trained_without_privacy_is_never_gone_on_from(tmp_path: Path) -> None:
    bare = home_at(tmp_path)
    leave(bare, Node(bare)(asked(), BASE))
    assert spent_by(bare).epsilon(DELTA) == math.inf
    with bare.settings_file.open("a") as file:
        file.write("\n[privacy]\nnoise_multiplier = 1.0\nbatch_size = 32\n")
    with pytest.raises(PrivacyError, match="round 1 in the spool is not private"):
        Node(bare)(asked(2), BASE)


def test_a_contribution_without_privacy_is_covered_by_no_epsilon() -> None:
    rows = [{"kind": "leaving", "purpose": CONTRIBUTION, "digest": "a"}]
    assert Spent.of(rows).with_one("b", SPEND).epsilon(DELTA) == math.inf
    assert "no ε covers" in Spent.of(rows).with_one("b", SPEND).text(DELTA)


def test_settings_that_would_void_the_promise_are_refused(tmp_path: Path) -> None:
    skipping = private(tmp_path / "1")
    text = skipping.settings_file.read_text()
    skipping.settings_file.write_text(text.replace('on_bad = "refuse"', 'on_bad = "skip"'))
    with pytest.raises(PrivacyError, match="stand in"):
        Node(skipping)(asked(), BASE)
    whole = private(tmp_path / "2", batch_size=40)
    with pytest.raises(PrivacyError, match="of 40 samples"):
        Node(whole)(asked(), BASE)
    loose = private(tmp_path / "3")
    policy(loose, delta=0.5)
    with pytest.raises(PrivacyError, match="promises nothing"):
        Node(loose)(asked(), BASE)
    few = private(tmp_path / "4", batch_size=8)
    with pytest.raises(ConfigError):
        Node(few)


def test_a_ledger_of_before_there_was_privacy_is_read(home: NodeHome) -> None:
    EgressLedger(home.egress_file).leaving(Departure(CONTRIBUTION, round=1, digest="a"))
    assert "privacy" not in EgressLedger(home.egress_file).records()[0]
    assert spent_by(home).bare == 1
