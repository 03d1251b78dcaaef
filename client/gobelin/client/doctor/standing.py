"""Checks of how this node stands: certificate, enrolment, spool, egress ledger, site policy."""

from __future__ import annotations

import time

from gobelin.client.doctor.patient import Patient
from gobelin.client.egress_ledger import EgressLedger, total
from gobelin.client.home import require_member
from gobelin.client.membership import Membership
from gobelin.client.spool_entry import entries_in
from gobelin.protocols import federation_pb2 as pb
from gobelin.shared.certificates import renewal_time
from gobelin.shared.checkup import Found, fail, ok, skip, warn
from gobelin.shared.errors import EnrolmentError
from gobelin.shared.invite import describe_seconds
from gobelin.shared.keys import fingerprint
from gobelin.shared.locks import is_owned

EVERYTHING = 1 << 40  # as the first record of a roster log asked for: none come
ADMITTED_BY_KEY = "this node was admitted by its node.pub: it has none"


def certificate(patient: Patient) -> Found:
    """How long the node's certificate still holds; it is renewed while the node runs."""
    home = patient.node
    if not home.certificate_file.exists() or not home.enrolment_file.exists():
        return skip(ADMITTED_BY_KEY)
    known = Membership(home).certificate
    left = known.not_valid_after_utc.timestamp() - time.time()
    if left <= 0:
        return warn(
            "certificate",
            f"it ended {describe_seconds(-left)} ago",
            f"`gobelin node run --home {home.folder}` asks for another, by the key of the invite",
            left_s=left,
        )
    if time.time() > renewal_time(known) and not is_owned(home.folder):
        return warn(
            "certificate",
            f"it ends in {describe_seconds(left)} and is due to be renewed",
            f"`gobelin node run --home {home.folder}` renews it",
            left_s=left,
        )
    return ok(f"for {describe_seconds(left)} more; renewed while the node runs", left_s=left)


def enrolment(patient: Patient) -> Found:
    """Whether the aggregator has this node on its roster."""
    home = patient.node
    require_member(home)
    if not home.certificate_file.exists() or not home.enrolment_file.exists():
        asked = home.pinned("flower_node_id")
        known = "its key was accepted before" if asked else "its key was not shown yet"
        return skip(f"admitted by its node.pub: {known}, `gobelin node run` shows it")
    try:
        with patient.connected() as service:
            reply = service.ask("Roster", pb.RosterRequest(first=EVERYTHING))
    except EnrolmentError as error:
        return fail(
            error.code,
            f"not on the roster: {error.what}",
            "ask the aggregator's operator: waiting (`gobelin aggregator approve`), or revoked",
        )
    me = fingerprint(home.public_key_file.read_bytes())
    return ok(f"on the roster ({reply.length} records) as {me[:16]}…", records=reply.length)


def spool(patient: Patient) -> Found:
    """What the spool holds, and that it can be read."""
    entries = entries_in(patient.node.spool)
    if not entries:
        return ok("empty: nothing has been contributed from here")
    waiting = [entry.contribution.round for entry in entries if entry.counted is None]
    told = f"rounds {', '.join(str(entry.contribution.round) for entry in entries)}"
    if waiting:
        told += f"; of round {waiting[-1]} no receipt has come yet"
    return ok(told, rounds=[entry.contribution.round for entry in entries], waiting=waiting)


def egress_ledger(patient: Patient) -> Found:
    """Whether the record of what has left is whole; nothing leaves where it is not."""
    found = total(EgressLedger(patient.node.egress_file).records())
    size = f"{found.wire_bytes / 1e6:.3g} MB"
    return ok(f"{found.records} records, whole: {found.departures} contributions, {size}")


def site_policy(patient: Patient) -> Found:
    """What policy.toml makes of what the federation asks now."""
    import datetime

    from gobelin.client.egress_report import prospect_of_node
    from gobelin.client.site_policy import judge, read_policy

    home = patient.node
    policy, terms = read_policy(home), patient.terms()
    plan = terms.plan()
    findings = judge(
        policy, plan, datetime.datetime.now(), prospect_of_node(home, plan, policy.delta)
    )
    refused = [f"{row.rule} ({row.why})" for row in findings if row.verdict == "refused"]
    narrowed = [f"{row.rule} ({row.why})" for row in findings if row.verdict == "narrowed"]
    if refused:
        return fail(
            "site_policy",
            f"policy.toml refuses {terms.source}: {'; '.join(refused)}",
            f"`gobelin node policy explain --home {home.folder}`; change policy.toml, or wait",
        )
    written = "policy.toml allows" if home.policy_file.exists() else "no policy.toml refuses"
    more = f"; narrowed: {'; '.join(narrowed)}" if narrowed else ""
    return ok(f"{written} {terms.source}{more}")
