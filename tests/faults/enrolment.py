"""One enrolment by real processes that are ended by kill −9, and what must hold in the end."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from examples.loopback import GOBELIN
from gobelin.client.home import NodeHome
from gobelin.client.membership import Membership
from gobelin.server.enrolment import Desk
from gobelin.server.founding import Charter, found
from gobelin.server.places import Places
from gobelin.shared.data.export import write_idx
from gobelin.shared.errors import GobelinError
from gobelin.shared.keys import load_private_key
from gobelin.shared.signing import SigningKey
from tests.faults.gauntlet import INJECT, unfinished
from tests.faults.points import Point

MEMBER = "join"  # and of its node, so that paths are told alike
TRIES = 20  # of the same command, before it is said never to end
READY_S = 60.0
COMMAND_S = 300.0


@dataclass
class Template:
    """A founded federation and an invite, copied for every enrolment."""

    folder: Path
    invite: str

    @classmethod
    def found(cls, folder: Path, pre_approved: bool = True) -> Template:
        """Found one; the federation, its invite and the node's data lie in `folder`."""
        found(folder / "aggregator", Charter("enrolment", "toy", "127.0.0.1:0", 1))
        made = Desk(Places(folder / "aggregator")).invite(
            MEMBER, "contributor", 86400.0, pre_approved=pre_approved
        )
        images = torch.zeros((4, 1, 28, 28), dtype=torch.uint8)
        write_idx(folder / "data", images, torch.zeros(4, dtype=torch.int64))
        return cls(folder, made.text())


@dataclass
class Outcome:
    """How an enrolment went."""

    reached: list[Point] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    tries: int = 0
    operations: dict[tuple[str, str, str], int] = field(default_factory=dict)


class Enrolment:
    """`gobelin node join` against `gobelin aggregator serve`, under a plan of kills."""

    def __init__(
        self, template: Template, folder: Path, plan: Sequence[Point], counting: bool = False
    ) -> None:
        self._folder = folder
        self._faults = folder / "faults"
        self._plan = plan
        for name in ("reached", "counts", "pids"):
            (self._faults / name).mkdir(parents=True)
        if counting:
            (self._faults / "counting").touch()
        (self._faults / "plan").write_text("\n".join(map(str, plan)))
        shutil.copytree(template.folder / "aggregator", folder / "aggregator")
        self._invite = folder / "invite"
        self._invite.write_text(template.invite)
        self._data = template.folder / "data"
        self._home = folder / "nodes" / MEMBER
        self._places = Places(folder / "aggregator")
        self._service: subprocess.Popen[bytes] | None = None

    def run(self) -> Outcome:
        """Run the same command until it ends well; start the service again when it is gone."""
        outcome = Outcome()
        try:
            self._start_service()
            for _ in range(TRIES):
                outcome.tries += 1
                code = self._join()
                if code == 0:
                    break
                if code != -signal.SIGKILL:
                    outcome.wrong.append(f"join ended with {code}: {self._log('join')[-300:]}")
                    break
            else:
                outcome.wrong.append("join never ended well")
            outcome.wrong += self._check()
        finally:
            self._stop_service()
        marks = enumerate(self._plan)
        outcome.reached = [p for n, p in marks if (self._faults / "reached" / str(n)).exists()]
        outcome.operations = self._operations()
        return outcome

    def _join(self) -> int:
        """One run of the command; the service is kept up meanwhile, as a supervisor does it."""
        command = ["node", "join", "--invite-file", self._invite, "--data", self._data]
        process = self._start("join", *command, "--home", self._home)
        give_up = time.monotonic() + COMMAND_S
        while process.poll() is None and time.monotonic() < give_up:
            if self._service is not None and self._service.poll() is not None:
                self._start_service()
            time.sleep(0.02)
        if process.poll() is None:
            process.kill()
            process.wait()
            return -signal.SIGALRM
        return int(process.returncode)

    def _start_service(self) -> None:
        command = ("aggregator", "serve", "--home", self._places.folder)
        self._service = self._start("service", *command)

    def _stop_service(self) -> None:
        if self._service is not None:
            self._service.kill()
            self._service.wait()

    def _start(self, name: str, *arguments: str | Path) -> subprocess.Popen[bytes]:
        environment: Mapping[str, str] = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(INJECT), os.environ.get("PYTHONPATH", "")]),
            "GOBELIN_FAULTS": str(self._faults),
            "GOBELIN_FAULTS_ROOT": str(self._folder),
            "PYTHONUNBUFFERED": "1",
        }
        with (self._folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [GOBELIN, *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
            )

    def _log(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text()

    def _check(self) -> list[str]:
        """What is wrong in the end: nothing, where the node is enrolled and once."""
        wrong = [f"{n} saw a traceback" for n in ("join", "service") if "Traceback" in self._log(n)]
        try:
            records = [signed.record for signed in self._places.book.log().records]
            if [record.change for record in records] != ["admit"]:
                wrong.append(f"the roster log has {len(records)} records")
            requests = Desk(self._places).requests()
            if len(requests) != 1:
                wrong.append(f"{len(requests)} requests were kept")
            home = NodeHome(self._home)
            home.settings()
            signing = SigningKey.load(home.signing_key_file).public
            if [(r.node, r.signing_key) for r in records] != [(MEMBER, signing)]:
                wrong.append("another key is on the roster")
            key = load_private_key(home.key_file).public_key()
            if Membership(home).certificate.public_key() != key:
                wrong.append("the certificate is of another key")
            if not (wrong or self._seen_by(home)):
                wrong.append("the node sees another roster than there is")
        except (GobelinError, OSError, ValueError) as error:
            wrong.append(f"no whole home: {error}")
        return wrong + [f"left behind: {path.name}" for path in unfinished(self._folder / "nodes")]

    def _seen_by(self, home: NodeHome) -> bool:
        """Whether the node can use what it was given; the service may have just been killed."""
        give_up = time.monotonic() + READY_S
        while True:
            if self._service is not None and self._service.poll() is not None:
                self._start_service()
            try:
                return Membership(home).roster().head == self._places.book.log().head
            except GobelinError:
                if time.monotonic() > give_up:
                    raise
                time.sleep(0.2)

    def _operations(self) -> dict[tuple[str, str, str], int]:
        """How often each process came by each operation, in order of the first time."""
        rows = [
            (float(line.split(" ", 1)[0]), file.name.rsplit(".", 1)[0], *line.split(" ", 2)[1:])
            for file in (self._faults / "counts").iterdir()
            for line in file.read_text().splitlines()
        ]
        counted: dict[tuple[str, str, str], int] = {}
        for _, process, op, site in sorted(rows):
            counted[process, op, site] = counted.get((process, op, site), 0) + 1
        return counted
