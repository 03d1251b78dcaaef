"""A node's moments: measured before it trains, spooled, sent if asked, its own again a round on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gobelin.client.contributor import Contributor
from gobelin.client.home import (
    ComputeSettings,
    DataSettings,
    EgressSettings,
    NodeHome,
    NodeSettings,
)
from gobelin.client.spool import MOMENTS, Spooled
from gobelin.client.status import print_status
from gobelin.client.trainer import LocalSteps, LocalTrainer
from gobelin.protocols.messages import RoundPlan
from gobelin.shared.data import BatchStream
from gobelin.shared.data.export import write_idx
from gobelin.shared.errors import ContributionError, StateError
from gobelin.shared.model import build_jepa
from gobelin.shared.objective import Moments
from gobelin.shared.objective.moments import digest_of, size_of
from gobelin.shared.recipe import load_recipe
from gobelin.shared.seeds import derive_seed
from gobelin.shared.settings import write_settings
from gobelin.shared.vector import ParameterVector
from tests.client.contributing import in_spool
from tests.keys import write_keys

RECIPE = load_recipe("toy")
DIM = RECIPE.projector.out
BASE = ParameterVector.of(build_jepa(RECIPE, 0))
STEPS = 2
PLAN = RoundPlan(
    *("fed", 1, 4, RECIPE.canonical(), BASE.schema.digest, BASE.digest, STEPS, 7, 60.0),
    cross_node=True,
)
POOLED = Moments.of(torch.randn(50, DIM, generator=torch.Generator().manual_seed(1))).to_bytes()
SECOND = replace(PLAN, round=2, moments_digest=digest_of(POOLED))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    pixels = np.random.default_rng(0).integers(0, 256, (32, 1, 28, 28), dtype=np.uint8)
    write_idx(folder, torch.from_numpy(pixels), torch.zeros(32, dtype=torch.int64))
    return folder


def home_in(folder: Path, images: Path, moments: bool = True) -> NodeHome:
    settings = NodeSettings(
        member="north",
        node="north",
        aggregator="localhost:1",
        data=DataSettings(path=images),
        compute=ComputeSettings(device="cpu", threads=1),
        egress=EgressSettings(moments=moments),
    )
    home = NodeHome(folder)
    write_settings(home.settings_file, settings)
    write_keys(home)
    return home


@pytest.fixture
def home(tmp_path: Path, images: Path) -> NodeHome:
    return home_in(tmp_path / "node", images)


def contribute(home: NodeHome, plan: RoundPlan, moments: bytes = b"") -> Spooled:
    """What a process started anew makes of a plan."""
    return in_spool(Contributor(home, lambda status: None), plan, BASE.segments(), moments)


def trainer_of(images: Path) -> tuple[LocalTrainer, LocalSteps]:
    seed = derive_seed(PLAN.seed, "node", "north")
    source = RECIPE.modality().open(images)
    trainer = LocalTrainer(RECIPE, BatchStream(source, RECIPE.inner.batch_size, seed).batch)
    return trainer, LocalSteps(0, STEPS, 4 * STEPS, PLAN.seed, seed)


def test_moments_are_those_of_the_base_on_the_nodes_data(home: NodeHome, images: Path) -> None:
    trainer, local = trainer_of(images)
    made = contribute(home, PLAN)
    assert made.moments == trainer.moments(BASE, local).to_bytes()
    assert made.contribution.moments_digest == digest_of(made.moments)


def test_moments_do_not_change_the_round_they_are_measured_in(
    tmp_path: Path, images: Path, home: NodeHome
) -> None:
    quiet = contribute(home_in(tmp_path / "other", images), replace(PLAN, cross_node=False))
    assert contribute(home, PLAN).delta.digest == quiet.delta.digest
    assert (quiet.moments, quiet.contribution.moments_digest) == (b"", "")


def test_a_node_that_declines_keeps_its_moments_to_itself(tmp_path: Path, images: Path) -> None:
    home = home_in(tmp_path / "node", images, moments=False)
    for _ in range(2):  # the second from the spool
        made = contribute(home, PLAN)
        assert (made.moments, made.contribution.moments_digest) == (b"", "")


def test_moments_of_an_answered_plan_come_from_the_spool(home: NodeHome) -> None:
    first = contribute(home, PLAN)
    assert first.moments
    assert contribute(home, PLAN).moments == first.moments


def test_the_next_round_trains_with_pooled_less_own(home: NodeHome, images: Path) -> None:
    own = Moments.from_bytes(contribute(home, PLAN).moments, DIM)
    trainer, local = trainer_of(images)
    trainer.train(BASE, local)
    offset = Moments.from_bytes(POOLED, DIM).offset_from(own)
    later = replace(local, first_step=STEPS, offset=offset)
    expected = trainer.train(BASE, later)[0] - BASE
    assert contribute(home, SECOND, POOLED).delta.digest == expected.digest


def test_a_node_that_declines_trains_as_if_it_had_not(
    tmp_path: Path, images: Path, home: NodeHome
) -> None:
    silent = home_in(tmp_path / "silent", images, moments=False)
    for plan, data in ((PLAN, b""), (SECOND, POOLED)):
        one, other = (contribute(each, plan, data) for each in (home, silent))
        assert one.delta.digest == other.delta.digest


@pytest.mark.parametrize("cross_node", [True, False])
def test_a_node_that_was_away_takes_the_moments_of_this_base(
    cross_node: bool, home: NodeHome, images: Path
) -> None:
    trainer, local = trainer_of(images)
    own = trainer.moments(BASE, replace(local, first_step=STEPS))
    offset = Moments.from_bytes(POOLED, DIM).offset_from(own)
    expected = trainer.train(BASE, replace(local, first_step=STEPS, offset=offset))[0] - BASE
    made = contribute(home, replace(SECOND, cross_node=cross_node), POOLED)
    assert made.delta.digest == expected.digest
    assert bool(made.moments) == cross_node  # no more leaves than is asked for


def test_without_pooled_moments_a_node_tests_its_own_data_alone(
    tmp_path: Path, images: Path, home: NodeHome
) -> None:
    plain = home_in(tmp_path / "plain", images)
    quiet = {"cross_node": False, "moments_digest": ""}
    for plan in (PLAN, replace(SECOND, moments_digest="")):
        one, other = contribute(home, plan), contribute(plain, replace(plan, **quiet))
        assert one.delta.digest == other.delta.digest


def test_other_moments_than_the_plans_are_refused_before_training(home: NodeHome) -> None:
    contribute(home, PLAN)
    none = replace(SECOND, moments_digest="")
    for plan, data in ((SECOND, b""), (SECOND, POOLED[:-1]), (none, POOLED)):
        with pytest.raises(ContributionError, match="not the ones the plan names"):
            contribute(home, plan, data)
    for bad in (POOLED[:-4], bytes(len(POOLED)), b"\xff" * len(POOLED)):
        with pytest.raises(ContributionError, match="moments"):
            contribute(home, replace(SECOND, moments_digest=digest_of(bad)), bad)


@pytest.mark.parametrize("how", ["cut", "gone"])
def test_damaged_moments_are_neither_sent_nor_used(how: str, home: NodeHome) -> None:
    contribute(home, PLAN)
    (file,) = home.spool.rglob(MOMENTS)
    if how == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(StateError, match="damaged"):
        contribute(home, PLAN)
    if how == "cut":
        with pytest.raises(StateError, match="damaged"):
            contribute(home, SECOND, POOLED)


def test_an_operator_sees_which_moments_go(
    home: NodeHome, tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    silent = home_in(tmp_path / "silent", images, moments=False)
    for each in (home, silent):
        contribute(each, PLAN)
        contribute(each, replace(SECOND, cross_node=False), POOLED)
    size = size_of(DIM)
    print_status(home, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["moments"] == {"declined": False, "sent_bytes": {"1": size, "2": 0}}
    print_status(home, as_json=False)
    assert f"moments go with the contribution of round 1: {size} bytes" in capsys.readouterr().out
    print_status(silent, as_json=False)
    told = capsys.readouterr().out
    assert "no moments" in told
    assert "moments go with" not in told
