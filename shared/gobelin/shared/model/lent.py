"""Lent weights: a model computes with parameters that lie elsewhere, a module at a time.

Looking at a vector, or at a base moved by a delta, then takes the memory of one module's parameters
and not of another model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gobelin.shared.model.jepa import Jepa
from gobelin.shared.recipe import Recipe
from gobelin.shared.vector import ParameterVector

Weights = Callable[[str], Tensor]  # a parameter's name to its values


def weights_of(vector: ParameterVector) -> Weights:
    """The vector's own."""
    return vector.tensors().__getitem__


def weights_moved(base: ParameterVector, delta: ParameterVector) -> Weights:
    """Those of base + delta, which is never made whole."""
    before, change = base.tensors(), delta.tensors()
    return lambda name: before[name] + change[name]


def hollow_jepa(recipe: Recipe) -> Jepa:
    """A model without memory for parameters; it computes while it is lent some."""
    with torch.device("meta"):
        return Jepa(recipe)


@contextmanager
def lent(model: nn.Module, weights: Weights) -> Iterator[None]:
    """Let `model` compute with these weights; each module has its own while it runs.

    A module that says `lent_whole` has its own, and its children theirs, all the time: it uses them
    outside of their `forward`.
    """
    loans, whole = [], ""
    for path, module in model.named_modules():
        if whole and path.startswith(whole):
            loans.append(Loan(module, path, weights, always=True))
        else:
            always = bool(getattr(module, "lent_whole", False))
            whole = path if always else ""
            loans.append(Loan(module, path, weights, always))
    try:
        yield
    finally:
        for loan in loans:
            loan.end()


class Loan:
    """The parameters of one module, without its children's."""

    def __init__(self, module: nn.Module, path: str, weights: Weights, always: bool) -> None:
        self._module, self._weights = module, weights
        self._hollow = dict(module.named_parameters(path, recurse=False))
        self._handles: list[Any] = []
        if not self._hollow:
            return
        if always:
            self._fill()
        else:
            self._handles = [
                module.register_forward_pre_hook(self._fill),
                module.register_forward_hook(self._empty, always_call=True),
            ]

    def end(self) -> None:
        """The module is hollow again."""
        for handle in self._handles:
            handle.remove()
        self._empty()

    def _fill(self, *_: Any) -> None:
        for name in self._hollow:
            own = nn.Parameter(self._weights(name), requires_grad=False)
            self._module._parameters[name.rpartition(".")[2]] = own

    def _empty(self, *_: Any) -> None:
        for name, hollow in self._hollow.items():
            self._module._parameters[name.rpartition(".")[2]] = hollow
