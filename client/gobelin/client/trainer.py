"""Local training: a node's long-lived inner loop, from a base vector to a trained one.

Under `torchrun` the processes of a node train together: each takes every W-th sample of a batch,
statistics and gradients are those of the whole batch (see `objective.ranks`), and all end with
the same bytes.

Whatever is random derives from seeds and the global step, and no loader has state: with the
inner optimizer's state at hand, local steps can be repeated to the byte after a kill.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from gobelin.shared.data import Batch
from gobelin.shared.errors import ConfigError, DataError, GobelinError, NamesError, ShapeError
from gobelin.shared.health import Health, effective_rank, measure_health
from gobelin.shared.model import build_jepa
from gobelin.shared.model.projector import BatchNorm
from gobelin.shared.objective import Draw, Moments, Offset
from gobelin.shared.objective.ranks import Ranks
from gobelin.shared.recipe import InnerRecipe, Recipe
from gobelin.shared.seeds import derive_seed, generator_of
from gobelin.shared.vector import ParameterSchema, ParameterVector

MOMENTS = ("exp_avg", "exp_avg_sq")  # AdamW's two, as PyTorch names them
RANK_EVERY = 20  # steps between two measurements of the effective rank
MOMENTS_SAMPLES = 512  # that a node's moments are taken of, at least
HEALTH_SAMPLES = 256  # that the closing health check looks at

Batches = Callable[[int], Batch]  # global step → raw samples (B, ...) of one modality


class DivergedError(GobelinError):
    """Training reached a loss or gradient that is not finite."""

    code, exit_code = "diverged", 24


@dataclass(frozen=True)
class LocalSteps:
    """What one call trains: H steps of the federation's schedule, and the seeds they use."""

    first_step: int  # global step at which they start
    steps: int  # H
    total_steps: int  # of the whole federation; warm-up and cosine run over these
    seed: int  # the federation's: slices derive from it and the step, equal on all nodes
    node_seed: int  # this node's own: augmentation derives from it and the step
    offset: Offset | None = None  # pooled − own moments: SIGReg then tests all nodes' data
    seconds: float = math.inf  # to be done in; fewer steps then, but one at least


@dataclass(frozen=True)
class StepReport:
    """Progress after one step."""

    step: int  # global step just done
    done: int  # of `steps`
    steps: int
    loss: float
    effective_rank: float  # of the features of the latest batch it was measured on
    samples_per_second: float
    seconds_left: float


@dataclass(frozen=True)
class TrainingReport:
    """What the local steps did, means over them; scalars only."""

    steps: int  # as many as were taken: H, or fewer where time was short
    loss: float
    prediction: float
    anti_collapse: float
    collapse: float
    gradient_norm: float  # before clipping
    health: Health  # of the trained model on some of the batches, without augmentation
    samples: int
    seconds: float


