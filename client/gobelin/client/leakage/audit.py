"""The audit: real updates over local steps and batch sizes, and what each attack makes of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from gobelin.client.leakage.inversion import (
    CONTROL_DB,
    Inversion,
    invert_update,
    positive_control,
    require_invertible,
)
from gobelin.client.leakage.membership import COMPANY, FEWEST, Scorer, Separation, tell_apart
from gobelin.client.leakage.update import Planted, Setting, Update, make_update
from gobelin.shared.data import Source, Subset
from gobelin.shared.errors import ConfigError, DataError
from gobelin.shared.model import build_jepa
from gobelin.shared.recipe import Recipe
from gobelin.shared.seeds import derive_seed, generator_of
from gobelin.shared.vector import ParameterVector

PRIVACY = "no DP: empirical leakage only"
FEWEST_SAMPLES = 64


@dataclass(frozen=True)
class Audit:
    """What is asked of one audit."""

    settings: tuple[Setting, ...]
    samples: int = 512  # of the node's data that it trains on, at most; as many are left out
    scored: int = 96  # members, and others, that are scored, at most
    canaries: int = 64  # planted, and as many that are not
    images: int = 8  # solved for by inversion, at most
    iterations: int = 100  # of inversion
    inversion: bool = True
    codec: str = "fp32"
    seed: int = 0
    node_seed: int | None = None  # derived from `seed` unless given


@dataclass(frozen=True)
class Found:
    """What the attacks made of one setting's update."""

    setting: Setting
    seen: int  # distinct samples it was trained on
    inversion: Inversion | None
    membership: dict[str, Separation] | None  # by score
    canaries: dict[str, Separation] | None

    def facts(self) -> dict[str, Any]:
        """As plain data; None for what was not measured."""
        said = asdict(self)
        return {**said.pop("setting"), **_finite(said)}


@dataclass(frozen=True)
class LeakageReport:
    """The curve, and the control without which it would say nothing."""

    control: Inversion | None
    found: list[Found]
    base_digest: str
    audit: Audit

    @property
    def conclusive(self) -> bool:
        """Whether the attack succeeds where it must: else its failures prove nothing."""
        return self.control is not None and self.control.psnr_db >= CONTROL_DB

    def facts(self) -> dict[str, Any]:
        """As plain data."""
        asked = {k: v for k, v in asdict(self.audit).items() if k not in ("settings", "node_seed")}
        return {
            "privacy": PRIVACY,
            "conclusive": self.conclusive,
            "control_needs_db": CONTROL_DB,
            "control": None if self.control is None else _finite(asdict(self.control)),
            "base_digest": self.base_digest,
            **asked,
            "settings": [found.facts() for found in self.found],
        }


@dataclass(frozen=True)
class _Samples:
    """What the node trains on, and what it does not."""

    source: Planted  # members, canaries behind them
    held: int  # members
    canaries_out: Tensor  # (n, ...) raw
    others: Tensor  # (n, ...) raw samples of the same data, left out
    company: Tensor  # (COMPANY, ...) raw, in neither


def audit_leakage(
    recipe: Recipe,
    modality: str | None,
    source: Source[Any],
    audit: Audit,
    base: ParameterVector | None = None,
    on_setting: Callable[[Setting], None] | None = None,
) -> LeakageReport:
    """Make the update of each setting from a node's data, and attack it.

    Without a `base` the recipe's initial weights are taken. Raises ConfigError where inversion is
    asked for and not written for the recipe, DataError on too few samples.
    """
    if audit.inversion:
        require_invertible(recipe, modality)
    base = base or ParameterVector.of(build_jepa(recipe, audit.seed))
    data = _split(recipe, modality, source, audit)
    control = None
    if audit.inversion:
        pixels = _pixels(data.others)
        image = data.source.read(np.array([0]))
        control = positive_control(
            recipe, modality, image, pixels.mean(dim=0), 4 * audit.iterations, audit.seed
        )
    found = []
    for setting in audit.settings:
        if on_setting is not None:
            on_setting(setting)
        found.append(_attack(recipe, modality, data, base, setting, audit))
    return LeakageReport(control, found, base.digest, audit)


