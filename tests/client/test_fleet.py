"""The Fleet connection: what ends a session, and what is only asked again."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from gobelin.client.fleet import FleetConnection
from gobelin.client.home import NodeStatus
from gobelin.shared.errors import UnknownNodeError


class Broken(grpc.RpcError, grpc.Call):
    """A request that failed with a status."""

    def __init__(self, status: grpc.StatusCode) -> None:
        self._status = status

    def code(self) -> grpc.StatusCode:
        return self._status

    def __getattr__(self, name: str) -> Any:
        raise NotImplementedError(name)


Broken.__abstractmethods__ = frozenset()


def connection(status: grpc.StatusCode, said: list[NodeStatus]) -> FleetConnection:
    class Stub:
        def PullMessages(self, request: object) -> None:
            raise Broken(status)

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
