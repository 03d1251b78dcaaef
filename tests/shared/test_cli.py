"""Errors are part of the interface: one line, a cause, a remedy, an exit code, no traceback."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from gobelin.shared.cli import fail, main
from gobelin.shared.errors import (
    BuildError,
    ConfigError,
    ContributionError,
    EnvelopeError,
    GobelinError,
    LedgerError,
    PageError,
    ProtocolError,
    SealingError,
    TwoHistoriesError,
    VectorError,
)
from gobelin.shared.keys import write_authority
from gobelin.shared.recipe import builtin_recipes

GOBELIN = Path(sys.executable).parent / "gobelin"
MODULES_WITH_ERRORS = ["gobelin.shared.errors", "gobelin.client.trainer"]


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


Run = Callable[..., Ended]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """The console script's own function, in this process: a new one costs seconds.

    Anything but a clean exit, such as an exception that would be a traceback, fails the test.
    """
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str | Path) -> Ended:
        monkeypatch.setattr(sys, "argv", ["gobelin", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Ended(ended.value.code, captured.out, captured.err)

    return call


def script(*arguments: str | Path) -> Ended:
    """The installed console script, as an operator calls it."""
    done = subprocess.run(
        [GOBELIN, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def is_one_line(ended: Ended, code: int, name: str) -> None:
    assert ended.code == code, ended.err
    assert ended.err.startswith(f"gobelin: [{name}] ")
    assert ended.err.count("\n") == 1
    assert ended.err.endswith("\n")
    assert "Traceback" not in ended.err
    assert ended.out == ""


# ---------------------------------------------------------------- the table of errors


def subclasses(kind: type[GobelinError]) -> list[type[GobelinError]]:
    below = [deeper for child in kind.__subclasses__() for deeper in subclasses(child)]
    return [*kind.__subclasses__(), *below]


def errors() -> list[type[GobelinError]]:
    """Every error an operator can meet."""
    for module in MODULES_WITH_ERRORS:
        importlib.import_module(module)
    return [kind for kind in subclasses(GobelinError) if kind.__module__.startswith("gobelin.")]


def test_every_error_has_a_code_of_its_own() -> None:
    codes = [kind.code for kind in errors()]
    assert len(codes) > 15
    assert len(set(codes)) == len(codes)
    assert GobelinError.code not in codes


def test_every_family_has_an_exit_code_of_its_own() -> None:
    families = [kind for kind in errors() if kind.__base__ is GobelinError]
    exits = [kind.exit_code for kind in families]
    assert len(set(exits)) == len(exits)
    assert not {0, 1, 2, 130} & set(exits)  # Python's, click's and Ctrl-C's own
    assert all(3 <= code < 126 for code in exits)


def test_a_member_of_a_family_shares_its_exit_code_and_begins_with_its_code() -> None:
    members = [kind for kind in errors() if kind.__base__ is not GobelinError]
    families = {BuildError, ConfigError, ContributionError, EnvelopeError, LedgerError}
    families |= {PageError, ProtocolError, SealingError, TwoHistoriesError, VectorError}
    assert {kind.__base__ for kind in members} == families
    for kind in members:
        family = kind.__base__
        assert issubclass(family, GobelinError)
        assert kind.exit_code == family.exit_code
        assert kind.code.startswith(f"{family.code}.")


def test_every_error_says_in_its_docstring_what_is_wrong() -> None:
    for kind in errors():
        assert kind.__doc__
        assert kind.__doc__ != GobelinError.__doc__


def test_an_error_of_many_lines_is_printed_as_one(capsys: pytest.CaptureFixture[str]) -> None:
    fail(ConfigError("line one\nline two", "mend\n  it"), as_json=False)
    assert capsys.readouterr().err == "gobelin: [config] line one line two → mend it\n"


def test_an_error_without_a_remedy_promises_none(capsys: pytest.CaptureFixture[str]) -> None:
    fail(ConfigError("bad"), as_json=False)
    assert capsys.readouterr().err == "gobelin: [config] bad\n"


def test_an_error_is_plain_data_too(capsys: pytest.CaptureFixture[str]) -> None:
    fail(ConfigError("bad\nkey", "mend it"), as_json=True)
    facts = {"error": "config", "what": "bad\nkey", "remedy": "mend it", "exit_code": 10}
    assert json.loads(capsys.readouterr().err) == facts


# ---------------------------------------------------------------- the installed script


def test_the_script_calls_what_these_tests_call() -> None:
    (point,) = entry_points(group="console_scripts", name="gobelin")
    assert point.load() is main


def test_help_lists_the_commands_and_imports_none_of_them() -> None:
    code = "import sys\nfrom gobelin.shared.cli import main\nsys.argv = ['gobelin', '--help']\n"
    code += "try:\n    main()\nfinally:\n    print({'torch', 'flwr', 'ray'} & set(sys.modules))\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for command in ("aggregator", "node", "evaluate", "simulate", "sovereign"):
        assert f"\n  {command} " in done.stdout
    assert done.stdout.endswith("set()\n")


def test_the_script_prints_an_error_as_one_line_with_its_exit_code(tmp_path: Path) -> None:
    ended = script("aggregator", "status", "--home", tmp_path)
    is_one_line(ended, 11, "state")
    assert "no aggregator home" in ended.err
    assert "gobelin aggregator init" in ended.err


# ---------------------------------------------------------------- what operators get wrong


def node_init(tmp_path: Path, **changes: Any) -> list[str | Path]:
    """A `node init` that would do, but for the changes."""
    if not (tmp_path / "tls").exists():
        write_authority(tmp_path / "tls", "fed", ["localhost"])
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "images-idx3-ubyte").write_bytes(b"\0\0\x08\x03" + b"\0" * 12)
    options = {
        "member": "north",
        "aggregator": "host:9092",
        "ca": tmp_path / "tls" / "ca.pem",
        "data": tmp_path / "data",
        "home": tmp_path / "node",
        **changes,
    }
    pairs = [(f"--{name}", value) for name, value in options.items()]
    return ["node", "init", *(part for pair in pairs for part in pair)]


def aggregator_init(tmp_path: Path, **changes: Any) -> list[str | Path]:
    """An `aggregator init` that would do, but for the changes."""
    options = {
        "name": "fed",
        "recipe": "toy",
        "address": "127.0.0.1:0",
        "home": tmp_path / "home",
        **changes,
    }
    pairs = [(f"--{name}", value) for name, value in options.items()]
    return ["aggregator", "init", *(str(part) for pair in pairs for part in pair)]


def test_a_node_is_founded(run: Run, tmp_path: Path) -> None:
    ended = run(*node_init(tmp_path))
    assert ended.code == 0
    assert "node.pub" in ended.out
    assert (tmp_path / "node" / "node.toml").exists()


def test_a_missing_data_folder_is_refused_before_anything_is_written(
    run: Run, tmp_path: Path
) -> None:
    ended = run(*node_init(tmp_path, data=tmp_path / "nowhere"))
    is_one_line(ended, 12, "data")
    assert "nowhere does not exist" in ended.err
    assert not (tmp_path / "node").exists()


def test_an_empty_data_folder_is_refused_before_anything_is_written(
    run: Run, tmp_path: Path
) -> None:
    (tmp_path / "void").mkdir()
    ended = run(*node_init(tmp_path, data=tmp_path / "void"))
    is_one_line(ended, 12, "data")
    assert "void is an empty folder" in ended.err
    assert not (tmp_path / "node").exists()


def test_a_missing_ca_is_refused_before_anything_is_written(run: Run, tmp_path: Path) -> None:
    ended = run(*node_init(tmp_path, ca=tmp_path / "gone.pem"))
    is_one_line(ended, 10, "config")
    assert "gone.pem" in ended.err
    assert "operator" in ended.err
    assert not (tmp_path / "node").exists()


def test_a_node_without_a_home_is_told_to_make_one(run: Run, tmp_path: Path) -> None:
    for command in ("run", "status"):
        ended = run("node", command, "--home", tmp_path / "nowhere")
        is_one_line(ended, 11, "state")
        assert "gobelin node init" in ended.err
    assert not (tmp_path / "nowhere").exists()


def test_an_aggregator_is_not_founded_twice(run: Run, tmp_path: Path) -> None:
    assert run(*aggregator_init(tmp_path)).code == 0
    before = (tmp_path / "home" / "federation.toml").read_bytes()
    ended = run(*aggregator_init(tmp_path))
    is_one_line(ended, 11, "state")
    assert "choose another --home" in ended.err
    assert (tmp_path / "home" / "federation.toml").read_bytes() == before


def test_an_unknown_recipe_is_answered_by_the_known_ones(run: Run, tmp_path: Path) -> None:
    ended = run(*aggregator_init(tmp_path, recipe="tyni"))
    is_one_line(ended, 10, "config")
    assert all(name in ended.err for name in builtin_recipes())
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("address", ["nowhere", "host:", "host:http", ":9092"])
def test_a_bad_address_is_refused_before_anything_is_written(
    address: str, run: Run, tmp_path: Path
) -> None:
    ended = run(*aggregator_init(tmp_path, address=address))
    is_one_line(ended, 10, "config")
    assert "host:port" in ended.err
    assert not (tmp_path / "home").exists()
    is_one_line(run(*node_init(tmp_path, aggregator=address[1:])), 10, "config")
    assert not (tmp_path / "node").exists()


def test_an_unknown_key_in_a_toml_is_answered_by_the_nearest(run: Run, tmp_path: Path) -> None:
    assert run(*aggregator_init(tmp_path)).code == 0
    settings = tmp_path / "home" / "federation.toml"
    settings.write_text(settings.read_text().replace("deadline_s", "dedline_s"))
    for command in ("status", "up"):
        ended = run("aggregator", command, "--home", tmp_path / "home")
        is_one_line(ended, 10, "config")
        assert "federation.toml" in ended.err
        assert "did you mean 'deadline_s'" in ended.err


def test_an_aggregator_that_is_not_founded_does_not_come_up(run: Run, tmp_path: Path) -> None:
    is_one_line(run("aggregator", "up", "--home", tmp_path / "home"), 11, "state")
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_key_is_not_admitted(run: Run, tmp_path: Path) -> None:
    assert run(*aggregator_init(tmp_path)).code == 0
    (tmp_path / "node.pub").write_text("no key")
    arguments = ("aggregator", "admit", "--home", tmp_path / "home", "--member", "north")
    for key in ("node.pub", "gone.pub"):
        ended = run(*arguments, tmp_path / key)
        is_one_line(ended, 10, "config")
        assert key in ended.err


def test_as_json_an_error_is_one_object(run: Run, tmp_path: Path) -> None:
    for arguments, code, name in (
        (["aggregator", "status", "--home", tmp_path / "nowhere"], 11, "state"),
        (aggregator_init(tmp_path, recipe="tyni"), 10, "config"),
        (node_init(tmp_path, data=tmp_path / "nowhere"), 12, "data"),
    ):
        ended = run(*arguments, "--json")
        assert (ended.code, ended.out) == (code, "")
        assert ended.err.count("\n") == 1
        facts = json.loads(ended.err)
        assert set(facts) == {"error", "what", "remedy", "exit_code"}
        assert (facts["error"], facts["exit_code"]) == (name, code)
        assert facts["what"]
        assert facts["remedy"]


def test_a_simulation_without_its_engine_says_how_to_get_it(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    ended = run("simulate", "--home", tmp_path / "study")
    is_one_line(ended, 10, "config")
    assert "pip install 'gobelin[simulation]'" in ended.err
    assert not (tmp_path / "study").exists()


def test_wrong_use_is_told_by_the_command_line_itself(run: Run) -> None:
    for arguments in (["nonsense"], ["node", "init"], ["node", "run", "--nonsense"]):
        ended = run(*arguments)
        assert ended.code == 2
        assert "Error" in ended.err
        assert "Traceback" not in ended.err


@pytest.mark.parametrize("init", [aggregator_init, node_init])
def test_a_home_that_is_a_file_is_refused(
    init: Callable[..., list[str | Path]], run: Run, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    ended = run(*init(tmp_path, home=tmp_path / "file"))
    assert 3 <= ended.code < 126
    assert (tmp_path / "file").read_text() == "mine"
