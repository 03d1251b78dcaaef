"""A node's codec: what is sent is what is spooled, and what is owed is paid once, kills or not."""

from __future__ import annotations

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
from gobelin.client.spool import DEBT, DELTA, Spool, Spooled
from gobelin.client.uplink import Uplink
from gobelin.protocols.messages import METRIC_DISTORTION, METRIC_SENT_BYTES, RoundPlan, Step
from gobelin.shared.codec import CODECS, compress
from gobelin.shared.data.export import write_idx
from gobelin.shared.errors import BaseMissingError, BudgetError, CodecError, StateError
from gobelin.shared.model import build_jepa
from gobelin.shared.recipe import load_recipe
from gobelin.shared.settings import write_settings
from gobelin.shared.step import CodedStep
from gobelin.shared.vector import ParameterVector
from tests.client.contributing import in_spool
from tests.keys import write_keys

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
    write_keys(home)
    return home


def node(home: NodeHome) -> Contributor:
    """A contributor as a fresh process has it."""
    return Contributor(home, lambda status: None)


def contribute(contributor: Contributor, plan: RoundPlan) -> Spooled:
    return in_spool(contributor, plan, BASE.segments())


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
        assert not list(home.spool.rglob(DEBT))


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
    for file in (home.spool / "round-00001" / DEBT, home.spool / "round-00002"):
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


# ---------------------------------------------------------------- the egress budget


def with_budget(home: NodeHome, **egress: float) -> NodeHome:
    settings = home.settings().model_copy(update={"egress": EgressSettings(**egress)})
    write_settings(home.settings_file, settings)
    write_keys(home)
    return home


@pytest.mark.parametrize(
    ("megabytes", "asked", "taken"),
    [
        (1.0, "fp32", "fp32"),
        (0.01, "fp32", "bf16"),
        (0.005, "fp32", "int8"),
        (0.005, "int4", "int4"),  # never a finer one than the plan's
        (0.003, "int8", "int4"),
        (0.001, "int8", "topk"),
    ],
)
def test_the_node_takes_the_finest_rung_that_keeps_its_budget_and_says_so(
    home: NodeHome, megabytes: float, asked: str, taken: str
) -> None:
    made = contribute(
        node(with_budget(home, max_mb_per_round=megabytes)), replace(PLAN, codec=asked)
    )
    assert (made.contribution.codec, made.payload.codec) == (taken, taken)
    assert made.payload.size <= 1e6 * megabytes
    assert made.contribution.metrics[METRIC_SENT_BYTES] == made.payload.size
    assert (made.contribution.metrics[METRIC_DISTORTION] > 0) == (taken != "fp32")


def test_a_budget_that_no_codec_keeps_is_said_before_training(home: NodeHome) -> None:
    with pytest.raises(BudgetError, match="egress budget is 5e-05 MB"):
        contribute(node(with_budget(home, max_mb_per_round=0.00005)), PLAN)
    assert not home.spool.exists()


def test_a_budget_in_seconds_binds_once_a_rate_is_measured(home: NodeHome) -> None:
    contributor = node(with_budget(home, seconds_per_round=2))
    first, second = rounds("fp32", 2)
    assert contribute(contributor, first).contribution.codec == "fp32"
    Uplink(home.uplink_file).note(5000, 2.0)
    assert contribute(contributor, second).contribution.codec == "int8"


def test_what_is_finished_is_sent_as_it_is_also_when_the_budget_has_shrunk(home: NodeHome) -> None:
    sent = contribute(node(home), PLAN)
    again = contribute(node(with_budget(home, max_mb_per_round=0.00005)), PLAN)
    assert again.payload.segments == sent.payload.segments


# ---------------------------------------------------------------- steps


def test_a_base_reached_by_steps_is_trained_from_as_a_whole_one_is(
    tmp_path: Path, images: Path
) -> None:
    first, second = rounds("int4", 2)
    payload = compress("int8", noise(), None).payload
    after = BASE + payload.decode()
    second = replace(second, base_digest=after.digest)
    step = CodedStep(Step(1, BASE.digest, "int8"), payload.segments)
    found = []
    for name, broadcast in (("whole", "fp32"), ("steps", "int8")):
        home = home_in(tmp_path / name, images)
        plans = [replace(plan, broadcast=broadcast) for plan in (first, second)]
        in_spool(node(home), plans[0], BASE.segments())
        whole = after.segments() if broadcast == "fp32" else None
        found.append(in_spool(node(home), plans[1], whole, steps=[step]).payload.digest)
        assert home.base_file.exists() == (broadcast != "fp32")
    assert found[0] == found[1]


def test_a_node_without_its_base_asks_for_it_and_goes_on_with_the_whole_one(home: NodeHome) -> None:
    plan = replace(PLAN, broadcast="int8")
    with pytest.raises(BaseMissingError):
        in_spool(node(home), plan, None)
    assert not home.spool.exists()
    made = in_spool(node(home), plan, BASE.segments())
    assert home.base_file.read_bytes() == bytes(BASE.canonical_bytes)
    assert in_spool(node(home), plan, None).contribution == made.contribution
    home.base_file.unlink()
    assert in_spool(node(home), plan, BASE.segments()).contribution == made.contribution
    assert home.base_file.read_bytes() == bytes(BASE.canonical_bytes)  # steps may follow


def noise() -> ParameterVector:
    generator = torch.Generator().manual_seed(0)
    return ParameterVector(BASE.schema, torch.randn(BASE.schema.size, generator=generator) * 1e-3)
