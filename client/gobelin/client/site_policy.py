"""The site policy: what may leave this node, whatever a round plan asks for.

`policy.toml` in the node's home, which a security officer may own and the node only read. It is
read again for every plan and every departure. What it does not say is allowed; what it demands and
this version cannot do refuses every plan that would need it, and is never passed over.
"""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from gobelin.client.home import NodeHome
from gobelin.client.privacy.budget import BARE, Prospect
from gobelin.protocols.messages import METRIC_DISTORTION, METRIC_SENT_BYTES, METRICS, RoundPlan
from gobelin.shared.codec import CodecName, rungs_from
from gobelin.shared.errors import CodecError, SitePolicyError
from gobelin.shared.settings import Settings, read_settings

TRAINING = METRICS - {METRIC_DISTORTION, METRIC_SENT_BYTES}  # those that tell of the data
DAY_S = 86400.0
HOURS = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")


class SitePolicy(Settings):
    """`policy.toml`."""

    moments: bool = True  # of projections
    metrics: bool = True  # of training: losses and effective rank
    codecs: list[CodecName] | None = None  # deltas may be encoded by; unset: any
    min_sealed_members: Annotated[int, Field(gt=1)] | None = None  # only sealed rounds of so many
    max_epsilon: Annotated[float, Field(gt=0)] | None = None  # only with privacy, up to this ε
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5  # at which ε is told and held
    hours: str | None = None  # local time in which contributions may leave, such as 20:00-06:00
    max_mb_per_day: Annotated[float, Field(gt=0)] | None = None  # of 10⁶ bytes, in any 24 hours
    max_mb_per_second: Annotated[float, Field(gt=0)] | None = None  # while a contribution leaves

    @model_validator(mode="after")
    def _hours_are_hours(self) -> SitePolicy:
        if self.hours is not None and not HOURS.fullmatch(self.hours):
            raise ValueError(f"hours = {self.hours!r} is not HH:MM-HH:MM")
        if self.codecs == []:
            raise ValueError("codecs = [] allows none: leave it out, or name some")
        return self

    def opens_in(self, now: datetime.datetime) -> float:
        """Seconds until contributions may leave by `hours`; 0 while they may."""
        found = HOURS.fullmatch(self.hours) if self.hours is not None else None
        if found is None:
            return 0.0
        h1, m1, h2, m2 = map(int, found.groups())
        first, last, minute = 60 * h1 + m1, 60 * h2 + m2, 60 * now.hour + now.minute
        inside = first <= minute < last if first < last else minute >= first or minute < last
        if inside or first == last:
            return 0.0
        return (60.0 * ((first - minute) % 1440)) - now.second


