"""What was seen of the controller's own surroundings, and what it means."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pd_autoscaler.adapters.journal_schema import APPLICATION_ID
from pd_autoscaler.adapters.metrics.faults import Fault
from pd_autoscaler.adapters.metrics.promql_query import matchers_text
from pd_autoscaler.doctor.findings import Finding, not_checked, ok, problem, warning
from pd_autoscaler.doctor.seen import Answer, Reply
from pd_autoscaler.doctor.troubles import refused, unanswered

SQLITE = b"SQLite format 3\0"
APPLICATION_ID_AT = 68
"""Offset of the application id in a SQLite file's header (sqlite.org/fileformat.html)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminSeen:
    """What answered at the admin address; `healthy` is what a daemon says, None is no daemon."""

    url: str
    reply: Reply
    healthy: bool | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrometheusSeen:
    """What a Prometheus server said of its targets: the values of the label that names nodes.

    Only targets with the labels `matchers` were asked about. `down` are the values that no target
    has which the server could scrape.
    """

    url: str
    reply: Reply
    label: str
    matchers: Mapping[str, str] = field(default_factory=dict)
    values: frozenset[str] | None = None
    down: frozenset[str] = frozenset()
    why_not: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalSeen:
    """What is at the journal's path: `header` is the file's beginning, None where there is none.

    `trouble` says why it or its folder cannot be used, `holder` which process holds its lock.
    """

    path: str
    header: bytes | None = None
    trouble: str = ""
    holder: int | None = None


def journal_seen(path: Path) -> JournalSeen:
    """Look at a journal without opening it as one; blocking, and nothing is made or locked."""
    name = str(path)
    if name == ":memory:":
        return JournalSeen(path=name)
    try:
        if not path.exists():
            folder = next(parent for parent in path.absolute().parents if parent.exists())
            can = folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)
            return JournalSeen(path=name, trouble="" if can else f"{folder} cannot be written to")
        if not path.is_file():
            return JournalSeen(path=name, trouble="it is not a file")
        for place, needed in ((path, os.R_OK | os.W_OK), (path.absolute().parent, os.W_OK)):
            if not os.access(place, needed):
                return JournalSeen(path=name, trouble=f"{place} cannot be written to")
        with path.open("rb") as file:
            header = file.read(100)
        return JournalSeen(path=name, header=header, holder=_holder(Path(f"{name}.lock")))
    except OSError as error:
        return JournalSeen(path=name, trouble=error.strerror or str(error))


def of_journal(seen: JournalSeen, *, has_daemon: bool) -> Finding:
    """Judge the journal; `has_daemon` says that a controller answers at the admin address."""
    check = "journal"
    if seen.trouble:
        fix = "give journal.path a file on a local disk that the controller's user may write"
        return problem(check, f"{seen.path}: {seen.trouble}", fix)
    if seen.header is None:
        return ok(check, f"{seen.path}: will be made")
    number = seen.header[APPLICATION_ID_AT : APPLICATION_ID_AT + 4]
    # A file of no bytes is one that was only just begun.
    if seen.header and (
        not seen.header.startswith(SQLITE) or number not in {APPLICATION_ID.to_bytes(4), bytes(4)}
    ):
        return problem(check, f"{seen.path} is no journal", "give journal.path another value")
    if seen.holder is not None and not has_daemon:
        where = f"{seen.path} is held by process {seen.holder}, and no daemon answers at admin.port"
        fix = "end that process, or give journal.path another value: a controller would not start"
        return problem(check, where, fix)
    held = f", held by the controller that runs (process {seen.holder})" if seen.holder else ""
    return ok(check, f"{seen.path}{held}")


def of_admin(seen: AdminSeen) -> Finding:
    """Judge the address where the controller listens, or would."""
    check, fix = "admin port", "stop what listens there, or set another admin.port"
    if isinstance(seen.reply, Answer):
        if seen.healthy:
            return ok(check, f"a daemon runs at {seen.url}")
        if seen.healthy is False:
            told = f"the daemon at {seen.url} is not healthy: {seen.reason}"
            return warning(check, told, "see its log, and 'pd-autoscaler status'")
        return problem(check, f"something else listens at {seen.url}", fix)
    match seen.reply.fault:
        case Fault.REFUSED:
            return ok(check, f"{seen.url} is free: no daemon runs")
        case Fault.NOT_ASKED:
            return not_checked(check, seen.reply.said)
        case Fault.NO_ANSWER | Fault.BROKEN | Fault.TLS | Fault.UNUSABLE:
            return problem(check, f"{seen.url}: {seen.reply.said}", fix)
        case _:
            told = f"{seen.url} cannot be connected to: {seen.reply.said}"
            return warning(check, told, "set admin.host to an address of this machine")


def of_prometheus(seen: PrometheusSeen) -> Finding:
    """Judge the Prometheus server."""
    check, setting = "prometheus", "scrape.promql.url"
    if not isinstance(seen.reply, Answer):
        what = "the Prometheus server"
        return unanswered(check, seen.url, seen.reply, setting=setting, what=what)
    token = "scrape.promql.token"  # noqa: S105  # The setting's name.
    trouble = refused(check, seen.url, seen.reply, setting=setting, token=token)
    if trouble is not None:
        return trouble
    if seen.values is None:
        fix = f"correct {setting}: the address before /api/v1"
        return problem(check, f"{seen.url}: no answer of Prometheus: {seen.why_not}", fix)
    if not seen.values:
        told = f"no target has the label {seen.label}{_and_matchers(seen)}"
        fix = "correct scrape.promql.matchers and node_label, or its scrape_configs"
        return problem(check, told, fix)
    down = f", {len(seen.down)} of them down" if seen.down else ""
    return ok(check, f"{len(seen.values)} values of {seen.label} among its targets{down}")


def of_target(seen: PrometheusSeen, names: Sequence[str]) -> Finding:
    """Judge whether the server has a node, which goes by any of these names."""
    check = "prometheus"
    if seen.values is None:
        return not_checked(check, "the Prometheus server did not answer")
    known = [name for name in names if name in seen.values]
    for name in known:
        if name not in seen.down:
            return ok(check, f'{seen.label}="{name}"')
    if known:
        told = f'{seen.label}="{known[0]}" is down: the server cannot scrape it'
        fix = "see why on the server's page of targets (/targets): its word on this node is old"
        return problem(check, told, fix)
    told = f"no target has {seen.label} {' or '.join(names)}{_and_matchers(seen)}"
    which = "node_label or matchers" if seen.matchers else "node_label"
    return problem(check, told, f"correct scrape.promql.{which}, or the server's scrape_configs")


def _and_matchers(seen: PrometheusSeen) -> str:
    """Name the matchers: a target that lacks them may well have the label."""
    return f" and {matchers_text(seen.matchers)}" if seen.matchers else ""


def of_call(check: str, call: Callable[[], object], *, said: str, fix: str) -> Iterator[Finding]:
    """Judge something that raises ValueError or one of this package's errors where it is wrong."""
    try:
        call()
    except Exception as error:  # A plug-in may raise anything.
        yield problem(check, str(error), fix)
    else:
        yield ok(check, said)


def _holder(lock: Path) -> int | None:
    """Return the process that holds a lock file, by what the kernel lists: nothing is locked."""
    try:
        process, inode = int(lock.read_text()), lock.stat().st_ino
        listed = Path("/proc/locks").read_text()
    except (OSError, ValueError):
        return None
    for line in listed.splitlines():
        fields = line.split()
        if "FLOCK" in fields and str(process) in fields and f":{inode} " in line:
            return process
    return None
