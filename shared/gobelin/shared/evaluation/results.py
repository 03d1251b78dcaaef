"""Results: what federating was worth, as one table for the terminal and the HTML report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table

from gobelin.shared.evaluation.evaluate import Evaluation

MISSING = "–"


@dataclass(frozen=True)
class Row:
    """One model, or baseline, on the global test set."""

    name: str
    evaluation: Evaluation
    highlight: bool = False  # the consensus


@dataclass(frozen=True)
class MemberWorth:
    """What one member has of federating, on images of its own that it held out."""

    name: str
    images: int  # it trained on
    solo: float  # token probe, percent, of the model it trained alone
    consensus: float  # and of the consensus

    @property
    def premium(self) -> float:
        """The federation premium in points: federated minus solo."""
        return self.consensus - self.solo


@dataclass(frozen=True)
class Results:
    """All rows of a comparison at equal samples seen."""

    rows: Sequence[Row]
    members: Sequence[MemberWorth] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Column:
    """A column of the table: its heading, what it means, and how a value is written."""

    heading: str
    meaning: str
    value: Callable[[Evaluation], float | None]
    digits: int = 1
    optional: bool = False  # left out where no row has it

    def text(self, evaluation: Evaluation) -> str:
        """The value as written, or a dash where there is none."""
        value = self.value(evaluation)
        return MISSING if value is None else f"{value:.{self.digits}f}"


COLUMNS = (
    Column("tokens %", "linear probe on flattened tokens", lambda e: e.tokens),
    Column("pooled %", "linear probe on mean-pooled tokens", lambda e: e.pooled),
    Column("attn. %", "one learned query over tokens", lambda e: e.attentive, optional=True),
    Column("kNN %", "20 nearest neighbours, mean-pooled", lambda e: e.knn),
    Column("10-shot %", "linear probe on 10 labels a class, mean-pooled", lambda e: e.few_shot),
    Column("JEPA loss", "its own objective on held-out images", lambda e: e.loss, 3),
    Column("eff. rank", "entropy rank of the features' covariance", lambda e: e.effective_rank),
    Column("std", "mean standard deviation of a feature", lambda e: e.deviation, 3),
)
MEMBER_HEADINGS = ("member", "images", "solo %", "consensus %", "premium")


def columns_of(rows: Sequence[Row]) -> list[Column]:
    """The columns of a table of these rows."""
    return [c for c in COLUMNS if not c.optional or any(c.value(r.evaluation) for r in rows)]


def member_cells(member: MemberWorth) -> tuple[str, ...]:
    """A member's row as written."""
    figures = f"{member.solo:.1f}", f"{member.consensus:.1f}", f"{member.premium:+.1f}"
    return (member.name, f"{member.images:,}", *figures)


def print_results(results: Results, console: Console | None = None) -> None:
    """Print the tables to the terminal."""
    console = console or Console()
    table = _table("On the global test set")
    table.add_column("model", overflow="fold", min_width=12)
    columns = columns_of(results.rows)
    for column in columns:
        table.add_column(column.heading, justify="right")
    for row in results.rows:
        cells = [column.text(row.evaluation) for column in columns]
        table.add_row(_plain(row.name), *cells, style="bold" if row.highlight else None)
    console.print(table)
    if results.members:
        console.print(_members_table(results.members))
    for note in results.notes:
        console.print(note, markup=False, highlight=False)


def _members_table(members: Sequence[MemberWorth]) -> Table:
    table = _table("On each member's own held-out images (tokens %)")
    for i, heading in enumerate(MEMBER_HEADINGS):
        table.add_column(heading, justify="right" if i else "left", overflow="fold")
    for member in members:
        name, *cells = member_cells(member)
        table.add_row(_plain(name), *cells)
    return table


def _table(title: str) -> Table:
    return Table(
        title=title,
        title_justify="left",
        box=box.SIMPLE,
        padding=(0, 1),
        collapse_padding=True,
        pad_edge=False,
    )


def _plain(text: str) -> str:
    """Text whose brackets rich does not take for markup."""
    return text.replace("[", r"\[")
