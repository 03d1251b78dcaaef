"""What a sealed round costs a node and the aggregator, and whether its mean is the open round's.

One node, as it runs, goes through all five phases with its peers, keys, signatures and files; its
processor time is measured phase by phase. Encoding is rounding the delta to the grid and turning it
into integers, and is measured apart; hashing and packing what is sent is part of MASK.
Then all nodes send, one drops out after its shares are out, and the mean that the aggregator opens
is compared with `weighted_mean` of the survivors' deltas bit by bit.

Writes bench/results/sealed_round.json. Needs about 20 bytes of memory a parameter for the costs,
and 4 × (nodes + 4) for each parameter whose bits are compared.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.measure import machine, spread, write_result
from gobelin.client.home import DataSettings, NodeHome, NodeSettings
from gobelin.client.sealer import Sealer
from gobelin.client.spool import Spooled
from gobelin.protocols.messages import Contribution, RoundPlan
from gobelin.protocols.sealing import (
    AGREE,
    KEYS,
    MASK,
    PHASES,
    REVEAL,
    SHARES,
    SealedCall,
    SealedSession,
)
from gobelin.server.aggregation import InMemory, weighted_mean
from gobelin.shared.codec import LOSSLESS, compress
from gobelin.shared.files import write_atomic
from gobelin.shared.keys import fingerprint, make_key, public_pem
from gobelin.shared.sealing import (
    Mask,
    Peer,
    PeerState,
    Ring,
    add_masks,
    bits_for,
    masked_digest,
    threshold_of,
    unmasking,
)
from gobelin.shared.sealing.peer import SESSION
from gobelin.shared.sealing.ring import Words
from gobelin.shared.sealing.tally import parse_answer
from gobelin.shared.signing import SigningKey, public_signing_pem
from gobelin.shared.vector import ParameterSchema, ParameterVector

BOUND, SHARE = 1.0, 2 / 3
AGGREGATOR = SigningKey.generate()
KEY = make_key()  # of the measured node
ID = fingerprint(public_pem(KEY.public_key()))


class Party:
    """One node: its delta on the grid, its state, and what has left it."""

    def __init__(self, peer: Peer, delta: Tensor, ring: Ring) -> None:
        self.peer, self.delta, self.ring = peer, delta, ring
        self.state = PeerState()
        self.sent: Words = np.zeros(0, np.uint32)

    def hear(self, call: SealedCall) -> str:
        """Answer a call."""
        self.state = self.peer.answer(self.state, call, self._masked)
        return self.state.answers[call.phase]

    def _masked(self, masks: Sequence[Mask]) -> str:
        self.sent = self.ring.words(self.delta)
        add_masks(self.sent, masks)
        return masked_digest([self.sent.data.cast("B")])


class Measured(Party):
    """A node as it runs, with its home on disk, and what each phase costs it.

    Only the spool is not read: its contribution is given.
    """

    def __init__(self, party: Party, session: SealedSession, plan: RoundPlan, folder: Path) -> None:
        super().__init__(party.peer, party.delta, party.ring)
        home = NodeHome(folder)
        party.peer.key.write(home.signing_key_file)
        write_atomic(home.public_key_file, public_pem(KEY.public_key()))
        write_atomic(home.ca_file, public_signing_pem(AGGREGATOR.public))
        settings = NodeSettings(
            member="m", node="n", aggregator="127.0.0.1:1", data=DataSettings(path=folder)
        )
        self._sealer = Sealer(home, settings)
        self._sealer.expect(plan)
        schema = ParameterSchema.of_shapes({"w": tuple(self.delta.shape)})
        payload = compress(LOSSLESS, ParameterVector(schema, self.delta), None).payload
        made = Contribution("bench", 1, plan.digest, "", "", 1, 1, 1.0, sealed=True)
        self._spooled = Spooled(made, payload)
        self.cpu = dict.fromkeys(PHASES, 0.0)
        self.bytes = 0

    def hear(self, call: SealedCall) -> str:
        """Answer a call."""
        before = time.process_time()
        reply = self._sealer.answer(call, lambda _: self._spooled)
        self.cpu[call.phase] = time.process_time() - before
        self.bytes += sum(map(len, reply.segments.values()))
        return reply.answer


def main() -> None:
    """Measure, compare the bits, write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--parameters", type=int, default=100_000_000)
    parser.add_argument("--compared", type=int, default=10_000_000, help="whose bits are compared")
    parser.add_argument("--peers", type=int, default=11)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--name", default="sealed_round", help="of the result file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    nodes = options.peers + 1
    ring = Ring(bits_for(nodes, BOUND), BOUND)
    costs = [cost(options.parameters, nodes, ring) for _ in range(options.repetitions)]
    phases = {phase: spread([found[phase] for found in costs]) for phase in PHASES}
    whole = [sum(found[phase] for phase in PHASES) for found in costs]
    compared = compare(options.compared, nodes, ring)
    values: dict[str, Any] = {
        **{k: v for k, v in vars(options).items() if k != "name"},
        "bits": ring.bits,
        "threshold": threshold_of(SHARE, nodes),
        **{f"cpu_seconds.{phase}": spent for phase, spent in phases.items()},
        "cpu_seconds": max(whole),
        "cpu_seconds_spread": spread(whole),
        "cpu_seconds_encoding": spread([found["encoding"] for found in costs]),
        "bytes_per_parameter": costs[0]["bytes"] / options.parameters,
        **compared,
        "machine": machine(),
        "goal": "cpu_seconds <= 2, bytes_per_parameter <= 4, bit_difference 0",
    }
    print(write_result(options.name, values))


