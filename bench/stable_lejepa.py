"""stable-pretraining's LeJEPA as a training step, its classes taken unchanged from their sources.

Of the package only `timm` has to be installed (and torchvision, which timm and the augmentation
want): what drives its `Module` (Lightning, hydra, loggers) is left out, in its favour, and the loop
around it is plain PyTorch with the optimizer its configuration makes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Optional

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler

from bench.sigreg import definitions
from gobelin.client.inner_optimizer import learning_rate
from gobelin.shared.modality.image import ImageRecipe
from gobelin.shared.modality.image_tokenizer import ImageTokenizer, positions
from gobelin.shared.modality.image_views import BLUR_SIGMA, ViewsRecipe
from gobelin.shared.model import Jepa
from gobelin.shared.objective.sigreg import directions
from gobelin.shared.recipe import Recipe
from gobelin.shared.seeds import derive_seed

METHOD = "stable_pretraining/methods/lejepa.py"
TRANSFORMS = "stable_pretraining/data/transforms.py"
AUGMENTATIONS = (
    "Transform", "to_image", "ToImage", "RandomGrayscale", "RandomSolarize", "ColorJitter",
    "RandomHorizontalFlip", "RandomResizedCrop", "PILGaussianBlur", "Compose",
    "MultiViewTransform",
)  # fmt: skip
PREFETCH = 2  # batches a loader process makes ahead
ENDLESS = 1 << 40  # samples
NAMES = {  # ours, then timm's
    "norm_attention": "norm1",
    "attention.query_key_value": "attn.qkv",
    "attention.out": "attn.proj",
    "norm_mlp": "norm2",
    "mlp_in": "mlp.fc1",
    "mlp_out": "mlp.fc2",
}


def image_of(recipe: Recipe) -> ImageRecipe:
    """The table of the recipe's only modality, which must be images."""
    table = recipe.modalities[recipe.pick(None)]
    assert isinstance(table, ImageRecipe)
    return table


