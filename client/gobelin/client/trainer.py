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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from gobelin.client.deterministic import deterministic
from gobelin.client.inner_optimizer import MOMENTS, adamw, learning_rate
from gobelin.client.reading import Batches, ahead, later
from gobelin.shared.data import Batch
from gobelin.shared.errors import ConfigError, DataError, GobelinError, NamesError, ShapeError
from gobelin.shared.health import Health, effective_rank, measure_health
from gobelin.shared.model import build_jepa
from gobelin.shared.model.projector import BatchNorm
from gobelin.shared.objective import Draw, Moments, Objective, ObjectiveRecipe, Offset
from gobelin.shared.objective.ranks import Ranks
from gobelin.shared.recipe import Recipe
from gobelin.shared.seeds import derive_seed, generator_of
from gobelin.shared.vector import ParameterSchema, ParameterVector

ADDED = "objective"  # what it trains is named so in a trainer's state
RANK_EVERY = 20  # steps between two measurements of the effective rank
MOMENTS_SAMPLES = 512  # that a node's moments are taken of, at least
HEALTH_SAMPLES = 256  # that the closing health check looks at


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

    @property
    def range(self) -> range:
        """The global steps."""
        return range(self.first_step, self.first_step + self.steps)


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


@dataclass(frozen=True)
class StartedStep:
    """A step that was started."""

    step: int
    samples: int  # of all ranks
    features: Tensor  # (B, D)
    scalars: Tensor  # (5,), loss parts and gradient norm, on the CPU or on their way there
    arrived: torch.cuda.Event | None

    @classmethod
    def of(cls, step: int, samples: int, features: Tensor, scalars: Tensor) -> StartedStep:
        """One transfer from the device a step."""
        if not scalars.is_cuda:
            return cls(step, samples, features, scalars.cpu(), None)
        coming = scalars.to("cpu", non_blocking=True)
        arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        arrived.record()
        return cls(step, samples, features, coming, arrived)

    def numbers(self) -> list[float]:
        """The scalars, waited for; raises DivergedError unless all are finite."""
        if self.arrived is not None:
            self.arrived.synchronize()
        numbers: list[float] = self.scalars.tolist()
        if not all(map(math.isfinite, numbers)):
            raise DivergedError(
                f"training diverged at step {self.step}: the loss is {numbers[0]}",
                "lower inner.lr in the recipe",
            )
        return numbers


