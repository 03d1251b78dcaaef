"""Flower, on the node's side: the ClientApp, and our own loop over the Fleet connection.

Beside fleet.py the only module of the node that imports flwr. The node runs installed code only:
it pulls messages, calls the ClientApp below in this process and pushes the reply; the run's bundle
is never fetched.
"""

from __future__ import annotations

import os

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"  # before flwr is imported: it reads them once
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"

import functools
import math
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    MessageType,
    RecordDict,
)
from flwr.clientapp import ClientApp

from gobelin.client.contributor import Contributor
from gobelin.client.egress import Uplink
from gobelin.client.fleet import FleetConnection, Say
from gobelin.client.home import NodeHome, NodeStatus
from gobelin.client.ledger import NodeLedger
from gobelin.client.reach import wait_reachable
from gobelin.client.spool import Spooled
from gobelin.protocols.ledger import COSIGNATURE, LEDGER, LedgerView
from gobelin.protocols.messages import (
    BASE,
    BYTES,
    DELTA,
    ENCODING,
    ENCODING_MOMENTS,
    HEADER,
    METRIC_DISTORTION,
    METRIC_SENT_BYTES,
    MOMENTS,
    NOT_SPOOLED,
    PAYLOAD,
    RECALL,
    RECEIPTS,
    STEPS,
    SUPERSEDED,
    Contribution,
    Farewell,
    MalformedMessageError,
    Receipt,
    RoundPlan,
    Step,
    encoding_of,
)
from gobelin.shared.codec import describe_codec
from gobelin.shared.errors import (
    ContributionError,
    GobelinError,
    LedgerError,
    SignatureError,
    TwoHistoriesError,
)
from gobelin.shared.files import write_json
from gobelin.shared.step import CodedStep
from gobelin.shared.vector import DTYPE

POLL_S = 0.5
PEAK_PER_MB = 2**20 if sys.platform == "darwin" else 2**10  # macOS counts bytes, Linux KiB
HOME_KEY = "home"
TRAIN = MessageType.TRAIN
WARM = 1  # contributors kept: a node has one, and who simulates many meets each once a round
HISTORY = (LedgerError, SignatureError, TwoHistoriesError)  # an aggregator to be doubted
OUR_ERROR = 100  # Flower error code of replies that carry one of our codes

# ---------------------------------------------------------------- the ClientApp

app = ClientApp()
_watchers: dict[str, Say] = {}  # home → who wants to see its contributor's progress
_failures: dict[str, GobelinError] = {}  # home → why its last contribution failed; stays here


@app.train()
def train(message: Message, context: Context) -> Message:
    """Answer a round plan with a contribution, or with an error code and nothing else."""
    home = str(context.node_config[HOME_KEY])
    try:
        offer = _read_offer(message.content)
        ledger = NodeLedger(NodeHome(Path(home)))
        ledger.hear(offer.plan.federation, offer.ledger, offer.receipts, offer.plan)
        contributor = _contributor(home)
        contributor.hear(offer.plan.federation, offer.plan.round, offer.receipts)
        spooled = contributor.contribute(offer.plan, offer.segments, offer.moments, offer.steps)
    except GobelinError as error:
        _failures[home] = error
        return Message(Error(OUR_ERROR, f"gobelin:{error.code}"), reply_to=message)
    content = contribution_record(spooled)
    return Message(_with_cosignature(content, ledger), reply_to=message)


@app.query("recall")
def recall(message: Message, context: Context) -> Message:
    """Answer a plan that came alone from the spool, or say that nothing is there."""
    home, spooled = str(context.node_config[HOME_KEY]), None
    try:
        spooled = _contributor(home).finished(_read_plan(message.content))
    except GobelinError as error:
        _say_of(home, f"could not look for what it asks for: {error}")
    if spooled is None:
        return Message(Error(OUR_ERROR, NOT_SPOOLED), reply_to=message)
    return Message(contribution_record(spooled), reply_to=message)


def take_failure(home: str) -> GobelinError | None:
    """Why a home's last contribution failed, or None; told once."""
    return _failures.pop(home, None)


@app.query()
def hear_farewell(message: Message, context: Context) -> Message:
    """Take the last receipts, and acknowledge that the federation has finished."""
    home, content = str(context.node_config[HOME_KEY]), RecordDict()
    try:
        farewell, receipts = _read_farewell(message.content), _read_receipts(message.content)
        ledger = NodeLedger(NodeHome(Path(home)))
        ledger.hear(farewell.federation, _read_ledger(message.content), receipts, None)
        _contributor(home).hear(farewell.federation, farewell.rounds + 1, receipts)
        content = _with_cosignature(content, ledger)
    except GobelinError as error:
        _failures[home] = error
        _say_of(home, f"could not keep the last receipts: {error}")
    return Message(content, reply_to=message)


