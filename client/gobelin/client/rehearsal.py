"""A rehearsal: a few training steps on this node's data and machine, of which nothing is kept.

In a process of its own, so that one that takes too long or too much memory ends alone. What is
reported was measured here: seconds of a step (the first, which warms up, is left out where there
are others), the processes' peak memory, seconds and bytes of encoding a delta.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gobelin.client.home import DataSettings, NodeSettings
from gobelin.shared.errors import ConfigError, GobelinError, MachineError
from gobelin.shared.recipe import Recipe
from gobelin.shared.resident import peak_mb

STEPS = 4  # the first of which is not timed
BUDGET_S = 45.0  # no step begins after it
WAIT_S = 120.0  # for all of it, the reading of data and building of models included


@dataclass(frozen=True)
class Rehearsal:
    """What was measured."""

    device: str
    precision: str
    threads: int
    samples: int  # of this node's data
    skipped: dict[str, Any]  # reasons, counts and first names of what could not be read
    batch_size: int
    tokens: int  # of one whole sample
    parameters: int
    ready_s: float  # to open the data and build the model
    step_s: float
    steps: int  # that `step_s` is the median of
    warm: bool  # whether a step was left out to warm up
    encode_s: float
    payload_bytes: int  # of the delta of these steps, by the terms' codec
    memory_mb: float  # peak of the process, libraries included
    accelerator_mb: float  # peak of what torch took there; 0 on a CPU
    loss: float


def rehearse(settings: NodeSettings, recipe: Recipe, codec: str, budget_s: float) -> Rehearsal:
    """Train a few steps from a model of seed 0 and encode what came of them.

    Raises what would keep this node from training: DataError, ConfigError, PrivacyError,
    DivergedError.
    """
    import torch

    from gobelin.client.privacy.training import PrivateTrainer
    from gobelin.client.trainer import LocalSteps, StepReport
    from gobelin.client.workbench import build_private_trainer, build_trainer, open_parts
    from gobelin.shared.codec import compress
    from gobelin.shared.model import build_jepa
    from gobelin.shared.vector import ParameterVector

    started = time.perf_counter()
    source = open_parts(settings, recipe).kept
    if settings.privacy is None:
        trainer = build_trainer(settings, recipe, 0, source)
    else:
        secret = os.urandom(32)
        trainer = build_private_trainer(settings, settings.privacy, recipe, secret, source)
    base = ParameterVector.of(build_jepa(recipe, seed=0), trainer.schema)
    on_gpu = trainer.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(trainer.device)
    ready = time.perf_counter()
    ends, losses = [ready], []

    def note(step: StepReport) -> None:
        ends.append(time.perf_counter())
        losses.append(step.loss)

    local = LocalSteps(0, STEPS, STEPS, seed=0, node_seed=0, seconds=budget_s)
    try:
        trained, _ = trainer.train(base, local, note)
    except torch.OutOfMemoryError:
        raise ConfigError(
            f"{trainer.device} has too little memory for a batch of {recipe.inner.batch_size}",
            "free it, use bf16 (compute.precision), or join with a larger one",
        ) from None
    took = [end - start for start, end in itertools.pairwise(ends)]
    timed = took[1:] or took
    begun = time.perf_counter()
    made = compress(codec, trained - base, None)
    encoder = trainer.encoder
    sample = encoder.modality.made_up(2, torch.Generator().manual_seed(0))
    prepared = encoder.prepare(trainer.objective.samples(sample.to(trainer.device)))
    peak = torch.cuda.max_memory_allocated(trainer.device) / 1e6 if on_gpu else 0.0
    return Rehearsal(
        device=str(trainer.device),
        precision=trainer.precision,
        threads=torch.get_num_threads(),
        samples=len(source),
        skipped=source.skipped.facts(),
        batch_size=trainer._expected
        if isinstance(trainer, PrivateTrainer)
        else recipe.inner.batch_size,
        tokens=int(encoder.tokenizer(prepared).shape[1]),
        parameters=base.schema.size,
        ready_s=ready - started,
        step_s=statistics.median(timed),
        steps=len(timed),
        warm=len(took) > 1,
        encode_s=time.perf_counter() - begun,
        payload_bytes=made.payload.size,
        memory_mb=peak_mb(),
        accelerator_mb=peak,
        loss=losses[-1] if math.isfinite(losses[-1]) else 0.0,
    )


def rehearse_apart(
    settings: NodeSettings, recipe: Recipe, codec: str, wait_s: float = WAIT_S
) -> Rehearsal:
    """As `rehearse`, in a process of its own; raises MachineError where that does not end well."""
    asked = {
        "settings": settings.model_dump(mode="json"),
        "recipe": recipe.model_dump(mode="json"),
        "codec": codec,
        "budget_s": min(BUDGET_S, wait_s / 2),
    }
    command = [sys.executable, "-P", "-m", "gobelin.client.rehearsal"]
    path = os.pathsep.join(filter(None, map(str, sys.path)))  # the same gobelin as here
    environment = os.environ | {"PYTHONPATH": path}
    try:
        done = subprocess.run(
            command, input=json.dumps(asked), capture_output=True, text=True, timeout=wait_s,
            env=environment, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise MachineError(
            f"one training step was not done within {wait_s:.0f} s",
            "use a smaller recipe, an accelerator (compute.device), or a less busy machine",
        ) from None
    if done.returncode < 0:
        raise MachineError(
            f"the training step was killed by signal {-done.returncode}: most likely memory",
            "free memory, or join with a larger machine",
        )
    try:
        told = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        why = " ".join(done.stderr.split())[-300:]
        raise MachineError(f"the training step failed: {why}", "report it") from None
    if "error" in told:
        error = GobelinError(told["what"], told["remedy"])
        error.code = told["error"]
        raise error
    return Rehearsal(**told)


def main() -> None:
    """The process: what is asked comes as JSON, and so goes the answer."""
    asked = json.loads(sys.stdin.read())
    try:
        settings = NodeSettings.model_validate(asked["settings"])
        recipe = Recipe.model_validate(asked["recipe"])
        found = rehearse(settings, recipe, asked["codec"], asked["budget_s"])
    except GobelinError as error:
        print(json.dumps(error.facts()))
        return
    print(json.dumps(asdict(found)))


def data_settings(path: Path, modality: str | None = None) -> NodeSettings:
    """Settings of a node that has not joined, for data at `path` on this machine."""
    return NodeSettings(
        member="nobody", node="nobody", aggregator="127.0.0.1:1",
        data=DataSettings(path=path, modality=modality),
    )  # fmt: skip


if __name__ == "__main__":
    main()
