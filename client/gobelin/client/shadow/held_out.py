"""Which of a node's samples train nothing, so that models can be judged on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gobelin.client.home import NodeSettings
from gobelin.shared.data import Format, ImageFormat, Source, Subset
from gobelin.shared.errors import ShadowError
from gobelin.shared.seeds import derive_seed

FEWEST = 10  # held-out samples, below which a figure says nothing
RUN = 16  # neighbours held out together where samples overlap, as windows of one series do


@dataclass(frozen=True)
class Parts:
    """A node's samples: those that train, and those that do not, if any are held out."""

    kept: Source[Any]
    held: Source[Any] | None


def parts_of(settings: NodeSettings, source: Source[Any], form: Format) -> Parts:
    """All of a source's samples, or with a shadow but for the held-out ones.

    Raises ShadowError where too few are held out, or none is left.
    """
    if settings.shadow is None:
        return Parts(source, None)
    run = 1 if isinstance(form, ImageFormat) else RUN
    seed = derive_seed(0, "held out", settings.member, settings.node)
    out = held_out(len(source), settings.shadow.held_out, seed, run)
    if out.sum() < FEWEST or out.all():
        raise ShadowError(
            f"{out.sum()} of {len(source)} samples are held out, at least {FEWEST} must be",
            "raise shadow.held_out in node.toml, or leave [shadow] out",
        )
    kept, held = (np.flatnonzero(which).astype(np.int64) for which in (~out, out))
    return Parts(Subset(source, kept), Subset(source, held))


def held_out(samples: int, share: float, seed: int, run: int = 1) -> npt.NDArray[np.bool_]:
    """Which samples are held out, (N,): each run of neighbours with probability `share`.

    What is said of a sample does not depend on those behind it, so data that grow at the end keep
    their held-out samples. The seed is no secret: places tell nothing of what lies there.
    """
    runs = -(-samples // run)
    drawn = np.random.default_rng(seed).random(runs) < share
    return np.repeat(drawn, run)[:samples]
