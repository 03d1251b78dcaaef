"""The SuperLink's registered nodes are those of the roster, however often it changes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import httpx

from gobelin.server.control import Control
from gobelin.server.roster import Roster
from tests.keys import entry


class Nodes:
    """Flower's Control API as far as nodes go: whom it has let go, it goes on listing."""

    def __init__(self) -> None:
        self.listed: list[SimpleNamespace] = []

    def ListNodes(self, request: Any) -> SimpleNamespace:
        return SimpleNamespace(nodes_info=self.listed)

    def RegisterNode(self, request: Any) -> None:
        number = len(self.listed) + 1
        node = SimpleNamespace(public_key=request.public_key, node_id=number, status="registered")
        self.listed.append(node)

    def UnregisterNode(self, request: Any) -> None:
        (node,) = (one for one in self.listed if one.node_id == request.node_id)
        if node.status == "unregistered":
            url = httpx.Request("POST", "http://127.0.0.1/v1/control/unregister-node")
            raise httpx.HTTPStatusError("404", request=url, response=httpx.Response(404))
        node.status = "unregistered"

    @property
    def there(self) -> int:
        return sum(node.status != "unregistered" for node in self.listed)


def test_a_revoked_node_is_let_go_once_and_the_roster_may_change_again() -> None:
    control: Any = object.__new__(Control)
    control._client = nodes = Nodes()
    north, south, west = (entry(name, name, n) for n, name in enumerate(("n", "s", "w"), 1))
    assert control.sync_roster(Roster((north, south))) == ["n", "s"]
    assert len(control.sync_roster(Roster((north,)))) == 1
    assert control.sync_roster(Roster((north,))) == []  # as at every start of `up`
    assert control.sync_roster(Roster((north, west))) == ["w"]
    assert nodes.there == 2
