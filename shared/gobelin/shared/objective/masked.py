"""Masked latent prediction: of some tokens of a sample, foresee the latents of the others.

L = (1 − λ) · error + λ · SIGReg. Nothing is augmented, so it asks no more of a modality than tokens
that lie on a grid. Two ways of having targets:

* without a teacher (the default) they are the projections of the sample's own tokens, with their
  gradient. SIGReg holds them up: it tests the projections at each place over samples, since a
  latent that tells its place alone would be Gaussian over places, and foreseen without looking.
* with one they are the tokens of an EMA teacher, normed; with λ = 0 that is I-JEPA
  (arXiv:2301.08243).
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from gobelin.shared.errors import ConfigError
from gobelin.shared.model.masked_predictor import MaskedPredictor
from gobelin.shared.objective.anti_collapse import AntiCollapse
from gobelin.shared.objective.latent import gather_tokens, latent_error, teacher_error
from gobelin.shared.objective.masks import BlockMasks, Masks, draw_masks
from gobelin.shared.objective.objective import Draw, LossParts, Objective, ObjectiveRecipe
from gobelin.shared.objective.teacher import Teacher
from gobelin.shared.recipe import TrunkRecipe
from gobelin.shared.settings import Fraction, Positive, Range, Settings

if TYPE_CHECKING:
    from gobelin.shared.data import Batch
    from gobelin.shared.modality import AnyModality
    from gobelin.shared.model.encoder import Encoder
    from gobelin.shared.recipe import Recipe


class MasksRecipe(Settings):
    """How blocks are drawn, see `masks`; `min_keep` fits grids down to 3 × 3."""

    targets: Positive = 4  # blocks to be foreseen, a sample
    scale: Range = (0.15, 0.2)  # share of the tokens that a target is
    aspect: Range = (0.75, 1.5)  # of a target, height / width
    context_scale: Range = (0.85, 1.0)  # share of the tokens that a context is, targets included
    min_keep: Annotated[int, Field(ge=0)] = 2  # a context has more tokens than this

    @model_validator(mode="after")
    def _drawable(self) -> MasksRecipe:
        try:
            self.blocks()
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return self

    def blocks(self) -> BlockMasks:
        """As masks are drawn by."""
        return BlockMasks(**self.model_dump())


class MaskedRecipe(ObjectiveRecipe):
    """Where targets come from, how they are masked, and the predictor's sizes.

    Targets that cannot be foreseen cost 1 − λ, and one point for all samples 0.41 λ times the
    reference batch: without a teacher the latter should be more, as by default.
    """

    kind: Literal["masked"] = "masked"
    weight: Fraction = 0.05  # λ, of SIGReg beside the prediction
    teacher: bool = False  # targets are those of a slow copy of the encoder
    momentum: Fraction = 0.99  # of the teacher, a step
    masks: MasksRecipe = MasksRecipe()
    predictor: TrunkRecipe = TrunkRecipe(dim=192, depth=6, heads=6)


class Masked(Objective[MaskedRecipe]):
    """Of any modality whose samples have several tokens."""

    Table: ClassVar[type[MaskedRecipe]] = MaskedRecipe

    def __init__(self, recipe: MaskedRecipe) -> None:
        super().__init__(recipe)
        self.teacher = Teacher(recipe.momentum) if recipe.teacher else None

    def predictor(self, recipe: Recipe, modality: AnyModality) -> MaskedPredictor:
        """From the trunk's tokens to a teacher's, or to projections."""
        out = recipe.trunk.dim if self.recipe.teacher else recipe.projector.out
        return MaskedPredictor(self.recipe.predictor, recipe.trunk.dim, out)

    def begin(self, encoder: Encoder) -> None:
        """The teacher, if any, is the base."""
        if self.teacher is not None:
            self.teacher.begin(encoder)

    def stepped(self, encoder: Encoder) -> None:
        """The teacher, if any, follows."""
        if self.teacher is not None:
            self.teacher.follow(encoder)

    def __call__(self, encoder: Encoder, batch: Batch, draw: Draw) -> tuple[LossParts, Tensor]:
        """Of raw samples as they are; features are those of whole samples."""
        prepared = encoder.prepare(batch)
        embedded = encoder.tokenizer(prepared)  # (B, N, D)
        grid = encoder.modality.grid(embedded.shape[1])
        masks = self._masks(grid, embedded, draw.views)
        present = encoder.present(prepared)  # (B, N), or None where every token holds data
        seen = None
        if present is not None:
            seen = gather_tokens(present[..., None], masks.context)[..., 0]
            seen = seen | ~seen.any(dim=1, keepdim=True)  # something must be attended to
        context = encoder.trunk(gather_tokens(embedded, masks.context), seen)
        assert encoder.predictor is not None
        predicted = encoder.predictor(context, masks, grid)  # (T, B, Nt, out)
        needed = self.teacher is None or self.recipe.weight > 0
        with nullcontext() if needed else torch.no_grad():
            tokens = encoder.trunk(embedded, present)
            z = _project(encoder, tokens)
            tested = z.transpose(0, 1) if present is None else z[present][None]
            test = AntiCollapse.of(tested, self.recipe, draw)
        latents = z
        if self.teacher is not None:
            with torch.no_grad():
                latents = self.teacher.of(encoder).tokens(prepared)
        wanted = torch.stack([gather_tokens(latents, block) for block in masks.targets])
        if present is not None:  # nobody can foresee what is not there
            there = torch.stack([gather_tokens(present[..., None], b) for b in masks.targets])
            predicted, wanted = predicted[there[..., 0]], wanted[there[..., 0]]
        if self.teacher is None:
            error = latent_error(predicted, wanted)
        else:
            error = teacher_error(predicted, wanted)
        weight = self.recipe.weight
        total = (1 - weight) * error + weight * test.weighed
        return test.parts(total, error), encoder.pool(tokens, prepared).detach()

    def coupling(self, recipe: Recipe) -> str:
        """SIGReg, wherever it is minimised."""
        if self.teacher is None or self.recipe.weight > 0:
            return "SIGReg tests a batch as a whole; set teacher = true and weight = 0"
        return ""

    def trains(self, parameter: str) -> bool:
        """Nothing looks through the projector where there is a teacher and no SIGReg."""
        return not parameter.startswith("projector.")

    @torch.no_grad()
    def example_inputs(self, encoder: Encoder, batch: Batch, draw: Draw) -> tuple[Tensor, ...]:
        """Prepared samples (B, ...), and for each the step's masks and the teacher's targets.

        Context (B, Nc), targets (B, T, Nt), wanted (B, T, Nt, D). One step's samples share their
        masks: else a mask would be cut to the shortest of its batch, and so depend on the others.
        """
        prepared = encoder.prepare(batch)
        assert self.teacher is not None
        latents = self.teacher.of(encoder).tokens(prepared)
        masks = self._masks(encoder.modality.grid(latents.shape[1]), latents[:1], draw.views)
        context = masks.context.expand(len(latents), -1)
        targets = masks.targets.expand(-1, len(latents), -1).transpose(0, 1)
        wanted = gather_tokens(latents, targets.flatten(1)).view(*targets.shape, -1)
        return prepared, context, targets, wanted

    def example_loss(self, encoder: Encoder, *inputs: Tensor) -> Tensor:
        """Of a prepared sample (...), its context (Nc,), targets (T, Nt) and wanted (T, Nt, D)."""
        prepared, context, targets, wanted = inputs
        embedded = encoder.tokenizer(prepared[None])
        seen = encoder.trunk(gather_tokens(embedded, context[None]))
        assert encoder.predictor is not None
        grid = encoder.modality.grid(embedded.shape[1])
        predicted = encoder.predictor(seen, Masks(context[None], targets[:, None]), grid)
        return teacher_error(predicted[:, 0], wanted)

    def projections(self, encoder: Encoder, batch: Batch, generator: torch.Generator) -> Tensor:
        """Of all tokens of all samples that hold data, (n, P)."""
        prepared = encoder.prepare(batch)
        z, present = _project(encoder, encoder.tokens(prepared)), encoder.present(prepared)
        return z.flatten(0, 1) if present is None else z[present]

    def _masks(self, grid: tuple[int, ...], like: Tensor, random: torch.Generator) -> Masks:
        seed = int(torch.randint(2**62, (), generator=random))
        masks = draw_masks(grid, len(like), seed, self.recipe.masks.blocks())
        return Masks(masks.context.to(like.device), masks.targets.to(like.device))


def _project(encoder: Encoder, tokens: Tensor) -> Tensor:
    """Projections (B, N, P), fp32, of tokens (B, N, D), which pass as one batch."""
    projections: Tensor = encoder.projector(tokens.flatten(0, 1))
    return projections.float().view(*tokens.shape[:2], -1)
