"""The latent frame: how one model's features lie turned and shifted against another's.

A JEPA's objective does not care how its latents are turned, so nothing but the way they were
trained ties the axes of two models to each other. What reads one model's features (a head) reads
another's through the frame between them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gobelin.shared.errors import ShapeError

STAY = 1e-3  # of the mean singular value: what the samples do not show stays as it is


@dataclass(frozen=True)
class Frame:
    """The isometry that carries one model's features to another's: z ↦ (z − mean) Q + reference."""

    rotation: Tensor  # Q (D, D), orthogonal
    mean: Tensor  # (D,), of the features
    reference: Tensor  # (D,), the mean of the other's

    @classmethod
    def between(cls, features: Tensor, reference: Tensor) -> Frame:
        """The frame that carries features (..., D) nearest to a reference's of the same samples.

        Orthogonal Procrustes (Schönemann 1966): Q = U Vᵀ of the singular vectors of the cross
        covariance. A little of the identity is added to that, so that directions in which the
        samples do not differ, of which there are many where they are few, are left alone. In fp64;
        raises ShapeError unless both are of the same samples and dimensions.
        """
        if features.shape != reference.shape or features.ndim < 2:
            found = f"{tuple(features.shape)} and {tuple(reference.shape)}"
            raise ShapeError(f"no frame between features of shapes {found}", "use the same samples")
        mine, its = (x.detach().double().flatten(0, -2) for x in (features, reference))
        mean, towards = mine.mean(dim=0), its.mean(dim=0)
        cross = (mine - mean).T @ (its - towards)  # (D, D)
        stay = STAY * float(torch.linalg.svdvals(cross).mean())
        cross.diagonal().add_(stay or 1.0)  # where either is one point, there is nothing to turn
        left, _, right = torch.linalg.svd(cross)
        return cls((left @ right).float(), mean.float(), towards.float())

    def apply(self, features: Tensor) -> Tensor:
        """Features (..., D) as the reference would have them."""
        return (features - self.mean) @ self.rotation + self.reference

    def into(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Weight (K, T · D) and bias (K,) of a linear map that reads T tokens of a sample at once,
        changed so that it reads the features as they are and answers as through `apply`."""
        tokens = weight.unflatten(1, (-1, len(self.mean)))  # (K, T, D)
        shift = self.reference - self.mean @ self.rotation  # (D,)
        turned = tokens @ self.rotation.T
        return turned.flatten(1), bias + tokens.sum(dim=1) @ shift
