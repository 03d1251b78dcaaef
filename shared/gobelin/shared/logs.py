"""Logs: one stream of records a process, as JSON lines or for people to read.

A record has `time` (RFC 3339, UTC), `level`, `event` (a short code), what the process is (`role`,
`federation`, `member`, `node`), where it is (`round`, `attempt`) and what the event tells. Modules
log by the standard library (`logging.getLogger(__name__)`, with `extra=facts("event", ...)`), so
that what Flower, gRPC and warnings say is a record like any other; structlog renders them.

Logs are for looking at and may be lost: what must not be lost is in the journal, the event log and
the egress ledger.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import math
import os
import re
import threading
from collections.abc import Iterator, Mapping, MutableMapping
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import IO, Annotated, Any, Literal, TextIO, cast

from pydantic import Field

from gobelin.shared.errors import ConfigError, GobelinError
from gobelin.shared.files import PRIVATE
from gobelin.shared.settings import Settings
from gobelin.shared.signals import Stopped

Format = Literal["json", "console"]
Level = Literal["debug", "info", "warning", "error"]
Facts = Mapping[str, Any]

TOLD = logging.getLogger("gobelin.told")  # what an operator is shown on the terminal as well
RELAYED = logging.getLogger("gobelin.relayed")  # what children say
FLOWER = "flwr"  # its logger, which brings a handler
LIBRARY = "library"  # the event of what others log
SHIPPED = frozenset(  # what a record keeps under content = "codes": identifiers, codes and figures
    {
        *("time", "level", "event", "role", "federation", "round", "rounds", "attempt", "member"),
        *("node", "id", "error", "exception", "exit_code", "process", "phase", "reason", "state"),
        *("base_digest", "plan_digest", "delta_digest", "vector_digest", "digest", "codec"),
        *("bytes", "sent_bytes", "moments_bytes", "payload_bytes", "distortion", "local_steps"),
        *("step", "steps", "samples", "samples_per_second", "seconds", "overhead_s", "staleness"),
        *("time_left_s", "peak_mb", "loss", "effective_rank", "retained_norm", "frame_rotation"),
        *("rule", "members", "nodes", "metrics", "measured", "moments", "reduced", "count"),
    }
)
CODE = re.compile(r"[\w.:+-]{1,128}")  # what a string under SHIPPED looks like: no space, no slash
LEFT_OUT = ("envelope", "signature")  # of events: long, and in the round's record
FLOWER_LINE = re.compile(
    r"(?:\x1b\[\d+m)*(DEBUG|INFO|WARNING|ERROR|CRITICAL)\s*(?:\x1b\[0m)?\s*: +(.*)"
)
MOST_OF_LINE = 1 << 16  # bytes of a child's line


class LogSettings(Settings):
    """`[logs]`: what the log file of a home is like."""

    format: Format = "json"  # JSON lines, or lines for people
    level: Level = "info"  # the least that is written; of libraries, warnings at least
    # codes: without free text, names of samples and paths
    content: Literal["full", "codes"] = "full"
    max_mb: Annotated[float, Field(gt=0)] = 16.0  # of one file, before the next is begun
    # older files that stay; those before are removed
    keep: Annotated[int, Field(ge=1, le=1000)] = 5


def facts(event: str, **told: Any) -> dict[str, Any]:
    """The `extra` of a record of ours: its event, and what that tells."""
    return {"facts": {**told, "event": event}}


def tell(event: Facts, level: int = logging.INFO, to: logging.Logger = TOLD) -> None:
    """Log an event that is plain data already; its `at` is the record's time."""
    told = {key: value for key, value in event.items() if key not in LEFT_OUT}
    to.log(level, "%s", told.get("event", ""), extra={"facts": told})


def pick_stream(log_format: str | None, as_json: bool) -> Format | None:
    """What to print in place of the live view: nothing unless one of the options asks for it."""
    if log_format not in (None, "json", "console"):
        raise ConfigError(f"--log-format {log_format!r} is none", "use json or console")
    return "json" if as_json and log_format is None else cast("Format | None", log_format)


@contextlib.contextmanager
def bound(**context: Any) -> Iterator[None]:
    """What is logged within, in this thread, is about this round, attempt, member or node."""
    from structlog.contextvars import bound_contextvars

    with bound_contextvars(**context):
        yield


def bind(**context: Any) -> None:
    """The same, from now on."""
    from structlog.contextvars import bind_contextvars

    bind_contextvars(**context)


def unbind(*keys: str) -> None:
    """What is logged from now on is about none."""
    from structlog.contextvars import unbind_contextvars

    unbind_contextvars(*keys)