class LocalTrainer:
    """Trains a recipe on samples of one of its modalities; model, compiled graph and inner
    optimizer stay warm between calls.

    `batches` gives the samples of a global step and must be a pure function of it; it is called
    from another thread, one step ahead. `modality` may be None where the recipe has only one.
    Where a process group has been started, every rank makes the same calls with the same arguments
    and `batches`; only `on_step` may differ, and must not raise.
    """

    def __init__(
        self,
        recipe: Recipe,
        batches: Batches,
        device: str = "cpu",
        precision: Literal["fp32", "bf16"] = "fp32",
        compile: bool = False,
        clock: Callable[[], float] = time.perf_counter,
        modality: str | None = None,
    ) -> None:
        self.recipe = recipe
        self._clock = clock
        self.batches = batches
        self.device = torch.device(device)
        self.precision = precision
        if self.device.type == "cuda":
            # cuBLAS reads it when its first handle is made; without it, results vary by run.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        self.model = build_jepa(recipe, seed=0).to(self.device)
        for parameter in self.model.parameters():
            if parameter.ndim == 4:  # convolutions are faster so
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        self.schema = ParameterSchema.of(self.model)
        self.encoder = self.model.encoder(modality)
        self.objective = recipe.objective_of(modality)
        own = {id(parameter) for parameter in self.encoder.parameters()}
        self._trained = {n: p for n, p in self.model.named_parameters() if id(p) in own}
        self.optimizer = _adamw(list(self._trained.values()), recipe.inner)
        self.ranks = Ranks.here()
        for module in self.model.modules():
            if isinstance(module, BatchNorm):
                module.ranks = self.ranks
        if compile:
            self.encoder.embed_views = torch.compile(self.encoder.embed_views)  # type: ignore[method-assign]

    def train(
        self,
        base: ParameterVector,
        local: LocalSteps,
        on_step: Callable[[StepReport], None] | None = None,
    ) -> tuple[ParameterVector, TrainingReport]:
        """Train from `base`; returns the trained vector (delta = it − base) and a report.

        The inner optimizer goes on from where the last call left it. If anything fails, also in
        `on_step`, it is put back to where this call found it, and the call can be repeated.
        Steps end early where one more as long as the last would not be done in `local.seconds`;
        those taken are the first of all, so the schedule stays the federation's.
        Raises DivergedError if the loss stops being finite, DataError on unusable batches.
        """
        before = self.state()
        base.load_into(self.model)
        try:
            with _deterministic():
                return self._train(local, on_step)
        except BaseException:
            self.load_state(before)
            raise

    @torch.no_grad()
    def moments(self, base: ParameterVector, local: LocalSteps) -> Moments:
        """The moments of the base's projections of this node's data, before it trains.

        Of the first batches the local steps will see, MOMENTS_SAMPLES samples or all. The inner
        optimizer stays as it is.
        """
        base.load_into(self.model)
        self.model.train()
        projections, samples = [], 0
        with _deterministic():
            for step in range(local.first_step, local.first_step + local.steps):
                if samples >= MOMENTS_SAMPLES:
                    break
                batch = self._on_device(self.batches(step))
                random = generator_of(local.node_seed, "moments views", step)
                with self._autocast():
                    seen = self.objective.projections(self.encoder, batch, random)
                projections.append(seen.float())
                samples += len(batch)
        return Moments.of(torch.cat(projections))

    def state(self) -> dict[str, Tensor]:
        """The inner optimizer's state by flat names, on the CPU: a copy, ready for safetensors."""
        tensors = {"step": torch.zeros(())}
        for name, parameter in self._trained.items():
            kept = self.optimizer.state[parameter]
            tensors["step"] = kept["step"].to("cpu", copy=True)
            for moment in MOMENTS:
                tensors[f"{moment}.{name}"] = kept[moment].to(
                    "cpu", copy=True, memory_format=torch.contiguous_format
                )
        return tensors

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Put the inner optimizer where `state()` was taken; raises NamesError or ShapeError."""
        remedy = "use the state of the same recipe, or start the inner optimizer anew"
        parameters = self._trained
        expected = {f"{m}.{name}": p.shape for m in MOMENTS for name, p in parameters.items()}
        expected["step"] = torch.Size()
        if set(state) != set(expected):
            odd = ", ".join(sorted(set(state) ^ set(expected))[:3])
            raise NamesError(f"inner optimizer state does not fit the model: {odd}", remedy)
        for name, shape in expected.items():
            if state[name].shape != shape:
                found = tuple(state[name].shape)
                raise ShapeError(f"{name} is {found}, the model needs {tuple(shape)}", remedy)
        for name, parameter in parameters.items():
            kept = self.optimizer.state[parameter]
            kept["step"].copy_(state["step"])
            for moment in MOMENTS:
                kept[moment].copy_(state[f"{moment}.{name}"])

    def _train(
        self, local: LocalSteps, on_step: Callable[[StepReport], None] | None
    ) -> tuple[ParameterVector, TrainingReport]:
        self.model.train()
        self.objective.begin(self.encoder)
        started = now = self._clock()
        sums = torch.zeros(5, dtype=torch.float64)
        samples, taken, rank = 0, 0, float("nan")
        for taken, (step, batch) in enumerate(_ahead(self.batches, local), start=1):
            features, numbers = self._step(step, self._on_device(batch, self.ranks), local)
            sums += torch.tensor(numbers, dtype=torch.float64)
            samples += len(batch)
            before, now = now, self._clock()
            if on_step is not None:
                if taken % RANK_EVERY == 1:
                    rank = effective_rank(features)
                rate = samples / (now - started)
                left = (local.steps - taken) * samples / taken / rate
                left = min(left, started + local.seconds - now)
                on_step(StepReport(step, taken, local.steps, numbers[0], rank, rate, left))
            if self._any_rank(now + (now - before) > started + local.seconds, local):
                break
        trained = ParameterVector.of(self.model, self.schema)
        health = self._health(replace(local, steps=taken))
        loss, prediction, anti_collapse, collapse, norm = (sums / taken).tolist()
        return trained, TrainingReport(
            steps=taken,
            loss=loss,
            prediction=prediction,
            anti_collapse=anti_collapse,
            collapse=collapse,
            gradient_norm=norm,
            health=health,
            samples=samples,
            seconds=self._clock() - started,
        )

    def _step(self, step: int, batch: Batch, local: LocalSteps) -> tuple[Tensor, list[float]]:
        """One update; features (B, D) of the batch, and loss parts with the gradient norm."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, local.total_steps, self.recipe.inner)
        ranks = self.ranks
        own = () if ranks is None else (ranks.rank,)
        draw = Draw(
            views=generator_of(local.node_seed, "views", step, *own),
            slices=derive_seed(local.seed, "slices", step),
            offset=local.offset,
            ranks=ranks,
        )
        with self._autocast():
            parts, features = self.objective(self.encoder, batch, draw)
        self.optimizer.zero_grad(set_to_none=True)
        parts.total.backward()  # type: ignore[no-untyped-call]
        if ranks is not None:
            ranks.average(p.grad for p in self._trained.values() if p.grad is not None)
        norm = torch.nn.utils.clip_grad_norm_(self._trained.values(), self.recipe.inner.clip_norm)
        # One transfer from the device a step, before the update can spoil the moments.
        found = torch.stack(
            [parts.total.detach(), parts.prediction, parts.anti_collapse, parts.collapse, norm]
        )
        if ranks is not None:
            ranks.average([found])
        numbers: list[float] = found.tolist()
        if not all(map(math.isfinite, numbers)):
            raise DivergedError(
                f"training diverged at step {step}: the loss is {numbers[0]}",
                "lower inner.lr in the recipe",
            )
        self.optimizer.step()
        self.objective.stepped(self.encoder)
        return features, numbers

    @torch.no_grad()
    def _health(self, local: LocalSteps) -> Health:
        """Health of the model as it is now, on the first batches of these local steps."""
        features, projections, samples = [], [], 0
        for step in range(local.first_step, local.first_step + local.steps):
            if samples >= HEALTH_SAMPLES:
                break
            batch = self._on_device(self.batches(step))
            with self._autocast():
                features.append(self.encoder.features(self.encoder.prepare(batch)).float())
                projections.append(self.model.projector(features[-1]).float())
            samples += len(batch)
        seed = derive_seed(local.seed, "health", local.first_step)
        return measure_health(
            torch.cat(features), torch.cat(projections), self.recipe.objective, seed
        )

    def _on_device(self, batch: Batch, ranks: Ranks | None = None) -> Batch:
        """A batch, or this rank's share of it, on the device.

        Raises DataError unless it is the modality's, B ≥ 2, and ConfigError unless ranks divide it.
        """
        self.encoder.modality.check(batch)
        if len(batch) < 2:
            raise DataError("a batch of one sample has no batch statistics", "use larger batches")
        if ranks is not None:
            if len(batch) % ranks.size or len(batch) < 2 * ranks.size:
                what = f"a batch of {len(batch)} is no two or more samples for each of {ranks.size}"
                raise ConfigError(f"{what} processes", "start a number that divides the batch")
            batch = batch[ranks.rank :: ranks.size]
        return batch.to(self.device, non_blocking=True)

    def _any_rank(self, over: bool, local: LocalSteps) -> bool:
        """Whether any rank says so, as all must stop at one step; asked only where time is set."""
        if self.ranks is None or local.seconds == math.inf:
            return over
        return bool(self.ranks.sum(torch.tensor(float(over), device=self.device)))

    def _autocast(self) -> torch.autocast:
        return torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16"
        )


