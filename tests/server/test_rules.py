"""Aggregation rules: the mean where all agree, bounded where some lie, the same bits always."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gobelin.server import geometry
from gobelin.server.aggregation import InMemory, aggregate, weighted_mean
from gobelin.server.fixed_point import LIMIT, exact_sum
from gobelin.server.geometry import LEAST, Geometry, norms, tree_sum
from gobelin.server.merge import Merger
from gobelin.server.ranks import in_order
from gobelin.server.rules import RULES, CenteredClipping, Krum, Rule, make_rule
from tests.server.counting import counted

SIZE = 4 * LEAST + 37  # with `_short_turns`: several turns and pieces, the last one odd
ROBUST = ["trimmed_mean", "median", "geometric_median", "centered_clipping", "clipped_mean"]
EVERY: dict[str, Rule] = {**{name: make_rule(name) for name in RULES}, "krum": Krum()}


@pytest.fixture(autouse=True)
def _short_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geometry, "PIECE", LEAST)
    monkeypatch.setattr(geometry, "TURN", 2 * LEAST)


def deltas(count: int, seed: int = 0, size: int = SIZE, scale: float = 1e-2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(size, generator=generator) for _ in range(count)]


def evenly(count: int) -> list[Fraction]:
    return [Fraction(1, count)] * count


def merge(rule: Rule, given: list[Tensor], previous: Tensor | None = None) -> Tensor:
    return aggregate(InMemory(given), evenly(len(given)), rule, previous=previous).delta


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("count", [1, 3, 7, 12])
def test_equal_deltas_are_their_own_aggregate(name: str, count: int) -> None:
    (delta,) = deltas(1)
    found = merge(EVERY[name], [delta] * count)
    assert torch.allclose(found, delta, rtol=1e-6, atol=1e-11)


@pytest.mark.parametrize("name", ["mean", "clipped_mean", "median", "trimmed_mean"])
def test_equal_deltas_on_the_grid_come_back_to_the_bit(name: str) -> None:
    delta = deltas(1, scale=1.0)[0].mul(2**20).round().div(2**20)
    assert torch.equal(merge(EVERY[name], [delta] * 7), delta)


@pytest.mark.parametrize("name", EVERY)
def test_the_order_of_the_deltas_does_not_change_a_bit(name: str) -> None:
    given = [*deltas(6), *deltas(1, seed=9, scale=50.0)]
    previous = deltas(1, seed=5)[0]
    first = merge(EVERY[name], given, previous)
    for order in ([6, 5, 4, 3, 2, 1, 0], [3, 0, 6, 2, 5, 1, 4]):
        assert torch.equal(first, merge(EVERY[name], [given[i] for i in order], previous))


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("threads", [1, 3])
def test_the_number_of_threads_does_not_change_a_bit(name: str, threads: int) -> None:
    given, before = deltas(5), torch.get_num_threads()
    expected = merge(EVERY[name], given)
    torch.set_num_threads(threads)
    try:
        assert torch.equal(merge(EVERY[name], given), expected)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("name", EVERY)
def test_a_common_scale_scales_the_aggregate(name: str) -> None:
    given = deltas(5)
    scaled = merge(EVERY[name], [8 * delta for delta in given])
    assert torch.allclose(scaled, 8 * merge(EVERY[name], given), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("name", ["mean", "trimmed_mean", "median", "geometric_median", "krum"])
def test_a_common_shift_shifts_the_aggregate(name: str) -> None:
    given, (shift,) = deltas(6), deltas(1, seed=4)
    moved = merge(EVERY[name], [delta + shift for delta in given])
    assert torch.allclose(moved, merge(EVERY[name], given) + shift, rtol=1e-4, atol=1e-6)


def test_centered_clipping_moves_with_deltas_and_last_aggregate() -> None:
    given, (shift, previous) = deltas(6), deltas(2, seed=4)
    still = merge(CenteredClipping(), given, previous)
    moved = merge(CenteredClipping(), [delta + shift for delta in given], previous + shift)
    assert torch.allclose(moved, still + shift, rtol=1e-4, atol=1e-6)


def test_centered_clipping_is_the_papers_formula() -> None:
    given, (previous,), radius = deltas(4, size=50), deltas(1, seed=4, size=50), 0.08
    expected = previous.clone()
    for delta in given:
        away = delta - previous
        expected += away * min(1.0, radius / float(away.norm())) / 4
    assert torch.allclose(merge(CenteredClipping(radius), given, previous), expected, atol=1e-8)


@pytest.mark.parametrize("name", ROBUST)
@pytest.mark.parametrize("attack", ["one place", "opposite", "scattered"])
def test_two_liars_of_twelve_at_a_million_leave_the_error_bounded(name: str, attack: str) -> None:
    honest = deltas(10)
    centre = torch.stack(honest).mean(dim=0)
    far = 1e6 * torch.ones(SIZE)
    lies = {
        "one place": [far, far],
        "opposite": [-1e6 * centre, -1e6 * centre],
        "scattered": [1e6 * delta for delta in deltas(2, seed=8)],
    }[attack]
    widest = max(float((delta - centre).norm()) for delta in honest)
    assert float((merge(make_rule("mean"), [*honest, *lies]) - centre).norm()) > 100 * widest
    assert float((merge(EVERY[name], [*honest, *lies]) - centre).norm()) < 2 * widest


@pytest.mark.parametrize("name", ["median", "geometric_median"])
def test_medians_withstand_any_minority(name: str) -> None:
    honest, far = deltas(7), 1e6 * torch.ones(SIZE)
    centre = torch.stack(honest).mean(dim=0)
    widest = max(float((delta - centre).norm()) for delta in honest)
    assert float((merge(EVERY[name], [*honest, *[far] * 5]) - centre).norm()) < 3 * widest


SMALL = st.lists(
    st.lists(st.floats(-8, 8, width=32), min_size=3, max_size=3), min_size=1, max_size=7
)


@given(SMALL)
def test_the_median_is_numpys(values: list[list[float]]) -> None:
    given = torch.tensor(values)
    expected = given.double().quantile(0.5, dim=0, interpolation="midpoint").float()
    assert torch.allclose(merge(make_rule("median"), list(given)), expected)


@given(SMALL.filter(lambda rows: len(rows) == 5))
def test_the_trimmed_mean_is_that_of_the_middle(values: list[list[float]]) -> None:
    given = torch.tensor(values)
    expected = given.double().sort(dim=0).values[1:-1].mean(dim=0).float()
    assert torch.allclose(merge(make_rule("trimmed_mean", 0.2), list(given)), expected)


@given(SMALL, st.lists(st.integers(1, 5), min_size=7, max_size=7))
@settings(max_examples=50)
def test_sorted_rules_count_a_weight_as_so_many_deltas(
    values: list[list[float]], times: list[int]
) -> None:
    given = [torch.tensor(row) for row in values]
    total = sum(times[: len(given)])
    weights = [Fraction(n, total) for n, _ in zip(times, given, strict=False)]
    repeated = [row for row, n in zip(given, times, strict=False) for _ in range(n)]
    for name in ("median", "trimmed_mean"):
        found = aggregate(InMemory(given), weights, make_rule(name)).delta
        assert torch.allclose(found, merge(make_rule(name), repeated), atol=1e-5)


@given(SMALL)
@settings(max_examples=50)
def test_the_geometric_median_is_no_farther_in_sum_than_mean_and_members(
    values: list[list[float]],
) -> None:
    given = [torch.tensor(row) for row in values]

    def distances(point: Tensor) -> float:
        return sum(float((row.double() - point.double()).norm()) for row in given)

    found = merge(make_rule("geometric_median"), given)
    assert distances(found) <= distances(merge(make_rule("mean"), given)) * 1.001 + 1e-4


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 13, 32])
def test_values_are_put_in_order(count: int) -> None:
    given = [delta.mul(50).round() for delta in deltas(count, size=500)]  # with many equal values
    assert torch.equal(torch.stack(in_order(given)), torch.stack(given).sort(dim=0).values)


@pytest.mark.parametrize("count", range(1, 12))
def test_the_network_orders_every_sequence_of_zeros_and_ones(count: int) -> None:
    """Which proves it for all values (Knuth, The Art of Computer Programming, 5.3.4 Z)."""
    columns = torch.tensor(list(itertools.product([0.0, 1.0], repeat=count)))  # (2ⁿ, n)
    ordered = torch.stack(in_order(list(columns.T.contiguous())))
    assert torch.equal(ordered, columns.T.sort(dim=0).values)


def test_krum_picks_one_of_the_crowd() -> None:
    crowd, far = deltas(6), [100.0 * delta for delta in deltas(2, seed=3)]
    found = merge(Krum(liars=2), [*crowd, *far])
    assert any(torch.allclose(found, delta, atol=1e-9) for delta in crowd)


@pytest.mark.parametrize("name", EVERY)
def test_weights_of_sum_below_one_shrink_the_step(name: str) -> None:
    given = deltas(4)
    whole = aggregate(InMemory(given), evenly(4), EVERY[name]).delta
    half = aggregate(InMemory(given), [Fraction(1, 8)] * 4, EVERY[name]).delta
    assert torch.allclose(half, whole / 2, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("name", EVERY)
def test_all_zero_deltas_stay_zero(name: str) -> None:
    assert not merge(EVERY[name], [torch.zeros(9)] * 3).any()


@pytest.mark.parametrize("weights", [[Fraction(1)] * 2, [Fraction(1)], [Fraction(2), Fraction(-1)]])
def test_weights_that_are_none_are_refused(weights: list[Fraction]) -> None:
    with pytest.raises(ValueError, match="weights"):
        aggregate(InMemory(deltas(2, size=9)), weights, make_rule("mean"))


# ---------------------------------------------------------------- exact arithmetic


@given(SMALL, st.data())
def test_the_mean_is_the_rational_mean_rounded(
    values: list[list[float]], data: st.DataObject
) -> None:
    parts = data.draw(st.lists(st.integers(1, 50), min_size=len(values), max_size=len(values)))
    weights = [Fraction(part, sum(parts)) for part in parts]
    found = weighted_mean(InMemory([torch.tensor(row) for row in values]), weights)
    for i in range(3):
        exact = sum(w * Fraction(row[i]) for w, row in zip(weights, values, strict=True))
        assert abs(float(found[i]) - float(exact)) <= 2**-24 * abs(float(exact)) + 2.0**-37


def test_sums_are_exact_where_floats_are_not() -> None:
    big, tiny = torch.tensor([4096.0]), torch.tensor([2.0**-30])
    for order in itertools.permutations([big, tiny, -big]):
        found = weighted_mean(InMemory(list(order)), evenly(3))
        assert float(found) == pytest.approx(2.0**-30 / 3, rel=1e-6)


def test_half_a_step_of_the_grid_goes_to_the_even_one_in_any_order() -> None:
    steps = [0.5, 1.5, 2.5, -0.5, -1.5, 7.0]  # of 2⁻⁴⁰
    rows = [torch.tensor([step * 2.0**-40]) for step in steps]
    nearest = math.fsum(round(step) * 2.0**-40 for step in steps)
    for order in itertools.permutations(rows):
        out = torch.empty(1)
        exact_sum(order, [1.0] * len(rows), [1.0] * len(rows), out)
        assert float(out) == nearest


def test_two_thousand_members_at_the_limit_are_still_summed_exactly() -> None:
    count = 2000
    rows = [torch.full((2,), LIMIT if i % 2 else LIMIT / 3) for i in range(count)]
    mix = [1 / (1 + i) / 9 for i in range(count)]
    peaks = [float(row[0]) for row in rows]
    there, back = torch.empty(2), torch.empty(2)
    exact_sum(rows, mix, peaks, there)
    exact_sum(rows[::-1], mix[::-1], peaks[::-1], back)
    assert torch.equal(there, back)
    exact = sum(share * float(row[0]) for share, row in zip(mix, rows, strict=True))
    assert there.tolist() == pytest.approx([exact] * 2, rel=1e-6)


def test_an_aggregate_by_the_mean_is_the_weighted_mean() -> None:
    given = deltas(5)
    assert torch.equal(merge(make_rule("mean"), given), weighted_mean(InMemory(given), evenly(5)))


def test_norms_and_products_are_those_of_fp64() -> None:
    given = deltas(3)
    stacked = torch.stack(given).double()
    assert norms(InMemory(given)) == pytest.approx(stacked.norm(dim=1).tolist(), rel=1e-14)
    gram = torch.tensor(Geometry(InMemory(given)).gram, dtype=torch.float64)
    assert torch.allclose(gram, stacked @ stacked.T, rtol=1e-12)
    assert float(tree_sum(torch.ones(5))) == 5


# ---------------------------------------------------------------- memory


PEAK = """
import sys, tempfile, threading, time
from fractions import Fraction
from pathlib import Path
import torch
from gobelin.server.aggregation import aggregate
from gobelin.server.deltas import RoundDeltas
from gobelin.server.rules import make_rule
from gobelin.shared.vector import ParameterSchema, ParameterVector
rule, count, peak = sys.argv[1], int(sys.argv[2]), 0
def look():
    global peak
    while True:
        rows = dict(line.split(":") for line in open("/proc/self/status") if ":" in line)
        peak = max(peak, int(rows["RssAnon"].split()[0]))
        time.sleep(0.001)
