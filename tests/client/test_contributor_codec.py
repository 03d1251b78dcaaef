"""A node's codec: what is sent is what is spooled, and what is owed is paid once, kills or not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gobelin.client.contributor import Contributor
from gobelin.client.home import ComputeSettings, DataSettings, NodeHome, NodeSettings
from gobelin.client.spool import DELTA, RESIDUAL, Spool, Spooled
from gobelin.protocols.messages import METRIC_DISTORTION, METRIC_SENT_BYTES, RoundPlan
from gobelin.shared.codec import CODECS
from gobelin.shared.data.export import write_idx
from gobelin.shared.errors import CodecError, StateError
from gobelin.shared.model import build_jepa
from gobelin.shared.recipe import load_recipe
from gobelin.shared.settings import write_settings
from gobelin.shared.vector import ParameterVector

RECIPE = load_recipe("toy")
BASE = ParameterVector.of(build_jepa(RECIPE, 0))
PLAN = RoundPlan(
    "fed", 1, 4, RECIPE.canonical(), BASE.schema.digest, BASE.digest, 2, 7, 60.0, "int4"
)
each_lossy = pytest.mark.parametrize("codec", ["int8", "int4", "topk"])


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    pixels = np.random.default_rng(0).integers(0, 256, (32, 1, 28, 28), dtype=np.uint8)
    write_idx(folder, torch.from_numpy(pixels), torch.zeros(32, dtype=torch.int64))
    return folder


@pytest.fixture
def home(tmp_path: Path, images: Path) -> NodeHome:
    return home_in(tmp_path / "node", images)


def home_in(folder: Path, images: Path) -> NodeHome:
    settings = NodeSettings(
        member="north",
        node="north",
        aggregator="localhost:1",
        data=DataSettings(path=images),
        compute=ComputeSettings(device="cpu", threads=1),
    )
    home = NodeHome(folder)
    write_settings(home.settings_file, settings)
    return home


def node(home: NodeHome) -> Contributor:
    """A contributor as a fresh process has it."""
    return Contributor(home, lambda status: None)


def contribute(contributor: Contributor, plan: RoundPlan) -> Spooled:
    return contributor.contribute(plan, BASE.segments())


def rounds(codec: str, count: int) -> list[RoundPlan]:
    return [replace(PLAN, round=number, codec=codec) for number in range(1, count + 1)]


@pytest.mark.parametrize("codec", list(CODECS))
def test_the_contribution_says_what_is_sent(home: NodeHome, codec: str) -> None:
    made = contribute(node(home), replace(PLAN, codec=codec))
    assert (made.contribution.codec, made.payload.codec) == (codec, codec)
    assert made.contribution.delta_digest == made.payload.digest
    assert made.contribution.metrics[METRIC_SENT_BYTES] == made.payload.size
    assert (made.contribution.metrics[METRIC_DISTORTION] > 0) == (codec != "fp32")
    if codec == "fp32":
        assert made.payload.decode().digest == made.contribution.delta_digest
        assert not list(home.spool.rglob(RESIDUAL))


@each_lossy
def test_asked_again_after_a_kill_the_same_bytes_are_sent(home: NodeHome, codec: str) -> None:
    sent = [contribute(node(home), plan) for plan in rounds(codec, 2)]
    again = [contribute(node(home), plan) for plan in rounds(codec, 2)]
    for before, after in zip(sent, again, strict=True):
        assert after.payload.segments == before.payload.segments
        assert after.contribution.to_bytes() == before.contribution.to_bytes()


@each_lossy
def test_a_node_killed_between_rounds_sends_what_an_undisturbed_one_does(
    tmp_path: Path, images: Path, codec: str
) -> None:
    warm = node(home_in(tmp_path / "warm", images))
    undisturbed = [contribute(warm, plan).payload.digest for plan in rounds(codec, 3)]
    killed = home_in(tmp_path / "killed", images)
    assert [contribute(node(killed), plan).payload.digest for plan in rounds(codec, 3)] == (
        undisturbed
    )


@each_lossy
def test_a_kill_before_the_spool_has_it_repeats_the_round_with_the_same_debt(
    tmp_path: Path, images: Path, codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    warm = node(home_in(tmp_path / "warm", images))
    first, second = rounds(codec, 2)
    contribute(warm, first)
    undisturbed = contribute(warm, second).payload.digest
    killed = home_in(tmp_path / "killed", images)
    contribute(node(killed), first)
    with monkeypatch.context() as patch:
        patch.setattr(Spool, "put", _killed)
        with pytest.raises(KeyboardInterrupt):
            contribute(node(killed), second)
    assert contribute(node(killed), second).payload.digest == undisturbed


def _killed(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@each_lossy
def test_what_one_round_lost_the_next_one_wants(home: NodeHome, codec: str) -> None:
    first, second = rounds(codec, 2)
    contribute(node(home), first)
    with_debt = contribute(node(home), second).payload.digest
    for file in (home.spool / "round-00001" / RESIDUAL, home.spool / "round-00002"):
        file.rename(home.folder / file.name)
    assert contribute(node(home), second).payload.digest != with_debt


def test_another_plan_for_the_same_round_starts_from_the_debt_before_it(home: NodeHome) -> None:
    first, second = rounds("int4", 2)
    contribute(node(home), first)
    wanted = contribute(node(home), second).payload.digest
    contribute(node(home), replace(second, deadline_s=61.0))
    assert contribute(node(home), second).payload.digest == wanted


def test_a_damaged_payload_is_never_sent(home: NodeHome) -> None:
    contribute(node(home), PLAN)
    file = home.spool / "round-00001" / DELTA
    whole = file.read_bytes()
    for data in (whole[:-2] + b"!!", whole[:-1], b""):
        file.write_bytes(data)
        with pytest.raises(StateError, match="damaged"):
            contribute(node(home), PLAN)


def test_a_plan_with_an_unknown_codec_is_refused_before_training(home: NodeHome) -> None:
    with pytest.raises(CodecError, match="int4"):
        contribute(node(home), replace(PLAN, codec="int3"))
    assert not home.spool.exists()
