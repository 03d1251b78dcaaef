"""The Fleet connection: what ends a session, and what is only asked again."""

from __future__ import annotations

import grpc
import pytest

from gobelin.client.fleet import FleetConnection
from gobelin.client.home import NodeStatus
from gobelin.shared.errors import UnknownNodeError


def broken(status: grpc.StatusCode) -> grpc.RpcError:
    """A request that failed with a status, and has nothing else to say."""
    silent = dict.fromkeys(grpc.Call.__abstractmethods__, lambda self: None)
    answers = {**silent, "code": lambda self: status}
    error: grpc.RpcError = type("Broken", (grpc.RpcError, grpc.Call), answers)()
    return error


def connection(status: grpc.StatusCode, said: list[NodeStatus]) -> FleetConnection:
    class Stub:
        def PullMessages(self, request: object) -> None:
            raise broken(status)

    link = object.__new__(FleetConnection)
    link._stub, link._node, link._say = Stub(), None, said.append
    return link


@pytest.mark.parametrize(
    "status",
    [grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.CANCELLED],
)
def test_a_request_that_a_dying_superlink_broke_off_is_asked_again(
    status: grpc.StatusCode,
) -> None:
    said: list[NodeStatus] = []
    assert connection(status, said).pull() is None
    assert [one.state for one in said] == ["waiting"]


def test_the_word_that_the_key_is_unknown_ends_the_session() -> None:
    with pytest.raises(UnknownNodeError, match="no longer accepts"):
        connection(grpc.StatusCode.UNAUTHENTICATED, []).pull()
