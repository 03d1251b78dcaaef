"""`gobelin node plan`: what a round will take on this machine, before joining or afterwards."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gobelin.client.options import DEFAULT_HOME
from gobelin.shared.options import AsJson

if TYPE_CHECKING:
    from gobelin.client.doctor.patient import Patient
    from gobelin.client.forecast import Forecast, Rate
    from gobelin.client.home import NodeSettings
    from gobelin.client.terms import Terms

BYTES_OF_MBIT = 125_000.0


def add_to(app: typer.Typer) -> None:
    """Put this command into the node's group."""
    app.command()(plan)


def plan(
    invite: Annotated[str, typer.Option(help="Of a federation this node has not joined.")] = "",
    invite_file: Annotated[
        Path | None, typer.Option(help="A file with the invite; - for standard input.")
    ] = None,
    home: Annotated[
        Path | None, typer.Option(help=f"The node's folder; {DEFAULT_HOME} where it is there.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Private data; else those of the home. They stay here.")
    ] = None,
    modality: Annotated[
        str | None, typer.Option(help="Of the data, where the recipe has several.")
    ] = None,
    recipe: Annotated[
        str, typer.Option(help="A recipe to try, by name or a .toml; else the federation's.")
    ] = "",
    mbit: Annotated[
        float | None, typer.Option(min=0.001, help="State the link's speed, and send no probe.")
    ] = None,
    policy: Annotated[
        Path | None, typer.Option(help="A policy.toml to hold it against; else the home's.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Predict a round here: training seconds, memory, disk, bytes and seconds on the link.

    A few steps are trained on the data and forgotten. Says what was measured and what assumed.
    """
    from gobelin.client.plan import schema_of

    patient = _patient(invite, invite_file, home, bool(recipe))
    terms = _terms(patient, recipe)
    settings = _settings(patient, data, modality)
    from gobelin.client.forecast import forecast
    from gobelin.client.rehearsal import rehearse_apart

    schema, told = schema_of(terms.recipe), terms.recipe.told(settings.data.modality)
    rate, why = _rate(patient, mbit)
    rehearsal = rehearse_apart(settings, terms.recipe, terms.codec)
    found = forecast(terms, schema, told, terms.codec, rehearsal, rate)
    found = replace(found, notes=found.notes + ([why] if why else []))
    rules = _rules(patient, terms, policy)
    if as_json:
        facts = {**found.facts(), "recipe": terms.recipe.name, "policy": rules}
        rated = None if rate is None else rate.bytes_per_second
        facts |= {"bytes_per_second": rated, "samples_here": rehearsal.samples}
        print(json.dumps({**facts, "parameters": schema.size}, sort_keys=True))
        return
    print(f"A round of {terms.recipe.name} ({schema.size:,} parameters), by {terms.source}:")
    for line in _lines(found, rehearsal.samples, rate):
        print(f"  {line}")
    for row in rules:
        if row["verdict"] != "allowed":
            print(f"  policy.toml: {row['rule']} {row['verdict']}: {row['why']}")


def _patient(
    invite: str, invite_file: Path | None, home: Path | None, alone: bool
) -> Patient | None:
    """Whose round it is; None where only a recipe is tried. Raises ConfigError."""
    from gobelin.client.doctor.patient import Patient
    from gobelin.client.home import NodeHome
    from gobelin.client.join import read_invite
    from gobelin.shared.errors import ConfigError

    if invite or invite_file:
        return Patient.of_invite(read_invite(invite, invite_file))
    place = NodeHome(home or DEFAULT_HOME)
    if home is not None or place.settings_file.exists():
        place.settings()
        return Patient.of_home(place)
    if alone:
        return None
    raise ConfigError(
        "nobody says which federation's round this is", "give --invite, --home or --recipe"
    )


def _terms(patient: Patient | None, recipe: str) -> Terms:
    """What is asked of a node, of a recipe that is to be tried where one is."""
    from gobelin.client.terms import Terms
    from gobelin.shared.recipe import load_recipe

    if patient is None:
        return Terms(load_recipe(recipe), "defaults and the recipe that was named")
    terms = patient.terms()
    if recipe:
        source = f"{terms.source}, with the recipe that was named"
        terms = replace(terms, recipe=load_recipe(recipe), source=source)
    return terms


def _settings(patient: Patient | None, data: Path | None, modality: str | None) -> NodeSettings:
    """What would be trained on; raises ConfigError where nobody names data."""
    from gobelin.client.rehearsal import data_settings
    from gobelin.shared.errors import ConfigError

    if patient is not None and patient.home is not None:
        known = patient.settings
        if data is None:
            return known
        given = known.data.model_copy(update={"path": data.resolve(), "modality": modality})
        return known.model_copy(update={"data": given})
    if data is None:
        raise ConfigError("nobody says where the data lie", "name them by --data")
    return data_settings(data.resolve(), modality)


def _rate(patient: Patient | None, mbit: float | None) -> tuple[Rate | None, str]:
    """The link's rate, or why it is not known."""
    from gobelin.client.forecast import Rate
    from gobelin.shared.errors import GobelinError

    if mbit is not None:
        return Rate(BYTES_OF_MBIT * mbit, "stated"), ""
    if patient is None:
        return None, ""
    try:
        return patient.rate(), ""
    except GobelinError as error:
        return None, f"the link was not measured: {error}"


def _rules(patient: Patient | None, terms: Terms, file: Path | None) -> list[dict[str, Any]]:
    """What a site policy makes of it, rule by rule."""
    import datetime

    from gobelin.client.egress_report import prospect_of_node
    from gobelin.client.privacy.budget import BARE
    from gobelin.client.site_policy import SitePolicy, judge, read_policy
    from gobelin.shared.settings import read_settings

    home = patient.home if patient else None
    policy = SitePolicy()
    if file is not None:
        policy = read_settings(SitePolicy, file)
    elif home is not None:
        policy = read_policy(home)
    asked = terms.plan()
    prospect = BARE if home is None else prospect_of_node(home, asked, policy.delta)
    now = datetime.datetime.now()
    return [row.facts() for row in judge(policy, asked, now, prospect)]


def _lines(found: Forecast, here: int, rate: Rate | None) -> list[str]:
    """For people."""
    traffic, train = found.traffic, found.train_s or 0.0
    lines = [
        f"data      {here:,} samples here; {found.samples:,} seen in {found.steps:,} steps, "
        f"{found.passes:.2g} passes, {found.tokens:,} tokens of whole samples",
        f"training  {_seconds(train)}; {found.memory_mb or 0:,.0f} MB of memory"
        + (f", {found.accelerator_mb:,.0f} MB on the device" if found.accelerator_mb else ""),
        f"disk      {found.disk_bytes / 1e6:,.0f} MB in the home, three rounds",
        f"down      {traffic.down / 1e6:,.3g} MB ({traffic.base / 1e6:,.3g} MB when new or away)"
        + (f", {_seconds(traffic.down / rate.bytes_per_second)}" if rate else ""),
    ]
    for codec, size in traffic.up.items():
        takes = f", {_seconds((size + traffic.moments) / rate.bytes_per_second)}" if rate else ""
        asked = "  ← what the federation asks" if codec == found.codec else ""
        lines.append(f"up {codec:6} {(size + traffic.moments) / 1e6:,.3g} MB at most{takes}{asked}")
    if found.total_s is not None:
        late = " — more than that" if found.total_s > found.deadline_s else ""
        lines.append(
            f"in all    {_seconds(found.total_s)}; a round has {_seconds(found.deadline_s)}{late}"
        )
    return lines + found.notes


def _seconds(seconds: float) -> str:
    from gobelin.shared.invite import describe_seconds

    return describe_seconds(seconds) if seconds >= 1 else f"{seconds:.2g} s"
