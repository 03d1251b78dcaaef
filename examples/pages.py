"""Run the commands of a documentation page, as a reader would: nothing else, and all of them.

A fenced block ```` ```console title="NAME" ```` is typed into the terminal of that name (one bash
each, all in one folder). Lines that begin with "$ " are commands, `\\` at an end of a line goes on
in the next; what lies below a command is what it prints:

* `…` stands for any text, a line of `…` alone for any lines. Where such a line is the last, the
  command is left running as soon as the lines above it have been printed.
* `<name>` in what is printed is kept, and stands for the same wherever `<name>` comes later: so
  does a reader who copies it.
* A last line `^C` interrupts the command.
* A block without a command is what that terminal prints meanwhile; it is waited for.

A command has to succeed, unless the page shows an error of ours as what it prints last. Where a
page shows nothing below it, nothing is said of what it prints.

    python -m examples.pages PAGE [PAGE ...]    # in the current folder, with what is installed
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import psutil

ANY, INTERRUPT = "…", "^C"
FENCE = re.compile(r"^( *)```console(?: title=\"(?P<title>[^\"]+)\")?\s*$")
NAME = re.compile(r"<([a-z][a-z -]*)>")
OUR_ERROR = "gobelin: ["
STARTED, ENDED = "\x02", "\x03"


class PageError(AssertionError):
    """A page does not do what it says."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command of a page, where it stands, and what it is said to print."""

    where: str
    section: str
    terminal: str
    text: str
    printed: tuple[str, ...]

    @property
    def stays(self) -> bool:
        """It is left running when all before the last `…` has been printed."""
        return bool(self.printed) and self.printed[-1] == ANY

    @property
    def interrupted(self) -> bool:
        """The reader ends it by Ctrl-C."""
        return bool(self.printed) and self.printed[-1] == INTERRUPT

    @property
    def fails(self) -> bool:
        """The page shows how it is refused."""
        return bool(self.printed) and self.printed[-1].startswith(OUR_ERROR)


def commands_of(page: Path) -> list[Command]:
    """The commands of a page in order."""
    found: list[Command] = []
    section, terminal, indent = "", None, 0
    open_at, typed, printed = 0, "", list[str]()

    def end() -> None:
        nonlocal typed, printed
        if (typed or printed) and terminal is not None:
            where = f"{page.name}:{open_at}"
            found.append(Command(where, section, terminal, typed, tuple(printed)))
        typed, printed = "", []

    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if terminal is None:
            if fence := FENCE.match(line):
                terminal, indent = fence["title"] or "terminal", len(fence[1])
            elif line.startswith("## "):
                section = line[3:].strip()
            continue
        line = line[indent:].rstrip()
        if line == "```":
            end()
            terminal = None
        elif typed.endswith("\\") and not printed:
            typed += f"\n{line}"
        elif line.startswith("$ "):
            end()
            open_at, typed = number, line[2:]
        else:
            open_at = open_at if typed or printed else number
            printed.append(line)
    return found


def matched(expected: Iterable[str], said: Iterable[str]) -> dict[str, str] | None:
    """What `<name>`s stand for if the lines `said` are as expected, else None."""
    lines, names = list(expected), list[str]()

    def one(line: str) -> str:
        parts = re.split(f"({NAME.pattern.replace('(', '(?:')}|{ANY})", line)
        return "".join(map(piece, parts))

    def piece(part: str) -> str:
        if part == ANY:
            return r"[^\n]*?"
        if NAME.fullmatch(part):
            names.append(part[1:-1])
            return r"([^\n]+?)"
        return re.escape(part)

    pattern = "".join(r"(?:[^\n]*\n)*?" if line == ANY else one(line) + r"\s*?\n" for line in lines)
    text = "".join(f"{line.rstrip()}\n" for line in said)
    match = re.fullmatch(pattern, text)
    return None if match is None else dict(zip(names, match.groups(), strict=True))


@dataclass(slots=True)
class Terminal:
    """One bash, its commands through a pipe of their own, what all of them print together."""

    process: subprocess.Popen[str]
    typed: IO[str]
    lines: list[str] = field(default_factory=list)
    ended: int | None = 0  # exit code of the last command, None while it runs
    running: Command | None = None

    @classmethod
    def open(cls, folder: Path, environment: Mapping[str, str]) -> Terminal:
        """Start it in a folder."""
        read, write = os.pipe()
        process = subprocess.Popen(
            ["bash", "--noprofile", "--norc", f"/dev/fd/{read}"],
            cwd=folder, env=dict(environment), pass_fds=[read], start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace", bufsize=1,
        )  # fmt: skip
        os.close(read)
        terminal = cls(process, os.fdopen(write, "w"))
        threading.Thread(target=terminal._listen, daemon=True).start()
        return terminal

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            text, mark, code = line.rstrip("\n").partition(ENDED)
            if text or not mark:
                self.lines.append(text)
            if mark:
                self.ended = int(code)
        self.ended = self.ended if self.ended is not None else 255

    def type(self, command: Command, text: str) -> None:
        """Give it a command; what it printed before is forgotten."""
        self.lines, self.ended, self.running = [], None, command
        self.typed.write(f"{text}\nprintf '{ENDED}%d\\n' $?\n")
        self.typed.flush()

    def interrupt(self) -> None:
        """Ctrl-C: to all that runs in it, in its process group, not to itself."""
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                if os.getpgid(child.pid) == self.process.pid:
                    child.send_signal(signal.SIGINT)

    def close(self) -> None:
        """End it and what runs in it, by process group, which is its own."""
        self.typed.close()
        for way in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, way)
                self.process.wait(20)
            except ProcessLookupError:
                return
            except subprocess.TimeoutExpired:
                continue


