"""Strangers: what to say of a page on which nothing is known, and what is the likely cause."""

import re
from collections.abc import Collection, Iterable, Sequence
from itertools import islice
from typing import Protocol

_NAME = re.compile(rb"^([a-zA-Z_:][a-zA-Z0-9_:]*)(?=[ \t{][^\n]*$)", re.MULTILINE)
_OF_THE_PROCESS = ("python_", "process_", "go_", "promhttp_", "http_", "exposer_")
_SEEN_MAX = 2_000
_SHOWN_MAX = 3


class Known(Protocol):
    """What is told of a profile that was tried."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def signature(self) -> frozenset[str]:
        """Names by which its pages are recognised."""
        ...

    @property
    def hint(self) -> str:
        """What must be switched on in the engine."""
        ...


def cause(page: bytes, tried: Sequence[Known], wanted: Collection[str]) -> str:
    """Say what was looked for on a page that has none of it, and why that may be."""
    if not page.strip():
        return f"{_nothing(tried)} on an empty page{_switched_off(tried)}"
    names = [match.group(1).decode() for match in islice(_NAME.finditer(page), _SEEN_MAX)]
    if not names and not page.lstrip().startswith(b"#"):
        begins = page.split()[0][:40].decode(errors="replace")
        return (
            f"{_nothing(tried)} on what is no page of metrics: it begins with {begins!r}; "
            f"is metrics_url right?"
        )
    return cause_of_names(names, tried, wanted)


def cause_of_names(names: Iterable[str], tried: Sequence[Known], wanted: Collection[str]) -> str:
    """Say what was looked for among sample names, and why it may not be there."""
    seen = list(dict.fromkeys(names))
    engine = [name for name in seen if not name.startswith(_OF_THE_PROCESS)]
    signatures = sorted({name for profile in tried for name in profile.signature})
    looked_for = _some(signatures or sorted(wanted))
    what = f"{_nothing(tried)} among {_count(seen)} (looked for {looked_for})"
    if not engine:
        return f"{what}, nothing but the process's own{_switched_off(tried)}"
    meant = {name.lower(): name for name in wanted}
    for name in engine:
        if name in wanted:
            return f"{what}; there is {name}, but {_lacking(tried)}"
        if name.lower() in meant:
            return f"{what}; there is {name}, but case counts: {meant[name.lower()]} is read"
    return f"{what}; there is {_some(engine)}: another engine?"


def _lacking(tried: Sequence[Known]) -> str:
    """Say why a name that is read is not enough; with the profile chosen labels alone can lack."""
    if len(tried) == 1:
        return "not with the labels that are read"
    return "none of the names that engines are told by: name the node's profile"


def _count(names: Sequence[str]) -> str:
    return f"{len(names)} name{'' if len(names) == 1 else 's'}"


def _nothing(tried: Sequence[Known]) -> str:
    names = [profile.name for profile in tried]
    listed = " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
    return f"no metric of the {listed} profile"


def _switched_off(tried: Sequence[Known]) -> str:
    hints = "; ".join(profile.hint for profile in tried if profile.hint)
    return ": are its metrics switched off?" + (f" ({hints})" if hints else "")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN_MAX]) + (", …" if len(names) > _SHOWN_MAX else "")
