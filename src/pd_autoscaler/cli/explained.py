"""The answer of `explain` as lines for people."""

from pd_autoscaler.cli.console import Json, duration, plain
from pd_autoscaler.cli.tables import moment
from pd_autoscaler.core.scene import UNMESHED

ABOUT_COLUMNS = 10
"""Width of what a line is about."""


def explanations(said: Json, *, asked_unix_s: float | None = None) -> list[str]:
    """Return the answer of `explain`, a line for each of its sentences.

    `asked_unix_s` is the past time that was asked for, None for now.
    """
    lines = [] if asked_unix_s is None else [_of_then(said, asked_unix_s)]
    if said["scaling"] is not None:
        lines += _scaling(said)
    if said["node"] is not None:
        lines += _titled(said["node"]["id"], said["node"]["lines"])
    for pair in said["pairs"]:
        lines += _titled(f"{pair['decoder']} - {pair['prompt']}", pair["lines"])
    if said["more"]:
        lines.append(f"{said['more']} more pairs are wanted and not up")
    if said["node"] is None and not said["pairs"]:
        lines.append("every pair that is wanted is up" if said["is_meshed"] else UNMESHED)
    return [plain(line) for line in lines]


def _of_then(said: Json, asked_unix_s: float) -> str:
    """Say how far the cycle that was kept is from the time that was asked for."""
    before = duration(max(0.0, asked_unix_s - said["at_unix_s"]))
    at = moment(said["at_unix_s"])
    return f"as it was at {at}, {before} before the time asked for; ages and waits are of then"


def _scaling(said: Json) -> list[str]:
    ago = f", {duration(said['age_s'])} ago" if said["age_s"] else ""
    lines = [f"scaling in cycle {said['cycle']}{ago}"]
    for part in said["scaling"]["parts"]:
        about = part["about"]
        for line in part["lines"]:
            lines.append(f"  {about:<{ABOUT_COLUMNS}} {line}")
            about = ""
    return lines


def _titled(title: str, lines: list[str]) -> list[str]:
    return [title, *(f"  {line}" for line in lines)]
