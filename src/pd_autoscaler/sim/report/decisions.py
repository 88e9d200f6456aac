"""The moves of a run's target as rows of a page: when, from what to what, and why."""

from collections.abc import Iterator
from html import escape

from pd_autoscaler.sim.records import Change, Run

WHY_CHARACTERS_MAX = 300


def rows(run: Run, *, bytes_max: int, unit_s: float) -> tuple[str, int]:
    """Return table rows that fit into so many bytes, and how many moves had no place.

    `unit_s` is the unit of the plots' time axis, by which a row finds its moment in them.
    """
    found: list[str] = []
    used = 0
    for row in _rows(run.changes, unit_s):
        used += len(row.encode())
        if used > bytes_max:
            break
        found.append(row)
    return "".join(found), len(run.changes) - len(found)


def moment(at_s: float) -> str:
    """Return a time of a run as h:mm:ss, with days before it where there are some."""
    days, rest = divmod(round(at_s), 86400)
    text = f"{rest // 3600}:{rest // 60 % 60:02}:{rest % 60:02}"
    return f"{days}d {text}" if days else text


def _rows(changes: tuple[Change, ...], unit_s: float) -> Iterator[str]:
    for change in changes:
        why = change.after.why
        cut = f"{why[:WHY_CHARACTERS_MAX]}\N{HORIZONTAL ELLIPSIS}"
        text = escape(why if len(why) <= WHY_CHARACTERS_MAX else cut)
        yield (
            f'<tr data-x="{change.at_s / unit_s:.5g}"><td>{moment(change.at_s)}</td>'
            f"<td>{change.before} \N{RIGHTWARDS ARROW} {change.after}</td><td>{text}</td></tr>"
        )
