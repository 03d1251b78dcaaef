"""The reference has every command, key, message and error there is, and says what each means."""

from __future__ import annotations

import ast

import click
from rich.text import Text

from gobelin.server.alerts import Code
from gobelin.server.home import FederationSettings
from gobelin.shared.modality import MODALITIES, ModalityRecipe
from gobelin.shared.modality.image import ImageRecipe
from gobelin.shared.objective import OBJECTIVES
from gobelin.shared.recipe import Recipe
from manual import commands, errors, protocol, settings
from manual.commands import ROOT
from manual.comments import field_comments


def test_every_command_says_what_it_does_and_what_each_option_means() -> None:
    page = commands.page()
    for name, room in commands.rooms().items():
        for full, command in commands.commands(f"gobelin {name}", room):
            if isinstance(command, click.Group):
                continue
            assert f"\n{full}" in page
            assert command.help, full
            for parameter in command.params:
                told = getattr(parameter, "help", None)
                # click 8.5 forgets what typer says of arguments: pip install 'click<8.5'
                assert told or parameter.name == "help", f"{full} {parameter.opts[0]}"


def test_no_help_loses_a_word_that_looks_like_markup() -> None:
    for name, room in commands.rooms().items():
        for full, command in commands.commands(f"gobelin {name}", room):
            told = [command.help, *(getattr(one, "help", None) for one in command.params)]
            for text in filter(None, told):
                assert Text.from_markup(text).plain == text, f"{full}: {text}"


def test_every_key_of_every_file_is_there_with_its_default() -> None:
    page = settings.page()
    assert "| `deadline_s` | number &gt; 0 | `3600.0` | of one round, from its offer |" in page
    for kind, _ in settings.FILES.values():
        for _, table in settings.tables(kind):
            assert all(f"`{n}`" in page or f"{n}]`" in page for n in table.model_fields)


def test_every_key_says_what_it_means() -> None:
    whole = [kind for kind, _ in settings.FILES.values()] + [Recipe]
    for registry in (MODALITIES, OBJECTIVES):
        whole += [registry.load(kind).Table for kind in registry.builtin]
    for root in whole:
        for where, table in settings.tables(root):
            assert not where or table.__doc__, f"{root.__name__}: [{where}] says nothing"
            told = field_comments(table)
            silent = [name for name in settings.keys(table) if not told.get(name)]
            assert not silent, f"{table.__name__}: no meaning of {', '.join(silent)}"


def test_comments_are_those_behind_a_field_else_above_it() -> None:
    (outer,) = (kind for name, kind in settings.tables(FederationSettings) if name == "outer")
    assert field_comments(outer)["beta2"] == "of adam and yogi; unset: 0.99"
    assert field_comments(outer)["momentum"] == "of nesterov; of adam and yogi: β₁; unset: 0.9"


def test_a_key_that_only_narrows_another_keeps_its_meaning() -> None:
    assert field_comments(ImageRecipe)["kind"] == field_comments(ModalityRecipe)["kind"] != ""


def test_recipes_have_the_tables_of_every_kind_that_is_built_in() -> None:
    page = settings.recipes()
    for kind in ("lejepa", "masked", "next_latent", "image", "trajectory"):
        assert f"### `{kind}`" in page


def test_every_alert_is_told_with_what_to_do() -> None:
    told = (ROOT / "docs" / "page.md").read_text()
    assert [code for code in Code if f"| `{code}` |" not in told] == []


def test_every_call_and_message_of_the_protocol_is_there() -> None:
    page, proto = protocol.page(), protocol.PROTO.read_text()
    for line in proto.splitlines():
        if line.startswith(("message ", "enum ")):
            assert f"### {line.split()[1]}\n" in page
        elif line.startswith("  rpc "):
            assert f"| `{line.split()[1].split('(')[0]}` |" in page
    assert "### RoundPlan" in page


def test_every_error_is_there_with_its_exit_code_and_what_may_be_done() -> None:
    page = errors.page()
    for kind in errors.kinds():
        assert f"| {kind.exit_code} | [`{kind.code}`]" in page
    assert "write it as host:port, or [::1]:port" in page
    # each what beside its own remedy, also where modules say it by a name of many uses
    assert "| cannot listen on … port …: … | use another --port, or 0 for a free one |" in page


def test_every_error_says_how_to_mend_it() -> None:
    kinds = {kind.__name__: kind for kind in errors.kinds()}
    for file, made in errors.all_made():
        kind = kinds.get(made.func.id) if isinstance(made.func, ast.Name) else None
        if kind is None or kind.usual or any(isinstance(part, ast.Starred) for part in made.args):
            continue
        told = len(made.args) > 1 or any(keyword.arg == "remedy" for keyword in made.keywords)
        # the nearest key that is known; a code that stands for an error told elsewhere
        within = ("explain(", "error.code")
        silent = ast.unparse(made.args[0]) if made.args else ""
        assert told or any(part in silent for part in within), f"{file}:{made.lineno} {silent}"
