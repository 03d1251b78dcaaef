"""Flower, on the node's side: the ClientApp, and our own loop over the Fleet connection.

Beside fleet.py the only module of the node that imports flwr. The node runs installed code only:
it pulls messages, calls the ClientApp below in this process and pushes the reply; the run's bundle
is never fetched.
"""

from __future__ import annotations

import os

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"  # before flwr is imported: it reads them once
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch: a page's fault costs more than its sums

import functools
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from flwr.app import (
    Context,
    Error,
    Message,
    MessageType,
    RecordDict,
)
from flwr.clientapp import ClientApp

from gobelin.client.contributor import Contributor
from gobelin.client.egress import NOTHING_SPENT, clear
from gobelin.client.fleet import FleetConnection, Mail
from gobelin.client.home import NodeHome, NodeStatus, Say
from gobelin.client.ledger import NodeLedger
from gobelin.client.privacy.budget import spent_by
from gobelin.client.reach import wait_reachable
from gobelin.client.records import (
    OUR_ERROR,
    contribution_record,
    cosigned,
    read_call,
    read_envelope,
    read_farewell,
    read_ledger,
    read_notice,
    read_offer,
    read_plan,
    read_receipts,
    sealed_record,
)
from gobelin.client.shadow.shadow import Called
from gobelin.client.site_policy import read_policy
from gobelin.client.spool import Spooled
from gobelin.client.status_file import recording
from gobelin.client.uplink import Uplink
from gobelin.protocols.messages import (
    HEADER,
    METRIC_DISTORTION,
    METRIC_SENT_BYTES,
    MOMENTS,
    NOT_SPOOLED,
    NOTICE,
    PAUSED,
    PAYLOAD,
    RECALL,
    SUPERSEDED,
    Contribution,
)
from gobelin.protocols.sealing import SEALED
from gobelin.shared.codec import describe_codec
from gobelin.shared.errors import (
    ContributionError,
    EnvelopeError,
    GobelinError,
    LedgerError,
    ProtocolError,
    SignatureError,
    SitePolicyError,
    TwoHistoriesError,
)
from gobelin.shared.logs import FLOWER, TOLD, adopt, bind, facts
from gobelin.shared.notify import ready
from gobelin.shared.patience import pause
from gobelin.shared.pausing import Pause, read_pause

POLL_S = (0.05, 0.5)  # between two looks for messages, at first and at most
LOOK_EVERY_S = 0.1  # while the shadow works
HOME_KEY = "home"
HELD_KEY = "held"  # set where a reply is held back until the spool has the contribution
TRAIN = MessageType.TRAIN
WARM = 1  # contributors kept: a node has one, and who simulates many meets each once a round
# They refuse one plan.
NOT_OURS = (ContributionError, EnvelopeError, ProtocolError, SitePolicyError)
HISTORY = (LedgerError, SignatureError, TwoHistoriesError)  # an aggregator to be doubted

# ---------------------------------------------------------------- the ClientApp

app = ClientApp()
_watchers: dict[str, Say] = {}  # home → who wants to see its contributor's progress
_failures: dict[str, GobelinError] = {}  # home → why its last contribution failed; stays here


@app.train()
def train(message: Message, context: Context) -> Message:
    """Answer a round plan with a contribution, or with an error code and nothing else."""
    home = str(context.node_config[HOME_KEY])
    try:
        offer = read_offer(message.content)
        contributor, plan = _contributor(home), offer.plan
        bind(federation=plan.federation, round=plan.round)
        envelope = contributor.envelopes.open_plan(plan, offer.envelope, offer.receipts)
        ledger = NodeLedger(NodeHome(Path(home)))
        view = read_ledger(message.content)
        base = ledger.hear(plan.federation, view, offer.receipts, plan, envelope.issued)
        if base is not None and base.why:
            back = f"the federation went back to what round {base.restores} had left: {base.why}"
            _watchers.get(home, _ignore)(NodeStatus("warning", round=base.round, note=back))
        contributor.hear(plan.federation, plan.round, offer.receipts)
        spooled = contributor.prepare(plan, offer.segments, offer.moments, offer.steps, envelope)
        if not context.node_config.get(HELD_KEY):
            contributor.flush()
        _clear(home, spooled)
    except GobelinError as error:
        _failures[home] = error
        TOLD.warning("no contribution", exc_info=True, extra=facts("contribution_failed"))
        return Message(Error(OUR_ERROR, f"gobelin:{error.code}"), reply_to=message)
    content = contribution_record(spooled)
    return Message(cosigned(content, ledger.cosignature()), reply_to=message)


@app.query("recall")
def recall(message: Message, context: Context) -> Message:
    """Answer a plan that came alone from the spool, or say that nothing is there."""
    home, spooled = str(context.node_config[HOME_KEY]), None
    try:
        plan, signed = read_plan(message.content), read_envelope(message.content)
        contributor = _contributor(home)
        receipts = read_receipts(message.content)
        envelope = contributor.envelopes.open_recall(plan, signed, receipts)
        spooled = contributor.finished(plan, envelope)
        if spooled is not None:
            _clear(home, spooled)
    except (ProtocolError, SitePolicyError) as error:
        _say_of(home, str(error))
        return Message(Error(OUR_ERROR, f"gobelin:{error.code}"), reply_to=message)
    except GobelinError as error:
        _say_of(home, f"could not look for what it asks for: {error}")
    if spooled is None:
        return Message(Error(OUR_ERROR, NOT_SPOOLED), reply_to=message)
    return Message(contribution_record(spooled), reply_to=message)


