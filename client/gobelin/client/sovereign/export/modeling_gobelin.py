"""Use a sovereign model with torch and safetensors alone; this file needs nothing of Gobelin.

    from modeling_gobelin import load

    model = load("this/folder")
    features = model.encode(samples)    # (B, D)
    chances = model.predict(samples)    # (B, K) of model.class_names, where it has a head

Samples are raw, as config.json's `sample` says: images uint8 (B, C, H, W), clips uint8
(B, T, C, H, W), texts uint8 (B, L) of UTF-8 padded with zeros, series float32 (B, T, C) with NaN
where a value is missing, vectors float32 (B, S). A world model takes single observations, and has
`latents`, `foresee` and `surprise`. The parameters are in `model.weights`, by name.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

WAVELENGTH = 10_000.0  # of the slowest position channel (arXiv:1706.03762)
ROBUST = 1.4826  # median absolute deviation to standard deviation, of a Gaussian


def load(folder: str | Path, device: str = "cpu") -> SovereignModel:
    """The model in a folder."""
    folder = Path(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    weights = load_file(folder / "model.safetensors", device=device)
    if config.get("head"):
        head = load_file(folder / "head.safetensors", device=device)
        weights |= {f"head.{name}": tensor for name, tensor in head.items()}
    return SovereignModel(config, weights)


class SovereignModel:
    """A JEPA's encoder, with a head or what foresees where it has one."""

    def __init__(self, config: dict[str, Any], weights: dict[str, Tensor]) -> None:
        self.config, self.weights = config, weights
        self.class_names: list[str] = config["class_names"]
        recipe = config["recipe"]
        self.name: str = config["modality"] or next(iter(recipe["modalities"]))
        self.trunk: dict[str, Any] = recipe["trunk"]
        table = recipe["modalities"][self.name]
        self.world: dict[str, Any] | None = table if table["kind"] == "trajectory" else None
        self.table: dict[str, Any] = table["observation"] if self.world else table

    @torch.no_grad()
    def encode(self, samples: Tensor) -> Tensor:
        """Features (B, D) of raw samples (B, ...)."""
        return self._pool(*self._tokens(samples))

    @torch.no_grad()
    def predict(self, samples: Tensor) -> Tensor:
        """Probabilities (B, K) of `class_names` for raw samples (B, ...)."""
        if not self.config.get("head"):
            raise ValueError("this model has no head")
        tokens, present = self._tokens(samples)
        logits = self._head(tokens if present is None else tokens * present[..., None])
        chances: Tensor = (logits / self.config["head"]["temperature"]).softmax(dim=1)
        return chances

    # ------------------------------------------------------------ world models

    @torch.no_grad()
    def latents(self, observations: Tensor) -> Tensor:
        """What is planned in: latents (N, P) of raw observations (N, ...)."""
        if self.world is None:
            raise ValueError("this model is no world model")
        x = self.encode(observations)
        for layer, norm in ((0, 1), (3, 4)):
            x = self._linear(f"projector.layers.{layer}", x)
            x = F.gelu(self._norm(f"projector.layers.{norm}", x))
        return self._linear("projector.layers.6", x)

    @torch.no_grad()
    def foresee(self, latents: Tensor, actions: Tensor) -> Tensor:
        """Next latents (B, T, P) of latents (B, T, P) under raw actions (B, T, A).

        T is at most the recipe's `history`; step t sees what came up to t.
        """
        if self.world is None:
            raise ValueError("this model is no world model")
        own = f"predictors.{self.name}."
        conditions = actions / self.world["action_scale"]
        x = self._linear(own + "read", latents)
        x = x + self.weights[own + "position"][: latents.shape[1]]
        c = F.silu(self._linear(own + "condition.0", conditions))
        c = F.silu(self._linear(own + "condition.2", c))
        sizes = self._predictor()
        for i in range(sizes["depth"]):
            x = self._foreseen(f"{own}blocks.{i}.", x, c, sizes["heads"])
        change = self._linear(own + "write", self._norm(own + "norm", x))
        return latents + change

    def surprise(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Energies (B, T), low = plausible, of observations (B, T + 1, ...) and actions (B, T, A).

        Each step is foreseen from as many observations before it as the model looks back on.
        """
        z = self.latents(observations.flatten(0, 1)).view(*observations.shape[:2], -1)
        errors = []
        for t in range(actions.shape[1]):
            first = max(0, t + 1 - self._predictor()["history"])
            foreseen = self.foresee(z[:, first : t + 1], actions[:, first : t + 1])[:, -1]
            errors.append((foreseen - z[:, t + 1]).square().mean(dim=-1))
        return torch.stack(errors, dim=1)

    def _predictor(self) -> dict[str, Any]:
        assert self.world is not None
        objective = self.world["objective"] or self.config["recipe"]["objective"]
        return dict(objective["predictor"])

    def _foreseen(self, own: str, x: Tensor, condition: Tensor, heads: int) -> Tensor:
        """A block whose norms' shift, scale and gate are the condition's (AdaLN-zero)."""
        parts = self._linear(own + "modulation", condition).chunk(6, dim=-1)
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = parts
        seen = shift + F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale)
        x = x + gate * self._attention(own + "attention.", seen, heads, causal=True)
        seen = shift_mlp + F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale_mlp)
        return x + gate_mlp * self._mlp(own, seen)

    # ------------------------------------------------------------ the encoder

    def _tokens(self, samples: Tensor) -> tuple[Tensor, Tensor | None]:
        """Encoded tokens (B, N, D), and which of them (B, N) hold data; None: all."""
        kind, own = self.table["kind"], f"tokenizers.{self.name}."
        made = {
            "image": self._image,
            "video": self._video,
            "text": self._text,
            "series": self._series,
            "vector": self._vector,
        }
        if kind not in made:
            raise ValueError(f"this file knows no samples of kind {kind!r}")
        x, present = made[kind](own, samples)
        if present is not None:
            present = present | ~present.any(dim=1, keepdim=True)
        for i in range(self.trunk["depth"]):
            block = f"trunk.blocks.{i}."
            seen = self._norm(block + "norm_attention", x)
            x = x + self._attention(block + "attention.", seen, self.trunk["heads"], present)
            x = x + self._mlp(block, self._norm(block + "norm_mlp", x))
        return self._norm("trunk.norm", x), present

    def _image(self, own: str, images: Tensor) -> tuple[Tensor, None]:
        x, table, embed = images.float() / 127.5 - 1, self.table, own + "embed"
        if table["stem"] == "patch":
            x = F.conv2d(x, *self._of(embed), stride=table["patch_size"])
        else:
            for i, stride in enumerate(self.config["strides"]):
                weight = self.weights[f"{embed}.{3 * i}.weight"]
                x = F.conv2d(x, weight, stride=stride, padding=weight.shape[2] // 2)
                groups = _common(8, x.shape[1])
                x = F.gelu(F.group_norm(x, groups, *self._of(f"{embed}.{3 * i + 1}")))
        _, dim, rows, columns = x.shape
        extent = table["image_size"] // table["patch_size"]
        places = [_centres(n, extent, x) for n in (rows, columns)]
        y, across = (_sines(place, dim // 2) for place in places)
        y = y[:, None].expand(rows, columns, dim // 2)
        placed = torch.cat([y, across[None].expand(rows, columns, dim // 2)], dim=2)
        return x.flatten(2).transpose(1, 2) + placed.flatten(0, 1), None

    def _video(self, own: str, clips: Tensor) -> tuple[Tensor, None]:
        x, table = clips.float() / 127.5 - 1, self.table
        frames, side = table["patch_frames"], table["patch_size"]
        batch, length, channels, height, width = x.shape
        grid = (length // frames, height // side, width // side)
        x = x.reshape(batch, grid[0], frames, channels, grid[1], side, grid[2], side)
        x = x.permute(0, 1, 4, 6, 2, 3, 5, 7).flatten(4).flatten(1, 3)
        x = self._linear(own + "embed", x)
        across = x.shape[2] // 6 * 2
        spans = (table["frames"] // frames, *[table["image_size"] // side] * 2)
        parts = []
        for axis, size in enumerate((x.shape[2] - 2 * across, across, across)):
            shape = [1, 1, 1, size]
            shape[axis] = grid[axis]
            place = _sines(_centres(grid[axis], spans[axis], x), size)
            parts.append(place.view(shape).expand(*grid, size))
        return x + torch.cat(parts, dim=3).flatten(0, 2), None

    def _text(self, own: str, texts: Tensor) -> tuple[Tensor, Tensor]:
        present = (texts != 0).reshape(len(texts), -1, self.table["patch"]).any(dim=2)
        embedded = F.embedding(texts.int(), self.weights[own + "bytes.weight"])
        return self._sequence(own + "patches.", embedded, 1.0), present

    def _series(self, own: str, series: Tensor) -> tuple[Tensor, Tensor]:
        table = self.table
        x = series / torch.tensor(table["scale"], device=series.device)
        if table["normalise"] == "window":
            x = x - x.nanmedian(dim=1, keepdim=True).values
            deviation = ROBUST * x.abs().nanmedian(dim=1, keepdim=True).values
            x = x / deviation.clamp(min=1e-2)
        known = ~x.isnan()
        x = torch.cat([torch.where(known, x, 0.0), known.to(x.dtype)], dim=2)
        present = known.reshape(len(x), -1, table["patch"] * table["channels"]).any(dim=2)
        spacing = 1.0
        if table["wavelength"] is not None:
            spacing = 2 * torch.pi * table["patch"] / table["rate"] / table["wavelength"]
        return self._sequence(own, x, spacing), present

    def _vector(self, own: str, vectors: Tensor) -> tuple[Tensor, None]:
        x = F.gelu(self._linear(own + "0", vectors / self.table["scale"]))
        return self._linear(own + "2", x)[:, None], None

    def _sequence(self, own: str, x: Tensor, spacing: float) -> Tensor:
        weight, bias = self._of(own + "mix")
        x = F.conv1d(x.transpose(1, 2), weight, bias, padding=weight.shape[2] // 2)
        x = F.gelu(x).transpose(1, 2)
        count = x.shape[1] // self.table["patch"]
        x = self._linear(own + "embed", x.reshape(len(x), count, -1))
        return x + _sines(_centres(count, count, x) * spacing, x.shape[2])

    # ------------------------------------------------------------ heads and layers

    def _pool(self, tokens: Tensor, present: Tensor | None) -> Tensor:
        if present is None:
            return tokens.mean(dim=1)
        return (tokens * present[..., None]).sum(dim=1) / present.sum(dim=1, keepdim=True)

    def _head(self, tokens: Tensor) -> Tensor:
        """Logits (B, K) of tokens (B, N, D), zeros where there are no data."""
        kind = self.config["head"]["kind"]
        if kind == "linear":
            return self._linear("head.linear", tokens.flatten(1))
        if kind == "pooled":
            present = tokens.ne(0).any(dim=2)
            count = present.sum(dim=1, keepdim=True).clamp(min=1)
            return self._linear("head.linear", (tokens * present[..., None]).sum(dim=1) / count)
        own, query = "head.reader.", self.weights["head.reader.query"]
        x = (tokens - self.weights[own + "mean"]) / self.weights[own + "scale"]
        key = self._linear(own + "key", x).view(*x.shape[:2], len(query), -1)
        value = self._linear(own + "value", x).view(*x.shape[:2], len(query), -1)
        scores = torch.einsum("nthd,hd->nth", key, query) * key.shape[-1] ** -0.5
        gathered = torch.einsum("nth,nthd->nhd", scores.softmax(dim=1), value)
        return self._linear(own + "classify", gathered.flatten(1))

    def _attention(
        self,
        own: str,
        x: Tensor,
        heads: int,
        present: Tensor | None = None,
        causal: bool = False,
    ) -> Tensor:
        mixed = self._linear(own + "query_key_value", x)
        query, key, value = mixed.view(*x.shape[:2], 3, heads, -1).permute(2, 0, 3, 1, 4)
        mask = None if present is None else present[:, None, None, :]
        attended = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=causal
        )
        return self._linear(own + "out", attended.transpose(1, 2).flatten(2))

    def _mlp(self, own: str, x: Tensor) -> Tensor:
        return self._linear(own + "mlp_out", F.gelu(self._linear(own + "mlp_in", x)))

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"))

    def _norm(self, name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], *self._of(name))

    def _of(self, name: str) -> tuple[Tensor, Tensor]:
        return self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]


def _centres(count: int, extent: float, like: Tensor) -> Tensor:
    return (torch.arange(count, device=like.device) + 0.5) * (extent / count)


def _sines(places: Tensor, dim: int) -> Tensor:
    half = dim // 2
    scale = torch.arange(half, device=places.device, dtype=torch.float32) / half
    angles = places.float()[:, None] * WAVELENGTH**-scale
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def _common(a: int, b: int) -> int:
    """The greatest common divisor."""
    return a if b == 0 else _common(b, a % b)
