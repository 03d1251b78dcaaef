"""Modalities: kinds of data that one trunk learns from, each behind a tokenizer of its own."""

from gobelin.shared.modality.modality import AnyModality, Modality, ModalityRecipe, Views
from gobelin.shared.plugins import Registry

MODALITIES: Registry[AnyModality] = Registry(
    "modality",
    "gobelin.modalities",
    {
        "image": "gobelin.shared.modality.image:Image",
        "series": "gobelin.shared.modality.series:Series",
        "text": "gobelin.shared.modality.text:Text",
        "trajectory": "gobelin.shared.modality.trajectory:Trajectory",
        "vector": "gobelin.shared.modality.vector:Vector",
        "video": "gobelin.shared.modality.video:Video",
    },
)

__all__ = ["MODALITIES", "AnyModality", "Modality", "ModalityRecipe", "Views"]
