"""SIGReg forward and backward: Gobelin's against lejepa's and stable-pretraining's own.

    python -m bench.sigreg --baseline-path lejepa=FOLDER stable-pretraining=FOLDER

where FOLDER holds the unpacked package (`pip download --no-deps`, or a checkout; what they depend
on is not needed: only the classes of the test are taken out of their sources, unchanged). The plain
form of the paper (arXiv:2511.08544, Alg. 1), which both implement, is always measured too, and is
the only baseline where no path is given. All take turns in one process, each draws its own slices,
and the fastest of the repetitions counts, since others may use the machine; processor time is
told beside it.

Values and gradients are compared under the slices that the baseline drew: largest relative error
against them, and of everyone against fp64.

Writes bench/results/sigreg.json; `speedup` is that of the first size and number of threads.
"""

from __future__ import annotations

import argparse
import ast
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.measure import write_result
from gobelin.shared.evaluation.embed import require_device
from gobelin.shared.objective.sigreg import directions, quadrature, sigreg

SIZES = ((256, 128, 1024), (256, 128, 256), (512, 192, 1024), (1024, 64, 1024))  # N, D, M
KNOTS, T_MAX = 17, 3.0
GAUSSIAN_SEED = 0  # theirs is their step counter, which is reset before each call

Statistic = Callable[[Tensor], Tensor]


def main() -> None:
    """Measure every size, write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--baseline-path", nargs="*", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--repetitions", type=int, default=12)
    parser.add_argument("--threads", type=int, nargs="+", default=[2, 1], help="CPU only")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--name", default="sigreg", help="of the result file")
    options = parser.parse_args()
    device = require_device(options.device)
    folders = dict(pair.partition("=")[::2] for pair in options.baseline_path)
    for name, folder in folders.items():
        if name not in LOADERS or not Path(folder, PACKAGES[name]).is_dir():
            parser.error(f"--baseline-path {name}={folder}: give {USAGE} that hold the packages")
    rows = []
    for threads in options.threads if device.type == "cpu" else options.threads[:1]:
        torch.set_num_threads(threads)
        for size in SIZES:
            rows.append(measure(size, folders, device, options.repetitions))
            rows[-1]["threads"] = threads
            print({k: v for k, v in rows[-1].items() if k in ("size", "threads", "speedup")})
    values = {
        "speedup": rows[0]["speedup"],
        "max_rel_error": max(row["max_rel_error"] for row in rows),
        "baselines": sorted(folders) or ["plain"],
        "repetitions": options.repetitions,
        "device": device_name(device),
        "rows": rows,
        "goal": "speedup >= 3 at N=256, D=128, M=1024, max_rel_error <= 1e-5",
    }
    print(write_result(options.name, values))


def measure(
    size: tuple[int, int, int], folders: Mapping[str, str], device: torch.device, repetitions: int
) -> dict[str, Any]:
    """Milliseconds of everyone at N, D, M, and how far values and gradients are apart."""
    samples, dim, slices = size
    random = torch.Generator().manual_seed(1)
    z = (1.3 * torch.randn(samples, dim, generator=random)).to(device).requires_grad_()
    theirs = {"plain": lambda z: plain(z, gaussian(dim, slices, device))}
    theirs |= {name: LOADERS[name](Path(path), slices, device) for name, path in folders.items()}
    turns = {**theirs, "gobelin": lambda z: sigreg(z, directions(0, dim, slices, device))}
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    used: dict[str, list[float]] = {name: [] for name in turns}
    for repetition in range(-2, repetitions):
        for name, statistic in turns.items():
            elapsed, processor = timed(statistic, z)
            if repetition >= 0:  # the first two warm up
                seconds[name].append(elapsed)
                used[name].append(processor)
    best = {name: min(times) for name, times in seconds.items()}
    work = {name: min(times) for name, times in used.items()}
    middle = {name: statistics.median(times) for name, times in seconds.items()}
    rivals = list(folders) or ["plain"]
    return {
        "size": {"N": samples, "D": dim, "M": slices},
        "ms_best": {name: 1e3 * s for name, s in best.items()},
        "ms_median": {name: 1e3 * s for name, s in middle.items()},
        "cpu_ms_best": {name: 1e3 * s for name, s in work.items()},
        "speedup": min(best[name] for name in rivals) / best["gobelin"],
        "speedup_median": min(middle[name] for name in rivals) / middle["gobelin"],
        "speedup_cpu_time": min(work[name] for name in rivals) / work["gobelin"],
        **errors(z, theirs, gaussian(dim, slices, device)),
    }


def timed(statistic: Statistic, z: Tensor) -> tuple[float, float]:
    """Seconds on the clock and of processor time of one forward and backward pass."""
    synchronise(z.device)
    started, used = time.perf_counter(), time.process_time()
    torch.autograd.grad(statistic(z), z)
    synchronise(z.device)
    return time.perf_counter() - started, time.process_time() - used


def errors(z: Tensor, theirs: Mapping[str, Statistic], drawn: Tensor) -> dict[str, Any]:
    """Relative errors of value and gradient under the same slices, the largest of them named."""
    ours = evaluate(lambda z: sigreg(z, drawn), z)
    wide = z.detach().double().requires_grad_()
    exact = evaluate(lambda z: plain(z, drawn.double()), wide)
    found = {name: apart(ours, evaluate(statistic, z)) for name, statistic in theirs.items()}
    to_fp64 = {name: apart(evaluate(statistic, z), exact) for name, statistic in theirs.items()}
    to_fp64["gobelin"] = apart(ours, exact)
    largest = max(max(pair.values()) for pair in [*found.values(), to_fp64["gobelin"]])
    return {"max_rel_error": largest, "rel_error": found, "rel_error_to_fp64": to_fp64}


def evaluate(statistic: Statistic, z: Tensor) -> tuple[Tensor, Tensor]:
    """Value () and gradient (N, D), fp64."""
    value = statistic(z)
    return value.detach().double(), torch.autograd.grad(value, z)[0].double()


def apart(found: tuple[Tensor, Tensor], exact: tuple[Tensor, Tensor]) -> dict[str, float]:
    """Relative errors of value and gradient (by norm)."""
    return {
        name: float((a - b).norm() / b.norm())
        for name, a, b in zip(("value", "gradient"), found, exact, strict=True)
    }


def plain(z: Tensor, slices: Tensor) -> Tensor:
    """The paper's Alg. 1 as written, differentiated by autograd."""
    t, phi, weights = quadrature(KNOTS, T_MAX, z)
    angles = (z @ slices)[..., None] * t  # (N, M, K)
    real, imaginary = angles.cos().mean(dim=0) - phi, angles.sin().mean(dim=0)
    return len(z) * ((real.square() + imaginary.square()) @ weights).mean()


