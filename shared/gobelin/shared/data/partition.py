"""How one labelled set is split among simulated members, and what each holds out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from torch import Tensor

from gobelin.shared.errors import DataError

Indices = npt.NDArray[np.int64]


def dirichlet(
    labels: Tensor | Indices, members: int, alpha: float, seed: int, minimum: int = 1
) -> list[Indices]:
    """Label-skewed, disjoint parts of all images: sorted indices, one array a member.

    Each class is shared out by proportions drawn from Dirichlet(alpha) (arXiv:1909.06335); small
    alpha, strong skew. Members short of `minimum` images get some of the largest member's.
    Raises DataError when the images do not suffice.
    """
    classes = np.asarray(labels)
    if members < 1 or alpha <= 0:
        raise DataError(
            f"cannot split among {members} members with alpha = {alpha}",
            "give 1 member or more, alpha above 0",
        )
    if len(classes) < members * minimum:
        raise DataError(
            f"{len(classes)} images cannot give {members} members {minimum} each",
            "use fewer members, or more images",
        )
    rng = np.random.default_rng(seed)
    parts: list[list[Indices]] = [[] for _ in range(members)]
    for label in np.unique(classes):
        images = rng.permutation(np.flatnonzero(classes == label))
        shares = rng.dirichlet(np.full(members, alpha))
        cuts = np.round(np.cumsum(shares)[:-1] * len(images)).astype(np.int64)
        for part, piece in zip(parts, np.split(images, cuts), strict=True):
            part.append(piece)
    whole = [np.concatenate(part) if part else np.empty(0, np.int64) for part in parts]
    return [np.sort(part) for part in _fill_up(whole, minimum, rng)]


def even(images: int, members: int, seed: int) -> list[Indices]:
    """Disjoint parts of all images, drawn at random, of equal size but for one image."""
    shuffled = np.random.default_rng(seed).permutation(images)
    return [np.sort(part) for part in np.array_split(shuffled, members)]


def by_class(labels: Tensor | Indices, members: int, seed: int, shards: int = 2) -> list[Indices]:
    """Disjoint parts of all images with few classes each, of nearly equal size.

    The images, ordered by class, are cut into `shards` a member and dealt out (arXiv:1602.05629).
    """
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(labels))
    by_label = shuffled[np.argsort(np.asarray(labels)[shuffled], kind="stable")]
    cut = np.array_split(by_label, members * shards)
    dealt = rng.permutation(members * shards).reshape(members, shards)
    return [np.sort(np.concatenate([cut[shard] for shard in hand])) for hand in dealt]


def hold_out(indices: Indices, share: float, seed: int) -> tuple[Indices, Indices]:
    """Split indices into (kept, held out), each sorted; `share` of them are held out."""
    if not 0 <= share < 1:
        raise DataError(f"a share of {share} cannot be held out", "use 0 ≤ share < 1")
    shuffled = np.random.default_rng(seed).permutation(indices)
    held = round(share * len(shuffled))
    return np.sort(shuffled[held:]), np.sort(shuffled[:held])


def _fill_up(parts: list[Indices], minimum: int, rng: np.random.Generator) -> list[Indices]:
    """Move images from the largest part until each has `minimum`."""
    for i in range(len(parts)):
        while len(parts[i]) < minimum:
            donor = max(range(len(parts)), key=lambda j: len(parts[j]))
            spare = min(minimum - len(parts[i]), len(parts[donor]) - minimum)
            shuffled = rng.permutation(parts[donor])
            parts[i] = np.concatenate([parts[i], shuffled[:spare]])
            parts[donor] = shuffled[spare:]
    return parts
