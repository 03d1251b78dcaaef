"""Inversion: images from what an update says of them, by matching gradients.

DLG (arXiv:1906.08935) with a total-variation prior (arXiv:2003.14053), by L-BFGS. The attacker
knows base, recipe, schedule and the mean image, at which it starts; and the node's seeds, so the
views of every image, for whoever knows the plan and the node's name can derive them. Against AdamW,
whose first step is little but a sign, it matches soft signs; several steps are taken for one from
half-way along the update (surrogate models: Zhu et al., ICML 2023).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from gobelin.client.leakage.update import Update
from gobelin.shared.errors import ConfigError
from gobelin.shared.modality.image import Image, ImageRecipe
from gobelin.shared.model import build_jepa
from gobelin.shared.model.encoder import Encoder
from gobelin.shared.objective import Draw
from gobelin.shared.objective.lejepa import LeJepa
from gobelin.shared.objective.objective import LeJepaRecipe
from gobelin.shared.objective.sigreg import directions, quadrature
from gobelin.shared.recipe import Recipe
from gobelin.shared.seeds import derive_seed, generator_of
from gobelin.shared.vector import ParameterVector

CONTROL_DB = 20.0  # PSNR at which the control has succeeded
CONTROL_TV = 1e-5  # weights of the prior
UPDATE_TV = 5e-2
OUTSIDE = 0.1  # weight of pixels outside of [0, 1]
SOFT = 0.1  # of a tensor's rms gradient: below it, a soft sign is no sign
MEMORY = 20  # pairs that L-BFGS keeps

Mismatch: TypeAlias = Callable[[Sequence[Tensor]], Tensor]  # of gradients to what was observed, ()


@dataclass(frozen=True)
class Inversion:
    """How near images came to true ones, in dB of PSNR (peak 1), the mean image beside them."""

    images: int  # that were solved for
    psnr_db: float  # mean over images, each with the true one it is matched to, one to one
    mean_image_db: float  # of the mean image against the same true ones
    over_mean_db: float  # the difference, mean over images
    best_over_mean_db: float
    chance_over_mean_db: float  # matched to as many images that the node has not trained on
    mismatch: float  # what the attacker minimised, without its prior: 0 is a perfect match
    # The same of the true images, where they are what is solved for. Far below `mismatch`, the
    # update gives them away to a better search; as high, this attacker would not know them.
    mismatch_of_truth: float


def require_invertible(recipe: Recipe, modality: str | None) -> None:
    """Raise ConfigError unless the attack is written for this modality and objective."""
    kind, objective = recipe.modality(modality), recipe.objective_of(modality)
    if not isinstance(kind, Image) or not isinstance(objective, LeJepa):
        raise ConfigError(
            f"inversion is written for images under lejepa, not {kind.recipe.kind} under "
            f"{objective.recipe.kind}",
            "--no-inversion measures membership and canaries alone",
        )


def positive_control(
    recipe: Recipe, modality: str | None, image: Tensor, mean: Tensor, iterations: int, seed: int
) -> Inversion:
    """The same attack where it has to succeed: the plain gradient of one image (1, C, H, W) uint8.

    One step, batch one, no augmentation, initial weights, LayerNorm in the projector: BatchNorm
    knows one image's two equal views as zeros alone. `mean` (C, H, W) is in [0, 1].
    """
    plain = _plain(recipe, modality)
    model = build_jepa(plain, seed)
    encoder, objective = model.encoder(modality), plain.objective_of(modality)
    draw = _draw(seed, seed, 0)
    parameters = list(model.parameters())
    total = objective(encoder, image, draw)[0].total  # the real one, as training calls it
    observed = [g.double() for g in torch.autograd.grad(total, parameters)]
    attacked = _Attacked(plain, modality, ParameterVector.of(model), seed, seed, 0)
    scale = sum(g.square().sum() for g in observed)

    def mismatch(gradients: Sequence[Tensor]) -> Tensor:
        away = [(a - b).square().sum() for a, b in zip(gradients, observed, strict=True)]
        return torch.stack(away).sum() / scale

    found, left = _solve(attacked, mismatch, mean[None], CONTROL_TV, iterations, seed)
    truth = image.double() / 255
    return _judge(found, truth, None, mean, left, attacked.apply(mismatch, truth))


def invert_update(
    recipe: Recipe,
    modality: str | None,
    update: Update,
    seen: Tensor,
    unseen: Tensor,
    mean: Tensor,
    images: int,
    iterations: int,
) -> Inversion:
    """Attack a real update for at most `images` images.

    `seen` (N, C, H, W) in [0, 1] are what it was trained on, the first batch in front, `unseen`
    others. A batch of at most `images` is solved for as a whole, under the views it had.
    """
    local = update.local
    at = update.base if local.steps == 1 else update.middle
    attacked = _Attacked(recipe, modality, at, local.seed, local.node_seed, local.first_step)
    decay = recipe.inner.weight_decay * update.lr_sum
    wanted = []
    for name, moved in update.delta.tensors().items():
        own = at.tensors()[name] if moved.ndim >= 2 else torch.zeros_like(moved)
        wanted.append(-(moved + decay * own).double())
    order = {name: i for i, name in enumerate(update.delta.tensors())}
    observed = [wanted[order[name]] for name in attacked.names]
    length = torch.stack([g.square().sum() for g in observed]).sum().sqrt()

    def mismatch(gradients: Sequence[Tensor]) -> Tensor:
        soft = [g / (g.square() + (SOFT**2) * g.square().mean() + 1e-24).sqrt() for g in gradients]
        dot = torch.stack([(a * b).sum() for a, b in zip(soft, observed, strict=True)]).sum()
        own = torch.stack([a.square().sum() for a in soft]).sum().sqrt()
        return 1 - dot / (own * length + 1e-24)

    count = max(2, min(images, len(update.first)))
    start = mean[None].expand(count, *mean.shape)
    found, left = _solve(attacked, mismatch, start, UPDATE_TV, iterations, local.seed)
    exact = local.steps == 1 and count == len(update.first)
    truth = seen[:count] if exact else seen
    known = attacked.apply(mismatch, truth) if exact else float("nan")
    return _judge(found, truth, unseen, mean, left, known)


class _Attacked:
    """The model as the attacker holds it: gradients of the loss that can be differentiated again.

    fp64, attention by plain products, SIGReg by plain cosines: the fast ones have one derivative.
    """

    def __init__(
        self,
        recipe: Recipe,
        modality: str | None,
        at: ParameterVector,
        seed: int,
        node_seed: int,
        step: int,
    ) -> None:
        model = build_jepa(recipe, seed=0)
        at.load_into(model)
        self._encoder: Encoder = model.double().encoder(modality)
        self._table: LeJepaRecipe = recipe.objective_of(modality).recipe  # type: ignore[assignment]
        self._seeds = seed, node_seed, step
        named = {n: p for n, p in model.named_parameters() if "predictor" not in n.split(".")[0]}
        own = {id(p) for p in self._encoder.parameters()}
        self.names = [n for n, p in named.items() if id(p) in own]
        self._parameters = [named[n] for n in self.names]

    def gradients(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Of the loss of images (B, C, H, W) in [0, 1], with their graph."""
        with sdpa_kernel(SDPBackend.MATH):
            return torch.autograd.grad(self._loss(pixels), self._parameters, create_graph=True)

    def apply(self, mismatch: Mismatch, pixels: Tensor) -> float:
        """The mismatch of images (B, C, H, W) in [0, 1]."""
        return mismatch(self.gradients(pixels)).item()

    def _loss(self, pixels: Tensor) -> Tensor:
        """`LeJepa.loss` again, of what can be differentiated twice."""
        draw, table = _draw(*self._seeds), self._table
        views = self._encoder.modality.views(255 * pixels, draw.views)
        _, z = self._encoder.embed_views([stack.double() for stack in views.stacks])
        away = (z[: views.leading].mean(dim=0) - z).square().mean()
        slices = directions(draw.slices, z.shape[-1], table.slices).double()
        knots, phi, weights = quadrature(table.knots, table.t_max, z)
        angles = (z @ slices)[..., None] * knots  # (V, N, M, K)
        real, imaginary = angles.cos().mean(dim=1) - phi, angles.sin().mean(dim=1)
        score = ((real.square() + imaginary.square()) @ weights).mean()
        return (1 - table.weight) * away + table.weight * table.reference_batch * score