@functools.lru_cache(maxsize=WARM)
def _contributor(home: str) -> Contributor:
    """The contributor of the home this process answers for, kept warm between rounds."""
    return Contributor(NodeHome(Path(home)), lambda status: _watchers.get(home, _ignore)(status))


def _say_of(home: str, note: str) -> None:
    """Tell who watches a home of something that no reply tells."""
    _watchers.get(home, _ignore)(NodeStatus("idle", note=note))


def _ignore(status: NodeStatus) -> None:
    """Nobody watches."""


@dataclass(frozen=True)
class Offer:
    """What comes with a plan: its base, whole or as steps, moments and receipts."""

    plan: RoundPlan
    segments: dict[str, bytes] | None
    steps: list[CodedStep]
    moments: bytes
    receipts: list[Receipt]
    ledger: LedgerView


def _read_plan(content: RecordDict) -> RoundPlan:
    """The plan of a message; raises ContributionError when it is malformed."""
    try:
        return RoundPlan.from_bytes(content[HEADER][PAYLOAD])
    except (MalformedMessageError, KeyError, TypeError):
        raise _malformed() from None


def _read_offer(content: RecordDict) -> Offer:
    """The offer that a message is; raises ContributionError when it is malformed."""
    plan = _read_plan(content)
    try:
        segments = _read_arrays(content[BASE], DTYPE, ENCODING) if BASE in content else None
        steps = [_read_step(content, data) for data in content[STEPS][PAYLOAD]]
        moments = content[MOMENTS][MOMENTS].data if MOMENTS in content else b""
    except (MalformedMessageError, KeyError, TypeError, AttributeError):
        raise _malformed() from None
    receipts = _read_receipts(content)
    return Offer(plan, segments, steps, moments, receipts, _read_ledger(content))


def _read_farewell(content: RecordDict) -> Farewell:
    """The farewell of a message; raises ContributionError when it is malformed."""
    try:
        return Farewell.from_bytes(content[HEADER][PAYLOAD])
    except (MalformedMessageError, KeyError, TypeError):
        raise _malformed() from None


def _read_step(content: RecordDict, header: bytes) -> CodedStep:
    step = Step.from_bytes(header)
    arrays = content[f"{STEPS}.{step.round}"]
    return CodedStep(step, _read_arrays(arrays, BYTES, encoding_of(step.codec)))


def _read_arrays(arrays: Mapping[str, Array], dtype: str, encoding: str) -> dict[str, bytes]:
    if any((array.dtype, array.stype) != (dtype, encoding) for array in arrays.values()):
        raise ContributionError("the base has an encoding this node does not know")
    return {name: array.data for name, array in arrays.items()}


def _read_receipts(content: RecordDict) -> list[Receipt]:
    """The receipts of a message; raises ContributionError when one is malformed."""
    try:
        return list(map(Receipt.from_bytes, content[RECEIPTS][PAYLOAD]))
    except (MalformedMessageError, KeyError, TypeError, AttributeError):
        raise _malformed() from None


def _read_ledger(content: RecordDict) -> LedgerView:
    """What a message shows of the ledger; raises LedgerError when it is malformed."""
    try:
        return LedgerView.from_records(content[LEDGER])
    except (MalformedMessageError, KeyError, TypeError, AttributeError):
        raise LedgerError(
            "the aggregator shows nothing of its ledger", "ask its operator to update gobelin"
        ) from None


def _with_cosignature(content: RecordDict, ledger: NodeLedger) -> RecordDict:
    """A reply, and with it this node's cosignature of the newest head it believes."""
    if data := ledger.cosignature():
        content[COSIGNATURE] = ConfigRecord({PAYLOAD: data})
    return content


def _malformed() -> ContributionError:
    return ContributionError("the aggregator's message is malformed", "update gobelin")


def contribution_record(spooled: Spooled) -> RecordDict:
    """A contribution as Flower carries it: header, an array a segment, and moments if any."""
    payload = spooled.payload
    lengths = {name: end - start for name, (start, end) in payload.schema.segments.items()}
    arrays = ArrayRecord(
        {
            name: Array(DTYPE, (lengths[name],), encoding_of(payload.codec), data)
            for name, data in payload.segments.items()
        }
    )
    header = ConfigRecord({PAYLOAD: spooled.contribution.to_bytes()})
    record = RecordDict({HEADER: header, DELTA: arrays})
    if data := spooled.moments:
        record[MOMENTS] = ArrayRecord({MOMENTS: Array(BYTES, (len(data),), ENCODING_MOMENTS, data)})
    return record


