"""The operator's commands about who belongs, as they are typed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gobelin.server import service
from gobelin.server.cli import app
from gobelin.server.places import Places
from gobelin.shared.errors import ConfigError, StateError
from gobelin.shared.invite import Invite
from tests.keys import entry
from tests.office import found_places

RUNNER = CliRunner()


@pytest.fixture
def places(tmp_path: Path) -> Places:
    made = found_places(tmp_path / "home")
    with made.book.change(made.signing_key_file) as change:
        for number, (member, node) in enumerate((("a", "a-1"), ("a", "a-2"), ("b", "b-1")), 1):
            change.admit(entry(member, node, number))
    return made


def type_in(places: Places, *words: str) -> list[Any]:
    """What a command prints with --json, line by line."""
    done = RUNNER.invoke(app, [*words, "--home", str(places.folder), "--json"])
    if done.exception is not None:
        raise done.exception
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_an_invite_says_all_a_node_needs(places: Places) -> None:
    (made,) = type_in(places, "invite", "--member", "c", "--ttl", "2h")
    invite = Invite.parse(made["invite"])
    assert (invite.member, invite.federation, invite.id) == ("c", "fed", made["id"])
    network = places.front().network
    assert invite.service == f"127.0.0.1:{network.service_port}"
    assert invite.fleet == f"127.0.0.1:{network.port}"
    assert invite.federation_digest == places.federation_digest()
    done = RUNNER.invoke(app, ["invite", "--member", "c", "--home", str(places.folder)])
    assert Invite.parse(done.stdout).member == "c"  # nothing else is printed


@pytest.mark.parametrize("ttl", ["", "0h", "24", "h", "-1h", "91d", "1e9h", "24 hours"])
def test_a_length_of_time_that_is_none_is_refused(places: Places, ttl: str) -> None:
    with pytest.raises(ConfigError, match="no length of time"):
        type_in(places, "invite", "--member", "c", "--ttl", ttl)


def test_members_and_nodes_are_listed(places: Places) -> None:
    rows = type_in(places, "members")
    assert [(row["member"], row["nodes"]) for row in rows] == [("a", "a-1, a-2"), ("b", "b-1")]
    assert [row["node"] for row in type_in(places, "nodes")] == ["a-1", "a-2", "b-1"]
    plain = RUNNER.invoke(app, ["nodes", "--home", str(places.folder)])
    assert "a-2" in plain.stdout


def test_a_node_or_all_of_a_member_are_revoked(places: Places) -> None:
    assert [row["node"] for row in type_in(places, "revoke", "b-1", "--reason", "gone")] == ["b-1"]
    assert [row["node"] for row in type_in(places, "revoke", "--member", "a")] == ["a-1", "a-2"]
    assert type_in(places, "nodes") == []
    log = type_in(places, "nodes", "--history")
    assert [row["change"] for row in log] == ["admit"] * 3 + ["revoke"] * 3
    assert log[3]["reason"] == "gone"


@pytest.mark.parametrize(
    "words", [["a"], ["nobody"], [], ["a-1", "--member", "a"], ["--member", "nobody"]]
)
def test_who_is_not_there_is_not_revoked(places: Places, words: list[str]) -> None:
    with pytest.raises(ConfigError):
        type_in(places, "revoke", *words)
    assert len(places.roster().nodes) == 3


def test_a_role_is_changed_once_and_written_down(places: Places) -> None:
    for _ in range(2):
        assert type_in(places, "role", "a-1", "observer") == [{"node": "a-1", "role": "observer"}]
    assert type_in(places, "nodes")[0]["role"] == "observer"
    assert len(places.book.log().records) == 4
    assert [node.name for node in places.roster().contributors] == ["a-2", "b-1"]
    with pytest.raises(ConfigError, match="no role"):
        type_in(places, "role", "a-1", "king")


def test_nobody_waits_where_nobody_asked(places: Places) -> None:
    assert type_in(places, "requests") == []
    for word in ("approve", "refuse"):
        with pytest.raises(ConfigError, match="waiting: nobody"):
            type_in(places, word, "some", "words")


def test_the_service_alone_says_where_it_is_and_what_comes_next(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "serve", lambda places, stop, ready: ready("127.0.0.1:9093"))
    (told,) = type_in(places, "serve")
    assert told == {"event": "ready", "service_address": "127.0.0.1:9093"}
    plain = RUNNER.invoke(app, ["serve", "--home", str(places.folder)]).stdout
    assert plain.count("\n") == 1
    assert "at 127.0.0.1:9093" in plain
    assert f"Ctrl-C stops it. Next: gobelin aggregator invite --home {places.folder}" in plain


@pytest.mark.parametrize("command", ["requests", "members", "nodes", "invite --member x"])
def test_a_folder_that_is_no_home_is_said_to_be_none(tmp_path: Path, command: str) -> None:
    done = RUNNER.invoke(app, [*command.split(), "--home", str(tmp_path)])
    assert isinstance(done.exception, StateError)
