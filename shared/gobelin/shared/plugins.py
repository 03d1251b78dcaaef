"""Plug-ins: kinds of things that users add from packages of their own, by entry points.

A registry knows its built-in kinds and finds the others among the installed packages' entry
points. A table of a recipe names its kind; the kind's class says which keys the table has.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from pydantic import BeforeValidator, ValidationError
from pydantic_core import PydanticCustomError

from gobelin.shared.errors import ConfigError
from gobelin.shared.settings import TABLE, Settings, explain

C = TypeVar("C")


@dataclass(frozen=True)
class Registry(Generic[C]):
    """Classes by kind; each has a `Table`, the settings class of its table."""

    noun: str  # of what is registered, for errors
    group: str  # of the entry points
    builtin: Mapping[str, str]  # kind → module:class

    @cached_property
    def _installed(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group=self.group)}

    @property
    def kinds(self) -> list[str]:
        """All that can be named; a built-in kind goes before an installed one of its name."""
        return sorted({*self.builtin, *self._installed})

    def load(self, kind: str) -> type[C]:
        """The class of a kind; raises ConfigError on one that nobody brings or that fails."""
        if kind in self.builtin:
            module, name = self.builtin[kind].split(":")
            loaded: type[C] = getattr(import_module(module), name)
            return loaded
        if kind not in self._installed:
            near = difflib.get_close_matches(kind, self.kinds, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(self.kinds)}"
            remedy = f"install the package that brings it; {hint}"
            raise ConfigError(f"there is no {self.noun} {kind!r}", remedy)
        point = self._installed[kind]
        try:
            brought: type[C] = point.load()
        except Exception as error:  # a plug-in may fail in any way
            what = f"the {self.noun} {kind!r} of {point.value} cannot be loaded: {error!r}"
            raise ConfigError(what, "mend or remove the package that brings it") from None
        return brought

    def table(self) -> BeforeValidator:
        """For a settings field: turns a table into the settings class of the kind it names."""
        return BeforeValidator(self._read)

    def _read(self, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        kind = value.get("kind")
        if not isinstance(kind, str):
            raise PydanticCustomError(TABLE, "kind: name one of {kinds}", {"kinds": self.kinds})
        try:
            settings: type[Settings] = self.load(kind).Table  # type: ignore[attr-defined]
            return settings.model_validate(value)
        except ValidationError as error:
            found = explain(settings, error)
        except ConfigError as error:
            found = f"kind: {error}"
        raise PydanticCustomError(TABLE, "{found}", {"found": found})