# ---------------------------------------------------------------- the loop


def serve(home: NodeHome, say: Say, give_up_s: float = math.inf) -> None:
    """Take part in rounds until the last: pull a plan, train, push the contribution.

    Waits with backoff while the aggregator is unreachable, at the start for at most `give_up_s`
    (then UnreachableError). Raises WrongCAError, UnknownNodeError, and what keeps this node from
    training, such as bad data; the aggregator learns no more of that than the error's code.
    """
    key = str(home.folder)
    say = _watchers[key] = _recording(home, say)
    uplink = Uplink(home.uplink_file)
    wait_reachable(home, say, give_up_s)
    with FleetConnection(home, say) as link:
        say(NodeStatus("idle", note="connected; waiting for a round"))
        for message in _messages(link):
            reply, sent = _answer(link, message, key, say)
            if message.metadata.message_type == MessageType.QUERY:
                say(_finished(message))
                if isinstance(failure := take_failure(key), HISTORY):
                    raise failure
                return
            if message.metadata.message_type == RECALL and reply.has_error():
                continue
            failure = take_failure(key)
            if failure is not None and not isinstance(failure, ContributionError):
                raise failure  # ours to mend, not the aggregator's
            if sent and failure is None:
                uplink.note(*sent)
            say(_outcome(reply, sent is not None, failure))


def _answer(
    link: FleetConnection, message: Message, home: str, say: Say
) -> tuple[Message, tuple[int, float] | None]:
    """Let the ClientApp answer a message and push the reply; bytes and seconds of that."""
    context = Context(message.metadata.run_id, link.node_id, {HOME_KEY: home}, RecordDict(), {})
    started = time.monotonic()
    reply = app(message, context)
    say(NodeStatus("sending"))
    return reply, link.send(reply, time.monotonic() - started)


def _outcome(reply: Message, sent: bool, failure: GobelinError | None) -> NodeStatus:
    if failure is not None:
        return NodeStatus("idle", note=f"could not contribute: {failure}")
    if not sent:
        note = "the aggregator restarted; the contribution stays in the spool"
        return NodeStatus("idle", note=note)
    made = Contribution.from_bytes(reply.content[HEADER][PAYLOAD])  # our own
    sent_bytes, distortion = made.metrics[METRIC_SENT_BYTES], made.metrics[METRIC_DISTORTION]
    moments = len(reply.content[MOMENTS][MOMENTS].data) if made.moments_digest else 0
    beside = f"; moments, {moments:,} bytes" if moments else ""
    return NodeStatus(
        "idle",
        round=made.round,
        codec=made.codec,
        sent_bytes=int(sent_bytes),
        distortion=distortion,
        moments_bytes=moments,
        note=f"contribution sent ({describe_codec(made.codec, sent_bytes, distortion)}{beside}); "
        "waiting for the next round",
    )


def _messages(link: FleetConnection) -> Iterator[Message]:
    """What has arrived, the plan last; of several plans only the newest is worth training for."""
    while True:
        link.settle()
        waiting = list(iter(link.pull, None))
        plans = [mail for mail in waiting if mail.message.metadata.message_type == TRAIN]
        for overtaken in plans[:-1]:
            link.decline(overtaken, Error(OUR_ERROR, SUPERSEDED))
        others = [mail for mail in waiting if mail not in plans]
        for mail in others + plans[-1:]:
            message = link.fetch(mail)
            if message is not None:
                yield message
        if not waiting:
            time.sleep(POLL_S)


def _finished(message: Message) -> NodeStatus:
    try:
        farewell = _read_farewell(message.content)
    except ContributionError:
        return NodeStatus("finished", note="the aggregator says the federation has finished")
    consensus = farewell.vector_digest[:12]
    return NodeStatus("finished", note=f"{farewell.rounds} rounds; the consensus is {consensus}")


def _recording(home: NodeHome, say: Say) -> Say:
    """`say`, with the status kept in a file as well (at most once a second while training)."""
    written = 0.0

    def record(status: NodeStatus) -> None:
        nonlocal written
        now = time.monotonic()
        if status.state != "training" or now - written >= 1.0:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / PEAK_PER_MB
            write_json(home.status_file, replace(status, peak_mb=peak).facts())
            written = now
        say(status)

    return record
