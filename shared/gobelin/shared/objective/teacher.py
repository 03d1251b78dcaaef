"""EMA teacher: a slow copy of the student that makes the targets (I-JEPA, BYOL).

The teacher is no state of the federation: it never leaves the node, and every round begins with a
copy of the student, that is of the base. So the parameter vector, its schema and its bytes are
those of a federation without teacher.
"""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

from gobelin.shared.errors import ConfigError, ShapeError

Model = TypeVar("Model", bound=nn.Module)

START, END = 0.996, 1.0  # momentum of the first and of the last step (arXiv:2301.08243)


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


def momentum_at(step: int, steps: int, start: float = START, end: float = END) -> float:
    """Linear from `start` at step 0 to `end` at step `steps`, then constant.

    Steps are the federation's, not the round's, so nodes agree and a resumed run goes on.
    """
    if steps < 1:
        raise ConfigError(f"a schedule of {steps} steps", "give at least one")
    return start + (end - start) * min(step, steps) / steps