class StableStep:
    """Its model with the weights of one of ours, and one update of it."""

    def __init__(
        self,
        folder: Path,
        model: Jepa,
        weight: float,  # λ, of theirs: invariance + λ · SIGReg
        device: torch.device,
        precision: str,
        compile: bool,
        total_steps: int,
    ) -> None:
        self.recipe = recipe = model.recipe
        self.total_steps, self.device, self.precision = total_steps, device, precision
        found = classes_of(folder, recipe)
        objective = recipe.objective
        self.model = found["LeJEPA"](
            "vit_small_patch16_224",
            projector=projector_like(model),
            n_slices=objective.slices,
            t_max=objective.t_max,
            n_points=objective.knots,
            lamb=weight,
            drop_path_rate=0.0,
        ).to(device)
        copy_weights(model, self.model)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        inner = recipe.inner
        groups = [  # as its `split_params_for_weight_decay`
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": inner.weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.trained = trained
        self.optimizer = torch.optim.AdamW(groups, lr=inner.lr, betas=inner.betas)
        self.forward = torch.compile(self.model) if compile else self.model
        self.model.train()

    def share_slices(self, seed: int) -> None:
        """Test under the slices that ours draws, to compare losses and not chances."""
        self.model.sigreg = SharedSlices(self.model.sigreg, seed)

    def __call__(self, step: int, views: Sequence[Tensor], leading: int) -> Tensor:
        """Loss () of one update on views, each (B, C, S, S); the first `leading` are global."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, self.total_steps, self.recipe.inner)
        wide = self.precision != "bf16"
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=not wide):
            loss: Tensor = self.forward(
                global_views=list(views[:leading]), local_views=list(views[leading:])
            ).loss
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.trained, self.recipe.inner.clip_norm)
        self.optimizer.step()
        return loss.detach()


class SharedSlices(nn.Module):
    """Its test of each slice, under slices of a seed and the step."""

    def __init__(self, test: Any, seed: int) -> None:
        super().__init__()
        self.test, self.slices, self.seed, self.step = test.ep, test.num_slices, seed, 0

    def forward(self, x: Tensor) -> Tensor:
        seed = derive_seed(self.seed, "slices", self.step)
        self.step += 1
        statistic: Tensor = self.test(x @ directions(seed, x.shape[-1], self.slices, x.device))
        return statistic.mean()


def classes_of(folder: Path, recipe: Recipe) -> dict[str, Any]:
    """The classes of its method, whose timm makes the recipe's trunk: mean-pooled, no class token,
    norms as wide as ours."""
    import timm

    image, trunk = image_of(recipe), recipe.trunk
    options = {
        "img_size": image.image_size,
        "patch_size": image.patch_size,
        "in_chans": image.channels,
        "embed_dim": trunk.dim,
        "depth": trunk.depth,
        "num_heads": trunk.heads,
        "mlp_ratio": trunk.mlp_ratio,
        "class_token": False,
        "global_pool": "avg",
        "fc_norm": False,
        "norm_layer": partial(nn.LayerNorm, eps=nn.LayerNorm(1).eps),
    }
    known = {
        "__name__": __name__,
        "torch": torch,
        "nn": nn,
        "dataclass": dataclass,
        "Optional": Optional,
        "Module": nn.Module,
        "ModelOutput": object,
        "timm": SimpleNamespace(create_model=partial(timm.create_model, **options)),
        "MLP": None,  # of its own projector, which is not used
    }
    return definitions(folder / METHOD, known)


def projector_like(model: Jepa) -> nn.Sequential:
    """PyTorch's own layers in the order of our projector."""
    layers: list[nn.Module] = []
    for layer in model.projector.layers:
        if isinstance(layer, nn.Linear):
            sizes = (layer.in_features, layer.out_features)
            layers.append(nn.Linear(*sizes, bias=layer.bias is not None))
        elif isinstance(layer, nn.BatchNorm1d):
            layers.append(nn.BatchNorm1d(layer.num_features))
        else:
            layers.append(nn.GELU())
    return nn.Sequential(*layers)


@torch.no_grad()
def copy_weights(ours: Jepa, theirs: Any) -> None:
    """Ours into theirs; its positions are set to our fixed ones and not trained."""
    (tokenizer,) = ours.tokenizers.values()
    assert isinstance(tokenizer, ImageTokenizer)
    backbone, grid = theirs.backbone, tokenizer.grid
    state: dict[str, Tensor] = {
        f"patch_embed.proj.{n}": p for n, p in tokenizer.embed.named_parameters()
    }
    state["pos_embed"] = positions(grid, grid, ours.recipe.trunk.dim, grid)[None]
    for name, parameter in ours.trunk.named_parameters():
        for own, other in NAMES.items():
            name = name.replace(own, other)
        state[name] = parameter
    backbone.load_state_dict(state)
    backbone.pos_embed.requires_grad_(False)
    for name, parameter in theirs.projector.named_parameters():
        parameter.copy_(ours.projector.layers.get_parameter(name))


def augmentation(folder: Path, recipe: Recipe) -> Any:
    """Its own transforms, an image at a time, with the strengths of the recipe."""
    import numpy as np
    import PIL.Image
    import torchvision
    from PIL import ImageFilter
    from torchvision import tv_tensors
    from torchvision.transforms import InterpolationMode, v2
    from torchvision.transforms.v2 import functional

    known: Mapping[str, Any] = {
        "__name__": __name__, "torch": torch, "np": np, "PIL": PIL, "Image": PIL.Image,
        "ImageFilter": ImageFilter, "torchvision": torchvision, "tv_tensors": tv_tensors,
        "v2": v2, "F": functional, "InterpolationMode": InterpolationMode,
        **{name: getattr(__import__("typing"), name)
           for name in ("Any", "Dict", "List", "Optional", "Sequence", "Tuple", "Union")},
    }  # fmt: skip
    made = definitions(folder / TRANSFORMS, known, AUGMENTATIONS)
    image = image_of(recipe)
    views = image.views
    plan = [("global", views.global_views, views.global_scale, image.image_size)]
    plan.append(("local", views.local_views, views.local_scale, views.local_size))
    return made["MultiViewTransform"](
        {
            f"{kind}_{i}": made["Compose"](*_chain(made, views, image.channels, scale, size))
            for kind, count, scale, size in plan
            for i in range(count)
        }
    )


def _chain(
    made: Mapping[str, Any],
    views: ViewsRecipe,
    channels: int,
    scale: tuple[float, float],
    size: int,
) -> list[Any]:
    chain = [made["RandomResizedCrop"]((size, size), scale=scale)]
    chain.append(made["RandomHorizontalFlip"](views.flip))
    # A strength of nothing makes its transform fail: it reports every factor as a number.
    strengths = [
        max(s, 1e-6) for s in (views.brightness, views.contrast, views.saturation, views.hue)
    ]
    chain.append(made["ColorJitter"](*strengths, p=views.jitter))
    if views.grey:
        chain.append(made["RandomGrayscale"](views.grey))
    if views.blur:
        chain.append(made["PILGaussianBlur"](list(BLUR_SIGMA), p=views.blur))
    if views.solarize:
        chain.append(made["RandomSolarize"](128, views.solarize))
    middle = [0.5] * channels
    chain.append(made["ToImage"](mean=middle, std=middle))
    return chain


class Pictures:
    """A map-style data set of uint8 images (N, C, H, W), as PIL images through a transform."""

    def __init__(self, images: Tensor, transform: Any) -> None:
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> list[Tensor]:
        from PIL import Image

        pixels = self.images[index].permute(1, 2, 0).numpy()
        views = self.transform({"image": Image.fromarray(pixels.squeeze())})
        return [view["image"].as_subclass(Tensor) for view in views.values()]


def loader(images: Tensor, transform: Any, batch: int, workers: int, pin: bool) -> DataLoader[Any]:
    """Lists of views (B, C, S, S) without end, made by `workers` processes, or here if 0."""
    pictures: Any = Pictures(images, transform)
    return DataLoader(
        pictures,
        batch_size=batch,
        sampler=RandomSampler(pictures, replacement=True, num_samples=ENDLESS),
        num_workers=workers,
        prefetch_factor=PREFETCH if workers else None,
        pin_memory=pin,
    )
