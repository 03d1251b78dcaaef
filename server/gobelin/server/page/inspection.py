"""Inspection: what of releases takes a model to know, in a process that ends when it is known.

`python -m gobelin.server.page.inspection HOME RELEASE ...` verifies each release and prints a JSON
line of it; of the first one named also the embedding map, where the operator named public samples.
The page's own process then never holds a model.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from gobelin.server.home import AggregatorHome, FederationSettings
from gobelin.shared.checkpoint import Checkpoint, read_checkpoint
from gobelin.shared.data import Source
from gobelin.shared.errors import GobelinError
from gobelin.shared.evaluation.charts import principal_plane
from gobelin.shared.evaluation.embed import BATCH, at_rest, draw
from gobelin.shared.model import hollow_jepa, lent, weights_of
from gobelin.shared.release import verify_release

POINTS = 600  # of the map
MOST_CLASSES = 12  # told apart by colour; more are drawn alike


def main() -> None:
    """Inspect the releases named."""
    home, names = AggregatorHome(Path(sys.argv[1])), sys.argv[2:]
    torch.set_num_threads(1)
    public = home.aggregator_key()
    for name in names:
        verdict, found = "holds", ""
        try:
            verify_release(home.releases / name, public)
        except GobelinError as error:
            verdict, found = "broken", error.what.replace(str(home.folder), "").lstrip("/")
        print(json.dumps({"release": name, "verified": verdict, "found": found}), flush=True)
    if names:
        print(json.dumps({"map": names[0], **embedding_map(home, names[0])}), flush=True)


def embedding_map(home: AggregatorHome, name: str) -> dict[str, Any]:
    """Points (x, y, class) of public samples in the release's principal plane.

    Empty where the operator named no public samples; never of anybody's private data.
    """
    settings = home.settings()
    probe = settings.releases.probe or settings.policy.probe
    if probe is None:
        return {"points": [], "classes": []}
    try:
        checkpoint = read_checkpoint(home.releases / name)
        source = checkpoint.recipe.modality(settings.releases.modality).open(probe)
        return _points(settings, checkpoint, source)
    except GobelinError as error:
        return {"points": [], "classes": [], "why": error.what.replace(str(probe), "the probe")}


def _points(settings: FederationSettings, checkpoint: Checkpoint, source: Source) -> dict[str, Any]:
    """The map's points, each axis scaled to −1 … 1."""
    chosen = draw(source, POINTS, settings.seed, "embedding map")
    model = hollow_jepa(checkpoint.recipe)
    encoder = model.encoder(settings.releases.modality)
    features = []
    with lent(model, weights_of(checkpoint.vector)), at_rest(encoder), torch.no_grad():
        for start in range(0, len(chosen), BATCH):
            prepared = encoder.prepare(source.read(chosen[start : start + BATCH]))
            features.append(encoder.features(prepared).float())
    plane = principal_plane(torch.cat(features))
    plane = plane / plane.abs().amax(dim=0).clamp_min(1e-12)
    labels = [0] * len(chosen) if source.labels is None else source.labels[chosen].tolist()
    count = max(labels, default=0) + 1
    names = getattr(source, "class_names", None) or [str(n) for n in range(count)]
    told = [str(one) for one in names][:count] if 1 < count <= MOST_CLASSES else []
    points = [
        [round(float(x), 3), round(float(y), 3), label if told else 0]
        for (x, y), label in zip(plane.tolist(), labels, strict=True)
    ]
    return {"points": points, "classes": told}


if __name__ == "__main__":
    main()
