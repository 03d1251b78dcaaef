"""What of a model a build moves: all of it, its last blocks, its predictor, low-rank updates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gobelin.client.reading import Batches
from gobelin.client.sovereign.lora import Lora, LowRank, targets_of
from gobelin.client.sovereign.settings import BuildSettings, LoraSettings, Moves
from gobelin.client.sovereign.wrapped import Anchored
from gobelin.client.trainer import LocalTrainer
from gobelin.client.workbench import pick_precision
from gobelin.shared.errors import BuildError
from gobelin.shared.modality.image import ImageRecipe
from gobelin.shared.objective import Objective, ObjectiveRecipe
from gobelin.shared.recipe import InnerRecipe, Recipe
from gobelin.shared.vector import ParameterVector

RANKS = {"all": 4, "tokenizer": 16}  # of adapters, where none is said


@dataclass(frozen=True)
class Mover:
    """Makes the trainers of a build: all on one device, of one modality, from one base."""

    recipe: Recipe
    base: ParameterVector  # the release, whatever a stage starts from: anchors hold on to it
    settings: BuildSettings
    device: str

    @property
    def modality(self) -> str:
        """Its name in the recipe."""
        return self.recipe.pick(self.settings.modality)

    def trainer(
        self,
        moves: Moves,
        objective: Objective[ObjectiveRecipe],
        batches: Batches,
        inner: InnerRecipe,
        start: ParameterVector,
        anchor: float,
    ) -> tuple[LocalTrainer, Lora | None]:
        """A trainer that minimises `objective` by moving a part of the model, from `start`.

        And the adapters, where there are some. Raises BuildError where there is nothing to move.
        """
        lora = None
        if moves == "lora":
            lora = self._adapters(start)
            objective = LowRank(objective, lora, self.modality)
        if anchor:
            objective = Anchored(objective, self.base, anchor, self.modality)
        compute = self.settings.compute
        trainer = LocalTrainer(
            self.recipe.model_copy(update={"inner": inner}),
            batches,
            self.device,
            pick_precision(compute, self.device),
            compute.compile,
            modality=self.settings.modality,
            objective=objective,
            trains=self._trains(moves),
        )
        return trainer, lora

    def _adapters(self, start: ParameterVector) -> Lora:
        settings = self.settings
        return adapters(
            start, self.recipe, self.modality, settings.lora, settings.seed, self.device
        )

    @property
    def _predictor(self) -> str:
        return f"predictors.{self.modality}."

    def _trains(self, moves: Moves) -> Callable[[str], bool]:
        """Which parameters are moved themselves."""
        if moves == "lora":
            return lambda name: False
        if moves == "full":
            return lambda name: True
        places: tuple[str, ...] = (self._predictor,)
        if moves == "partial":
            depth, last = self.recipe.trunk.depth, self.settings.blocks
            if last > depth:
                what = f"blocks = {last}, the release's trunk has {depth}"
                raise BuildError(what, 'use fewer, or method = "full"')
            blocks = tuple(f"trunk.blocks.{i}." for i in range(depth - last, depth))
            places += (*blocks, "trunk.norm.", "projector.")
        elif (
            self.recipe.objective_of(self.settings.modality).predictor(
                self.recipe, self.recipe.modality(self.settings.modality)
            )
            is None
        ):
            raise BuildError("this model has no predictor to move", 'use moves = "full" or "lora"')
        return lambda name: name.startswith(places)


def adapters(
    start: ParameterVector,
    recipe: Recipe,
    modality: str,
    settings: LoraSettings,
    seed: int = 0,
    device: str = "cpu",
) -> Lora:
    """New adapters of a vector, where and as wide as `settings` say."""
    adapts = settings.adapts
    if adapts == "auto":
        table = recipe.modalities[modality]
        convolutions = isinstance(table, ImageRecipe) and table.stem == "conv"
        adapts = "tokenizer" if convolutions else "all"
    rank = settings.rank or RANKS[adapts]
    targets = targets_of(recipe, modality, adapts)
    return Lora(start, targets, rank, settings.alpha or 2 * rank, seed, device)