def settings_of(steps: Sequence[int], batches: Sequence[int], batch_size: int) -> list[Setting]:
    """The curve over local steps at the recipe's batch, then that over batches at one step.

    Raises ConfigError on what local steps cannot be.
    """
    if not steps or min(steps) < 1:
        raise ConfigError("an update has one local step at least", "give --local-steps 1,10")
    if batches and min(batches) < 2:
        raise ConfigError("a node trains on batches of 2 at least", "give --batch-sizes 2,8")
    wanted = [Setting(h, batch_size) for h in steps] + [Setting(1, b) for b in batches]
    return list(dict.fromkeys(wanted))


def _split(recipe: Recipe, modality: str | None, source: Source[Any], audit: Audit) -> _Samples:
    """Half of the data is held, as if it were all the node has; the other half is not."""
    total = len(source)
    half = min(audit.samples, (total - COMPANY) // 2)
    if half < FEWEST_SAMPLES:
        need = 2 * FEWEST_SAMPLES + COMPANY
        raise DataError(f"{total} samples are too few for an audit", f"give {need} or more")
    order = np.random.default_rng(audit.seed).permutation(total)
    members, rest = np.sort(order[:half]), order[half : 2 * half + COMPANY]
    company, others = source.read(np.sort(rest[:COMPANY])), source.read(np.sort(rest[COMPANY:]))
    random = generator_of(audit.seed, "canaries")
    made = recipe.modality(modality).made_up(2 * audit.canaries, random)
    if not isinstance(made, Tensor) or not isinstance(others, Tensor):
        raise ConfigError("trajectories cannot be audited yet", "audit another modality")
    planted, out = made[: audit.canaries], made[audit.canaries :]
    return _Samples(Planted(Subset(source, members), planted), half, out, others, company)


def _attack(
    recipe: Recipe,
    modality: str | None,
    data: _Samples,
    base: ParameterVector,
    setting: Setting,
    audit: Audit,
) -> Found:
    node_seed = audit.node_seed
    if node_seed is None:
        node_seed = derive_seed(audit.seed, "node", "audited")
    update = make_update(
        recipe, modality, data.source, base, setting, audit.codec, audit.seed, node_seed
    )
    inversion = _invert(recipe, modality, data, update, audit) if audit.inversion else None
    scorer = Scorer(recipe, modality, update, data.company)
    members, canaries = _seen(update, data, audit)
    scored = data.others[: audit.scored]
    return Found(
        setting=setting,
        seen=len(update.seen),
        inversion=inversion,
        membership=_told(scorer, data.source, members, scored),
        canaries=_told(scorer, data.source, canaries, data.canaries_out),
    )


def _told(
    scorer: Scorer, source: Planted, members: npt.NDArray[np.int64], others: Tensor
) -> dict[str, Separation] | None:
    """None for too few members to say."""
    if len(members) < FEWEST:
        return None
    return tell_apart(scorer.scores(source.read(members)), scorer.scores(others))


def _seen(
    update: Update, data: _Samples, audit: Audit
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Which members were trained on, some of them, and which canaries."""
    members = update.seen[update.seen < data.held]
    members = np.random.default_rng(audit.seed).permutation(members)[: audit.scored]
    return np.sort(members), update.seen[update.seen >= data.held]


def _invert(
    recipe: Recipe, modality: str | None, data: _Samples, update: Update, audit: Audit
) -> Inversion:
    """Truth is the first batch, then whatever else was seen: natural samples and canaries."""
    rest = np.setdiff1d(update.seen, update.first)
    seen = _pixels(data.source.read(np.concatenate([update.first, rest])))
    unseen = _pixels(data.others)
    return invert_update(
        recipe, modality, update, seen, unseen, unseen.mean(dim=0), audit.images, audit.iterations
    )


def _pixels(images: Tensor) -> Tensor:
    """uint8 (n, C, H, W) as [0, 1]."""
    return images.double() / 255


def _finite(value: Any) -> Any:
    """NaN as None, which JSON has."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
