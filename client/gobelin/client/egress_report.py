"""What a security officer sees: the egress ledger, and what the site policy makes of a plan."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gobelin.client.egress_ledger import CALL, LEAVING, LEFT, EgressLedger, total, when
from gobelin.client.home import NodeHome
from gobelin.client.plan import parse_recipe
from gobelin.client.privacy.budget import BARE, Prospect, Spent, prospect_of
from gobelin.client.site_policy import judge, read_policy
from gobelin.client.workbench import open_parts
from gobelin.protocols.messages import MalformedMessageError, RoundPlan
from gobelin.shared.errors import ConfigError, StateError


def print_egress(home: NodeHome, as_json: bool) -> None:
    """Print the egress ledger; raises EgressError where its chain is broken."""
    home.settings()
    records = EgressLedger(home.egress_file).records()
    totals, delta, spent = total(records), read_policy(home).delta, Spent.of(records)
    if as_json:
        facts = {"records": records, "totals": totals.facts(), "privacy": spent.facts(delta)}
        print(json.dumps(facts, sort_keys=True))
        return
    wire = {row["of"]: row["wire_bytes"] for row in records if row["kind"] == LEFT}
    for row in records:
        if row["kind"] == LEAVING:
            print(f"{when(row)}  {describe(row)}, {_on_wire(wire.get(row['number']))}")
        elif row["kind"] == CALL:
            size = f"{row['wire_bytes']:,} bytes"
            print(f"{when(row)}  call of our service: {row['method']}, {size}")
    print(
        f"{totals.departures} contributions of {totals.payload_bytes:,} bytes left; "
        f"{totals.wire_bytes:,} bytes in {totals.requests:,} requests, sessions included"
    )
    print(spent.text(delta))
    print(f"The chain of {totals.records} records is whole; its head is {totals.head[:16]}…")


def describe(row: Mapping[str, Any]) -> str:
    """One departure in words."""
    size = row.get("cosigned", 0)  # records of before there was a ledger have none
    beside = [f"cosignature of {size} rounds"] if size else []
    if row["purpose"] != "contribution":
        return ", ".join([f"{row['purpose']} {row['code']}".rstrip(), *beside])
    parts = [f"contribution to round {row['round']}: {row['payload_bytes']:,} bytes {row['codec']}"]
    if row["moments_bytes"]:
        parts.append(f"moments {row['moments_bytes']:,} bytes")
    parts.append(f"digest {row['digest'][:12]}…")
    return ", ".join(parts + beside)


def _on_wire(size: int | None) -> str:
    return "broken off by a kill" if size is None else f"{size:,} on the wire"


def print_policy(home: NodeHome, file: Path | None, as_json: bool) -> None:
    """Print what the site policy makes of a plan, and whether it would be refused."""
    home.settings()
    plan, policy = offered_plan(home, file), read_policy(home)
    prospect = prospect_of_node(home, plan, policy.delta)
    findings = judge(policy, plan, datetime.datetime.now(), prospect)
    refused = any(finding.verdict == "refused" for finding in findings)
    if as_json:
        rows = [finding.facts() for finding in findings]
        facts = {"round": plan.round, "plan": plan.digest, "refused": refused, "rules": rows}
        print(json.dumps({**facts, "policy": policy.model_dump()}, sort_keys=True))
        return
    written = home.policy_file if home.policy_file.exists() else "no policy.toml: all is allowed"
    print(f"The plan of round {plan.round} ({plan.digest[:12]}…) under {written}:")
    for finding in findings:
        why = f" ({finding.why})" if finding.why else ""
        print(f"  {finding.verdict:8}  {finding.rule}: {finding.asks}{why}")
    print("It would be refused." if refused else "It would be answered.")


def prospect_of_node(home: NodeHome, plan: RoundPlan, delta: float) -> Prospect:
    """What a node would train a plan by."""
    if home.settings().privacy is None:
        return BARE
    samples = len(open_parts(home.settings(), parse_recipe(plan.recipe)).kept)
    return prospect_of(home, home.settings(), plan, samples, delta)


def offered_plan(home: NodeHome, file: Path | None = None) -> RoundPlan:
    """The plan of a file, or the last that was offered; raises StateError, ConfigError."""
    path = file or home.plan_file
    try:
        return RoundPlan.from_bytes(path.read_bytes())
    except FileNotFoundError:
        if file is None:
            raise StateError(
                "no plan has been offered to this node yet", "name one by --plan"
            ) from None
        raise ConfigError(f"{file} does not exist", "name the file of a round plan") from None
    except (MalformedMessageError, OSError) as error:
        raise ConfigError(f"{path} holds no round plan: {error}", "name another file") from None
