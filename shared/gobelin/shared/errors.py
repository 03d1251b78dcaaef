"""The errors an operator can meet: each says what was found, where, and how to mend it.

Every class has a stable `code` (for logs and `--json`) and its own process exit code. All stand
here, so that no two take the same one, and manual and service units are held against one list.
"""

from __future__ import annotations

OTHER_VERSION = "upgrade gobelin here, or ask the other side's operator which version it runs"


class GobelinError(Exception):
    """An error with a cause and a remedy, printed as one line and never as a traceback."""

    code = "gobelin"
    exit_code = 1
    usual = ""  # what mends it where nothing nearer is said
    lasting = False  # a service that ends so waits for a person: no time and no restart mends it

    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy or self.usual

    def __str__(self) -> str:
        return f"{self.what} → {self.remedy}" if self.remedy else self.what

    def facts(self) -> dict[str, str | int]:
        """The error as plain data, for logs and `--json`."""
        return {
            "error": self.code,
            "what": self.what,
            "remedy": self.remedy,
            "exit_code": self.exit_code,
        }


class ConfigError(GobelinError):
    """A configuration file, recipe or setting is not valid."""

    code, exit_code = "config", 10
    lasting = True


class NoPlaceError(ConfigError):
    """Sealed rounds have no place for a node in their sums."""

    code = "config.no_place"


class StateError(GobelinError):
    """A home folder is missing, or not what the command expects."""

    code, exit_code = "state", 11
    lasting = True


class InUseError(GobelinError):
    """Another process has what one alone may have at a time."""

    code, exit_code = "in_use", 15


class MachineError(GobelinError):
    """The machine refused: no permission, no space, a file where a folder should be."""

    code, exit_code = "machine", 14


class DataError(GobelinError):
    """A data source is missing, empty, unreadable or not what the recipe expects."""

    code, exit_code = "data", 12
    lasting = True
    usual = "see that samples are as the recipe has them"


class DatasetError(GobelinError):
    """A public data set the demo or a bench needs cannot be found or is not the pinned one."""

    code, exit_code = "dataset", 13


class VectorError(GobelinError):
    """Tensors do not make up the parameter vector that a schema defines."""

    code, exit_code = "vector", 20
    usual = "use tensors of the recipe's own model"


class NotFiniteError(VectorError):
    """A parameter is NaN or infinite."""

    code = "vector.not_finite"


class DtypeError(VectorError):
    """A tensor is not float32."""

    code = "vector.dtype"


class ShapeError(VectorError):
    """A tensor has another shape than the schema says."""

    code = "vector.shape"


class NamesError(VectorError):
    """Tensors are missing, or there are some the schema does not list."""

    code = "vector.names"


class SchemaMismatchError(VectorError):
    """Two vectors of different schemas met."""

    code = "vector.schema"


class CheckpointError(GobelinError):
    """A checkpoint or release is missing, damaged, or does not match its manifest."""

    code, exit_code = "checkpoint", 21
    lasting = True


class ContributionError(GobelinError):
    """A message of a round is malformed."""

    code, exit_code = "contribution", 22
    usual = OTHER_VERSION


class BaseMissingError(ContributionError):
    """The node does not have the base that the steps it was sent go on from."""

    code = "contribution.base_missing"


class EnvelopeError(GobelinError):
    """A message has no envelope, or not one that holds for it."""

    code, exit_code = "envelope", 47


class EnvelopeSignatureError(EnvelopeError):
    """An envelope is not signed by whom it should be."""

    code = "envelope.signature"


class EnvelopeAddressError(EnvelopeError):
    """An envelope names another member or node."""

    code = "envelope.address"


class EnvelopePayloadError(EnvelopeError):
    """An envelope is of another message than the one it came with."""

    code = "envelope.payload"
    usual = OTHER_VERSION


class EnvelopeExpiredError(EnvelopeError):
    """An envelope holds no longer, or not yet."""

    code = "envelope.expired"


class EnvelopeReplayedError(EnvelopeError):
    """An envelope was overtaken by one that was issued later."""

    code = "envelope.replayed"


class SitePolicyError(GobelinError):
    """This node's site policy refuses what a plan asks for."""

    code, exit_code = "site_policy", 48


class EgressError(GobelinError):
    """Something may not leave this node, or its egress ledger is damaged."""

    code, exit_code = "egress", 49
    lasting = True
    usual = "nothing has left; tell Gobelin's makers what it says"


class RoundError(GobelinError):
    """A round cannot be completed."""

    code, exit_code = "round", 23


class CodecError(GobelinError):
    """Values that cannot be encoded, or bytes that are not a payload of the codec they name."""

    code, exit_code = "codec", 25
    usual = OTHER_VERSION


class MomentsError(GobelinError):
    """Numbers or bytes that are no moments of any data, or not those that a message names."""

    code, exit_code = "moments", 27
    usual = OTHER_VERSION


class BudgetError(GobelinError):
    """A contribution cannot be made as small as the node's operator wants it."""

    code, exit_code = "budget", 28
    lasting = True


class PlanError(GobelinError):
    """A planning problem that is none, or that has no plan found which keeps its constraints."""

    code, exit_code = "plan", 29
    usual = "give tensors of these shapes"


