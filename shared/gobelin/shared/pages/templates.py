"""Templates: the one way pages and reports are rendered, and the words and numbers they show."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import resources
from typing import Any

from gobelin.shared.errors import ConfigError

UNITS = ("B", "kB", "MB", "GB", "TB")
NOTHING = "–"


def render(template: str, /, **values: Any) -> str:
    """A page of a template `package:file`; it may include others, such as the house's style.

    Raises ConfigError when jinja2 is not installed.
    """
    page: str = _environment().get_template(template).render(**values)
    return page


def safe(html: str) -> Any:
    """HTML that templates take as it is: whoever made it has escaped what it holds."""
    return _jinja2()[1](html)


@functools.cache
def _environment() -> Any:
    jinja2, _ = _jinja2()

    def read(name: str) -> str:
        package, _, file = name.partition(":")
        return resources.files(package).joinpath(file).read_text("utf-8")

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(read),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= FILTERS
    return environment


def _jinja2() -> tuple[Any, Any]:
    """jinja2, and what marks text that is safe; raises ConfigError."""
    try:
        import jinja2
        from markupsafe import Markup
    except ImportError:
        raise ConfigError(
            "pages and reports need jinja2, which is not installed",
            "pip install 'gobelin[page]', or 'gobelin[report]'",
        ) from None
    return jinja2, Markup


# ---------------------------------------------------------------- filters


def size(count: float | None) -> str:
    """Bytes as people read them: 2.82 MB."""
    if count is None:
        return NOTHING
    value, units = float(count), iter(UNITS)
    unit = next(units)
    while abs(value) >= 1000 and unit != UNITS[-1]:
        value, unit = value / 1000, next(units)
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.3g} {unit}"


def number(value: float | None, digits: int = 3) -> str:
    """A figure with so many digits."""
    if value is None:
        return NOTHING
    if isinstance(value, int) or (float(value).is_integer() and abs(value) < 1e6):
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def percent(share: float | None, digits: int = 0) -> str:
    """A share, 0 … 1, in percent."""
    return NOTHING if share is None else f"{100 * share:.{digits}f} %"


def lasting(seconds: float | None) -> str:
    """A length of time: 0.4 s, 12 s, 3 min 20 s, 2 h 5 min, 4 d 3 h."""
    if seconds is None:
        return NOTHING
    whole = round(abs(seconds))
    if whole < 60:
        return f"{abs(seconds):.1f} s" if abs(seconds) < 10 else f"{whole} s"
    for unit, below, least in (("d", "h", 86_400), ("h", "min", 3600), ("min", "s", 60)):
        step = {"h": 3600, "min": 60, "s": 1}[below]
        if whole >= least:
            rest = whole % least // step
            return f"{whole // least} {unit}" + (f" {rest} {below}" if rest else "")
    raise AssertionError  # 60 s and more are minutes


def moment(at: float | None) -> str:
    """A moment in UTC: it reads the same on every machine, and without scripts."""
    if at is None:
        return NOTHING
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def iso(at: float) -> str:
    """A moment as HTML's datetime attribute has it."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


def brief(digest: str | None) -> str:
    """The beginning of a digest."""
    return digest[:12] if digest else NOTHING


def stamp(body: Any) -> str:
    """What tells whether a part of a page has changed."""
    return f"{zlib.crc32(str(body).encode()):08x}"


def plural(count: int, one: str, many: str = "") -> str:
    """A number and its noun."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


FILTERS: dict[str, Callable[..., Any]] = {
    "size": size,
    "number": number,
    "percent": percent,
    "lasting": lasting,
    "moment": moment,
    "iso": iso,
    "brief": brief,
    "stamp": stamp,
    "plural": plural,
}
