"""Moments as people type them: a wall time, a time of today, or so long ago."""

import math
import re
from datetime import date, datetime, time

import typer

FORMS = (
    "seconds since 1970, ISO 8601 (2026-08-02T10:20), HH:MM[:SS] of today, or 10m, 2h, 1d12h ago"
)

_AGO = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?:in)?)?(?:(\d+)s)?(?: ago)?")
_UNITS_S = (86_400, 3600, 60, 1)


def moment_of(text: str, *, now_unix_s: float, option: str = "--at") -> float:
    """Return the wall time that a text names, in seconds since 1970; no zone is the local one.

    Raises BadParameter, naming the option, for a text of no known form, and for a time before 1970
    or still to come.
    """
    given = text.strip()
    found = _number(given)
    if found is None:
        found = _ago(given, now_unix_s)
    if found is None:
        found = _written(given, now_unix_s)
    if found is None:
        raise typer.BadParameter(f"{option} {text!r} is not a time; give {FORMS}")
    if found < 0:
        raise typer.BadParameter(f"{option} {text!r} is before 1970; give {FORMS}")
    if found > now_unix_s:
        raise typer.BadParameter(f"{option} {text!r} is still to come; give a time that has passed")
    return found


def _number(given: str) -> float | None:
    try:
        found = float(given)
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def _ago(given: str, now_unix_s: float) -> float | None:
    match = _AGO.fullmatch(given)
    if match is None or not any(match.groups()):
        return None
    counts = zip(match.groups(), _UNITS_S, strict=True)
    return now_unix_s - sum(int(count or 0) * unit_s for count, unit_s in counts)


def _written(given: str, now_unix_s: float) -> float | None:
    """Read a date and time, a date, or a time of today."""
    try:
        if re.fullmatch(r"\d{1,2}:\d{2}(:\d{2})?", given):
            today: date = datetime.fromtimestamp(now_unix_s).astimezone().date()
            clock = time.fromisoformat(given if given[2] == ":" else f"0{given}")
            return datetime.combine(today, clock).astimezone().timestamp()
        return datetime.fromisoformat(given).astimezone().timestamp()
    except (ValueError, OverflowError, OSError):
        return None