def learning_rate(step: int, total_steps: int, inner: InnerRecipe) -> float:
    """Linear warm-up, then a cosine from lr to final_lr, over the federation's whole schedule."""
    warmup = max(1, round(inner.warmup * total_steps))
    if step < warmup:
        return inner.lr * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total_steps - warmup))
    return inner.final_lr + (inner.lr - inner.final_lr) * (1 + math.cos(math.pi * progress)) / 2


def _adamw(parameters: Sequence[torch.nn.Parameter], inner: InnerRecipe) -> torch.optim.AdamW:
    """AdamW (arXiv:1711.05101) with decay on matrices only, its state made at once, all zero."""
    matrices = [p for p in parameters if p.ndim >= 2]
    others = [p for p in parameters if p.ndim < 2]  # biases and norms
    groups = [
        {"params": matrices, "weight_decay": inner.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=inner.lr, betas=inner.betas, fused=True)
    for parameter in parameters:
        optimizer.state[parameter] = {
            "step": torch.zeros((), device=parameter.device),
            **{moment: torch.zeros_like(parameter) for moment in MOMENTS},
        }
    return optimizer


def _ahead(batches: Batches, local: LocalSteps) -> Iterator[tuple[int, Batch]]:
    """Each global step with its batch; the next batch is read while the caller trains."""
    steps = range(local.first_step, local.first_step + local.steps)
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches") as reader:
        coming = reader.submit(batches, steps[0])
        for step in steps:
            batch = coming.result()
            if step != steps[-1]:
                coming = reader.submit(batches, step + 1)
            yield step, batch


@contextmanager
def _deterministic() -> Iterator[None]:
    """Ask PyTorch for deterministic kernels where it has them, for the time of a block."""
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic
    fill = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    memory.fill_uninitialized_memory = False  # a debugging aid that costs a pass over memory
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)
        memory.fill_uninitialized_memory = fill
