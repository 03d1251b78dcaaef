"""What a contribution says of its training in numbers, and what of that stays here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from gobelin.client.privacy.training import PrivateTrainer
from gobelin.client.site_policy import SitePolicy
from gobelin.client.trainer import LocalTrainer, TrainingReport
from gobelin.protocols.messages import METRIC_DISTORTION, METRIC_SENT_BYTES
from gobelin.shared.codec import Compressed

NO_PREMIUM: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True)
class Claims:
    """The declared scalars."""

    samples: int
    seconds: float
    metrics: dict[str, float]


def claims_of(
    trainer: LocalTrainer,
    report: TrainingReport,
    seconds: float,
    made: Compressed,
    policy: SitePolicy,
    premium: Mapping[str, float] = NO_PREMIUM,
) -> Claims:
    """What is said of local steps that took `seconds`, and of the delta that came of them.

    `premium` is what this node shares of its own federation premium.

    Nothing else about the data leaves. Beside a delta that was trained with differential privacy
    nothing about them does: what was drawn and how long it took depend on them, and no ε covers it.
    """
    size = {
        METRIC_DISTORTION: made.distortion,
        METRIC_SENT_BYTES: float(made.payload.size),
    }
    if isinstance(trainer, PrivateTrainer):
        return Claims(trainer.told_samples(report.steps), 0.0, size)
    training = {
        "loss": report.loss,
        "prediction": report.prediction,
        "anti_collapse": report.anti_collapse,
        "effective_rank": report.health.effective_rank,
        **premium,
    }
    return Claims(report.samples, seconds, {**(training if policy.metrics else {}), **size})
