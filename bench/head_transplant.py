"""What a head fitted on one release is worth on the next, untouched.

Heads are linear ones on tokens of release k, fitted by a region on its own 2,000 labels, and tested
on 2,000 other images of the region: on release k, on release k + 1 put in its place (`raw`), and on
release k + 1 through the frame that the aggregator publishes with it. The frame is found by
Procrustes on 2,000 public images that no region has, without labels; a federation that names such
images pins its frame. The head's weights are the same in all three; `fresh` is a head fitted anew.

Three pairs of releases (`bench.releases`): rounds 8 and 12, between which the learning rate is
high; 12 and 16, where it has fallen; and round 16 and a release of the same members refounded from
another initial model, whose frame nothing ties to the other's.

`points_lost` is over all regions and both pairs that follow each other, pinned; `raw.points_lost`
the same where the frame is not pinned. Goal: at most 3 points where it is.

Writes bench/results/head_transplant.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.measure import run_all, spread, write_result
from bench.releases import REGIONS, Labelled, federation, public, region
from gobelin.shared.checkpoint import Checkpoint
from gobelin.shared.evaluation.embed import Embedding, embed
from gobelin.shared.evaluation.probes import LinearHead, accuracy, linear_probe
from gobelin.shared.frame import Frame
from gobelin.shared.health import frame_rotation
from gobelin.shared.model import encoder_of

PAIRS = {
    "early": ("round-08", "round-12"),
    "late": ("round-12", "round-16"),
    "refounded": ("round-16", "refounded"),
}
FOLLOWING = ("early", "late")  # releases of one federation, one after the other
SAMPLES = 2_000  # labels of a region, images it is judged by, and public images
CLASSES = 10


@dataclass(frozen=True)
class Job:
    """One pair of releases of one seed, for all regions."""

    pair: str
    seed: int
    folder: Path | None = None


@dataclass(frozen=True)
class Found:
    """Percent on a region's test images."""

    before: float  # on the head's own release
    raw: float  # on the next one
    framed: float  # on the next one, through the published frame
    own: float  # through a frame found on the region's own labelled images
    few: float  # through a frame found on 100 public images
    fresh: float  # a head fitted on the next one
    rotation: float  # degrees, of pooled features, on the public images


def run_job(job: Job) -> dict[str, Found]:
    """What heads of each region lose."""
    names = PAIRS[job.pair]
    releases = federation(job.seed, job.folder, names)
    old, new = (releases[name] for name in names)
    everyones = public(job.seed)
    before, after = (_embed(release, everyones)[0] for release in (old, new))
    frames = [_frame(before, after, count) for count in (SAMPLES, 100)]
    turned = frame_rotation(after.pooled, before.pooled)
    return {name: _of_region(old, new, region(name, job.seed), frames, turned) for name in REGIONS}


def _of_region(
    old: Checkpoint, new: Checkpoint, mine: Labelled, frames: Sequence[Frame], turned: float
) -> Found:
    known, unseen = _embed(old, mine)
    known_new, unseen_new = _embed(new, mine)
    labels = unseen.labels
    before, head = linear_probe(known.tokens, known.labels, unseen.tokens, labels, CLASSES)
    fresh, _ = linear_probe(known_new.tokens, known.labels, unseen_new.tokens, labels, CLASSES)

    def through(weight: Tensor) -> float:
        return accuracy(LinearHead(weight, head.bias).predict(unseen_new.tokens), labels)

    frames = [*frames, _frame(known, known_new, SAMPLES)]
    framed, few, own = (through(frame.into(head.weight)) for frame in frames)
    return Found(before, through(head.weight), framed, own, few, fresh, turned)


def _frame(old: Embedding, new: Embedding, count: int) -> Frame:
    dim = old.pooled.shape[1]
    return Frame.between(*(torch.unflatten(e.tokens[:count], 1, (-1, dim)) for e in (new, old)))


def _embed(release: Checkpoint, data: Labelled) -> tuple[Embedding, Embedding]:
    model, some = encoder_of(release.recipe, release.vector), np.arange(SAMPLES)
    return embed(model, data.labelled, some), embed(model, data.test, some)


def lost(found: Sequence[Found], through: str) -> list[float]:
    """Points each head lost, by what it read the next release through."""
    return [each.before - getattr(each, through) for each in found]


def compared(rows: Mapping[str, Sequence[Mapping[str, Found]]]) -> dict[str, Any]:
    """Flat keys, from each pair's finds seed by seed."""
    values: dict[str, Any] = {}
    for pair, seeds in rows.items():
        every = [found for seed in seeds for found in seed.values()]
        for name in asdict(every[0]):
            values[f"{pair}.{name}"] = spread([getattr(found, name) for found in every])
        for through in ("raw", "framed", "own", "few"):
            values[f"{pair}.lost.{through}"] = spread(lost(every, through))
        for place in REGIONS:
            here = [seed[place] for seed in seeds]
            values[f"{pair}.{place}.lost.raw"] = spread(lost(here, "raw"))
            values[f"{pair}.{place}.lost.framed"] = spread(lost(here, "framed"))
    following = [f for pair in FOLLOWING for seed in rows[pair] for f in seed.values()]
    values["points_lost"] = spread(lost(following, "framed"))
    values["raw.points_lost"] = spread(lost(following, "raw"))
    return values


def main() -> None:
    """Run every pair and seed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--pairs", nargs="+", default=list(PAIRS), choices=list(PAIRS))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="of the releases, see bench.releases")
    parser.add_argument("--name", default="head_transplant", help="of the result file")
    options = parser.parse_args()
    jobs = [Job(pair, seed, options.folder) for seed in options.seeds for pair in options.pairs]
    found = run_all(run_job, jobs, options.workers)
    rows = {pair: [found[job] for job in jobs if job.pair == pair] for pair in options.pairs}
    values = {
        "seeds": options.seeds,
        "labels": SAMPLES,
        "goal": "points_lost <= 3 where the frame is pinned",
    }
    print(write_result(options.name, values | compared(rows)))


if __name__ == "__main__":
    main()
