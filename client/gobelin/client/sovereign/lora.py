"""LoRA (arXiv:2106.09685): weights move by low-rank updates alone, W = W₀ + (α / r) · B A.

The model computes with W itself, and a gradient that reaches W is passed on to A and B, by the
chain rule, as soon as it is there. So whatever way a module uses its weights is adapted, planning's
own kernels included, and the vector holds the merged model at any time. A begins as what the first
gradient asks to move most (LoRA-One, arXiv:2502.01235). On disk adapters have the format of the
`peft` library, which loads them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import torch
from safetensors.torch import save
from torch import Tensor, nn

from gobelin.client.sovereign.wrapped import Wrapped, named_in_vector
from gobelin.shared.errors import CheckpointError
from gobelin.shared.files import json_bytes
from gobelin.shared.model import Encoder, hollow_jepa
from gobelin.shared.objective import Objective, ObjectiveRecipe
from gobelin.shared.recipe import Recipe
from gobelin.shared.seeds import generator_of
from gobelin.shared.vector import ParameterVector

FOLDER = "adapter"
WEIGHTS = f"{FOLDER}/adapter_model.safetensors"
CONFIG = f"{FOLDER}/adapter_config.json"
PREFIX = "base_model.model."  # of every name, in peft's files
ADAPTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Lora:
    """Adapters of a model's weights: A (r, in) and B (out, r) each, B zero at first.

    Those of a convolution are of its flattened kernels; their shapes say so, as peft's do.
    """

    def __init__(
        self,
        base: ParameterVector,
        targets: list[str],
        rank: int,
        alpha: float,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        """`targets` are names of weights of the vector; see `targets_of`."""
        self.rank, self.alpha, self.targets = rank, alpha, targets
        self._base = {name: base.tensors()[name].to(device) for name in targets}
        self.a: dict[str, nn.Parameter] = {}
        self.b: dict[str, nn.Parameter] = {}
        for name in targets:
            out, *inputs = self._base[name].shape  # and a kernel's sides
            random = generator_of(seed, "lora", name)
            bound = math.prod(inputs) ** -0.5  # what peft draws from: Kaiming's with a = √5
            drawn = torch.rand(rank, *inputs, generator=random) * 2 * bound - bound
            self.a[name] = nn.Parameter(drawn.to(device))
            ones = [1] * len(inputs[1:])
            self.b[name] = nn.Parameter(torch.zeros(out, rank, *ones, device=device))

    @property
    def scale(self) -> float:
        """α / r."""
        return self.alpha / self.rank

    @property
    def size(self) -> int:
        """Scalars that are trained."""
        return sum(p.numel() for p in (*self.a.values(), *self.b.values()))

    def parameters(self) -> dict[str, nn.Parameter]:
        """A and B of every target, by peft's names without its prefix."""
        pairs = {}
        for name in self.targets:
            module = name.removesuffix(".weight")
            pairs[f"{module}.lora_A.weight"] = self.a[name]
            pairs[f"{module}.lora_B.weight"] = self.b[name]
        return pairs

    @torch.no_grad()
    def weight(self, name: str) -> Tensor:
        """W (out, in, ...) of a target, with its update."""
        base, a, b = self._base[name], self.a[name].flatten(1), self.b[name].flatten(1)
        return torch.addmm(base.flatten(1), b, a, alpha=self.scale).view_as(base)

    @torch.no_grad()
    def align(self, name: str, gradient: Tensor) -> None:
        """Let A of a target, whose B is zero, read what its gradient (out, in, ...) is largest in.

        Its rows become the leading right singular vectors; those beyond their number stay as drawn.
        """
        rows = torch.linalg.svd(gradient.flatten(1), full_matrices=False).Vh[: self.rank]
        self.a[name].flatten(1)[: len(rows)] = rows

    def merged(self, base: ParameterVector) -> ParameterVector:
        """The base with every update in it."""
        tensors = base.tensors() | {name: self.weight(name).cpu() for name in self.targets}
        return ParameterVector.of_tensors(base.schema, tensors)

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take weights by the names of `parameters`; raises CheckpointError on others."""
        own = self.parameters()
        if {n: t.shape for n, t in tensors.items()} != {n: p.shape for n, p in own.items()}:
            raise CheckpointError(
                "what is kept of the adapters is of others", "remove the unfinished build"
            )
        for name, parameter in own.items():
            parameter.copy_(tensors[name])

    def files(self) -> dict[str, bytes]:
        """A package's adapter, in peft's format, by path."""
        modules = [name.removesuffix(".weight") for name in self.targets]
        config = {
            "peft_type": "LORA",
            "task_type": None,
            "base_model_name_or_path": None,
            "inference_mode": True,
            "r": self.rank,
            "lora_alpha": self.alpha,
            "lora_dropout": 0.0,
            "bias": "none",
            "fan_in_fan_out": False,
            "target_modules": modules,
        }
        tensors = {PREFIX + n: p.detach().cpu().contiguous() for n, p in self.parameters().items()}
        return {WEIGHTS: save(tensors), CONFIG: json_bytes(config)}


class LowRank(Wrapped):
    """An objective whose gradient moves adapters, and the model only through them."""

    def __init__(self, inner: Objective[ObjectiveRecipe], lora: Lora, modality: str) -> None:
        super().__init__(inner)
        self.lora, self._modality = lora, modality
        self._handles: list[Any] = []
        self._weights: dict[str, nn.Parameter] = {}
        self._aligned: set[str] = set()

    def added(self) -> dict[str, nn.Parameter]:
        """The adapters, beside what the inner objective trains."""
        return {**self.inner.added(), **{f"lora.{n}": p for n, p in self.lora.parameters().items()}}

    def begin(self, encoder: Encoder) -> None:
        """From now on gradients that reach the targets go to the adapters."""
        for handle in self._handles:
            handle.remove()
        named = named_in_vector(encoder, self._modality)
        self._weights = {name: named[name] for name in self.lora.targets}
        self._handles = []
        for name, weight in self._weights.items():
            weight.requires_grad_(True)
            hook: Any = weight.register_post_accumulate_grad_hook
            self._handles.append(hook(partial(self._pass_on, name)))
        super().begin(encoder)

    @torch.no_grad()
    def stepped(self, encoder: Encoder) -> None:
        """The adapters have moved: so does what the model computes with."""
        for name, weight in self._weights.items():
            weight.copy_(self.lora.weight(name))
        super().stepped(encoder)

    @torch.no_grad()
    def _pass_on(self, name: str, weight: nn.Parameter) -> None:
        """dL/dA = (α / r) Bᵀ G, dL/dB = (α / r) G Aᵀ, of a weight's gradient G."""
        gradient = weight.grad
        assert gradient is not None
        if name not in self._aligned and gradient.isfinite().all():
            if not self.lora.b[name].any():  # else it was aligned before it was interrupted
                self.lora.align(name, gradient)
            self._aligned.add(name)
        a, b, flat = self.lora.a[name], self.lora.b[name], gradient.flatten(1)
        a.grad = (self.lora.scale * (b.flatten(1).T @ flat)).view_as(a)
        b.grad = (self.lora.scale * (flat @ a.flatten(1).T)).view_as(b)
        weight.grad = None


def targets_of(recipe: Recipe, modality: str, adapts: Literal["all", "tokenizer"]) -> list[str]:
    """Names of the weights of linear layers and convolutions: of the modality's tokenizer, and
    unless that is all of the trunk's blocks and of a world model's predictor."""
    places: tuple[str, ...] = (f"tokenizers.{modality}.",)
    if adapts == "all":
        places += ("trunk.blocks.",)
        if recipe.modalities[modality].kind == "trajectory":
            places += (f"predictors.{modality}.",)
    modules = hollow_jepa(recipe).named_modules()
    return sorted(
        f"{name}.weight"
        for name, module in modules
        if name.startswith(places) and isinstance(module, ADAPTED)
    )
