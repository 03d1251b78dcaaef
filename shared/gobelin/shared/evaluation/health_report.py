"""The health of a checkpoint on given data: all figures of `health`, and what the alarm says."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from gobelin.shared.alarm import Alarm, collapse_alarm
from gobelin.shared.data import Batch, Source, Trajectories
from gobelin.shared.errors import ConfigError, DataError
from gobelin.shared.evaluation.embed import at_rest, draw
from gobelin.shared.health import Health, frame_rotation, lidar, measure_health, straightness
from gobelin.shared.model import Encoder
from gobelin.shared.objective import ObjectiveRecipe
from gobelin.shared.seeds import derive_seed, generator_of

SAMPLES = 1024
LIDAR_VIEWS = 10  # of each sample
LIDAR_SAMPLES = 256  # whose views are compared
GAUSSIAN, POINT = 1.06, 0.41  # N · T/N of a Gaussian, and T/N of one point (arXiv:2511.08544)


@dataclass(frozen=True)
class HealthReport:
    """Health, and what takes views, episodes or another model to tell."""

    health: Health
    alarm: Alarm | None
    lidar: float | None  # None where the modality makes single views
    straightness: float | None  # of trajectories' latents, None for other data
    rotation: float | None  # degrees against the base, where one is given
    spectrum: Tensor  # (D,) shares of the features' variance, falling
    deviations: Tensor  # (D,) of the features, falling

    def facts(self) -> dict[str, Any]:
        """Plain JSON."""
        alarm = self.alarm and {"kind": self.alarm.kind.value, "found": self.alarm.found}
        return {
            **asdict(self.health),
            "collapse_floor": GAUSSIAN / self.health.samples,
            "collapse_point": POINT,
            "lidar": self.lidar,
            "straightness": self.straightness,
            "rotation_degrees": self.rotation,
            "alarm": alarm,
        }


def report_health(
    encoder: Encoder,
    objective: ObjectiveRecipe,
    source: Source[Any],
    *,
    base: Encoder | None = None,
    samples: int = SAMPLES,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> HealthReport:
    """Look at `samples` of a source, labelled or not, beside a base model if there is one.

    Raises DataError on fewer than two samples, ConfigError on a base of other features.
    """
    chosen = draw(source, samples, seed, "health samples")
    if len(chosen) < 2:
        raise DataError(f"{len(chosen)} samples have no health", "give 2 or more")
    batch = source.read(chosen).to(device)
    with at_rest(encoder), torch.no_grad():
        features, projections = _looked_at(encoder, batch)
        health = measure_health(features, projections, objective, derive_seed(seed, "health"))
        sound, rotation = None, None
        if base is not None:
            with at_rest(base):
                its, its_projections = _looked_at(base, batch)
            if its.shape != features.shape:
                what = f"features of {features.shape[1]} and of {its.shape[1]} dimensions"
                raise ConfigError(what, "give a base of the same recipe")
            sound = measure_health(its, its_projections, objective, derive_seed(seed, "health"))
            rotation = frame_rotation(features, its)
        views = _views(encoder, batch[slice(0, LIDAR_SAMPLES)], seed)
    deviation = features.std(dim=0, correction=0).sort(descending=True).values.cpu()
    return HealthReport(
        health=health,
        alarm=collapse_alarm(health, sound),
        lidar=None if views is None else lidar(views),
        straightness=_straightness(projections, batch),
        rotation=rotation,
        spectrum=spectrum(features),
        deviations=deviation,
    )


def spectrum(features: Tensor) -> Tensor:
    """Shares (min(N, D),) of the variance of (N, D) along its own directions, falling."""
    centred = features.double() - features.double().mean(dim=0)
    values = torch.linalg.svdvals(centred).square()
    shares: Tensor = values / values.sum().clamp(min=1e-300)
    return shares.cpu()


def _looked_at(encoder: Encoder, batch: Batch) -> tuple[Tensor, Tensor]:
    """Features and projections of a raw batch."""
    features = encoder.features(encoder.prepare(batch)).float()
    return features, encoder.projector(features).float()


def _views(encoder: Encoder, batch: Batch, seed: int) -> Tensor | None:
    """Features (V, N, D) of LIDAR_VIEWS augmented views of whole samples, None if none differ."""
    if isinstance(batch, Trajectories):
        return None
    found: list[Tensor] = []
    while len(found) < LIDAR_VIEWS:
        made = encoder.modality.views(batch, generator_of(seed, "lidar views", len(found)))
        whole = made.stacks[0][: made.leading]
        found += [encoder.features(view).float() for view in whole]
    return torch.stack(found[:LIDAR_VIEWS])


def _straightness(projections: Tensor, batch: Batch) -> float | None:
    """Of the latents of every window of two steps or more."""
    if not isinstance(batch, Trajectories) or batch.actions.shape[1] < 2:
        return None
    return straightness(projections.view(len(batch), -1, projections.shape[1]))
