"""The latent frame: how one model's features lie turned against another's.

A JEPA's objective does not care how its latents are turned, and a projector that begins with a
BatchNorm does not even see where their mean is: nothing but the way they were trained ties the
axes of two models to each other. What reads one model's features (a head) reads another's through
the frame between them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gobelin.shared.errors import ShapeError

STAY = 1e-3  # of the mean singular value: what the samples do not show stays as it is


@dataclass(frozen=True)
class Frame:
    """The rotation (or reflection) that carries one model's features to another's: z ↦ z Q.

    There is no shift, so zeros, which stand for no data, stay where they are. A common offset of
    the features turns with them, and is most of what there is to undo between two releases.
    """

    rotation: Tensor  # Q (D, D), orthogonal

    @classmethod
    def between(cls, features: Tensor, reference: Tensor) -> Frame:
        """The frame that carries features (..., D) nearest to a reference's of the same samples.

        Orthogonal Procrustes (Schönemann 1966): Q = U Vᵀ of the singular vectors of featuresᵀ
        reference. A little of the identity is added to that, so that directions the samples do not
        show, of which there are many where they are few, are left alone. In fp64. Raises
        ShapeError unless both are of the same samples and dimensions.
        """
        if features.shape != reference.shape or features.ndim < 2:
            found = f"{tuple(features.shape)} and {tuple(reference.shape)}"
            raise ShapeError(f"no frame between features of shapes {found}", "use the same samples")
        mine, its = (x.detach().double().flatten(0, -2) for x in (features, reference))
        cross = mine.T @ its  # (D, D)
        stay = STAY * float(torch.linalg.svdvals(cross).mean())
        cross.diagonal().add_(stay or 1.0)  # where all are zeros, there is nothing to turn
        left, _, right = torch.linalg.svd(cross)
        return cls((left @ right).float())

    def apply(self, features: Tensor) -> Tensor:
        """Features (..., D) as the reference would have them."""
        return features @ self.rotation

    def into(self, weight: Tensor) -> Tensor:
        """The weight (K, T · D) of a linear map that reads T tokens of a sample at once, changed
        so that it reads the features as they are and answers as through `apply`."""
        tokens = weight.view(len(weight), -1, len(self.rotation))  # (K, T, D)
        turned: Tensor = tokens @ self.rotation.T
        return turned.flatten(1)
