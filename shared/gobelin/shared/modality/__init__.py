"""Modalities: kinds of data that one trunk learns from, each behind a tokenizer of its own."""

from gobelin.shared.modality.modality import MEMORY, Modality, ModalityRecipe, Views
from gobelin.shared.plugins import Registry

MODALITIES: Registry[Modality[ModalityRecipe]] = Registry(
    "modality", "gobelin.modalities", {"image": "gobelin.shared.modality.image:Image"}
)

__all__ = ["MEMORY", "MODALITIES", "Modality", "ModalityRecipe", "Views"]
