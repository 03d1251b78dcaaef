"""Every group of tensors is averaged over the members that trained it, under the cap."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gobelin.server.aggregation import InMemory
from gobelin.server.groups import Moved, move_groups
from gobelin.server.merge import Counted, Merger
from gobelin.server.outer import Nesterov, Sgd, make_outer, step_fragment
from gobelin.server.rules import RULES, make_rule
from gobelin.shared.errors import ConfigError
from gobelin.shared.fragments import SHARED, Fragment, fragment_of_round, fragments_of
from gobelin.shared.vector import ParameterSchema

SHAPES = {
    "predictors.robot.w": (2,),
    "projector.w": (3,),
    "tokenizers.image.w": (2,),
    "tokenizers.robot.w": (4,),
    "trunk.blocks.0.w": (3,),
    "trunk.blocks.1.w": (2,),
}
SCHEMA = ParameterSchema.of_shapes(SHAPES)
WHOLE = fragment_of_round(SCHEMA, 1, 1)
MODALITIES = ("image", "robot")
BASE = torch.linspace(-1, 1, SCHEMA.size)
OF = {"a": "image", "b": "image", "c": "robot"}
IMAGE, ROBOT, ALL = (
    torch.cat([torch.arange(*SCHEMA.offsets[n]) for n in SHAPES if of in n])
    for of in (".image", ".robot", "")
)
TRUNK = torch.tensor(sorted(set(ALL.tolist()) - set(IMAGE.tolist()) - set(ROBOT.tolist())))

Sent = Mapping[str, tuple[str, Tensor]]  # by member: its modality, and what it moved (P,) by


def moved(
    sent: Sent,
    merger: Merger | None = None,
    outer: Any = None,
    fragment: Fragment = WHOLE,
    base: Tensor = BASE,
    before: Moved | None = None,
) -> Moved:
    names = sorted(sent)
    deltas = {
        group.group: InMemory(
            [
                group.within(fragment.part(sent[n][0])).take(fragment.part(sent[n][0]).take(whole))
                for n in names
                for whole in [sent[n][1]]
                if group.trained_by(sent[n][0])
            ]
        )
        for group in fragment.groups(MODALITIES)
    }
    return move_groups(
        merger or Merger(),
        outer or Sgd(),
        fragment,
        MODALITIES,
        deltas,
        [Counted(name, modality=sent[name][0]) for name in names],
        base,
        before.outer if before else {},
        before.merge if before else {},
    )


def noise(seed: int, of: Mapping[str, str] = OF) -> dict[str, tuple[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return {n: (m, torch.randn(SCHEMA.size, generator=generator)) for n, m in of.items()}


def test_a_tokenizer_is_averaged_over_the_members_that_trained_it_and_the_trunk_over_all() -> None:
    sent = noise(0)
    step = moved(sent).values - BASE
    a, b, c = (sent[name][1] for name in "abc")
    torch.testing.assert_close(step[IMAGE], (a + b)[IMAGE] / 2)
    torch.testing.assert_close(step[ROBOT], c[ROBOT])
    torch.testing.assert_close(step[TRUNK], (a + b + c)[TRUNK] / 3)


@pytest.mark.parametrize("rule", sorted(RULES))
def test_members_without_images_leave_the_bits_of_the_image_tokenizer_alone(rule: str) -> None:
    merger = Merger(make_rule(rule), 0.6)
    few, many = {**OF}, {**OF, "d": "robot", "e": "robot"}
    loud = {n: (m, d * (1 if m == "image" else 1000)) for n, (m, d) in noise(1, many).items()}
    quiet, crowded = moved(noise(1, few), merger), moved(loud, merger)
    assert torch.equal(quiet.values[IMAGE], crowded.values[IMAGE])
    assert not torch.equal(quiet.values[TRUNK], crowded.values[TRUNK])


def test_the_cap_holds_in_every_group_and_its_residual_stays_on_the_base() -> None:
    """Three members share the trunk in full; of a tokenizer two may take 0.8, and one 0.4."""
    one = torch.ones(SCHEMA.size)
    found = moved({n: (m, one) for n, m in OF.items()}, Merger(cap=0.4))
    step = found.values - BASE
    assert step[TRUNK].tolist() == pytest.approx([1.0] * len(TRUNK), abs=1e-6)
    assert step[IMAGE].tolist() == pytest.approx([0.8] * len(IMAGE), abs=1e-6)
    assert step[ROBOT].tolist() == pytest.approx([0.4] * len(ROBOT), abs=1e-6)
    groups = found.merged.facts["groups"]
    residuals = {name: group["residual"] for name, group in groups.items()}
    assert residuals == pytest.approx({SHARED: 0, "image": 0.2, "robot": 0.6})


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(MODALITIES), min_size=1, max_size=6),
    st.sampled_from(sorted(RULES)),
    st.sampled_from([0.2, 0.34, 0.5, 1.0]),
    st.integers(0, 1000),
)
def test_no_member_has_more_influence_on_the_whole_than_the_cap(
    of: list[str], rule: str, cap: float, seed: int
) -> None:
    sent = noise(seed, {f"m{i}": modality for i, modality in enumerate(of)})
    sent = {n: (m, d * 10.0 ** (seed % (3 + i))) for i, (n, (m, d)) in enumerate(sent.items())}
    found = moved(sent, Merger(make_rule(rule), cap)).merged
    shares = [row["influence"] for row in found.members.values()]
    assert set(found.members) == set(sent)
    assert max(shares) <= cap + 1e-9
    assert sum(shares) <= 1 + 1e-9
    for group in found.facts["groups"].values():
        assert max(row["weight"] for row in group["members"].values()) <= cap
        assert max(row["influence"] for row in group["members"].values()) <= cap + 1e-9


def test_influence_on_the_whole_is_by_all_that_a_member_moved() -> None:
    """Of twelve parts of equal length, each divided by who trained it."""
    found = moved({n: (m, torch.zeros(SCHEMA.size)) for n, m in OF.items()})
    assert {row["influence"] for row in found.merged.members.values()} == {0.0}
    sent = {n: (m, torch.zeros(SCHEMA.size)) for n, m in OF.items()}
    for _, delta in sent.values():
        delta[TRUNK[0]] = 3.0
    sent["c"][1][ROBOT[0]] = 1.0
    rows = moved(sent).merged.members
    # the trunk moved by 3, a third each; the robot's own by 1, which is c's alone
    shares = {name: row["influence"] for name, row in rows.items()}
    assert shares == pytest.approx({"a": 1 / 4, "b": 1 / 4, "c": 2 / 4})
    assert rows["c"]["norm"] == pytest.approx(10**0.5)


def test_a_group_nobody_trained_stays_and_its_momentum_waits() -> None:
    outer = Nesterov(0.7, 0.9)
    first = moved(noise(3), outer=outer)
    images = {n: row for n, row in noise(4).items() if n != "c"}
    second = moved(images, outer=outer, base=first.values, before=first)
    assert torch.equal(second.values[ROBOT], first.values[ROBOT])
    assert not torch.equal(second.values[TRUNK], first.values[TRUNK])
    third = moved(noise(5), outer=outer, base=second.values, before=second)
    at_once = moved(noise(5), outer=outer, base=first.values, before=first)
    assert torch.equal(third.values[ROBOT], at_once.values[ROBOT])
    alone = moved(noise(5), outer=outer, base=first.values)  # without any momentum
    assert not torch.equal(third.values[ROBOT], alone.values[ROBOT])


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(sorted(RULES)),
    st.sampled_from(["sgd", "nesterov", "adam", "yogi"]),
    st.sampled_from([0.3, 1.0]),
    st.integers(1, 2),
    st.integers(0, 1000),
)
def test_one_modality_has_the_bits_of_a_merge_and_a_step(
    rule: str, kind: str, cap: float, count: int, seed: int
) -> None:
    """Two rounds, with what rule and outer optimizer remember."""
    schema = ParameterSchema.of_shapes({n: s for n, s in SHAPES.items() if "robot" not in n})
    merger, outer = Merger(make_rule(rule), cap), make_outer(kind)
    counted = [Counted(name) for name in "abc"]
    base = values = torch.linspace(-1, 1, schema.size)
    outer_state, memory = {}, {}
    found = Moved(base, merger.merge(InMemory([base]), counted[:1], {}), {}, {})
    for number in (1, 1 + count):
        fragment = fragment_of_round(schema, count, number)
        generator = torch.Generator().manual_seed(seed + number)
        deltas = InMemory([torch.randn(fragment.schema.size, generator=generator) for _ in "abc"])
        by_group = {"": deltas}
        found = move_groups(
            merger, outer, fragment, ("",), by_group, counted, found.values, found.outer,
            found.merge,
        )  # fmt: skip
        merged = merger.merge(deltas, counted, memory)
        memory = merged.state
        values, outer_state = step_fragment(outer, fragment, values, merged.delta, outer_state)
        assert torch.equal(found.values, values)
        assert found.merged.members == merged.members
        assert found.merged.facts == merged.facts
        assert set(found.outer) == set(outer_state)


@pytest.mark.parametrize("count", [1, 2])
def test_parts_and_groups_cover_a_fragment_and_share_nothing(count: int) -> None:
    for fragment in fragments_of(SCHEMA, count):
        groups = fragment.groups(MODALITIES)
        names = [name for group in groups for name in group.names]
        assert sorted(names) == sorted(fragment.names)
        for modality in MODALITIES:
            mine = {n for g in groups if g.trained_by(modality) for n in g.names}
            assert fragment.part(modality).names == mine
            assert not any(spec.modality not in ("", modality) for spec in
                           fragment.part(modality).schema.tensors)  # fmt: skip


def test_fragments_that_some_members_would_have_no_part_in_are_refused() -> None:
    with pytest.raises(ConfigError, match="too many"):
        fragments_of(SCHEMA, 4)
    one = ParameterSchema.of_shapes({n: s for n, s in SHAPES.items() if "robot" not in n})
    assert len(fragments_of(one, 4)) == 4