def _solve(
    attacked: _Attacked,
    mismatch: Mismatch,
    start: Tensor,
    tv: float,
    iterations: int,
    seed: int,
) -> tuple[Tensor, float]:
    """Images (B, C, H, W) whose gradients match best, and the mismatch that is left."""
    noise = torch.randn(start.shape, generator=generator_of(seed, "inversion"))
    pixels = nn.Parameter((start.double() + 0.02 * noise.double()).contiguous())
    solver = torch.optim.LBFGS(
        [pixels], max_iter=iterations, max_eval=2 * iterations, history_size=MEMORY,
        tolerance_grad=0.0, tolerance_change=0.0, line_search_fn="strong_wolfe",
    )  # fmt: skip
    best = (torch.inf, pixels.detach().clone(), torch.inf)

    def closure() -> Tensor:
        nonlocal best
        away = mismatch(attacked.gradients(pixels))
        outside = (pixels - pixels.clamp(0, 1)).square().mean()
        loss = away + tv * _variation(pixels) + OUTSIDE * outside
        (pixels.grad,) = torch.autograd.grad(loss, [pixels])
        if loss.item() < best[0]:
            best = loss.item(), pixels.detach().clone(), away.item()
        return loss.detach()

    solver.step(closure)  # type: ignore[no-untyped-call]
    return best[1].clamp(0, 1), best[2]