class LocalTrainer:
    """Trains a recipe on samples of one of its modalities; model, compiled graph and inner
    optimizer stay warm between calls.

    `batches` gives the samples of a global step and must be a pure function of it; it is called
    from another thread, one step ahead. `modality` may be None where the recipe has only one.
    Where a process group has been started, every rank makes the same calls with the same arguments
    and `batches`; only `on_step` may differ, and must not raise.
    """

    fewest = 2  # samples in a batch

    def __init__(
        self,
        recipe: Recipe,
        batches: Batches,
        device: str = "cpu",
        precision: Literal["fp32", "bf16"] = "fp32",
        compile: bool = False,
        clock: Callable[[], float] = time.perf_counter,
        modality: str | None = None,
        objective: Objective[ObjectiveRecipe] | None = None,
        trains: Callable[[str], bool] = lambda name: True,
    ) -> None:
        """`objective` is minimised instead of the recipe's; of the model's parameters only those
        whose names `trains` are moved."""
        self.recipe = recipe
        self._clock = clock
        self.batches = batches
        self.device = torch.device(device)
        self.precision = precision
        # A step's numbers are read after the next has been started, or the device would wait.
        self._lag = int(self.device.type == "cuda")
        if self.device.type == "cuda":
            # cuBLAS reads it when its first handle is made; without it, results vary by run.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        self.model = build_jepa(recipe, seed=0).to(self.device)
        for parameter in self.model.parameters():
            if parameter.ndim == 4:  # convolutions are faster so
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        self.schema = ParameterSchema.of(self.model)
        self.encoder = self.model.encoder(modality)
        self.objective = objective or recipe.objective_of(modality)
        own = {id(parameter) for parameter in self.encoder.parameters()}
        names = {n: p for n, p in self.model.named_parameters() if id(p) in own}
        for name, parameter in names.items():
            parameter.requires_grad_(trains(name))
        self._added = {f"{ADDED}.{n}": p for n, p in self.objective.added().items()}
        self._trained = {n: p for n, p in names.items() if trains(n)} | self._added
        self.optimizer = adamw(list(self._trained.values()), recipe.inner)
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
        until: Callable[[], bool] = lambda: False,
    ) -> tuple[ParameterVector, TrainingReport]:
        """Train from `base`; returns the trained vector (delta = it − base) and a report.

        The inner optimizer goes on from where the last call left it. If anything fails, also in
        `on_step`, it is put back to where this call found it, and the call can be repeated.
        Steps end early where one more as long as the last would not be done in `local.seconds`, or
        `until`, asked after each, says so; those taken are the first of all, so the schedule stays
        the federation's. Several ranks ask the first one's `until` only where seconds are limited.
        Raises DivergedError if the loss stops being finite, DataError on unusable batches.
        """
        before = self.state()
        base.load_into(self.model)
        try:
            with deterministic():
                return self._train(local, on_step, until)
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
        with deterministic():
            for step in local.range:
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
        """The inner optimizer's state by flat names, on the CPU: a copy, ready for safetensors.

        And what the objective trains that is no part of the model.
        """
        tensors = {"step": torch.zeros(())}
        for name, parameter in self._added.items():
            tensors[name] = parameter.detach().to("cpu", copy=True)
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
        expected |= {name: added.shape for name, added in self._added.items()}
        expected["step"] = torch.Size()
        if set(state) != set(expected):
            odd = ", ".join(sorted(set(state) ^ set(expected))[:3])
            raise NamesError(f"inner optimizer state does not fit the model: {odd}", remedy)
        for name, shape in expected.items():
            if state[name].shape != shape:
                found = tuple(state[name].shape)
                raise ShapeError(f"{name} is {found}, the model needs {tuple(shape)}", remedy)
        for name, added in self._added.items():
            added.data.copy_(state[name])
        for name, parameter in parameters.items():
            kept = self.optimizer.state[parameter]
            kept["step"].copy_(state["step"])
            for moment in MOMENTS:
                kept[moment].copy_(state[f"{moment}.{name}"])

    def _train(
        self,
        local: LocalSteps,
        on_step: Callable[[StepReport], None] | None,
        until: Callable[[], bool],
    ) -> tuple[ParameterVector, TrainingReport]:
        self.model.train()
        self.objective.begin(self.encoder)
        started = now = self._clock()
        sums = torch.zeros(5, dtype=torch.float64)
        samples, rank, over = 0, float("nan"), False

        def steps() -> Iterator[StartedStep]:
            for step, batch in ahead(self.batches, local.range, pin=self.device.type == "cuda"):
                yield self._step(step, batch, local)
                if over:
                    return

        for taken, step in enumerate(later(steps(), self._lag), start=1):
            numbers = step.numbers()
            sums += torch.tensor(numbers, dtype=torch.float64)
            samples += step.samples
            before, now = now, self._clock()
            if on_step is not None:
                if taken % RANK_EVERY == 1 and len(step.features) > 1:
                    rank = effective_rank(step.features)
                rate = samples / (now - started)
                left = (local.steps - taken) / taken * (now - started)
                left = min(left, started + local.seconds - now)
                on_step(StepReport(step.step, taken, local.steps, numbers[0], rank, rate, left))
            coming = (1 + self._lag) * (now - before)
            over = self._any_rank(until() or now + coming > started + local.seconds, local)
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

    def _step(self, step: int, batch: Batch, local: LocalSteps) -> StartedStep:
        """One update, under way: nothing here waits for an accelerator."""
        samples, batch = len(batch), self._on_device(batch, self.ranks)
        self._set_rate(step, local)
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
        self.optimizer.step()
        self.objective.stepped(self.encoder)
        found = torch.stack(
            [parts.total.detach(), parts.prediction, parts.anti_collapse, parts.collapse, norm]
        )
        if ranks is not None:
            ranks.average([found])
        return StartedStep.of(step, samples, features, found)

    def _set_rate(self, step: int, local: LocalSteps) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, local.total_steps, self.recipe.inner)

    @torch.no_grad()
    def _health(self, local: LocalSteps) -> Health:
        """Health of the model as it is now, on the first batches of these local steps."""
        features, projections, samples = [], [], 0
        for step in local.range:
            if samples >= HEALTH_SAMPLES:
                break
            batch = self._on_device(self.batches(step))
            with self._autocast():
                prepared = self.encoder.prepare(self.objective.samples(batch))
                features.append(self.encoder.features(prepared).float())
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
        self.encoder.modality.check(self.objective.samples(batch))
        if len(batch) < self.fewest:
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
