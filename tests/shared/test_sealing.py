"""The core of sealed rounds: what cancels in the sum, and what a node never answers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gobelin.protocols.sealing import (
    AGREE,
    KEYS,
    MASK,
    PHASES,
    REVEAL,
    SHARES,
    SealedAnswer,
    SealedCall,
    SealedSession,
)
from gobelin.shared.errors import PeersError, SealingError, SignatureError
from gobelin.shared.sealing import Mask, PeerState, add_masks, survivors_digest, threshold_of
from gobelin.shared.sealing.peer import SESSION
from gobelin.shared.sealing.ring import Words
from gobelin.shared.sealing.secrets import Secrets, join, own_mask, pair_mask, public_of, split
from gobelin.shared.sealing.tally import ANSWER, parse_answer, unmasking
from gobelin.shared.signing import SigningKey
from tests.sealed_world import AGGREGATOR, Actor, Circle, circle, for_node, sum_of

SIZE = 40


def words(seed: int, size: int = SIZE) -> Words:
    return np.random.default_rng(seed).integers(0, 1 << 32, size, dtype=np.uint32)


def party(count: int = 4, threshold: int = 3, **changes: object) -> Circle:
    return circle(count, threshold, {at: words(at) for at in range(count)}, **changes)  # type: ignore[arg-type]


@settings(max_examples=40, deadline=None)
@given(data=st.data(), count=st.integers(3, 6))
def test_whoever_drops_out_the_sum_is_exact_or_there_is_none(
    data: st.DataObject, count: int
) -> None:
    threshold = data.draw(st.integers(count // 2 + 1, count), "threshold")
    net = party(count, threshold)
    names = sorted(net.actors)
    at = {name: data.draw(st.sampled_from([*PHASES, ""]), name[-2:]) for name in names}
    dropouts = {phase: [name for name in names if at[name] == phase] for phase in PHASES}
    try:
        survivors, total = net.run(dropouts)
    except SealingError:
        left = [name for name in names if not at[name]]
        assert len(left) < threshold  # with enough left there is no excuse
        return
    assert len(survivors) >= threshold
    assert np.array_equal(total, sum_of([net.actors[name].words for name in survivors]))


@settings(max_examples=30, deadline=None)
@given(count=st.integers(2, 12), data=st.data())
def test_a_secret_comes_back_from_as_many_shares_as_the_threshold_and_not_from_fewer(
    count: int, data: st.DataObject
) -> None:
    threshold = data.draw(st.integers(2, count))
    secret = Secrets.generate().seed
    shares = dict(enumerate(split(secret, threshold, count)))
    some = data.draw(st.permutations(sorted(shares)))
    assert join({at: shares[at] for at in some[:threshold]}) == secret
    assert join({at: shares[at] for at in some[: threshold - 1]}) != secret


def test_without_enough_reveals_nothing_comes_out() -> None:
    net = party(5, 4)
    names = sorted(net.actors)
    with pytest.raises(SealingError, match="do not give a secret back"):
        net.run({REVEAL: names[:2]})


def test_false_shares_do_not_hurt_where_enough_are_true() -> None:
    net = party(4, 3)
    survivors, adverts, reveals = through(net)
    liar = survivors[0]
    false = replace(reveals[liar], told=dict.fromkeys(reveals[liar].told, "00" * 32))
    total = sum_of([net.actors[name].sent[-1] for name in survivors])
    masks = unmasking(net.session, adverts, survivors, survivors, {**reveals, liar: false})
    add_masks(total, masks)
    assert np.array_equal(total, sum_of([net.actors[name].words for name in survivors]))


def test_the_view_of_all_others_leaves_two_honest_deltas_uniform() -> None:
    size = 1 << 16
    zeros = {at: np.zeros(size, np.uint32) for at in range(4)}
    net = circle(4, 3, zeros)
    through(net)
    one, other, *corrupt = sorted(net.actors)
    seen = net.actors[one].sent[-1].copy()
    session, keys = net.session, net.adverts()
    for liar in corrupt:  # they know the masks they share with it
        known = pair_mask(session, net.secrets[liar].mask, liar, one, keys[one].told["mask"])
        add_masks(seen, [known])
    assert not looks_plain(seen)
    assert not looks_plain(net.actors[other].sent[-1])
    assert looks_plain(net.actors[one].words)  # or the test sees nothing


def looks_plain(vector: Words) -> bool:
    """Whether a χ² test of its bytes (255 degrees of freedom) finds them not uniform, p < 10⁻⁹."""
    counts = np.bincount(vector.view(np.uint8), minlength=256)
    expected = counts.sum() / 256
    return bool(((counts - expected) ** 2 / expected).sum() > 255 + 6.5 * np.sqrt(2 * 255))


def through(
    net: Circle,
) -> tuple[list[str], dict[str, SealedAnswer], dict[str, SealedAnswer]]:
    """Survivors, adverts and reveals of a session that nobody drops out of."""
    names = sorted(net.actors)
    keys = {name: net.actors[name].hear(net.call(KEYS)) for name in names}
    net.secrets = {name: net.actors[name].state.secrets for name in names}  # type: ignore[misc]
    net.told = {KEYS: keys}
    net.told[SHARES] = {n: net.actors[n].hear(net.call(SHARES, keys)) for n in names}
    sealed = {n: parse_answer(net.session, SHARES, n, t) for n, t in net.told[SHARES].items()}
    for name in names:
        net.actors[name].hear(net.call(MASK, for_node(sealed, name)))
    alive = dict.fromkeys(names, "")
    signed = {name: net.actors[name].hear(net.call(AGREE, alive)) for name in names}
    net.told[AGREE] = signed
    told = {name: net.actors[name].hear(net.call(REVEAL, signed)) for name in names}
    reveals = {n: parse_answer(net.session, REVEAL, n, text) for n, text in told.items()}
    return names, net.adverts(), reveals


def until(net: Circle, phase: str) -> tuple[Actor, dict[str, dict[str, str]]]:
    """The first actor, asked everything before `phase`, and what each of its calls told."""
    names = sorted(net.actors)
    told: dict[str, dict[str, str]] = {KEYS: {}}
    keys = {name: net.actors[name].hear(net.call(KEYS)) for name in names}
    told[SHARES] = keys
    shares = {name: net.actors[name].hear(net.call(SHARES, keys)) for name in names}
    sealed = {n: parse_answer(net.session, SHARES, n, text) for n, text in shares.items()}
    told[MASK] = for_node(sealed, names[0])
    told[AGREE] = dict.fromkeys(names, "")
    if PHASES.index(phase) > PHASES.index(MASK):
        for name in names:
            net.actors[name].hear(net.call(MASK, for_node(sealed, name)))
    if phase == REVEAL:
        told[REVEAL] = {n: net.actors[n].hear(net.call(AGREE, told[AGREE])) for n in names}
    return net.actors[names[0]], told


@pytest.mark.parametrize("phase", PHASES)
def test_a_phase_is_answered_once_and_the_same_again_after_a_restart(phase: str) -> None:
    net = party()
    actor, told = until(net, phase)
    first = actor.hear(net.call(phase, told[phase]))
    assert actor.hear(net.call(phase, told[phase])) == first
    if phase != KEYS:
        fewer = dict(list(told[phase].items())[:-1])
        with pytest.raises(SealingError, match="asked otherwise"):
            actor.hear(net.call(phase, fewer))
        assert actor.hear(net.call(phase, told[phase])) == first


@pytest.mark.parametrize("phase", PHASES[1:])
def test_a_phase_out_of_turn_is_not_answered(phase: str) -> None:
    net = party()
    _, told = until(net, phase)
    fresh = Actor(net.actors[sorted(net.actors)[0]].peer, words(0))
    with pytest.raises(SealingError, match="out of turn"):
        fresh.hear(net.call(phase, told[phase]))


def test_after_revealing_a_node_joins_no_second_session_of_the_round() -> None:
    net = party()
    actor, told = until(net, REVEAL)
    actor.hear(net.call(REVEAL, told[REVEAL]))
    assert actor.state.secrets is None
    for number, round_number in ((2, 3), (99, 2)):  # the next attempt, and an earlier round
        session = replace(net.session, session=number, round=round_number)
        with pytest.raises(SealingError, match="has revealed shares in round 3"):
            actor.hear(Circle(session, {}).call(KEYS))
    assert actor.hear(Circle(replace(net.session, round=4), {}).call(KEYS))


def test_a_node_never_reveals_both_secrets_of_one_peer() -> None:
    net = party(5, 3)
    actor, _ = until(net, AGREE)
    names = sorted(net.actors)
    three, other_three = names[:3], [names[0], *names[3:]]
    actor.hear(net.call(AGREE, dict.fromkeys(three, "")))
    with pytest.raises(SealingError, match="asked otherwise"):
        actor.hear(net.call(AGREE, dict.fromkeys(other_three, "")))
    signed = {n: net.actors[n].hear(net.call(AGREE, dict.fromkeys(three, ""))) for n in three}
    first = parse_answer(net.session, REVEAL, names[0], actor.hear(net.call(REVEAL, signed)))
    for survivors in (other_three, names):
        with pytest.raises(SealingError):
            actor.hear(net.call(REVEAL, dict.fromkeys(survivors, "")))
    assert all(len(share) == 64 for share in first.told.values())  # of two secrets it would be 128


def test_survivors_that_others_have_not_signed_are_not_revealed_to() -> None:
    net = party(5, 3)
    actor, _ = until(net, AGREE)
    names = sorted(net.actors)
    mine = names[:3]
    actor.hear(net.call(AGREE, dict.fromkeys(mine, "")))
    others = names[1:4]
    signed = {n: net.actors[n].hear(net.call(AGREE, dict.fromkeys(others, ""))) for n in others}
    own = actor.state.answers[AGREE]
    with pytest.raises(SealingError, match="different survivors"):
        actor.hear(net.call(REVEAL, {names[0]: own, names[1]: signed[names[1]]}))
    with pytest.raises(SealingError, match="too few nodes have agreed"):
        actor.hear(net.call(REVEAL, {names[0]: own}))


def test_keys_that_their_node_has_not_signed_are_refused() -> None:
    net = party()
    actor, told = until(net, SHARES)
    victim = sorted(net.actors)[1]
    advert = SealedAnswer.from_bytes(told[SHARES][victim].encode())
    middle = {**advert.told, "channel": public_of(Secrets.generate().channel)}
    forged = replace(advert, told=middle)
    mallory = SigningKey.generate()
    signed = replace(forged, signature=mallory.sign(ANSWER, forged.statement))
    fresh = Actor(actor.peer, words(0))
    fresh.state = replace(
        actor.state,
        calls={KEYS: actor.state.calls[KEYS]},
        answers={KEYS: actor.state.answers[KEYS]},
    )
    for text in (forged, signed):
        with pytest.raises(SignatureError):
            fresh.hear(net.call(SHARES, {**told[SHARES], victim: text.to_bytes().decode()}))


def test_a_session_that_the_aggregator_has_not_signed_is_refused() -> None:
    net = party()
    actor = net.actors[sorted(net.actors)[0]]
    call = net.call(KEYS)
    mallory = SigningKey.generate().sign(SESSION, call.session.encode())
    with pytest.raises(SignatureError):
        actor.hear(replace(call, signature=mallory))
    other = replace(net.session, base_digest="ee" * 32).to_bytes().decode()
    with pytest.raises(SignatureError):
        actor.hear(replace(call, session=other))


@pytest.mark.parametrize(
    "change",
    [
        {"base_digest": "cc" * 32},
        {"plan_digest": "cc" * 32},
        {"federation": "other"},
        {"round": 4},
        {"session": 2},
        {"members": {f"{at:064x}": f"member {at}x" for at in range(4)}},
    ],
)
def test_masks_are_bound_to_the_whole_session(change: dict[str, object]) -> None:
    net = party()
    other = replace(net.session, **change)  # type: ignore[arg-type]
    one, two = (Secrets.generate() for _ in range(2))
    public = public_of(two.mask)
    mine = pair_mask(net.session, one.mask, "a", "b", public)
    assert pair_mask(net.session, two.mask, "b", "a", public_of(one.mask)) == replace(
        mine, minus=True
    )
    assert pair_mask(other, one.mask, "a", "b", public).key != mine.key
    assert own_mask(other, "a", one.seed).key != own_mask(net.session, "a", one.seed).key


def test_nodes_on_different_bases_do_not_hear_each_other() -> None:
    net = party()
    astray = Circle(replace(net.session, base_digest="cc" * 32), net.actors)
    names = sorted(net.actors)
    keys = {name: net.actors[name].hear(net.call(KEYS)) for name in names[1:]}
    keys[names[0]] = net.actors[names[0]].hear(astray.call(KEYS))
    with pytest.raises(SealingError, match="is to something else"):
        net.actors[names[1]].hear(net.call(SHARES, keys))
    with pytest.raises(SealingError, match="is to something else"):
        net.actors[names[0]].hear(astray.call(SHARES, keys))


def test_a_node_hides_among_as_many_members_as_it_asks_for() -> None:
    net = party(4, 3, minimum=5)
    with pytest.raises(PeersError, match="a sum of 4 members, this node asks for 5"):
        net.actors[sorted(net.actors)[0]].hear(net.call(KEYS))
    two = {f"{at:064x}": f"member {at % 2}" for at in range(4)}
    net = party(4, 3, minimum=3, members=two)  # many nodes of few members are no crowd
    with pytest.raises(PeersError, match="a sum of 2 members"):
        net.actors[sorted(net.actors)[0]].hear(net.call(KEYS))


def test_a_threshold_of_half_the_nodes_is_refused() -> None:
    net = party(4, 2)
    with pytest.raises(SealingError, match="two halves"):
        net.actors[sorted(net.actors)[0]].hear(net.call(KEYS))
    assert [threshold_of(2 / 3, n) for n in (3, 4, 5, 6, 12)] == [3, 3, 4, 5, 9]
    assert [threshold_of(0.5, n) for n in (2, 3, 4, 5)] == [2, 2, 3, 3]


def test_a_share_that_was_tampered_with_stops_its_reader() -> None:
    net = party()
    actor, told = until(net, MASK)
    victim = sorted(net.actors)[1]
    text = told[MASK][victim]
    spoilt = ("1" if text[0] == "0" else "0") + text[1:]
    with pytest.raises(SealingError, match="not sealed for this session"):
        actor.hear(net.call(MASK, {**told[MASK], victim: spoilt}))
    assert actor.hear(net.call(MASK, told[MASK]))  # what was refused has left nothing behind


def test_keystreams_are_aes_256_ctr_of_all_zeros() -> None:
    vector = np.zeros(4, np.uint32)
    add_masks(vector, [Mask(bytes(32))])  # AES-256 of a zero block under a zero key
    assert vector.tobytes().hex() == "dc95c078a2408989ad48a21492842087"
    add_masks(vector, [Mask(bytes(32), minus=True)])
    assert not vector.any()


def test_derived_keys_are_for_ever() -> None:
    session = SealedSession("fed", 1, 2, "ab", "cd", 2, {"a": "x", "b": "y"}, {"a": "A", "b": "B"})
    one, two = bytes(range(32)), bytes(range(32, 64))
    mask = pair_mask(session, one, "a", "b", public_of(two))
    assert (mask.key.hex(), mask.minus) == (GOLDEN_PAIR, False)
    assert own_mask(session, "a", one).key.hex() == GOLDEN_OWN
    assert survivors_digest({"b", "a"}) == survivors_digest(["a", "b"])


GOLDEN_PAIR = "011daef6e382929fc07e43bac910df4d826eeb668d42d2658f0f42cd17595cde"
GOLDEN_OWN = "9b3e601754c205bbf6dfb2435fa79277c19dbd27cb75a4a8012cb8a96da9fbc2"


def test_a_state_comes_back_from_its_bytes() -> None:
    net = party()
    actor, _ = until(net, REVEAL)
    assert PeerState.from_bytes(actor.state.to_bytes()) == actor.state
    assert PeerState.from_bytes(PeerState().to_bytes()) == PeerState()
    call = SealedCall(net.session.to_bytes().decode(), "other", "")
    signed = replace(call, signature=AGGREGATOR.sign(SESSION, call.session.encode()))
    with pytest.raises(SealingError, match="no phase"):
        actor.hear(signed)
