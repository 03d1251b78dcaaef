"""The contributor guide's worked examples are run as a contributor would write them."""

from __future__ import annotations

import re
import sys
from fractions import Fraction
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import numpy as np
import pytest
import torch

from gobelin.client.trainer import LocalSteps, LocalTrainer
from gobelin.server.aggregation import InMemory, aggregate
from gobelin.server.home import AggregationSettings
from gobelin.server.rules import RULES, make_rule
from gobelin.shared import plugins
from gobelin.shared.codec import CODECS, CodecName, codec_named, distortion, rungs_from
from gobelin.shared.data import BatchStream, MemorySource
from gobelin.shared.data.prepare.weaves import MILLS, draw
from gobelin.shared.errors import CodecError, NotFiniteError
from gobelin.shared.model import build_jepa
from gobelin.shared.objective import OBJECTIVES
from gobelin.shared.recipe import load_recipe
from gobelin.shared.vector import ParameterVector

GUIDE = Path(__file__).parents[2] / "docs" / "contributing"


def block(page: str, language: str, number: int = 0) -> str:
    """A code block of a page of the guide."""
    text = (GUIDE / f"{page}.md").read_text()
    found: list[str] = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
    return found[number]


def run(page: str, names: dict[str, Any], number: int = 0) -> dict[str, Any]:
    """What a code block of a page defines, given names."""
    exec(compile(block(page, "python", number), page, "exec"), names)
    return names


# ---------------------------------------------------------------- a codec


@pytest.fixture
def ternary(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The page's codec, put where the page puts it."""
    codecs: Any = dict(CODECS)
    run("codec", {**run("codec", {"__name__": "ternary"}), "CODECS": codecs}, 1)
    for name, codec in codecs.items():
        monkeypatch.setitem(CODECS, name, codec)  # type: ignore[arg-type]
    return codecs["ternary"]


@pytest.mark.parametrize("count", [0, 1, 3, 4, 63, 64, 65, 4097])
def test_the_pages_codec_brings_every_size_back(ternary: Any, count: int) -> None:
    values = torch.randn(count, generator=torch.Generator().manual_seed(count)) * 1e-3
    data = codec_named("ternary").encode(values)
    assert ternary.bounds(count) == (len(data), len(data))
    decoded = ternary.decode(data, count)
    assert decoded.shape == values.shape
    assert distortion(values, decoded) < 1
    assert ternary.encode(decoded) == data  # one delta, one payload
    assert rungs_from("int4")[-1] == "ternary"


def test_the_pages_codec_refuses_what_no_encoder_writes(ternary: Any) -> None:
    data = bytearray(ternary.encode(torch.ones(6)))
    for place, what in ((-1, 0b1100_0000), (2, 0b11)):
        bad = bytearray(data)
        bad[place] |= what
        with pytest.raises(CodecError, match="ternary"):
            ternary.decode(bytes(bad), 6)
    with pytest.raises(CodecError, match="bytes"):
        ternary.decode(bytes(data[:-1]), 6)
    with pytest.raises(NotFiniteError):
        ternary.encode(torch.tensor([float("nan")]))


def test_the_guide_says_all_places_where_a_codecs_name_stands() -> None:
    assert set(get_args(CodecName)) == set(CODECS)


# ---------------------------------------------------------------- a rule


def test_the_pages_rule_leaves_a_liar_out_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("faba")
    monkeypatch.setitem(sys.modules, "faba", module)  # dataclasses look there
    names = run("rule", module.__dict__)
    monkeypatch.setattr("gobelin.server.rules.RULES", dict(RULES))
    run("rule", names, 1)
    generator = torch.Generator().manual_seed(0)
    common = torch.randn(1000, generator=generator)
    honest = [common + 0.1 * torch.randn(1000, generator=generator) for _ in range(4)]
    deltas = [*honest, -10 * common]
    weights = [Fraction(1, 5)] * 5

    def merged(given: list[torch.Tensor]) -> torch.Tensor:
        return aggregate(InMemory(given), weights, make_rule("faba")).delta

    expected = sum(honest[1:], honest[0]) / 5  # what the liar had stays on the base
    torch.testing.assert_close(merged(deltas), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(merged(deltas), merged(deltas[::-1]))
    # The mean, beside it, follows the liar.
    mean = aggregate(InMemory(deltas), weights, make_rule("mean")).delta
    assert torch.dot(mean, common) < 0 < torch.dot(merged(deltas), common)


def test_the_guide_says_all_places_where_a_rules_name_stands() -> None:
    field = AggregationSettings.model_fields["rule"]
    assert set(get_args(field.annotation)) == set(RULES)


# ---------------------------------------------------------------- an objective


def test_the_pages_objective_is_trained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    module = ModuleType("barlow")
    monkeypatch.setitem(sys.modules, "barlow", module)
    run("objective", module.__dict__)
    named = re.search(r'entry-points\."(.+)"\]\n(\w+) = "(.+)"', block("objective", "toml"))
    assert named is not None
    group, kind, value = named.groups()
    assert group == OBJECTIVES.group
    monkeypatch.setattr(plugins, "entry_points", lambda group: [EntryPoint(kind, value, group)])
    OBJECTIVES.__dict__.pop("_installed", None)
    try:
        (tmp_path / "barlow.toml").write_text(block("objective", "toml", 1))
        recipe = load_recipe(str(tmp_path / "barlow.toml"))
        random = np.random.default_rng(0)
        images = torch.from_numpy(draw(MILLS["north"], random.integers(0, 6, 128), random))
        trainer = LocalTrainer(recipe, BatchStream(MemorySource(images, None), 32, seed=1).batch)
        losses: list[float] = []
        base = ParameterVector.of(build_jepa(recipe, seed=0))
        trainer.train(base, LocalSteps(0, 80, 80, 1, 2), lambda step: losses.append(step.loss))
        assert sum(losses[-20:]) < 0.7 * sum(losses[:20])
    finally:
        OBJECTIVES.__dict__.pop("_installed", None)