@contextlib.contextmanager
def logged(
    settings: LogSettings, stream: Format | None, to: TextIO, **context: Any
) -> Iterator[None]:
    """What this process logs within; `context` is part of every record.

    With a `stream` records go to `to` in that format; without, a terminal shows what it has not
    been shown yet, from warnings on. See `kept` for the file.
    """
    global _active
    before, root = _active, logging.getLogger()
    removed = list(root.handlers) if before is None else []
    for handler in removed:
        if type(handler) is logging.StreamHandler:  # the command line's; others are not ours
            root.removeHandler(handler)
    _active = _Process(settings, dict(context))
    ours = logging.getLogger("gobelin")
    level, hook = ours.level, threading.excepthook
    ours.setLevel(settings.level.upper())
    threading.excepthook = _crashed_thread
    logging.captureWarnings(True)
    try:
        with _handled(_to_stream(to, stream, settings)):
            yield
    finally:
        logging.captureWarnings(False)
        ours.setLevel(level)
        threading.excepthook = hook
        for handler in removed:
            if handler not in root.handlers:
                root.addHandler(handler)
        _active = before


@contextlib.contextmanager
def kept(file: Path) -> Iterator[None]:
    """Keep what is logged within in a file, too, and what ended it; for the home's sole owner."""
    settings = _active.settings if _active else LogSettings()
    file.parent.mkdir(parents=True, exist_ok=True)
    handler = LogFile(file, int(settings.max_mb * 1e6), settings.keep)
    handler.setFormatter(_formatter(settings.format, settings.content))
    with _handled(handler):
        try:
            yield
        except GobelinError as error:
            TOLD.error("failed", exc_info=True, extra=facts("failed", **error.facts()))
            raise
        except Stopped:
            TOLD.info("stopped", extra=facts("stopped"))
            raise
        except Exception:
            TOLD.critical("crashed", exc_info=True, extra=facts("crashed"))
            raise


class LogFile(RotatingFileHandler):
    """A file of bounded size and its predecessors; a full disk loses records and nothing else."""

    def __init__(self, file: Path, max_bytes: int, keep: int) -> None:
        super().__init__(file, maxBytes=max_bytes, backupCount=keep, encoding="utf-8")

    def _open(self) -> Any:
        def private(path: str, flags: int) -> int:
            return os.open(path, flags, PRIVATE)  # it may name samples and folders

        return open(self.baseFilename, self.mode, encoding=self.encoding, opener=private)

    def handleError(self, record: logging.LogRecord) -> None:
        """Go on: nobody is helped by a traceback a record."""

    def close(self) -> None:
        """Close it, also where its last records found no room."""
        with contextlib.suppress(OSError):
            super().close()


def adopt(*libraries: str) -> None:
    """Make libraries that bring handlers of their own log through ours, from warnings on."""
    for name in libraries:
        logger = logging.getLogger(name)
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
        logger.setLevel(logging.WARNING)
        logger.propagate = True


def child_stream() -> TextIO:
    """Where a supervised child logs to: its stderr, past whoever mirrors `sys.stderr`."""
    return os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8", errors="backslashreplace")


class Relay(threading.Thread):
    """Takes what a child prints, line by line, into this process's log, until the child's end."""

    def __init__(self, role: str, output: IO[bytes]) -> None:
        super().__init__(name=f"log-of-{role}", daemon=True)
        self._role, self._output = role, output

    def run(self) -> None:
        """Pass lines on; a child is never kept waiting by one that cannot be logged."""
        with self._output:
            for line in iter(lambda: self._output.readline(MOST_OF_LINE), b""):
                with contextlib.suppress(Exception):
                    level, told = parse_line(line.decode("utf-8", "replace"))
                    if told:
                        RELAYED.log(
                            level,
                            "%s",
                            told["event"],
                            extra={"facts": {"role": self._role, **told}},
                        )


def parse_line(line: str) -> tuple[int, dict[str, Any]]:
    """A child's line as level and record: ours as it is, Flower's and any other as text."""
    line = line.rstrip()
    if line.startswith("{"):
        with contextlib.suppress(ValueError):
            told = json.loads(line)
            if isinstance(told, dict) and isinstance(told.get("event"), str):
                level = logging.getLevelName(str(told.pop("level", "info")).upper())
                return level if isinstance(level, int) else logging.INFO, told
    if match := FLOWER_LINE.fullmatch(line):
        told = {"event": LIBRARY, "logger": FLOWER, "text": match[2]}
        return int(logging.getLevelName(match[1])), told
    return logging.WARNING, {"event": "output", "text": line} if line else {}


# ---------------------------------------------------------------- how records look


class _Process:
    """What this process logs like, and as whom."""

    def __init__(self, settings: LogSettings, context: dict[str, Any]) -> None:
        self.settings, self.context = settings, context


_active: _Process | None = None


@contextlib.contextmanager
def _handled(handler: logging.Handler) -> Iterator[None]:
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()