class SignatureError(GobelinError):
    """Something is not signed by whom it should be."""

    code, exit_code = "signature", 40
    lasting = True


class InviteError(GobelinError):
    """An invite is mistyped, expired, used up, or not of the aggregator that was reached."""

    code, exit_code = "invite", 43


class EnrolmentError(GobelinError):
    """A node is not admitted, or no longer."""

    code, exit_code = "enrolment", 44
    lasting = True
    usual = "ask the aggregator's operator"


class ClockError(GobelinError):
    """Two clocks differ by more than signatures and certificates allow."""

    code, exit_code = "clock", 45
    lasting = True


class RosterError(GobelinError):
    """A roster log or an exit bundle is not what the aggregator signed."""

    code, exit_code = "roster", 46
    lasting = True


class SealingError(GobelinError):
    """A sealed round cannot go on, or a message of one is not what its session allows."""

    code, exit_code = "sealing", 50
    usual = "the base stays and the round is asked again; run one version of gobelin on all nodes"


class GarbledSumError(SealingError):
    """A sealed round's sum is none that its deltas could have: nobody can add them up again."""

    code = "sealing.garbled"


class PeersError(GobelinError):
    """Too few others, or not those this node knows, for it to hide among."""

    code, exit_code = "peers", 51


class PrivacyError(GobelinError):
    """Training cannot be differentially private as it is set, or its budget is spent."""

    code, exit_code = "privacy", 52
    lasting = True


class ShadowError(GobelinError):
    """A solo model that cannot be trained or measured as it is set, or whose state is damaged."""

    code, exit_code = "shadow", 72


class LedgerError(GobelinError):
    """A ledger, a receipt or a release does not hold what it says."""

    code, exit_code = "ledger", 41
    lasting = True
    usual = "ask the aggregator's operator, and compare with other members"


class ReleaseError(LedgerError):
    """A release is not what its aggregator signed."""

    code = "ledger.release"


class TwoHistoriesError(GobelinError):
    """A ledger is not the continuation of the one known: a fork, or a step back."""

    code, exit_code = "two_histories", 42
    lasting = True


class StaleError(TwoHistoriesError):
    """What is shown is older than what is known, or older than it may be."""

    code = "two_histories.stale"


class LaterHistoryError(TwoHistoriesError):
    """Members know rounds that a restored home does not."""

    code = "two_histories.later"


class BuildError(GobelinError):
    """A sovereign build cannot be made of what it was given, or cannot go on."""

    code, exit_code = "build", 60


class LabelsError(BuildError):
    """Labels that no head can be built on: out of range, of one class, of too many."""

    code = "build.labels"


class UnverifiedError(BuildError):
    """Nobody says whose a release is, and nobody said to take it all the same."""

    code = "build.unverified"


class FetchError(GobelinError):
    """A release cannot be fetched: not what was announced, too large, or no room for it."""

    code, exit_code = "fetch", 63


class ExportError(GobelinError):
    """A sovereign model cannot be exported: it does not compute there what it computes here."""

    code, exit_code = "export", 64


class CrowdError(GobelinError):
    """Too many ask at a time."""

    code, exit_code = "crowd", 65


class PageError(GobelinError):
    """A page cannot be served: what it is made with is not installed."""

    code, exit_code = "page", 70
    lasting = True


class ReadingError(PageError):
    """A page is still reading its home for the first time."""

    code = "page.reading"


class RebaseError(GobelinError):
    """A sovereign model cannot go over to a release with what is at hand."""

    code, exit_code = "rebase", 68


class MergeError(GobelinError):
    """Sovereign models that do not go together."""

    code, exit_code = "merge", 69


class FormatError(GobelinError):
    """Something on disk is of a version that this gobelin does not read."""

    code, exit_code = "format", 76
    lasting = True


class ProtocolError(GobelinError):
    """Node and aggregator speak versions of the messages that do not go together."""

    code, exit_code = "protocol", 77
    lasting = True


class NodeTooOldError(ProtocolError):
    """It is the node that must be upgraded."""

    code = "protocol.node"


class AggregatorTooOldError(ProtocolError):
    """It is the aggregator that must be upgraded."""

    code = "protocol.aggregator"


class UnreachableError(GobelinError):
    """The aggregator does not answer."""

    code, exit_code = "unreachable", 30


class PortInUseError(GobelinError):
    """A port the aggregator needs is taken."""

    code, exit_code = "port_in_use", 31


class WrongCAError(GobelinError):
    """The aggregator's certificate is not signed by the federation's CA."""

    code, exit_code = "wrong_ca", 32
    lasting = True


class UnknownNodeError(GobelinError):
    """The aggregator does not know this node's key."""

    code, exit_code = "unknown_node", 33


class CheckupError(GobelinError):
    """`gobelin doctor` has found what will fail."""

    code, exit_code = "checkup", 74


class ProxyError(GobelinError):
    """An HTTP proxy on the way does not let a connection pass."""

    code, exit_code = "proxy", 75


class EngineError(GobelinError):
    """A process of the Flower engine failed."""

    code, exit_code = "engine", 34
