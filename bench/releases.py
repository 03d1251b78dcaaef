"""Consensus releases for studies of the sovereign build: trained once a seed, kept in a folder.

Three members have Dirichlet(0.3) shares of 40,000 Fashion-MNIST images and federate in this process
with the product's defaults (the mean, no momentum). 20,000 further images belong to no member: the
public set of an aggregator, and the labelled data of three regions. Real images, made-up scanners:
the region `plain` has them as they are, `turned` by 90°, `negative` as negatives.

A seed's folder holds checkpoints (bare ones: a study takes them unsigned, and says so):

* `round-08`, `round-12`, `round-16`: releases of one federation of 16 rounds of 25 local steps,
  each going on from the last, as Gobelin's do: the frame is handed on by the weights.
* `refounded`: the same members' 16 rounds from another initial model, under other slices: as good
  a release, and its frame has nothing to do with the others'.
* `solo`: what one member makes alone of the same number of steps.

In a study:

    from bench.releases import federation, public, region

    releases = federation(seed)        # trains what is not there yet; 5 core-minutes
    before, after = releases["round-12"], releases["round-16"]  # `Checkpoint`s
    mine = region("turned", seed)      # .labelled and .test, `MemorySource`s with labels
    general = public(seed)             # the same of images as the consensus knows them

`python -m bench.releases --seeds 0 1 2 3 4 --folder FOLDER` trains ahead of them. The folder is
that option, else $GOBELIN_BENCH_RELEASES, else .cache/releases. A checkpoint is there whole or not
at all, so a run that is ended goes on where it was; empty the folder when training changes.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench.premium_images import read
from examples.in_process import federate_in_process
from examples.processes import one_thread
from gobelin.server.broadcast import Broadcast
from gobelin.shared.checkpoint import MANIFEST, Checkpoint, read_checkpoint, write_checkpoint
from gobelin.shared.data import MemorySource
from gobelin.shared.data.fashion_mnist import CLASS_NAMES, TEST, TRAIN, fetch_fashion_mnist
from gobelin.shared.data.partition import dirichlet
from gobelin.shared.recipe import load_recipe
from gobelin.shared.seeds import derive_seed
from gobelin.shared.vector import ParameterVector

KEEP = "GOBELIN_BENCH_RELEASES"
RECIPE = "tiny"
MEMBERS = ("archive", "museum", "school")
ALPHA, MINIMUM = 0.3, 1_000  # of the members' shares; images of the smallest
ROUNDS, LOCAL_STEPS = 16, 25
RELEASES = {8: "round-08", 12: "round-12", 16: "round-16"}
NAMES = (*RELEASES.values(), "solo", "refounded")
OUTSIDE, PUBLIC = 20_000, 2_000  # images of no member, and those of them that are public
REGIONS = ("plain", "turned", "negative")


@dataclass(frozen=True)
class Labelled:
    """Labelled images to build on and labelled images to be judged by; no member has any."""

    labelled: MemorySource
    test: MemorySource


def federation(
    seed: int, folder: Path | None = None, names: Sequence[str] = NAMES
) -> dict[str, Checkpoint]:
    """The checkpoints of a seed by name; those that are not there are trained first."""
    place = (folder or _folder()) / f"seed-{seed}"
    missing = {name for name in names if not (place / name / MANIFEST).exists()}
    if missing & set(RELEASES.values()):
        _federate(place, seed, derive_seed(seed, "federation"), RELEASES)
    if "solo" in missing:
        _alone(place / "solo", seed)
    if "refounded" in missing:
        _federate(place, seed, derive_seed(seed, "refounded"), {ROUNDS: "refounded"})
    return {name: read_checkpoint(place / name) for name in names}


def region(name: str, seed: int) -> Labelled:
    """A region's own 6,000 labelled images, and 5,000 it is judged by, as its scanner gives them.

    Regions have different images of the same clothes; the 5,000 are of Fashion-MNIST's test set.
    """
    images, labels = _outside(seed)
    pool = np.array_split(np.arange(PUBLIC, OUTSIDE), len(REGIONS))[REGIONS.index(name)]
    test, test_labels = read(_data() / TEST, 10_000, seed)
    return Labelled(
        MemorySource(scanned(images[pool], name), labels[pool], CLASS_NAMES),
        MemorySource(scanned(test[:5_000], name), test_labels[:5_000], CLASS_NAMES),
    )


def public(seed: int) -> Labelled:
    """2,000 labelled images as the members' are, which anybody may have, and 5,000 to test on.

    The test images are those that no region is judged by.
    """
    images, labels = _outside(seed)
    test, test_labels = read(_data() / TEST, 10_000, seed)
    return Labelled(
        MemorySource(images[:PUBLIC], labels[:PUBLIC], CLASS_NAMES),
        MemorySource(test[5_000:], test_labels[5_000:], CLASS_NAMES),
    )


def scanned(images: Tensor, name: str) -> Tensor:
    """Images (N, C, H, W) as a region's scanner gives them."""
    if name == "turned":
        return torch.rot90(images, dims=(2, 3)).contiguous()
    return 255 - images if name == "negative" else images


def members(seed: int) -> dict[str, MemorySource]:
    """The members' private images."""
    images, labels = read(_data() / TRAIN, 60_000, seed)
    images, labels = images[OUTSIDE:], labels[OUTSIDE:]
    shares = dirichlet(labels, len(MEMBERS), ALPHA, seed, MINIMUM)
    return {
        name: MemorySource(images[share], labels[share])
        for name, share in zip(MEMBERS, shares, strict=True)
    }


def _federate(place: Path, seed: int, root: int, name: Mapping[int, str]) -> None:
    """Train a federation from the initial model and slices of `root`, keeping rounds with names."""
    recipe = load_recipe(RECIPE)
    kept: dict[int, ParameterVector] = {}

    def keep(number: int, told: Broadcast) -> None:
        if number in name:
            kept[number] = told.consensus

    federate_in_process(recipe, members(seed), ROUNDS, LOCAL_STEPS, root, on_broadcast=keep)
    for number, vector in kept.items():
        facts = {"federation": f"study {seed}", "round": number, "seed": root}
        write_checkpoint(place / name[number], recipe, vector, facts)


def _alone(folder: Path, seed: int) -> None:
    """Train one member alone, by as many steps, from the same initial model."""
    recipe, root, steps = load_recipe(RECIPE), derive_seed(seed, "federation"), ROUNDS * LOCAL_STEPS
    mine = {MEMBERS[0]: members(seed)[MEMBERS[0]]}
    vector = federate_in_process(recipe, mine, 1, steps, root)
    write_checkpoint(folder, recipe, vector, {"federation": f"study {seed}", "solo": MEMBERS[0]})


def _outside(seed: int) -> tuple[Tensor, Tensor]:
    """Images and labels that no member has."""
    return read(_data() / TRAIN, OUTSIDE, seed)


def _data() -> Path:
    return fetch_fashion_mnist(Path(".cache"))


def _folder() -> Path:
    return Path(os.environ.get(KEEP, ".cache/releases"))


def main() -> None:
    """Train what is not there yet, seed by seed, in this process."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--folder", type=Path, help=f"else ${KEEP}, else .cache/releases")
    options = parser.parse_args()
    one_thread()
    for names in ((*RELEASES.values(),), ("solo",), ("refounded",)):  # what most studies need first
        for seed in options.seeds:
            federation(seed, options.folder, names)
            print(f"seed {seed}: {', '.join(names)}", flush=True)


if __name__ == "__main__":
    main()