@app.query("sealed")
def seal(message: Message, context: Context) -> Message:
    """Answer a phase of a sealed round, or say by a code why not."""
    home = str(context.node_config[HOME_KEY])
    try:
        reply = _contributor(home).seal(read_call(message.content))
    except GobelinError as error:
        _say_of(home, f"did not answer a sealed round: {error}")
        return Message(Error(OUR_ERROR, f"gobelin:{error.code}"), reply_to=message)
    return Message(sealed_record(reply), reply_to=message)


def take_failure(home: str) -> GobelinError | None:
    """Why a home's last contribution failed, or None; told once."""
    return _failures.pop(home, None)


@app.query()
def hear_farewell(message: Message, context: Context) -> Message:
    """Take the last receipts, and acknowledge that the federation has finished."""
    home, content = str(context.node_config[HOME_KEY]), RecordDict()
    try:
        contributor = _contributor(home)
        farewell, receipts = read_farewell(message.content), read_receipts(message.content)
        signed = read_envelope(message.content)
        envelope = contributor.envelopes.open_farewell(farewell, signed, receipts)
        ledger = NodeLedger(NodeHome(Path(home)))
        view = read_ledger(message.content)
        ledger.hear(farewell.federation, view, receipts, None, envelope.issued)
        contributor.hear(farewell.federation, farewell.rounds + 1, receipts)
        content = cosigned(content, ledger.cosignature())
    except (EnvelopeError, ContributionError) as error:  # anybody may say goodbye
        _say_of(home, f"a farewell was not believed: {error}")
        return Message(Error(OUR_ERROR, f"gobelin:{error.code}"), reply_to=message)
    except GobelinError as error:
        _failures[home] = error
        _say_of(home, f"could not keep the last receipts: {error}")
    return Message(content, reply_to=message)


@app.query("notice")
def hear_notice(message: Message, context: Context) -> Message:
    """Tell the operator what the aggregator's has to say, and acknowledge it."""
    home, content = str(context.node_config[HOME_KEY]), RecordDict()
    try:
        notice = read_notice(message.content)
        _contributor(home).envelopes.open_notice(notice, read_envelope(message.content))
    except GobelinError as error:  # anybody may say anything
        _say_of(home, f"a notice was not believed: {error}")
        return Message(Error(OUR_ERROR, f"gobelin:{error.code}"), reply_to=message)
    note = f"the aggregator says: {notice.what}"
    _watchers.get(home, _ignore)(NodeStatus("waiting", round=notice.round, note=note))
    cosignature = NodeLedger(NodeHome(Path(home))).cosignature()
    return Message(cosigned(content, cosignature), reply_to=message)


@functools.lru_cache(maxsize=WARM)
def _contributor(home: str) -> Contributor:
    """The contributor of the home this process answers for, kept warm between rounds."""
    return Contributor(NodeHome(Path(home)), lambda status: _watchers.get(home, _ignore)(status))


def _clear(home: str, spooled: Spooled) -> None:
    """Raise unless it may leave a home by the policy of now, and what has left before."""
    place = NodeHome(Path(home))
    policy = read_policy(place)
    clear(spooled, policy, NOTHING_SPENT if policy.max_epsilon is None else spent_by(place))


def _say_of(home: str, note: str) -> None:
    """Tell who watches a home of something that no reply tells."""
    _watchers.get(home, _ignore)(NodeStatus("idle", note=note))


def _ignore(status: NodeStatus) -> None:
    """Nobody watches."""


# ---------------------------------------------------------------- the loop


def serve(home: NodeHome, say: Say, give_up_s: float = math.inf) -> None:
    """Take part in rounds until the last: pull a plan, train, push the contribution.

    Waits with backoff while the aggregator is unreachable, at the start for at most `give_up_s`
    (then UnreachableError). Raises WrongCAError, UnknownNodeError, and what keeps this node from
    training, such as bad data; the aggregator learns no more of that than the error's code.
    """
    key = str(home.folder)
    adopt(FLOWER)
    say = _watchers[key] = recording(home, say)
    uplink = Uplink(home.uplink_file)
    ready("looking for the aggregator")
    wait_reachable(home, say, give_up_s)
    with FleetConnection(home, say) as link:
        say(NodeStatus("idle", note="connected; waiting for a round"))
        rest = lambda called: _contributor(key).rest(called)  # noqa: E731
        for message in _messages(link, rest, lambda: read_pause(home.folder), say):
            reply, sent = _answer(link, message, key, say)
            if message.metadata.message_type == MessageType.QUERY:
                if reply.has_error():
                    continue
                say(_finished(message))
                if isinstance(failure := take_failure(key), HISTORY):
                    raise failure
                return
            if message.metadata.message_type == SEALED:
                if not reply.has_error():  # else it has said why
                    say(NodeStatus("idle", note=_answered(message, sent)))
                continue
            if message.metadata.message_type == NOTICE:
                continue  # it has said what it says
            if message.metadata.message_type == RECALL and reply.has_error():
                continue
            failure = take_failure(key)
            if failure is not None and not isinstance(failure, NOT_OURS):
                raise failure  # ours to mend, not the aggregator's
            if sent and failure is None:
                uplink.note(*sent)
            say(_outcome(reply, sent is not None, failure))


