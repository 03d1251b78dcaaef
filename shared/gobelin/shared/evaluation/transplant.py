"""Head transplant: what a head fitted on one release is worth on the next, without retraining.

Whoever has built on a release wants to know before the next one is taken. A head reads flattened
tokens, so it notices when the latent frame turns between releases. What is measured on public
labelled samples holds for them, and tells what to expect of others.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from gobelin.shared.data import Source
from gobelin.shared.data.partition import hold_out
from gobelin.shared.errors import DataError
from gobelin.shared.evaluation.embed import BATCH, Embedding, Encoder, draw, embed
from gobelin.shared.evaluation.evaluate import count_classes
from gobelin.shared.evaluation.probes import LinearHead, accuracy, linear_probe
from gobelin.shared.frame import Frame
from gobelin.shared.health import frame_rotation

TEST = 0.5  # share of the samples that heads are tested on, and not fitted on


@dataclass(frozen=True)
class Transplant:
    """Accuracies in percent of linear heads on tokens, all tested on the same samples."""

    before: float  # fitted on the old release, on the old release
    untouched: float  # the same head on the new release
    framed: float  # the same head, reading the new release through the frame between the two
    fresh: float  # fitted anew on the new release
    rotation: float  # degrees by which pooled features lie turned against the old release's
    train_samples: int
    test_samples: int

    @property
    def points_lost(self) -> float:
        """What a head loses that reads the new release through the frame published with it."""
        return self.before - self.framed

    @property
    def points_lost_raw(self) -> float:
        """What it loses where the new release is put in the old one's place and no more is done."""
        return self.before - self.untouched

    def facts(self) -> dict[str, Any]:
        """Plain JSON."""
        lost = {"points_lost": self.points_lost, "points_lost_raw": self.points_lost_raw}
        return {**asdict(self), **lost}


def measure_transplant(
    old: Encoder,
    new: Encoder,
    data: Source,
    test: Source | None = None,
    *,
    samples: int,
    seed: int = 0,
    device: torch.device | str = "cpu",
    batch: int = BATCH,
) -> tuple[Transplant, Frame]:
    """What heads lose, and the frame that carries the new release's tokens to the old one's.

    Heads are fitted on labelled `data`, and tested on `test` or on half of `data` held out, of
    which at most `samples` are looked at. The frame is found on the samples that heads are fitted
    on, without their labels. Raises DataError on missing labels, a single class, or too few
    samples.
    """
    classes = count_classes(data)
    chosen = draw(data, samples, seed, "transplant")
    if test is None:
        chosen, held = hold_out(chosen, TEST, seed)
        test = data
    else:
        held = draw(test, samples, seed, "transplant test")
    if not len(chosen) or not len(held):
        what = f"{len(data)} labelled samples are too few to fit and to test a head"
        raise DataError(what, "name more labelled samples")

    def both(source: Source, indices: np.ndarray[Any, np.dtype[np.int64]]) -> list[Embedding]:
        return [embed(m, source, indices, device=device, batch=batch) for m in (old, new)]

    known, known_new = both(data, chosen)
    unseen, unseen_new = both(test, held)
    before, head = linear_probe(known.tokens, known.labels, unseen.tokens, unseen.labels, classes)
    fresh, _ = linear_probe(
        known_new.tokens, known.labels, unseen_new.tokens, unseen.labels, classes
    )
    dim = known.pooled.shape[1]
    shown = (len(known.tokens), -1, dim)
    frame = Frame.between(known_new.tokens.view(shown), known.tokens.view(shown))
    turned = LinearHead(frame.into(head.weight), head.bias)
    found = Transplant(
        before=before,
        untouched=accuracy(head.predict(unseen_new.tokens), unseen.labels),
        framed=accuracy(turned.predict(unseen_new.tokens), unseen.labels),
        fresh=fresh,
        rotation=frame_rotation(known_new.pooled, known.pooled),
        train_samples=len(chosen),
        test_samples=len(held),
    )
    return found, frame