threading.Thread(target=look, daemon=True).start()
schema = ParameterSchema.of_shapes({"w": (1 << 20,)})
with tempfile.TemporaryDirectory() as folder:
    deltas = RoundDeltas(Path(folder) / "collecting", schema.size)
    for i in range(count):
        deltas.add(f"{i:04d}", ParameterVector(schema, torch.full((schema.size,), 1e-3 * i)))
    aggregate(deltas, [Fraction(1, count)] * count, make_rule(rule))
print(peak // 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads anonymous memory from /proc")
@pytest.mark.parametrize("name", ["mean", "median", "geometric_median", "centered_clipping"])
def test_memory_does_not_grow_by_a_vector_a_member(name: str) -> None:
    """48 vectors of 4 MiB more on disk: 192 MiB that must not be in memory."""
    peaks = [
        int(subprocess.check_output([sys.executable, "-c", PEAK, name, count], text=True))
        for count in ("4", "52")
    ]
    assert peaks[1] - peaks[0] < 64


# ---------------------------------------------------------------- diagnostics


def test_members_that_agree_have_cosine_and_retained_norm_one() -> None:
    (delta,) = deltas(1)
    figures = aggregate(InMemory([delta] * 4), evenly(4), make_rule("mean")).figures
    assert figures.cosine == pytest.approx(1, abs=1e-4)
    assert figures.retained_norm == pytest.approx(1, abs=1e-4)
    assert figures.sign_all == figures.sign_most == pytest.approx(1, abs=1e-4)


def test_orthogonal_members_retain_one_over_the_root_of_their_number() -> None:
    figures = aggregate(InMemory(deltas(4)), evenly(4), make_rule("mean")).figures
    assert figures.cosine == pytest.approx(0, abs=0.01)
    assert figures.retained_norm == pytest.approx(0.5, abs=0.01)
    assert figures.sign_all == pytest.approx(2 / 2**4, abs=0.01)
    assert figures.sign_most == pytest.approx((2 + 8) / 2**4, abs=0.01)
    assert figures.kept == pytest.approx([0.25] * 4, abs=0.01)


def test_the_cosine_is_the_mean_over_pairs() -> None:
    given = deltas(5)
    given[1] = -given[0] * 3
    figures = aggregate(InMemory(given), evenly(5), make_rule("mean")).figures
    pairs = [
        float(torch.cosine_similarity(a, b, dim=0)) for a, b in itertools.combinations(given, 2)
    ]
    assert figures.cosine == pytest.approx(sum(pairs) / len(pairs), abs=1e-5)


def minority(size: int = 4000) -> list[Tensor]:
    """Five members move the first half of the model, one moves the other half."""
    generator = torch.Generator().manual_seed(0)
    common = torch.randn(size // 2, generator=generator)
    rows = [
        torch.cat(
            [common + 0.1 * torch.randn(size // 2, generator=generator), torch.zeros(size // 2)]
        )
        for _ in range(5)
    ]
    return [*rows, torch.cat([torch.zeros(size // 2), torch.randn(size // 2, generator=generator)])]


def test_rules_that_drop_a_minority_say_so_and_the_mean_does_not() -> None:
    names = [*"abcde", "minority"]
    losses = {}
    for rule in RULES:
        merged = Merger(make_rule(rule)).merge(InMemory(minority()), counted(names), {})
        losses[rule] = merged.members["minority"]["minority_loss"]
        assert max(merged.members[name]["minority_loss"] for name in "abcde") < 0.1
        assert set(merged.minority) == ({"minority"} if losses[rule] > 0.5 else set())
    assert losses["mean"] == losses["clipped_mean"] == pytest.approx(0, abs=0.02)
    assert losses["median"] == pytest.approx(1, abs=0.02)
    assert losses["trimmed_mean"] > 0.6
    assert losses["geometric_median"] > 0.5


def test_a_loud_liar_does_not_make_the_yardstick() -> None:
    honest = deltas(6)
    merged = Merger(make_rule("clipped_mean")).merge(
        InMemory([*honest, -1000 * honest[0]]), counted("abcdefz"), {}
    )
    assert max(merged.members[name]["minority_loss"] for name in "bcdef") < 0.1
