"""TOML settings: read, validated, and refused with the nearest known key when a key is unknown."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gobelin.shared.errors import ConfigError
from gobelin.shared.files import readable, write_atomic

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Range = tuple[float, float]


class Settings(BaseModel):
    """Base of every settings class: frozen, unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


S = TypeVar("S", bound=Settings)
TABLE = "plugged_table"  # type of an error in a table whose keys a plug-in decides


def read_settings(kind: type[S], path: Path) -> S:
    """Read the TOML file at `path` as `kind`; raises ConfigError naming file, key and remedy."""
    return check_settings(kind, read_toml(path), str(path))


def parse_settings(kind: type[S], text: str, where: str) -> S:
    """Parse TOML `text` as `kind`; `where` names it in errors."""
    return check_settings(kind, _loads(text, where), where)


def read_toml(path: Path) -> dict[str, Any]:
    """The values in the TOML file at `path`, unchecked; raises ConfigError, MachineError."""
    try:
        with readable(path):
            text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist", "create it with the matching `init`") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} cannot be read: {error}", "check it and its permissions"
        ) from None
    return _loads(text, str(path))


def _loads(text: str, where: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where} is not valid TOML: {error}", "mend that line") from None


def check_settings(kind: type[S], values: Mapping[str, Any], where: str) -> S:
    """`values` as `kind`; raises ConfigError naming `where`, the key and what is known."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{where}: {explain(kind, error)}") from None


def parse_assignments(texts: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Tables from `table.key=value`, values as in TOML; quotes around text may be left out.

    Raises ConfigError on what is no assignment, or a second one to the same key.
    """
    tables: dict[str, dict[str, Any]] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        written = (f"{key} = {value}", f"{key} = {json.dumps(value)}") if equals else ()
        found = next(filter(None, map(_tables, written)), None)
        if found is None:
            raise ConfigError(f"{text!r} is no assignment", "write it as table.key=value")
        _join(tables, found, text)
    return tables


def write_settings(path: Path, settings: Settings) -> None:
    """Write `settings` as TOML, atomically."""
    write_atomic(path, to_toml(settings).encode())


def to_toml(settings: Settings) -> str:
    """The TOML text of `settings` (unset options are left out)."""
    return tomli_w.dumps(settings.model_dump(mode="json", exclude_none=True))


def _tables(text: str) -> dict[str, Any] | None:
    """What TOML text says if it is nothing but tables, else None."""
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None
    return found if all(isinstance(value, dict) for value in found.values()) else None


def _join(tables: dict[str, Any], more: Mapping[str, Any], text: str) -> None:
    """Add `more` to nested tables in place."""
    for key, value in more.items():
        here = tables.get(key)
        if here is None:
            tables[key] = value
        elif isinstance(here, dict) and isinstance(value, dict):
            _join(here, value, text)
        else:
            raise ConfigError(f"{text!r} sets {key} a second time", "set it once")


def explain(kind: type[BaseModel], error: ValidationError) -> str:
    """The first problem of a validation error in one line, with a did-you-mean."""
    problems = error.errors()
    # A misspelt key is the cause of a missing one, so it is told first.
    problem = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    key = ".".join(str(part) for part in problem["loc"]) or "(top level)"
    if problem["type"] == TABLE:
        return f"{key}.{problem['msg']}"
    if problem["type"] != "extra_forbidden":
        return f"{key}: {problem['msg']} (found {problem['input']!r})"
    known = _keys_beside(kind, problem["loc"])
    near = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(sorted(known))}"
    return f"unknown key {key!r}; {hint}"


def _keys_beside(kind: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """The keys allowed in the table that holds the unknown key at `loc`."""
    model: type[BaseModel] = kind
    for part in loc[:-1]:
        field = model.model_fields.get(str(part))
        if field is None:
            continue
        options = [field.annotation, *get_args(field.annotation)]
        nested = [o for o in options if isinstance(o, type) and issubclass(o, BaseModel)]
        if nested:
            model = nested[0]
    return list(model.model_fields)
