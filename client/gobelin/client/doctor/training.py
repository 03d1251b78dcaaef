"""Checks of the work itself: data, one training step, and what a whole round will take."""

from __future__ import annotations

import numpy as np

from gobelin.client.doctor.patient import Patient
from gobelin.client.forecast import Forecast, forecast
from gobelin.client.plan import schema_of
from gobelin.client.rehearsal import Rehearsal, rehearse_apart
from gobelin.client.site_policy import allows, read_policy
from gobelin.client.uplink import Uplink, budget_bytes
from gobelin.client.workbench import open_data
from gobelin.shared.checkup import Found, fail, ok, warn
from gobelin.shared.codec import CODECS, pick_rung
from gobelin.shared.data import kind_of
from gobelin.shared.errors import GobelinError
from gobelin.shared.fragments import fragment_of_round


def data(patient: Patient) -> Found:
    """Whether the data can be read as the recipe's modality, and how many samples there are."""
    settings = patient.settings
    kind = kind_of(settings.data.path)
    try:
        recipe = patient.terms().recipe
    except GobelinError:
        return ok(f"{kind} at {settings.data.path}; how they are read the first plan says")
    source = open_data(settings, recipe)
    count = len(source)
    source.read(np.array([0, count - 1]))
    skipped = source.skipped.facts()
    told = f"{count:,} samples, {kind}, at {settings.data.path}"
    if skipped:
        reasons = ", ".join(f"{row['count']} {reason}" for reason, row in skipped.items())
        return warn("data", f"{told}; skipped so far: {reasons}", "mend or remove them",
                    samples=count, skipped=skipped)  # fmt: skip
    if count < recipe.inner.batch_size:
        return warn(
            "few_samples",
            f"{told}: fewer than a batch of {recipe.inner.batch_size}, so some come twice in one",
            "add data, or ask for a recipe of smaller batches",
            samples=count,
        )
    return ok(told, samples=count, format=kind)


def training(patient: Patient) -> Found:
    """A few steps of training, of which nothing is kept."""
    found = rehearsed(patient)
    warm = "after one to warm up" if found.warm else "the first, which also warms up"
    on_device = f", {found.accelerator_mb:,.0f} MB there" if found.accelerator_mb else ""
    return ok(
        f"{found.step_s:.3g} s a step of {found.batch_size} samples on {found.device} in "
        f"{found.precision} ({found.steps} {warm}); {found.memory_mb:,.0f} MB at most{on_device}",
        step_s=found.step_s,
        memory_mb=found.memory_mb,
        accelerator_mb=found.accelerator_mb,
        tokens=found.tokens,
    )


def rehearsed(patient: Patient) -> Rehearsal:
    """The rehearsal of this node's training, done once."""

    def rehearse() -> Rehearsal:
        terms = patient.terms()
        return rehearse_apart(patient.settings, terms.recipe, terms.codec)

    return patient.once.get("rehearsal", rehearse)


def codec_of(patient: Patient) -> str:
    """What this node's deltas will be encoded by, to keep its budget; raises BudgetError."""
    terms, settings = patient.terms(), patient.settings
    schema = fragment_of_round(schema_of(terms.recipe), terms.fragments, 1)
    part = schema.part(terms.recipe.told(settings.data.modality)).schema
    policy = read_policy(patient.node)
    allowed = [codec for codec in CODECS if terms.sealed or allows(policy, codec)]
    known = Uplink(patient.node.uplink_file).bytes_per_second()
    return pick_rung(terms.codec, part, budget_bytes(settings.egress, known), allowed)


def predicted(patient: Patient) -> Forecast:
    """What a round will take here."""
    terms = patient.terms()
    schema, told = schema_of(terms.recipe), terms.recipe.told(patient.settings.data.modality)
    try:
        rate = patient.rate()
    except GobelinError:
        rate = None  # the checks of the network say why
    return forecast(terms, schema, told, codec_of(patient), rehearsed(patient), rate)


def whole_round(patient: Patient) -> Found:
    """Seconds, bytes and memory of a round, as far as they can be foretold."""
    found = predicted(patient)
    sent = found.traffic.up[found.codec] + found.traffic.moments
    parts = [f"{found.train_s or 0:.3g} s of training"]
    if found.up_s is not None and found.down_s is not None:
        parts += [f"{found.down_s:.3g} s down", f"{found.up_s:.3g} s up"]
    size = f"{sent / 1e6:.3g} MB"
    told = f"{', '.join(parts)} for {found.steps:,} steps; {size} up by {found.codec}"
    budget = patient.settings.compute.seconds_per_round
    if found.total_s is not None and found.total_s > found.deadline_s and budget is None:
        return warn(
            "deadline",
            f"{told}: more than the {found.deadline_s:.0f} s that a round has",
            "set compute.seconds_per_round in node.toml: the node then takes fewer steps",
            **found.facts(),
        )
    if found.up_s is not None and found.up_s > found.deadline_s:
        return fail(
            "deadline",
            f"{told}: the upload alone takes longer than a round's {found.deadline_s:.0f} s",
            "set [egress] max_mb_per_round in node.toml: the node then takes a coarser codec",
            **found.facts(),
        )
    return ok(told, **found.facts())
