"""The predictor: what the next latent will be, given the last ones and a condition each."""

from __future__ import annotations

from typing import ClassVar, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gobelin.shared.model.linear import linear
from gobelin.shared.recipe import PredictorRecipe

Changes: TypeAlias = tuple[Tensor, ...]  # shift, 1 + scale, gate; the same of the MLP: (B, T, D)
Kept: TypeAlias = tuple[Tensor, Tensor]  # keys and values (B, heads, T, d) of positions gone by


class Predictor(nn.Module):
    """A causal transformer over at most `history` latents, conditioned by AdaLN-zero.

    LeWM's form (DiT's blocks, arXiv:2212.09748): every block starts as the identity, and what it
    adds, and how, comes from the condition. Predicts the change of the latent, so that a new
    predictor says "nothing happens". No BatchNorm: plans must not depend on who is planned with.
    """

    lent_whole: ClassVar[bool] = True  # `rollout` is no forward; see `model.lent`

    def __init__(self, recipe: PredictorRecipe, latent: int, condition: int) -> None:
        super().__init__()
        self.history = recipe.history
        self.read = nn.Linear(latent, recipe.dim)
        self.condition = nn.Sequential(
            nn.Linear(condition, recipe.dim), nn.SiLU(), nn.Linear(recipe.dim, recipe.dim)
        )
        self.position = nn.Parameter(torch.zeros(recipe.history, recipe.dim))
        self.blocks = nn.ModuleList(ConditionedBlock(recipe) for _ in range(recipe.depth))
        self.norm = nn.LayerNorm(recipe.dim)
        self.write = nn.Linear(recipe.dim, latent)
        nn.init.zeros_(self.write.weight)
        nn.init.zeros_(self.write.bias)

    def forward(self, latents: Tensor, conditions: Tensor) -> Tensor:
        """Next latents (B, T, D) of latents (B, T, D) under conditions (B, T, C), T ≤ history.

        Position t sees latents and conditions up to t.
        """
        tokens = self.read(latents) + self.position[: latents.shape[1]]
        condition = F.silu(self.condition(conditions))
        for block in self._blocks:
            tokens, _ = block(tokens, block.changes(condition))
        change: Tensor = self.write(self.norm(tokens))
        return latents + change

    def rollout(self, start: Tensor, conditions: Tensor) -> Tensor:
        """Latents (B, H, D) after each condition (B, H, C), from `start` (B, D) alone.

        Each prediction is fed back; the window of the last `history` latents moves on. Computes
        what `forward` on every window would, but once only: what a condition makes of a token;
        keys and values, until the window moves and positions with it; and of the last block only
        the token that is read out.
        """
        condition = F.silu(self.condition(conditions))
        seen_once = self.history == 1  # then what a condition makes is not worth its memory
        changes = [] if seen_once else [block.changes(condition) for block in self._blocks]
        kept: list[Kept | None] = [None] * len(self.blocks)
        latents, inputs = [start], []
        for t in range(conditions.shape[1]):
            inputs.append(linear(latents[-1], self.read))
            first = max(0, t + 1 - self.history)  # of the window
            new = t if first == 0 else first  # first token that is not in `kept`
            tokens = torch.stack(inputs[new:], dim=1) + self.position[new - first : t + 1 - first]
            for i, block in enumerate(self._blocks):
                if seen_once:
                    now = block.changes(condition[:, t : t + 1])
                else:
                    now = tuple(change[:, new : t + 1] for change in changes[i])
                past = kept[i] if first == 0 else None
                last = i == len(self.blocks) - 1
                tokens, kept[i] = block(tokens, now, past, last)
            latents.append(latents[-1] + linear(self.norm(tokens[:, -1]), self.write))
        return torch.stack(latents[1:], dim=1)

    @property
    def _blocks(self) -> list[ConditionedBlock]:
        return cast("list[ConditionedBlock]", list(self.blocks))


