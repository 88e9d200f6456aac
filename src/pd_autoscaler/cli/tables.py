"""The admin API's answers as tables for people."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from pd_autoscaler.cli.console import Json, duration, plain
from pd_autoscaler.core.scene import UNMESHED

GOOD, COMING, WARN, BAD, DIM = "green", "cyan", "yellow", "bold red", "dim"

STATE_STYLES = {
    "serving": GOOD,
    "starting": COMING,
    "initialising": COMING,
    "linking": COMING,
    "switching": COMING,
    "draining": WARN,
    "unlinking": WARN,
    "stopping": WARN,
    "failed": BAD,
    "standby": DIM,
    "gone": DIM,
}

LINK_MARKS = {
    "linked": ("+", GOOD),
    "linking": ("~", COMING),
    "unlinking": ("-", WARN),
    "failed": ("x", BAD),
    "suspect": ("!", BAD),
    "absent": (".", DIM),
    "not shown": (" ", DIM),
}
"""One character per link state; colour only repeats it."""


def counts(state: Json) -> Table:
    """Return targets against what there is, a row per role."""
    columns = ("serving", "coming", "leaving", "standby", "failed", "published")
    table = _table("role", "target", *columns, right=range(1, 8))
    for role in ("prompt", "decoder"):
        actual = state["actual"][role]
        wanted = state["target"][role]
        serving = Text(_known(actual["serving"]), GOOD if actual["serving"] >= wanted else WARN)
        others = [_known(actual[column]) for column in columns[1:]]
        table.add_row(role, str(wanted), serving, *others)
    return table


def nodes(state: Json) -> Table:
    """Return the nodes, prompt first; those of which `remarks` says more are marked."""
    names = ("node", "role", "state", "for", "router", "queue", "running", "KV")
    table = _table(*names, right=(3, 5, 6, 7))
    for node in _ordered(state):
        signals = node["signals"] or {}
        mark = " !" if node["is_suspect"] or node["hung_calls"] else ""
        table.add_row(
            plain(node["id"]),
            node["role"],
            Text(node["state"] + mark, BAD if mark else STATE_STYLES.get(node["state"], "")),
            duration(node["age_s"]),
            {True: "yes", False: "no", None: "?"}[node["is_published"]],
            _value(signals.get("queue")),
            _value(signals.get("running")),
            _share(signals.get("kv_used")),
        )
    return table


def remarks(state: Json) -> list[str]:
    """Return a line for each node that is suspect, has hung calls, or does not serve."""
    lines = []
    for node in _ordered(state):
        said = []
        if node["is_suspect"]:
            said.append("suspect, so nothing is done to it")
        if node["hung_calls"]:
            said.append(f"native calls past their deadline: {node['hung_calls']}")
        if node["state"] != "serving" and node["why"]:
            said.append(node["why"])
        if node["ready_in_s"] is not None:
            due_s = node["ready_in_s"]
            said.append(f"ready in about {duration(due_s)}" if due_s else "later than usual")
        if said:
            lines.append(plain(f"{node['id']}: {'; '.join(said)}"))
    return lines


def links_line(state: Json) -> str:
    """Return how many pairs are in each state, and whose native calls hang."""
    counts = [f"{count} {name}" for name, count in state["links"].items() if count]
    hung = [f"{plain(node_id)} {count}" for node_id, count in state["hung_calls"].items()]
    text = f"links      {', '.join(counts) or ('none' if state['is_meshed'] else UNMESHED)}"
    return f"{text}; hung calls: {', '.join(hung)}" if hung else text


def matrix(links: Json) -> Table:
    """Return decoders by prompts, one mark per pair."""
    table = _table("decoder \\ prompt", *(plain(prompt) for prompt in links["prompts"]))
    states = {(pair["decoder"], pair["prompt"]): pair["state"] for pair in links["pairs"]}
    missing = "absent" if links["is_complete"] else "not shown"
    for decoder in links["decoders"]:
        hung = links["hung_calls"].get(decoder)
        name = plain(decoder) + (f" ({hung} hung)" if hung else "")
        marks = (LINK_MARKS[states.get((decoder, prompt), missing)] for prompt in links["prompts"])
        table.add_row(Text(name, BAD if hung else ""), *(Text(*mark) for mark in marks))
    return table


def legend() -> str:
    """Return what the marks of `matrix` mean."""
    shown = [(mark, state) for state, (mark, _) in LINK_MARKS.items() if state != "not shown"]
    return "  ".join(f"{mark} {state}" for mark, state in shown)


def troubled(links: Json) -> list[str]:
    """Return a line for each pair that is neither linked nor plainly absent."""
    return [
        plain(f"{pair['decoder']} - {pair['prompt']}: {_told(pair)}")
        for pair in links["pairs"]
        if pair["state"] != "linked" and (pair["state"] != "absent" or pair["attempts"])
    ]


def _told(pair: Json) -> str:
    said = [f"{pair['state']} for {duration(pair['age_s'])}", pair["code"]]
    said += [pair["why"] if pair["why"] != pair["code"] else "", pair.get("wait", "")]
    if pair["attempts"]:
        said.append(f"{pair['attempts']} failed {'try' if pair['attempts'] == 1 else 'tries'}")
    if pair["next_try_s"] is not None:
        due_s = pair["next_try_s"]
        said.append(f"next try in {duration(due_s)}" if due_s else "next try now")
    return ", ".join(part for part in said if part)


def entries(found: list[Json]) -> Table:
    """Return the journal's entries in the order in which they come."""
    table = _table("when", "cycle", "kind", "what", right=(1,))
    for entry in found:
        cycle = str(entry.get("cycle", "-"))
        table.add_row(moment(entry["at_unix_s"]), cycle, entry["kind"], plain(entry["text"]))
    return table


def moment(unix_s: float) -> str:
    """Return a wall time as local date and time."""
    return datetime.fromtimestamp(unix_s).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _ordered(state: Json) -> list[Json]:
    return sorted(state["nodes"], key=lambda node: (node["role"] != "prompt", node["id"]))


def _table(*columns: str, right: Iterable[int] = ()) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(columns):
        # An id that does not fit goes on in the next line: cut off, it could not be copied.
        table.add_column(
            column, justify="right" if number in set(right) else "left", overflow="fold"
        )
    return table


def _known(count: int | None) -> str:
    return "?" if count is None else str(count)


def _value(signal: Json | None) -> str:
    value: Any = signal and signal["value"]
    return "?" if value is None else f"{value:g}"


def _share(signal: Json | None) -> str:
    value: Any = signal and signal["value"]
    return "?" if value is None else f"{value:.0%}"