class Reader:
    """Somebody who follows pages, one after the other, in one folder; ends all at the end."""

    def __init__(
        self,
        folder: Path,
        environment: Mapping[str, str],
        timeout_s: float = 600.0,
        replace: Mapping[str, str] | None = None,
    ) -> None:
        self._folder, self._environment, self._timeout_s = folder, environment, timeout_s
        self._replace = replace or {}
        self._terminals: dict[str, Terminal] = {}
        self.names: dict[str, str] = {}
        self.seconds: dict[str, float] = {}  # by section

    def follow(self, page: Path, without: Iterable[str] = ()) -> int:
        """Do what a page says but for some sections; the number of commands. Raises PageError."""
        steps = [c for c in commands_of(page) if c.section not in set(without)]
        for command in steps:
            start = time.monotonic()
            self._do(command)
            spent = self.seconds.get(command.section, 0.0) + time.monotonic() - start
            self.seconds[command.section] = spent
        return len(steps)

    def _do(self, command: Command) -> None:
        terminal = self._terminals.get(command.terminal)
        if terminal is None:
            terminal = Terminal.open(self._folder, self._environment)
            self._terminals[command.terminal] = terminal
        if not command.text:
            self._watch(terminal, command)
            return
        if terminal.running is not None:
            self._await_end(terminal, terminal.running)
        terminal.type(command, self._filled(command.text))
        if command.stays or command.interrupted:
            self._await_lines(terminal, command)
        if command.interrupted:
            terminal.interrupt()
        if not command.stays:
            self._await_end(terminal, command)

    def _watch(self, terminal: Terminal, command: Command) -> None:
        """Wait until a terminal has printed the lines of a block that has no command."""
        lines = [self._filled(line) for line in command.printed if line != INTERRUPT]
        for _ in self._waiting(terminal, command):
            found = matched([ANY, *lines, ANY], list(terminal.lines))
            if found is not None:
                self.names |= found
                break
            if terminal.ended is not None:
                raise PageError(self._told(terminal, command, "it ended without"))
        if command.interrupted:
            terminal.interrupt()
            for _ in self._waiting(terminal, command):
                if terminal.ended is not None:
                    break
            terminal.running = None

    def _filled(self, text: str) -> str:
        for old, new in self._replace.items():
            text = text.replace(old, new)
        return NAME.sub(lambda found: self.names.get(found[1], found[0]), text)

    def _await_lines(self, terminal: Terminal, command: Command) -> None:
        """Wait until what stands above the last line of the block has been printed."""
        above = [self._filled(line) for line in command.printed[:-1]]
        for _ in self._waiting(terminal, command):
            found = matched([*above, ANY], list(terminal.lines))
            if found is not None:
                self.names |= found
                return
            if terminal.ended is not None:
                raise PageError(self._told(terminal, command, "it ended without"))

    def _await_end(self, terminal: Terminal, command: Command) -> None:
        for _ in self._waiting(terminal, command):
            if terminal.ended is not None:
                break
        terminal.running = None
        if command.interrupted:
            return
        if (terminal.ended != 0) != command.fails:
            raise PageError(self._told(terminal, command, f"it ended with {terminal.ended}"))
        expected = [self._filled(line) for line in command.printed]
        found = matched(expected, terminal.lines) if expected else {}
        if found is None:
            raise PageError(self._told(terminal, command, "it does not print what the page says"))
        self.names |= found

    def _waiting(self, terminal: Terminal, command: Command) -> Iterator[None]:
        give_up = time.monotonic() + self._timeout_s
        while time.monotonic() < give_up:
            yield
            time.sleep(0.05)
        raise PageError(self._told(terminal, command, f"no end within {self._timeout_s:.0f} s"))

    def _told(self, terminal: Terminal, command: Command, why: str) -> str:
        expected = "\n".join(command.printed)
        said = "\n".join(terminal.lines[-60:])
        others = "".join(
            f"\n--- {name}\n" + "\n".join(other.lines[-8:])
            for name, other in self._terminals.items()
            if other is not terminal
        )
        return (
            f"{command.where} $ {command.text}\n{why}\n--- expected\n{expected}\n"
            f"--- printed\n{said}{others}"
        )

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for terminal in self._terminals.values():
            terminal.close()


def main() -> None:
    """Follow pages in the current folder."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("pages", nargs="+", type=Path)
    parser.add_argument("--without", action="append", default=[], help="a section to leave out")
    options = parser.parse_args()
    with Reader(Path.cwd(), os.environ) as reader:
        for page in options.pages:
            print(f"{page}: {reader.follow(page, options.without)} commands hold")


if __name__ == "__main__":
    main()
