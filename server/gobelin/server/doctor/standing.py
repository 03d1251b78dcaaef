"""Checks of how the federation stands: clock, rounds, ledger, releases, quorum."""

from __future__ import annotations

import datetime
import time

from gobelin.server.enrolment import Desk
from gobelin.server.home import AggregatorHome
from gobelin.server.journal import Journal
from gobelin.server.round_events import Convened, Seat
from gobelin.server.terms import terms_of
from gobelin.shared.checkup import Found, fail, ok, skip, warn
from gobelin.shared.invite import describe_seconds
from gobelin.shared.ledger import LedgerFolder
from gobelin.shared.locks import is_owned
from gobelin.shared.shelf import Shelf

HISTORY = "restore the whole home from one backup; members hold the signed heads"
LATELY = 5  # rounds
SOON_S = 14 * 86400.0
STEP_BACK_S = 5.0  # of a clock that NTP slews


def clock(home: AggregatorHome) -> Found:
    """Whether this machine's clock is later than all that it has recorded."""
    events, _ = home.events()
    stamps = [str(row["at"]) for row in events if "at" in row]
    if not stamps:
        return ok("nothing has been recorded yet")
    last = max(datetime.datetime.fromisoformat(stamp).timestamp() for stamp in stamps[-1000:])
    back = last - time.time()
    if back > STEP_BACK_S:
        return fail(
            "clock",
            f"this machine's clock is {describe_seconds(back)} behind its own last event: plans "
            "it signs now are refused as replayed",
            "`timedatectl set-ntp true`, and wait until the clock is right",
            behind_s=back,
        )
    return ok(f"the last event was {describe_seconds(max(0.0, -back))} ago", ago_s=-back)


def rounds(home: AggregatorHome) -> Found:
    """Whether the last sealed round is whole: a manifest, its digests, and no gap behind it."""
    sealed = home.sealed_rounds()
    number, checkpoint = home.latest()
    size = checkpoint.vector.schema.size
    gaps = [n for n in range(sealed[0], number) if n not in set(sealed)]
    told = (
        f"round {number} of {home.settings().rounds.rounds} is sealed and whole ({size:,} values)"
    )
    if gaps:
        return warn("gaps", f"{told}; {len(gaps)} earlier ones are gone, round {gaps[0]} first",
                    "bring them back from a backup if rounds are to be replayed")  # fmt: skip
    return ok(told, sealed=number)


def journal(home: AggregatorHome) -> Found:
    """Whether the open round's journal can be read, and its counted replies are there."""
    kept = Journal(home.journal)
    events = kept.events()
    if not events:
        return ok("no round is open")
    sealed = home.sealed_rounds()
    match events[0]:
        case Convened(plan_digest=digest):
            if sealed and home.facts(sealed[-1]).get("plan_digest") == digest:
                return ok("of the round that was just sealed; it is cleared at the next start")
        case _:
            return warn("journal", "it does not begin with a round", "it is cleared at the start")
    replies = len(list(home.journal.glob("*.reply")))
    return ok(f"{len(events)} events and {replies} answers of the open round")


def ledger(home: AggregatorHome) -> Found:
    """Whether every sealed round is in the ledger, and its newest head is of all of them."""
    folder = LedgerFolder(home.ledger)
    # in this order: the aggregator may be up, and seals a round before it is in the ledger
    sizes, numbers, sealed = folder.sizes(), folder.numbers(), home.sealed_rounds()
    if not numbers:
        return ok("empty: it begins with the first start")
    last = sealed[-1] if sealed else -1
    if numbers[-1] > last:
        return fail(
            "two_histories",
            f"the ledger has round {numbers[-1]}, the last sealed is {last}",
            HISTORY,
        )
    if numbers != list(range(numbers[-1] + 1)):
        missing = next(n for n in range(numbers[-1]) if n not in set(numbers))
        return fail("ledger", f"round {missing} is not in the ledger", HISTORY)
    entry = folder.entry(numbers[-1])
    head = folder.head(sizes[-1]) if sizes else None
    if entry is None or head is None:
        return fail("ledger", "the ledger has rounds and no head", HISTORY)
    if numbers[-1] in sealed and entry.entry.record.vector_digest != str(
        home.manifest(numbers[-1])["vector_digest"]
    ):
        return fail(
            "two_histories", f"round {numbers[-1]} is sealed with other bytes than the ledger has",
            HISTORY,
        )  # fmt: skip
    behind = last - numbers[-1]
    more = f"; {behind} rounds are added at the next start" if behind else ""
    by = len(head.lines) - 1
    return ok(f"{len(numbers)} rounds, the head of {head.head.size} cosigned by {by} nodes{more}")


def releases(home: AggregatorHome) -> Found:
    """Whether the newest release may still be taken for the newest."""
    if not home.releases.is_dir():
        return skip("nothing has been released yet")
    found = Shelf(home.releases).releases()
    if not found:
        return skip("nothing has been released yet")
    newest = found[0]
    left = newest.expires - time.time()
    told = f"{len(found)}; the newest, {newest.name}, holds for {describe_seconds(max(0.0, left))}"
    if left <= 0:
        return warn(
            "expired",
            f"{newest.name} expired {describe_seconds(-left)} ago: nodes refuse it",
            "seal the round of the next release, or raise rounds.release_days",
        )
    if left < SOON_S:
        return warn("expires", told, "seal the round of the next release before that")
    return ok(told)


def quorum(home: AggregatorHome) -> Found:
    """Whether as many members as a round needs are on the roster, and have contributed lately."""
    settings, contributors = home.settings(), home.roster().contributors
    members = {node.member for node in contributors}
    if not members:
        return warn(
            "no_members", "nobody is on the roster", "gobelin aggregator invite --member NAME"
        )
    seats = {node.id: Seat(node.member, node.name, node.signing_key) for node in contributors}
    needed = terms_of(settings).needed(seats)
    told = f"a round needs {needed} of {len(members)} members"
    if needed > len(members):
        return fail(
            "quorum", told, "invite more members, or lower rounds.min_members in federation.toml"
        )
    sealed = home.sealed_rounds()
    if len(sealed) < 2:
        return ok(f"{told}; no round has been sealed yet")
    lately: dict[str, int] = {}
    for number in sealed[-LATELY:]:
        for row in (home.find_facts(number) or {}).get("contributions", []):
            lately[row["member"]] = number
    absent = sorted(members - lately.keys())
    told += f"; {len(lately)} contributed to the last {min(LATELY, len(sealed) - 1)}"
    if len(members & lately.keys()) < needed:
        return warn("quorum", f"{told}; not {', '.join(absent)}", "ask them to start their nodes")
    if absent and is_owned(home.folder):
        return warn("absent", f"{told}; not {', '.join(absent)}", "ask them: `gobelin doctor`")
    return ok(told)


def requests(home: AggregatorHome) -> Found:
    """Whether anybody waits to be admitted."""
    waiting = [request.node for request in Desk(home).waiting()]
    if waiting:
        return warn("waiting", f"waiting to be admitted: {', '.join(waiting)}",
                    "gobelin aggregator requests")  # fmt: skip
    return ok("nobody waits to be admitted")
