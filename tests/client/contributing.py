"""A contributor's answer, in the spool, as its link has it before it tells of it."""

from __future__ import annotations

from typing import Any

from gobelin.client.contributor import Contributor
from gobelin.client.spool import Spooled
from gobelin.protocols.messages import RoundPlan


def in_spool(node: Contributor, plan: RoundPlan, *given: Any, **more: Any) -> Spooled:
    """What `prepare` makes of a plan, written."""
    prepared = node.prepare(plan, *given, **more)
    node.flush()
    return prepared
