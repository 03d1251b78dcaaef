"""SIGReg's ways of computing the same: recurrence in blocks, direct form, several ranks."""

from __future__ import annotations

import multiprocessing
import socket
from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from gobelin.shared.objective import harmonics
from gobelin.shared.objective.harmonics import Direct, Harmonics, Recurrence
from gobelin.shared.objective.ranks import Ranks
from gobelin.shared.objective.sigreg import characteristic, directions, sigreg

KNOTS, DELTA = 17, 3.0 / 16


def sample(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def in_full(x: Tensor, alpha: Tensor, beta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sums and series of harmonics by definition."""
    k = torch.arange(KNOTS).double()
    angles = x[..., None] * DELTA * k  # (V, N, M, K)
    series = (alpha[:, None] * angles.cos() + beta[:, None] * angles.sin())[..., 1:].sum(dim=-1)
    return angles.cos().sum(dim=1), angles.sin().sum(dim=1), series


@pytest.mark.parametrize("kind", [Recurrence, Direct])
@pytest.mark.parametrize("shape", [(1, 7, 5), (3, 40, 130), (5, 300, 64)])
def test_sums_and_series_are_those_of_the_definition(
    kind: Callable[[], Harmonics], shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harmonics, "BLOCK", 40 * 64)  # several blocks of columns, or of views
    monkeypatch.setattr(harmonics, "AT_ONCE", KNOTS * 3 * 40 * 60)
    x = 2 * sample(*shape)
    alpha, beta = sample(shape[0], shape[2], KNOTS, seed=1), sample(shape[0], shape[2], KNOTS)
    cosines, sines, kept = kind().sums(x, KNOTS, DELTA)
    series = kind().series(kept, alpha, beta, DELTA)
    for found, exact in zip((cosines, sines, series), in_full(x, alpha, beta), strict=True):
        torch.testing.assert_close(found, exact, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shape", [(64, 256), (3, 64, 256), (300, 200), (2, 2000, 128)])
def test_blocks_leave_no_trace_in_the_bits(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    x = (2 * sample(*shape)).float().requires_grad_()

    def found() -> tuple[Tensor, ...]:
        statistic = sigreg(x, torch.eye(shape[-1]))
        return *characteristic(x, KNOTS, 3.0), statistic, torch.autograd.grad(statistic, x)[0]

    blocked = found()
    monkeypatch.setattr(harmonics, "BLOCK", 1 << 30)
    for with_blocks, without in zip(blocked, found(), strict=True):
        assert torch.equal(with_blocks, without)


# ---------------------------------------------------------------- ranks

SHARES = (12, 8)  # samples a rank: unequal on purpose
OFFSET = (0.01 * sample(2, 32, 17, seed=8), 0.01 * sample(2, 32, 17, seed=9))


def model() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Linear(16, 5)).double()


def loss(net: nn.Module, images: Tensor, ranks: Ranks | None) -> Tensor:
    """SIGReg of two views, under the slices of one step."""
    z = torch.stack([net(images), net(images.flip(1))])
    return sigreg(z, directions(11, 5, 32), 17, 3.0, OFFSET, ranks)


def rank_main(rank: int, port: int, answers: multiprocessing.Queue[object]) -> None:
    """One rank: its share of the batch, through DistributedDataParallel."""
    torch.set_num_threads(1)
    where = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=where, rank=rank, world_size=len(SHARES))
    share = sample(sum(SHARES), 6).split(SHARES)[rank]
    parallel = nn.parallel.DistributedDataParallel(model())
    value = loss(parallel, share, Ranks())
    value.backward()
    gradient = torch.cat([p.grad.flatten() for p in parallel.parameters() if p.grad is not None])
    apart = loss(parallel.module, share, None)
    answers.put((rank, value.item(), apart.item(), gradient.tolist()))
    dist.destroy_process_group()


def test_ranks_reach_the_value_and_the_gradient_of_one_process() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    ranks = [
        context.Process(target=rank_main, args=(r, port, answers), daemon=True)
        for r in range(len(SHARES))
    ]
    for process in ranks:
        process.start()
    found = sorted(answers.get(timeout=120) for _ in ranks)
    for process in ranks:
        process.join(30)
    alone = model()
    value = loss(alone, sample(sum(SHARES), 6), None)
    value.backward()
    exact = torch.cat([p.grad.flatten() for p in alone.parameters() if p.grad is not None])
    for _, together, apart, gradient in found:
        assert together == pytest.approx(value.item(), rel=1e-12)
        assert apart != pytest.approx(value.item(), rel=0.05)  # what no reduction would give
        torch.testing.assert_close(
            torch.tensor(gradient, dtype=torch.float64), exact, rtol=1e-9, atol=1e-12
        )
