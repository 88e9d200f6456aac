"""A diagnosis for people: what is wrong in full, what is right in a line."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pd_autoscaler.cli.console import console, plain
from pd_autoscaler.doctor.findings import Diagnosis, Finding, Group, Verdict

FINE_SHOWN_MAX = 20
"""Above so many nodes with nothing to mind they are only counted."""

_MARKS = {
    Verdict.OK: ("\N{CHECK MARK}", "+", "green"),
    Verdict.WARNING: ("!", "!", "yellow"),
    Verdict.PROBLEM: ("\N{BALLOT X}", "x", "bold red"),
    Verdict.NOT_CHECKED: ("\N{EN DASH}", "-", "dim"),
}
_AROUND = frozenset({"site", "fleet"})


def as_data(found: Diagnosis) -> dict[str, Any]:
    """Return everything that was found as JSON has it."""
    return {
        "groups": [
            {
                "name": group.name,
                "role": group.role,
                "findings": [
                    {"check": f.check, "verdict": f.verdict, "seen": f.seen, "fix": f.fix}
                    for f in group.findings
                ],
            }
            for group in found.groups
        ],
        "counts": {verdict.value: found.counts[verdict] for verdict in Verdict},
    }


def show(found: Diagnosis) -> None:
    """Print the groups and, last, how many checks ended in which way."""
    out = console()
    fine = [group for group in found.groups if group.is_fine and group.name not in _AROUND]
    are_counted = len(fine) > FINE_SHOWN_MAX
    for group in found.groups:
        if are_counted and group in fine:
            continue
        for text, style in _lines(group):
            out.print(text, style=style, soft_wrap=True)
    if are_counted:
        mark, style = _mark(Verdict.OK)
        out.print(f"{mark} {len(fine)} nodes have nothing to mind", style=style)
    out.print(_counts(found), soft_wrap=True)


@contextmanager
def counting() -> Iterator[Callable[[int, int], None]]:
    """Show how many nodes are done while they are looked at, on a terminal alone."""
    from rich.console import Console  # noqa: PLC0415  # With its only user.
    from rich.progress import Progress  # noqa: PLC0415  # As above.

    out = Console(stderr=True)
    if not out.is_terminal:
        yield lambda _done, _count: None
        return
    with Progress(console=out, transient=True) as bar:
        task = bar.add_task("nodes", total=None)
        yield lambda done, count: bar.update(task, completed=done, total=count)


def _lines(group: Group) -> Iterable[tuple[str, str | None]]:
    role = f" ({group.role})" if group.role else ""
    yield f"{plain(group.name)}{role}", "bold"
    width = max((len(finding.check) for finding in group.findings), default=0)
    troubles = [f for f in group.findings if f.verdict in {Verdict.PROBLEM, Verdict.WARNING}]
    troubles.sort(key=lambda finding: finding.verdict is Verdict.WARNING)
    for finding in troubles:
        mark, style = _mark(finding.verdict)
        yield f"  {mark} {finding.check:{width}}  {plain(finding.seen)}", style
        yield f"    {'':{width}}  fix: {plain(finding.fix)}", None
    fine = [finding for finding in group.findings if finding.verdict is Verdict.OK]
    if fine:
        mark, style = _mark(Verdict.OK)
        # What is around the nodes is little, and worth its words.
        is_short = group.name not in _AROUND
        said = ", ".join(f.check for f in fine) if is_short else _told(fine)
        yield f"  {mark} {said}", style
    for finding in group.findings:
        if finding.verdict is Verdict.NOT_CHECKED:
            mark, style = _mark(finding.verdict)
            yield f"  {mark} {finding.check:{width}}  not checked: {plain(finding.seen)}", style


def _told(fine: Sequence[Finding]) -> str:
    return "; ".join(f"{finding.check}: {plain(finding.seen)}" for finding in fine)


def _counts(found: Diagnosis) -> str:
    counts, groups = found.counts, found.groups
    nodes = sum(group.name not in _AROUND for group in groups)
    words = (
        (Verdict.PROBLEM, "problem"),
        (Verdict.WARNING, "warning"),
        (Verdict.OK, "ok"),
        (Verdict.NOT_CHECKED, "not checked"),
    )
    told = []
    for verdict, word in words:
        count = counts[verdict]
        is_plural = count != 1 and verdict in {Verdict.PROBLEM, Verdict.WARNING}
        told.append(f"{count} {word}{'s' if is_plural else ''}")
    return f"{nodes} node{'' if nodes == 1 else 's'}: {', '.join(told)}"


def _mark(verdict: Verdict) -> tuple[str, str]:
    """Return a mark that standard output can write, and its style."""
    mark, ascii_mark, style = _MARKS[verdict]
    try:
        mark.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return ascii_mark, style
    return mark, style