def _answer(
    link: FleetConnection, message: Message, home: str, say: Say
) -> tuple[Message, tuple[int, float] | None]:
    """Let the ClientApp answer a message and push the reply; bytes and seconds of that."""
    config = {HOME_KEY: home, HELD_KEY: True}
    context = Context(message.metadata.run_id, link.node_id, config, RecordDict(), {})
    started = time.monotonic()
    reply = app(message, context)
    if message.metadata.message_type != NOTICE:
        say(NodeStatus("sending"))
    return reply, link.send(reply, time.monotonic() - started, _contributor(home).flush)


def _outcome(reply: Message, sent: bool, failure: GobelinError | None) -> NodeStatus:
    if failure is not None:
        return NodeStatus("idle", note=f"could not contribute: {failure}")
    if not sent:
        note = "the aggregator restarted; the contribution stays in the spool"
        return NodeStatus("idle", note=note)
    made = Contribution.from_bytes(reply.content[HEADER][PAYLOAD])  # our own
    if made.sealed:
        note = "local steps are done; the delta waits here to be masked"
        return NodeStatus("idle", round=made.round, note=note)
    sent_bytes, distortion = made.metrics[METRIC_SENT_BYTES], made.metrics[METRIC_DISTORTION]
    moments = len(reply.content[MOMENTS][MOMENTS].data) if made.moments_digest else 0
    beside = f"; moments, {moments:,} bytes" if moments else ""
    return NodeStatus(
        "idle",
        round=made.round,
        codec=made.codec,
        sent_bytes=int(sent_bytes),
        distortion=distortion,
        delta_digest=made.delta_digest,
        moments_bytes=moments,
        note=f"contribution sent ({describe_codec(made.codec, sent_bytes, distortion)}{beside}); "
        "waiting for the next round",
    )


def _answered(message: Message, sent: tuple[int, float] | None) -> str:
    """What to say of an answer in a sealed round."""
    phase = read_call(message.content).phase
    return f"sealed round: answered {phase}, {sent[0] if sent else 0:,} bytes"


def _messages(
    link: FleetConnection,
    rest: Callable[[Called], bool],
    pause_of: Callable[[], Pause | None],
    say: Say,
) -> Iterator[Message]:
    """What has arrived, the plan last; of several plans only the newest is worth training for.

    While nothing has, `rest` may use the time, and asks now and then whether something has; it
    says whether it had any use for it. While this node is paused, plans are declined, and all else
    is answered.
    """
    inbox = Inbox(link)
    since, paused = time.monotonic(), None

    def called() -> bool:
        return inbox.called() or pause_of() is not None

    while True:
        before, paused = paused, pause_of()
        if paused != before:
            say(NodeStatus("paused" if paused else "idle", note=str(paused or "taking part again")))
            if paused is None:
                link.come_back()
        link.settle()
        waiting = inbox.empty()
        plans = [mail for mail in waiting if mail.message.metadata.message_type == TRAIN]
        for overtaken in plans if paused else plans[:-1]:
            link.decline(overtaken, Error(OUR_ERROR, PAUSED if paused else SUPERSEDED))
        others = [mail for mail in waiting if mail not in plans]
        for mail in others + ([] if paused else plans[-1:]):
            message = link.fetch(mail)
            if message is not None:
                yield message
        if waiting:
            since = time.monotonic()
        elif paused or not rest(called):
            time.sleep(pause(time.monotonic() - since, *POLL_S))


class Inbox:
    """Mail that was pulled, until it is looked through."""

    def __init__(self, link: FleetConnection) -> None:
        self._link, self._mail, self._looked = link, list[Mail](), time.monotonic()

    def called(self) -> bool:
        """Whether there is mail; looks for some if it has not just been looked."""
        if not self._mail and time.monotonic() - self._looked >= LOOK_EVERY_S:
            self._pull()
        return bool(self._mail)

    def empty(self) -> list[Mail]:
        """All mail there is."""
        self._pull()
        mail, self._mail = self._mail, []
        return mail

    def _pull(self) -> None:
        self._mail += iter(self._link.pull, None)
        self._looked = time.monotonic()


def _finished(message: Message) -> NodeStatus:
    try:
        farewell = read_farewell(message.content)
    except ContributionError:
        return NodeStatus("finished", note="the aggregator says the federation has finished")
    consensus = farewell.vector_digest[:12]
    return NodeStatus("finished", note=f"{farewell.rounds} rounds; the consensus is {consensus}")
