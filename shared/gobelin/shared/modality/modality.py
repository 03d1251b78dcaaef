"""A modality: a kind of private data, and all that the model and the objective ask of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from gobelin.shared.data.bad_input import OnBad
from gobelin.shared.data.formats import Format
from gobelin.shared.data.source import MEMORY, Source, open_source
from gobelin.shared.data.trajectories import Trajectories
from gobelin.shared.objective.objective import ObjectiveTable
from gobelin.shared.settings import Settings


class ModalityRecipe(Settings):
    """A table `[modalities.NAME]` of a recipe; each kind adds its own keys."""

    kind: str  # decides which other keys the table has
    objective: ObjectiveTable | None = None  # of this modality's local steps; unset: the recipe's


R = TypeVar("R", bound=ModalityRecipe)
B = TypeVar("B", bound=Tensor | Trajectories)


@dataclass(frozen=True)
class Views:
    """Views of a batch of B samples: stacks (V_i, B, ...), each of samples of one shape."""

    stacks: Sequence[Tensor]
    leading: int  # the first so many are views of whole samples, and their mean is the centre


class Modality(ABC, Generic[R, B]):
    """One modality as a recipe wants it. A *batch* holds raw samples as a source reads them; a
    *prepared* one is what the tokenizer takes."""

    Table: ClassVar[type[Any]]

    def __init__(self, recipe: R) -> None:
        self.recipe = recipe

    @abstractmethod
    def tokenizer(self, dim: int) -> nn.Module:
        """A module from prepared samples (B, ...) to tokens (B, N, dim)."""

    @abstractmethod
    def check(self, batch: B) -> None:
        """Raise DataError unless `batch` is one of this modality, of the recipe's sizes."""

    @abstractmethod
    def prepare(self, batch: B) -> Tensor:
        """Raw samples as the tokenizer takes them, unaugmented."""

    def present(self, prepared: Tensor) -> Tensor | None:
        """Which tokens (B, N) of prepared samples hold data, as bool; None: all of them.

        The others, padding or missing values, are neither attended to nor pooled.
        """
        return None

    @abstractmethod
    def views(self, batch: B, generator: torch.Generator) -> Views:
        """Augmented views of raw samples, prepared; the same on every device."""

    @abstractmethod
    def made_up(self, count: int, generator: torch.Generator) -> B:
        """A raw batch out of nothing, smooth enough to tell a model from a collapsed one."""

    def grid(self, tokens: int) -> tuple[int, ...]:
        """How a sample's tokens lie: (n,), or (h, w), or (t, h, w). A sequence unless said."""
        return (tokens,)

    @property
    @abstractmethod
    def form(self) -> Format:
        """What is expected of every raw sample."""

    def open(self, path: Path, *, memory: int = MEMORY, on_bad: OnBad = "refuse") -> Source[B]:
        """The samples that lie at `path`; raises DataError, and ConfigError without a library."""
        source: Source[Any] = open_source(path, self.form, memory=memory, on_bad=on_bad)
        return source


AnyModality: TypeAlias = Modality[Any, Any]