@dataclass(frozen=True)
class Finding:
    """What the policy makes of one thing that a plan asks for."""

    rule: str  # the key in policy.toml
    asks: str  # what the plan asks for
    verdict: Literal["allowed", "narrowed", "refused"]
    why: str = ""

    def facts(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


def read_policy(home: NodeHome) -> SitePolicy:
    """The policy as it is on disk now; all is allowed where there is none. Raises ConfigError."""
    file = home.policy_file
    return read_settings(SitePolicy, file) if file.exists() else SitePolicy()


def judge(
    policy: SitePolicy, plan: RoundPlan, now: datetime.datetime, prospect: Prospect = BARE
) -> list[Finding]:
    """What the policy makes of a plan offered at a local time, rule by rule.

    `prospect` is what this node would train it by.
    """
    rules = _privacy(policy, plan, prospect), _contents(policy, plan, prospect)
    return [*rules[0], *rules[1], *_times(policy, plan, now)]


def require(
    policy: SitePolicy, plan: RoundPlan, now: datetime.datetime, prospect: Prospect = BARE
) -> None:
    """Raise SitePolicyError, naming the rule, when the policy refuses a plan."""
    for finding in judge(policy, plan, now, prospect):
        if finding.verdict == "refused":
            raise SitePolicyError(
                f"policy.toml refuses the plan of round {plan.round}: {finding.rule}: "
                f"{finding.why}",
                "`gobelin node policy explain` says what each rule makes of it",
            )


def _privacy(policy: SitePolicy, plan: RoundPlan, prospect: Prospect) -> Iterator[Finding]:
    """What is demanded of a round as such, and of the training."""
    asks = "an open round: the aggregator sees each contribution"
    if plan.sealed:
        least = policy.min_sealed_members or 2
        why = f"its delta is masked once {least} members or more take part"
        yield Finding("min_sealed_members", "a sealed round: masked deltas", "allowed", why)
    elif policy.min_sealed_members is None:
        yield Finding("min_sealed_members", asks, "allowed")
    else:
        why = f"only sealed rounds of at least {policy.min_sealed_members} members may have data"
        yield Finding("min_sealed_members", asks, "refused", why)
    yield _budget(policy, prospect)


def _budget(policy: SitePolicy, prospect: Prospect) -> Finding:
    """Of privacy: what node.toml asks for must be possible, what policy.toml demands be kept."""
    most, after = policy.max_epsilon, prospect.epsilon
    if prospect.why_not:
        return Finding("max_epsilon", prospect.asks, "refused", prospect.why_not)
    told = "" if math.isinf(after) else f"ε = {after:.3g} at δ = {policy.delta:g} with it"
    if most is None:
        return Finding("max_epsilon", prospect.asks, "allowed", told)
    if prospect == BARE:
        why = f"only training that spends at most {most:g} is; node.toml has no [privacy]"
        return Finding("max_epsilon", prospect.asks, "refused", why)
    if math.isinf(after):
        why = "contributions have left this node without privacy, which no ε covers"
        return Finding("max_epsilon", prospect.asks, "refused", why)
    if after > most:
        return Finding("max_epsilon", prospect.asks, "refused", f"{told}, and {most:g} is allowed")
    return Finding("max_epsilon", prospect.asks, "allowed", told)


def _contents(policy: SitePolicy, plan: RoundPlan, prospect: Prospect) -> Iterator[Finding]:
    asks = f"deltas by {plan.codec} or coarser"
    try:
        left = [rung for rung in rungs_from(plan.codec) if allows(policy, rung)]
    except CodecError as error:
        yield Finding("codecs", asks, "refused", error.what)
    else:
        if not left:
            why = f"only {', '.join(policy.codecs or [])} may leave"
            yield Finding("codecs", asks, "refused", why)
        elif left[0] != plan.codec:
            yield Finding("codecs", asks, "narrowed", f"{left[0]} at the finest")
        else:
            yield Finding("codecs", asks, "allowed")
    stays = "they stay here" if prospect == BARE else "no ε covers them: they stay here"
    if plan.cross_node and not (policy.moments and prospect == BARE):
        yield Finding("moments", "moments of projections", "narrowed", stays)
    else:
        asks = "moments of projections" if plan.cross_node else "no moments"
        yield Finding("moments", asks, "allowed")
    asks = "figures of training: " + ", ".join(sorted(TRAINING))
    if policy.metrics and prospect == BARE:
        yield Finding("metrics", asks, "allowed")
    else:
        yield Finding("metrics", asks, "narrowed", stays)


def _times(policy: SitePolicy, plan: RoundPlan, now: datetime.datetime) -> Iterator[Finding]:
    asks = f"an answer within {plan.deadline_s:g} s"
    wait = policy.opens_in(now)
    if wait >= plan.deadline_s:
        why = f"nothing may leave for another {wait:.0f} s ({policy.hours})"
        yield Finding("hours", asks, "refused", why)
    elif wait:
        yield Finding("hours", asks, "narrowed", f"it waits {wait:.0f} s ({policy.hours})")
    else:
        yield Finding("hours", asks, "allowed")


def allows(policy: SitePolicy, codec: str) -> bool:
    """Whether deltas may be encoded by a codec."""
    return policy.codecs is None or codec in policy.codecs


def day_bytes(policy: SitePolicy) -> float | None:
    """Most bytes of contributions in any 24 hours; None for no limit."""
    return None if policy.max_mb_per_day is None else 1e6 * policy.max_mb_per_day
