"""Pictures of cloth, drawn here: six weaves of four mills, each with its own yarns and loom."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from gobelin.shared.data.export import write_idx
from gobelin.shared.seeds import derive_seed

Floats = npt.NDArray[np.float32]
SIZE = 28  # pixels a side
WOBBLE = 4.0  # degrees of standard deviation by which cloth lies askew

# Which thread lies on top, over one repeat: 1 for the warp (runs down), 0 for the weft (across).
WEAVES: dict[str, npt.NDArray[np.int64]] = {
    "plain": np.array([[1, 0], [0, 1]]),
    "basket": np.kron(np.array([[1, 0], [0, 1]]), np.ones((2, 2), np.int64)),
    "rib": np.kron(np.array([[1, 0], [0, 1]]), np.ones((2, 1), np.int64)),
    "twill": np.array([[(i - j) % 4 < 2 for j in range(4)] for i in range(4)]).astype(np.int64),
    "herringbone": np.array(
        [[(i - (j if j < 4 else 7 - j)) % 4 < 2 for j in range(8)] for i in range(4)]
    ).astype(np.int64),
    "satin": np.array([[(j - 2 * i) % 5 != 0 for j in range(5)] for i in range(5)]).astype(
        np.int64
    ),
}


@dataclass(frozen=True, slots=True)
class Mill:
    """What differs between mills: pixels a thread, grey of both yarns, degrees askew, noise."""

    thread: tuple[float, float]
    warp: float
    weft: float
    askew: float = 0.0
    noise: float = 12.0


MILLS = {
    "north": Mill((2.0, 2.6), warp=190, weft=90),
    "south": Mill((2.6, 3.4), warp=80, weft=170),
    "west": Mill((2.2, 3.0), warp=220, weft=150, noise=20),
    "hill": Mill((2.4, 3.2), warp=110, weft=200, askew=30.0),
}


def prepare_weaves(out: Path, images: int, seed: int) -> dict[str, Any]:
    """Write so many pictures of every mill into `out`/MILL/train, a fifth as many into /test.

    IDX files, 28 x 28, grey; the label is the weave. The same pictures whenever the seed is.
    """
    for name, mill in MILLS.items():
        for part, count in (("train", images), ("test", max(1, images // 5))):
            random = np.random.default_rng(derive_seed(seed, "weaves", name, part))
            labels = random.integers(0, len(WEAVES), count)
            pictures = draw(mill, labels, random)
            write_idx(out / name / part, torch.from_numpy(pictures), torch.from_numpy(labels))
    return {"out": str(out), "mills": " ".join(MILLS), "images": images, "seed": seed}


def draw(
    mill: Mill, labels: npt.NDArray[np.int64], random: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """Pictures (N, 1, 28, 28) of cloth of these weaves, each a patch of its own."""
    count = len(labels)
    down, across = _threads(mill, count, random)
    i, j = np.floor(down).astype(np.int64), np.floor(across).astype(np.int64)
    on_top = np.empty(i.shape, bool)
    for label, repeat in enumerate(WEAVES.values()):
        of = labels == label
        on_top[of] = repeat[i[of] % len(repeat), j[of] % len(repeat[0])] == 1
    # No two threads have quite one grey, and each is brighter along its middle.
    own = random.normal(0, 10, (2, count, 64)).astype(np.float32)
    rows = np.arange(count)[:, None, None]
    warp = mill.warp + own[0][rows, j % 64] - 70 * np.abs(across - j - 0.5)
    weft = mill.weft + own[1][rows, i % 64] - 70 * np.abs(down - i - 0.5)
    grey = np.where(on_top, warp, weft) + random.normal(0, mill.noise, on_top.shape)
    pixels: npt.NDArray[np.uint8] = np.clip(grey, 0, 255).astype(np.uint8)[:, None]
    return pixels


def _threads(mill: Mill, count: int, random: np.random.Generator) -> tuple[Floats, Floats]:
    """Where each pixel lies on the cloth, in threads down and across: (N, 28, 28) each."""
    angle = np.deg2rad(mill.askew + random.normal(0, WOBBLE, (count, 1, 1)))
    thread = random.uniform(*mill.thread, (count, 1, 1))
    start = random.uniform(100, 200, (2, count, 1, 1))  # far from 0: all indices are positive
    y, x = np.mgrid[:SIZE, :SIZE] - SIZE / 2
    down = (np.cos(angle) * y + np.sin(angle) * x) / thread + start[0]
    across = (np.cos(angle) * x - np.sin(angle) * y) / thread + start[1]
    return down.astype(np.float32), across.astype(np.float32)
