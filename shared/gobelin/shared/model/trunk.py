"""The trunk: one pre-norm transformer over tokens, shared by all modalities, free of BatchNorm."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from gobelin.shared.recipe import TrunkRecipe


class Trunk(nn.Module):
    """Tokens (B, N, D) to tokens (B, N, D) (pre-norm: arXiv:2002.04745)."""

    def __init__(self, recipe: TrunkRecipe) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(recipe) for _ in range(recipe.depth))
        self.norm = nn.LayerNorm(recipe.dim)

    def forward(self, tokens: Tensor, present: Tensor | None = None) -> Tensor:
        """Run all blocks and the final norm; tokens not `present` (B, N) are not attended to."""
        for block in self.blocks:
            tokens = block(tokens, present)
        normed: Tensor = self.norm(tokens)
        return normed


class Block(nn.Module):
    """Self-attention and an MLP, each behind a norm and beside a residual."""

    def __init__(self, recipe: TrunkRecipe) -> None:
        super().__init__()
        hidden = round(recipe.dim * recipe.mlp_ratio)
        self.norm_attention = nn.LayerNorm(recipe.dim)
        self.attention = Attention(recipe.dim, recipe.heads)
        self.norm_mlp = nn.LayerNorm(recipe.dim)
        self.mlp_in = nn.Linear(recipe.dim, hidden)
        self.mlp_out = nn.Linear(hidden, recipe.dim)

    def forward(self, tokens: Tensor, present: Tensor | None = None) -> Tensor:
        """(B, N, D) → (B, N, D)."""
        tokens = tokens + self.attention(self.norm_attention(tokens), present)
        changed: Tensor = self.mlp_out(F.gelu(self.mlp_in(self.norm_mlp(tokens))))
        return tokens + changed


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor, present: Tensor | None = None) -> Tensor:
        """(B, N, D) → (B, N, D), attending to tokens that are `present` (B, N)."""
        batch, length, dim = tokens.shape
        mixed = self.query_key_value(tokens).view(batch, length, 3, self.heads, -1)
        query, key, value = mixed.permute(2, 0, 3, 1, 4)  # each (B, heads, N, D/heads)
        mask = None if present is None else present[:, None, None, :]
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        joined: Tensor = self.out(attended.transpose(1, 2).reshape(batch, length, dim))
        return joined