class _OneLine(logging.Formatter):
    """For a terminal: no traceback; the file has it."""

    def format(self, record: logging.LogRecord) -> str:
        return record.getMessage()


def _to_stream(to: TextIO, stream: Format | None, settings: LogSettings) -> logging.Handler:
    handler = logging.StreamHandler(to)
    if stream is None:  # the terminal's own view has the rest
        handler.setLevel(logging.WARNING)
        handler.addFilter(lambda record: record.name not in (TOLD.name, RELAYED.name))
        handler.setFormatter(_OneLine())
    else:
        handler.setFormatter(_formatter(stream, settings.content))
    handler.handleError = lambda record: None  # type: ignore[method-assign]
    return handler


def _formatter(form: Format, content: str) -> logging.Formatter:
    from structlog.dev import ConsoleRenderer
    from structlog.processors import JSONRenderer
    from structlog.stdlib import ProcessorFormatter

    chain: list[Any] = [_compose, *([_codes_only] if content == "codes" else [])]
    last: Any = JSONRenderer(default=str, ensure_ascii=False, allow_nan=False)
    if form == "console":
        chain.append(_for_console)
        last = ConsoleRenderer(colors=False, timestamp_key="time", pad_event_to=0)
    return ProcessorFormatter(
        processors=[ProcessorFormatter.remove_processors_meta, *chain, last],
        foreign_pre_chain=[_keep_record],
    )


def _keep_record(logger: Any, method: str, made: MutableMapping[str, Any]) -> dict[str, Any]:
    """Before structlog removes it."""
    return {**made, "record": made["_record"]}


def _compose(logger: Any, method: str, made: MutableMapping[str, Any]) -> dict[str, Any]:
    """The record as one flat mapping, what it is and where first."""
    from structlog.contextvars import get_contextvars

    record: logging.LogRecord = made["record"]
    told = dict(getattr(record, "facts", {}))
    at = told.pop("time", None) or told.pop("at", None) or record.created
    first = {"time": _rfc3339(at), "level": record.levelname.lower()}
    text = str(made["event"])
    if record.name.partition(".")[0] != "gobelin":
        told = {"event": LIBRARY, "logger": record.name, "text": text, **told}
    elif "event" not in told:
        told = {"event": record.name.rpartition(".")[2], "text": text, **told}
    elif record.name not in (TOLD.name, RELAYED.name) and text != told["event"]:
        told["text"] = text
    whole = {**first, "event": told["event"], **_context(), **get_contextvars(), **told}
    return {
        key: _plain(value) for key, value in {**whole, **_exception(made.get("exc_info"))}.items()
    }


def _context() -> dict[str, Any]:
    return _active.context if _active else {}


def _exception(raised: Any) -> dict[str, Any]:
    """Class and code of what was raised, and where it came from."""
    if not raised or raised[1] is None:
        return {}
    error = raised[1]
    code = {"error": error.code, "what": error.what} if isinstance(error, GobelinError) else {}
    trace = logging.Formatter().formatException(raised)
    return {"exception": type(error).__name__, **code, "traceback": trace}


def _codes_only(logger: Any, method: str, made: dict[str, Any]) -> dict[str, Any]:
    """What may be shipped: known fields, whose strings are codes, names or digests."""
    return {key: kept for key in made if key in SHIPPED and (kept := _coded(made[key])) is not None}


def _coded(value: Any) -> Any:
    """A value without free text; None where nothing else is left of it."""
    if isinstance(value, str):
        return value if CODE.fullmatch(value) else None
    if isinstance(value, Mapping):
        return {
            key: kept
            for key, of in value.items()
            if CODE.fullmatch(key) and (kept := _coded(of)) is not None
        }
    if isinstance(value, list):
        return [kept for of in value if (kept := _coded(of)) is not None]
    return value


def _for_console(logger: Any, method: str, made: dict[str, Any]) -> dict[str, Any]:
    """structlog's names for what it lays out itself."""
    trace = {"exception": made.pop("traceback")} if "traceback" in made else {}
    raised = {"raised": made.pop("exception")} if "exception" in made else {}
    return {**made, **raised, **trace}


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(of) for key, of in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(of) for of in value]
    return value


def _rfc3339(at: float | str) -> str:
    """A moment in UTC with milliseconds, as 2026-11-22T20:06:13.120Z."""
    if isinstance(at, str):
        return at.removesuffix("+00:00") + "Z" if at.endswith("+00:00") else at
    moment = datetime.datetime.fromtimestamp(at, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def _crashed_thread(args: threading.ExceptHookArgs) -> None:
    raised = (args.exc_type, args.exc_value, args.exc_traceback)
    name = args.thread.name if args.thread else ""
    TOLD.critical("crashed", exc_info=raised, extra=facts("crashed", thread=name))  # type: ignore[arg-type]
