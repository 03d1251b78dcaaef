"""The codec of a round's delta: the plan's, or a coarser one that keeps this node's budgets."""

from __future__ import annotations

import time

from gobelin.client.egress_ledger import EgressLedger
from gobelin.client.home import NodeHome
from gobelin.client.site_policy import DAY_S, SitePolicy, allows, day_bytes
from gobelin.client.uplink import Uplink, budget_bytes
from gobelin.protocols.messages import RoundPlan
from gobelin.shared.codec import CODECS, pick_rung
from gobelin.shared.errors import BudgetError, SitePolicyError
from gobelin.shared.vector import ParameterSchema


def codec_for(plan: RoundPlan, schema: ParameterSchema, policy: SitePolicy, home: NodeHome) -> str:
    """The codec of this round's delta, of `schema`.

    Raises SitePolicyError where the policy has no room for any, today; BudgetError where node.toml
    has none.
    """
    allowed = [codec for codec in CODECS if plan.sealed or allows(policy, codec)]
    rate = Uplink(home.uplink_file).bytes_per_second()
    codec = pick_rung(plan.codec, schema, budget_bytes(home.settings().egress, rate), allowed)
    if (day := day_bytes(policy)) is not None:
        sent = EgressLedger(home.egress_file).sent_since(time.time() - DAY_S)
        try:
            codec = pick_rung(codec, schema, day - sent, allowed)
        except BudgetError:
            raise SitePolicyError(
                f"policy.toml lets {policy.max_mb_per_day:g} MB leave a day, {sent / 1e6:.3g} have",
                "wait, or raise max_mb_per_day",
            ) from None
    if plan.sealed and codec != plan.codec:
        raise BudgetError(
            f"a sealed round needs {4e-6 * schema.size:.3g} MB, this node's budget is less",
            "raise max_mb_per_round or seconds_per_round in [egress] of node.toml",
        )
    return codec
