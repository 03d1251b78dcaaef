"""The model: one JEPA trunk over tokens, with a thin tokenizer a modality and a projector."""

from gobelin.shared.model.jepa import Jepa, build_jepa

__all__ = ["Jepa", "build_jepa"]
