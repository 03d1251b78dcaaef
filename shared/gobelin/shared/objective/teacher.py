"""EMA teacher: a slow copy of the student that makes the targets (I-JEPA, BYOL).

The teacher is no state of the federation: it never leaves the node, and every round begins with a
copy of the student, that is of the base. So the parameter vector, its schema and its bytes are
those of a federation without teacher.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import nn

from gobelin.shared.errors import ConfigError, ShapeError

if TYPE_CHECKING:
    from gobelin.shared.model.encoder import Encoder

Model = TypeVar("Model", bound=nn.Module)


def teacher_of(student: Model) -> Model:
    """A copy of the student as it is, at rest and without gradients: a round's first teacher."""
    return copy.deepcopy(student).eval().requires_grad_(False)


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """θ_teacher ← m θ_teacher + (1 − m) θ_student, in place, parameters only.

    Buffers stay as they were when the teacher was made. Raises ShapeError if the two differ in
    their parameters, ConfigError for a momentum outside [0, 1].
    """
    if not 0 <= momentum <= 1:
        raise ConfigError(f"a teacher's momentum of {momentum}", "give one in [0, 1]")
    its, own = dict(teacher.named_parameters()), dict(student.named_parameters())
    if {n: p.shape for n, p in its.items()} != {n: p.shape for n, p in own.items()}:
        raise ShapeError("teacher and student differ in their parameters", "make it by teacher_of")
    for name, parameter in its.items():
        parameter.lerp_(own[name].to(parameter.dtype), 1 - momentum)


class Teacher:
    """The teacher of one call of local steps, from its base on; it predicts nothing itself.

    Its momentum is the same at every step: a schedule over the federation would be of no use to a
    teacher that every round makes anew.
    """

    def __init__(self, momentum: float) -> None:
        self._momentum = momentum
        self._encoder: Encoder | None = None

    def begin(self, student: Encoder) -> None:
        """It is the student as it is now."""
        self._encoder = teacher_of(student.without_predictor())

    def follow(self, student: Encoder) -> None:
        """The student has made a step, and the teacher follows."""
        if self._encoder is not None:
            update_teacher(self._encoder, student.without_predictor(), self._momentum)

    def of(self, student: Encoder) -> Encoder:
        """The teacher; before the first step of all the student itself stands in for it."""
        return student if self._encoder is None else self._encoder
