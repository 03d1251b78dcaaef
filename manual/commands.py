"""Every command and option, as `--help` has them."""

from __future__ import annotations

import inspect
import tomllib
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import click
import typer

from gobelin.shared.cli import GROUP, SUMMARIES
from manual.comments import one_line, table

ROOT = Path(__file__).parent.parent
HEAD = """# Commands

Every command has `--help`, and those that report have `--json`. An error is one line on stderr,
`gobelin: [code] what → how to mend it`, or with `--json` one object; [its exit code](errors.md) is
its own.
Sizes are in units of 10ⁿ bytes, times in seconds unless they say otherwise.

"""


def rooms() -> dict[str, click.Command]:
    """The commands below `gobelin`, by name: those of this checkout, whatever is installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    points = sorted(project["entry-points"][GROUP].items())
    return {
        name: typer.main.get_command(EntryPoint(name, value, GROUP).load())
        for name, value in points
    }


def commands(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    """A command and all below it, by full name."""
    yield name, command
    if isinstance(command, click.Group):
        for child in sorted(command.commands):
            yield from commands(f"{name} {child}", command.commands[child])


def page() -> str:
    """The page of all commands."""
    parts = [HEAD]
    for name, room in rooms().items():
        parts.append(f"## gobelin {name}\n\n{SUMMARIES.get(name, '')}\n\n")
        for full, command in commands(f"gobelin {name}", room):
            if not isinstance(command, click.Group):
                parts.append(_section(full, command))
    return "".join(parts)


def _section(name: str, command: click.Command) -> str:
    context = click.Context(command, info_name=name)
    shown = [p for p in command.params if not getattr(p, "hidden", False) and p.name != "help"]
    usage = " ".join([name, *(piece for p in shown for piece in _usage(p, context))])
    told = inspect.cleandoc(command.help or "").replace("<", "&lt;")
    heading = "" if name.count(" ") == 1 else f"### {name}\n\n"
    rows = [_row(p, context) for p in shown]
    options = table(("option", "takes", "default", "meaning"), rows) if rows else ""
    return f"{heading}{told}\n\n```text\n{usage}\n```\n\n{options}"


def _usage(parameter: click.Parameter, context: click.Context) -> list[str]:
    if isinstance(parameter, click.Argument):
        name = _metavar(parameter, context)
        return [name if parameter.required or name.startswith("[") else f"[{name}]"]
    if parameter.required:
        return [f"{parameter.opts[0]} {_metavar(parameter, context)}"]
    return []


def _row(parameter: click.Parameter, context: click.Context) -> tuple[str, ...]:
    names = [*parameter.opts, *parameter.secondary_opts]
    if isinstance(parameter, click.Argument):
        names = [_metavar(parameter, context).strip("[].")]
    flag = isinstance(parameter, click.Option) and parameter.is_flag
    takes = "" if flag else one_line(_type(parameter))
    default = "required" if parameter.required else _default(parameter)
    shown = " / ".join(f"`{name}`" for name in names)
    return shown, takes, default, one_line(getattr(parameter, "help", ""))


def _type(parameter: click.Parameter) -> str:
    kind = parameter.type
    several = ", any number" if parameter.multiple or parameter.nargs == -1 else ""
    if isinstance(kind, click.Choice):
        return " or ".join(f"`{choice}`" for choice in kind.choices) + several
    name = {"integer": "whole number", "float": "number"}.get(kind.name.split(" ")[0], kind.name)
    least, most = getattr(kind, "min", None), getattr(kind, "max", None)
    if least is not None or most is not None:
        name = "whole number" if isinstance(kind, click.IntRange) else "number"
        bounds = [f"≥ {least}"] if least is not None else []
        bounds += [f"≤ {most}"] if most is not None else []
        name = f"{name} {', '.join(bounds)}"
    return name + several


def _default(parameter: click.Parameter) -> str:
    value: Any = parameter.default
    if callable(value) or value is None or value == "" or value == [] or value == ():
        return ""
    if isinstance(parameter, click.Option) and parameter.is_flag:
        if not parameter.secondary_opts:
            return ""
        return f"`{(parameter.opts if value else parameter.secondary_opts)[0]}`"
    if isinstance(value, float):
        value = f"{value:.3g}" if value % 1 else f"{value:.0f}"
    several = value if isinstance(value, list | tuple) else [value]
    return " ".join(f"`{getattr(one, 'value', one)}`" for one in several)


def _metavar(parameter: click.Parameter, context: click.Context) -> str:
    return parameter.make_metavar(context)
