"""The public probe: images the operator names, on which the aggregator scores contributions."""

from __future__ import annotations

from pathlib import Path

from gobelin.server.evidence import on_grid
from gobelin.shared.data import MemorySource, Source
from gobelin.shared.errors import DataError
from gobelin.shared.evaluation.embed import draw
from gobelin.shared.evaluation.held_out_loss import held_out_loss
from gobelin.shared.model import Weights, hollow_jepa, lent, weights_moved, weights_of
from gobelin.shared.recipe import Recipe
from gobelin.shared.seeds import derive_seed
from gobelin.shared.vector import ParameterVector


def open_probe(path: Path, recipe: Recipe, seed: int, images: int) -> MemorySource:
    """At most so many images at `path`, drawn by the seed, in memory; raises DataError."""
    source = recipe.modality().open(path)
    least = recipe.objective.reference_batch
    if len(source) < least:
        raise DataError(
            f"the probe {path} holds {len(source)} images, the objective needs {least}",
            "name more images in policy.probe",
        )
    return MemorySource(source.read(draw(source, max(images, least), seed, "probe")))


class ProbeLoss:
    """Evidence: by how much a contribution lowers the JEPA loss on the probe.

    The same images, views and slices for every contribution of a federation, so that scores differ
    by the contributions alone. One look takes a forward pass over all views of the images; the
    base's is taken once a round.
    """

    def __init__(self, recipe: Recipe, seed: int, images: Source) -> None:
        self._recipe, self._images = recipe, images
        self._seed = derive_seed(seed, "probe loss")
        self._model = hollow_jepa(recipe)
        self._encoder = self._model.encoder()
        self._base: tuple[str, float] = ("", 0.0)  # digest, loss

    def score(self, base: ParameterVector, delta: ParameterVector) -> float:
        """loss(base) − loss(base + delta), on the grid; NaN where a loss is not finite."""
        if self._base[0] != base.digest:
            self._base = (base.digest, self._loss(weights_of(base)))
        return on_grid(self._base[1] - self._loss(weights_moved(base, delta)))

    def _loss(self, weights: Weights) -> float:
        batches = len(self._images) // self._recipe.objective.reference_batch
        with lent(self._model, weights):
            return held_out_loss(
                self._encoder,
                self._recipe.objective_of(),
                self._images,
                seed=self._seed,
                batches=batches,
            )
