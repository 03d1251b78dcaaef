"""The model: one JEPA trunk over tokens, with a thin tokenizer a modality and a projector."""

from gobelin.shared.model.encoder import Encoder
from gobelin.shared.model.jepa import Jepa, build_jepa, encoder_of
from gobelin.shared.model.lent import Weights, hollow_jepa, lent, weights_moved, weights_of

__all__ = [
    "Encoder",
    "Jepa",
    "Weights",
    "build_jepa",
    "encoder_of",
    "hollow_jepa",
    "lent",
    "weights_moved",
    "weights_of",
]