class ConditionedBlock(nn.Module):
    """Causal self-attention and an MLP whose norms' shift, scale and gate are the condition's."""

    def __init__(self, recipe: PredictorRecipe) -> None:
        super().__init__()
        hidden = round(recipe.dim * recipe.mlp_ratio)
        self.norm_attention = nn.LayerNorm(recipe.dim, elementwise_affine=False, eps=1e-6)
        self.attention = CausalAttention(recipe)
        self.norm_mlp = nn.LayerNorm(recipe.dim, elementwise_affine=False, eps=1e-6)
        self.mlp_in = nn.Linear(recipe.dim, hidden)
        self.mlp_out = nn.Linear(hidden, recipe.dim)
        self.modulation = nn.Linear(recipe.dim, 6 * recipe.dim)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def changes(self, condition: Tensor) -> Changes:
        """What conditions (B, T, D) make of every token: see `Changes`."""
        parts = linear(condition, self.modulation).chunk(6, dim=-1)
        return tuple(1 + part if i % 3 == 1 else part for i, part in enumerate(parts))

    def forward(
        self, tokens: Tensor, changes: Changes, past: Kept | None = None, last: bool = False
    ) -> tuple[Tensor, Kept | None]:
        """(B, T, D) under changes of (B, T, D) each → (B, T, D), or (B, 1, D) if only the `last`
        token is wanted; and keys and values of `past` and these tokens."""
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = changes
        seen = torch.addcmul(shift, self.norm_attention(tokens), scale)
        mixed, kept = self.attention(seen, past, last)
        if last:
            tokens, gate, shift_mlp, scale_mlp, gate_mlp = (
                x[:, -1:] for x in (tokens, gate, shift_mlp, scale_mlp, gate_mlp)
            )
        tokens = torch.addcmul(tokens, gate, mixed)
        seen = torch.addcmul(shift_mlp, self.norm_mlp(tokens), scale_mlp)
        changed = linear(linear(seen, self.mlp_in, gelu=True), self.mlp_out)
        return torch.addcmul(tokens, gate_mlp, changed), kept


class CausalAttention(nn.Module):
    """Multi-head self-attention in which a token sees itself and those before it."""

    def __init__(self, recipe: PredictorRecipe) -> None:
        super().__init__()
        self.heads = recipe.heads
        self.alone = recipe.history == 1  # no token ever sees another
        self.inner = recipe.heads * (recipe.head_dim or recipe.dim // recipe.heads)
        self.query_key_value = nn.Linear(recipe.dim, 3 * self.inner)
        self.out = nn.Linear(self.inner, recipe.dim)

    def forward(
        self, tokens: Tensor, past: Kept | None = None, last: bool = False
    ) -> tuple[Tensor, Kept | None]:
        """(B, T, D) → (B, T, D), or (B, 1, D) of the `last` token; keys and values, past first.

        After a `past` only one token more may come, so that the mask is plain. What sees itself
        alone gets its own value, whatever is asked; and nothing is kept where none is seen again.
        """
        if self.alone:
            return linear(self._made(tokens, 2, 3), self.out), None
        if past is None and tokens.shape[1] == 1:
            pair = self._made(tokens, 1, 3)
            key, value = (self._heads(x) for x in pair.chunk(2, dim=-1))
            return linear(pair[..., self.inner :], self.out), (key, value)
        asking = tokens[:, -1:] if last else tokens
        query = self._heads(self._made(asking, 0, 1))
        key, value = (self._heads(x) for x in self._made(tokens, 1, 3).chunk(2, dim=-1))
        if past is not None:
            key, value = (torch.cat(x, dim=2) for x in zip(past, (key, value), strict=True))
        causal = query.shape[2] > 1
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=causal)
        return linear(attended.transpose(1, 2).flatten(2), self.out), (key, value)

    def _made(self, tokens: Tensor, first: int, end: int) -> Tensor:
        """Queries, keys and values (B, T, n · inner), from `first` of the three to `end`."""
        return linear(tokens, self.query_key_value, slice(first * self.inner, end * self.inner))

    def _heads(self, x: Tensor) -> Tensor:
        """(B, T, heads · d) → (B, heads, T, d)."""
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)