def gaussian(dim: int, slices: int, device: torch.device) -> Tensor:
    """The slices (D, M) that both baselines draw in their first step."""
    random = torch.Generator(device=device).manual_seed(GAUSSIAN_SEED)
    drawn = torch.randn(dim, slices, device=device, generator=random)
    norms: Tensor = drawn.norm(p=2, dim=0)
    return drawn / norms


def lejepa(folder: Path, slices: int, device: torch.device) -> Statistic:
    """lejepa's sliced Epps-Pulley test, from its sources."""
    shared: dict[str, Any] = {"torch": torch, "dist": torch.distributed}
    base = definitions(folder / "lejepa/univariate/base.py", shared)
    test = definitions(folder / "lejepa/univariate/epps_pulley.py", base)["EppsPulley"]
    sliced = definitions(folder / "lejepa/multivariate/slicing.py", shared)
    return from_first_step(sliced["SlicingUnivariateTest"](test(T_MAX, KNOTS), slices).to(device))


def stable_pretraining(folder: Path, slices: int, device: torch.device) -> Statistic:
    """stable-pretraining's sliced Epps-Pulley test, from its sources."""
    shared = {"torch": torch, "nn": nn}
    names = ("EppsPulley", "SlicedEppsPulley")
    found = definitions(folder / "stable_pretraining/methods/lejepa.py", shared, names)
    return from_first_step(found["SlicedEppsPulley"](slices, T_MAX, KNOTS).to(device))


LOADERS: dict[str, Callable[[Path, int, torch.device], Statistic]] = {
    "lejepa": lejepa,
    "stable-pretraining": stable_pretraining,
}
PACKAGES = {"lejepa": "lejepa", "stable-pretraining": "stable_pretraining"}
USAGE = " and ".join(f"{name}=FOLDER" for name in LOADERS)


def from_first_step(test: nn.Module) -> Statistic:
    """The module as a function that always draws its first step's slices."""

    def statistic(z: Tensor) -> Tensor:
        step = test.global_step
        assert isinstance(step, Tensor)
        step.zero_()
        value: Tensor = test(z)
        return value

    return statistic


def definitions(
    path: Path, known: Mapping[str, Any], names: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Functions and classes (all, or those named) of a source file, without its imports."""
    found: list[ast.stmt] = [
        node
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and (not names or node.name in names)
    ]
    scope = dict(known)
    exec(compile(ast.Module(found, []), str(path), "exec"), scope)
    return scope


def synchronise(device: torch.device) -> None:
    """Wait for the accelerator."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def device_name(device: torch.device) -> str:
    """An accelerator by its name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


if __name__ == "__main__":
    main()