def _variation(pixels: Tensor) -> Tensor:
    """Mean absolute difference of neighbours, smooth at zero."""
    across, down = pixels.diff(dim=-1), pixels.diff(dim=-2)
    return (across.square() + 1e-6).sqrt().mean() + (down.square() + 1e-6).sqrt().mean()


def _judge(
    found: Tensor,
    truth: Tensor,
    unseen: Tensor | None,
    mean: Tensor,
    mismatch: float,
    mismatch_of_truth: float,
) -> Inversion:
    """Match found images (n, C, H, W) to true ones (N, C, H, W) and to as many unseen ones."""
    own, base = _matched(found, truth, mean)
    chance = float("nan")
    if unseen is not None and len(unseen) >= len(found):
        other, theirs = _matched(found, unseen[: len(truth)], mean)
        chance = (other - theirs).mean().item()
    over = own - base
    return Inversion(
        images=len(own),
        psnr_db=own.mean().item(),
        mean_image_db=base.mean().item(),
        over_mean_db=over.mean().item(),
        best_over_mean_db=over.max().item(),
        chance_over_mean_db=chance,
        mismatch=mismatch,
        mismatch_of_truth=mismatch_of_truth,
    )


def _matched(found: Tensor, truth: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """PSNR in dB of the pairs, the best first, each image in one pair; and the mean image's."""
    table = psnr(found[:, None], truth[None])  # (n, N)
    plain = psnr(mean[None], truth)  # (N,)
    own, base = [], []
    for _ in range(min(table.shape)):
        i, j = divmod(int(table.argmax()), table.shape[1])
        own.append(table[i, j].clone())
        base.append(plain[j])
        table[i], table[:, j] = -torch.inf, -torch.inf
    return torch.stack(own), torch.stack(base)


def psnr(images: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of images (..., C, H, W) in [0, 1]."""
    error = (images.double() - truth.double()).square().mean(dim=(-3, -2, -1))
    return -10 * error.clamp(min=1e-12).log10()


def _draw(seed: int, node_seed: int, step: int) -> Draw:
    """As the trainer draws."""
    return Draw(generator_of(node_seed, "views", step), derive_seed(seed, "slices", step))


def _plain(recipe: Recipe, modality: str | None) -> Recipe:
    """The recipe without augmentation and without BatchNorm."""
    name = recipe.pick(modality)
    table = recipe.modalities[name]
    assert_image = ImageRecipe.model_validate(table.model_dump(exclude={"objective"}))
    still = {"global_scale": (1.0, 1.0), "flip": 0.0, "jitter": 0.0, "grey": 0.0, "blur": 0.0,
             "solarize": 0.0, "local_views": 0}  # fmt: skip
    views = assert_image.views.model_copy(update=still)
    tables = {**recipe.modalities, name: table.model_copy(update={"views": views})}
    projector = recipe.projector.model_copy(update={"norm": "layer"})
    return recipe.model_copy(update={"modalities": tables, "projector": projector})
