"""The model: one JEPA trunk over tokens, with a thin tokenizer a modality and a projector."""

from gobelin.shared.model.encoder import Encoder
from gobelin.shared.model.jepa import Jepa, build_jepa, encoder_of

__all__ = ["Encoder", "Jepa", "build_jepa", "encoder_of"]