def cost(size: int, nodes: int, ring: Ring) -> dict[str, float]:
    """Processor seconds of one node with `size` parameters, by phase; the others send nothing."""
    generator = torch.Generator().manual_seed(0)
    values = torch.empty(size).normal_(0, 1e-2, generator=generator)
    before = time.process_time()
    held = ring.round(values)
    rounded = time.process_time()
    ring.words(held)
    encoded = time.process_time()
    del values
    session, parties = convene([held] + [torch.zeros(1)] * (nodes - 1), ring)
    with tempfile.TemporaryDirectory() as folder:
        first = Measured(parties[ID], session, plan_of(ring), Path(folder))
        run(session, {**parties, ID: first}, dropouts=set())
    spent = {**first.cpu, MASK: first.cpu[MASK] - (encoded - rounded)}
    return {**spent, "encoding": encoded - before, "bytes": first.bytes}


def plan_of(ring: Ring) -> RoundPlan:
    """A sealed plan for the ring."""
    return RoundPlan(
        federation="bench",
        round=1,
        rounds=1,
        recipe="",
        schema_digest="",
        base_digest="",
        local_steps=1,
        seed=0,
        deadline_s=1.0,
        sealed=True,
        sealed_bits=ring.bits,
        sealed_bound=ring.bound,
        sealed_threshold=SHARE,
    )


def compare(size: int, nodes: int, ring: Ring) -> dict[str, Any]:
    """The opened mean against the open round's, in bits that differ, and what opening cost."""
    deltas = []
    for seed in range(nodes):
        generator = torch.Generator().manual_seed(seed)
        deltas.append(ring.round(torch.empty(size).normal_(0, 1e-2, generator=generator)))
    session, parties = convene(deltas, ring)
    dropout = sorted(parties)[-1]
    masks, survivors = run(session, parties, dropouts={dropout})
    before = time.process_time()
    total = np.zeros(size, np.uint32)
    for node in survivors:
        total += parties[node].sent
    add_masks(total, masks)
    mean = ring.mean(total, len(survivors))
    opening = time.process_time() - before
    kept = InMemory([parties[node].delta for node in survivors])
    expected = weighted_mean(kept, [Fraction(1, len(survivors))] * len(survivors))
    differing = mean.view(torch.int32).numpy() ^ expected.view(torch.int32).numpy()
    return {
        "bit_difference": int(np.bitwise_count(differing).sum()),
        "survivors": len(survivors),
        "cpu_seconds_opening_per_100m": opening * 1e8 / size,
    }


def convene(deltas: list[Tensor], ring: Ring) -> tuple[SealedSession, dict[str, Party]]:
    """A session of nodes with these deltas."""
    keys = [SigningKey.generate() for _ in deltas]
    names = [ID, *(f"{at:064x}" for at in range(1, len(deltas)))]
    plan = plan_of(ring)
    session = SealedSession(
        federation="bench",
        round=1,
        session=1,
        plan_digest=plan.digest,
        base_digest=plan.base_digest,
        threshold=threshold_of(SHARE, len(deltas)),
        keys={name: key.public for name, key in zip(names, keys, strict=True)},
        members={name: name for name in names},
    )
    return session, {
        name: Party(Peer(name, key, AGGREGATOR.public, 3), delta, ring)
        for name, key, delta in zip(names, keys, deltas, strict=True)
    }


def run(
    session: SealedSession, parties: Mapping[str, Party], dropouts: set[str]
) -> tuple[list[Mask], list[str]]:
    """All phases; `dropouts` fall silent before MASK. What opens the sum, and whose it is."""
    text = session.to_bytes().decode()
    signature = AGGREGATOR.sign(SESSION, text.encode())

    def ask(phase: str, nodes: list[str], told: Callable[[str], dict[str, str]]) -> dict[str, str]:
        return {
            node: parties[node].hear(SealedCall(text, phase, signature, told(node)))
            for node in nodes
        }

    names = sorted(parties)
    keys = ask(KEYS, names, lambda _: {})
    shares = ask(SHARES, names, lambda _: keys)
    sealed = {node: parse_answer(session, SHARES, node, shares[node]) for node in names}
    left = [node for node in names if node not in dropouts]
    ask(MASK, left, lambda node: {o: sealed[o].told.get(node, "") for o in names})
    signed = ask(AGREE, left, lambda _: dict.fromkeys(left, ""))
    told = ask(REVEAL, left, lambda _: signed)
    adverts = {node: parse_answer(session, KEYS, node, keys[node]) for node in names}
    reveals = {node: parse_answer(session, REVEAL, node, told[node]) for node in left}
    return unmasking(session, adverts, names, left, reveals), left


if __name__ == "__main__":
    main()
