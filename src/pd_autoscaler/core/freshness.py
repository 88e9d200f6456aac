"""Freshness: what a node's signals are read from, how old that is, and why it is not believed."""

import math
from typing import NamedTuple

from pd_autoscaler.core.windows import INSIDE, Page, View, is_working
from pd_autoscaler.model.facts import AgentState
from pd_autoscaler.model.node import Node, Role
from pd_autoscaler.model.signals import Reading, Signal

AGENT = "agent"
"""The name of the engine profile of what an agent says of its engine."""

Told = tuple[float, float]
"""A value and its age in seconds."""


class Source(NamedTuple):
    """What one node's signals are read from: its pages first, then its agent's word.

    `doubt` says why they are not believed, empty if they are. `is_idle` says that the agent knows
    the engine to be empty while its page shows work that never moves: counts are then zero.
    """

    node: Node
    pages: View
    agent: View | None = None
    doubt: str = ""
    age_s: float | None = None
    engine: str = ""
    is_idle: bool = False

    def newest(self, name: str) -> Signal | None:
        """Return a gauge's newest value, None if nobody says."""
        for view in (self.pages, self.agent):
            if view is not None and view.last is not None:
                value = view.last.gauges.get(name)
                if value is not None:
                    return Signal(self._trusted(name, value), view.age_s)
        return None

    def mean(self, name: str) -> Told | None:
        """Return a gauge's mean over the window, None if nobody says."""
        for view in (self.pages, self.agent):
            if view is not None and (value := view.mean(name)) is not None:
                return self._trusted(name, value), view.age_s
        return None

    def highest(self, name: str) -> Told | None:
        """Return a gauge's highest value in the window, None if nobody says."""
        for view in (self.pages, self.agent):
            if view is not None and (value := view.highest(name)) is not None:
                return self._trusted(name, value), view.age_s
        return None

    def _trusted(self, name: str, value: float) -> float:
        return 0.0 if self.is_idle and name in INSIDE else value


def word_of(state: AgentState | None) -> Reading | None:
    """Return what a node's agent says of its engine, None if it knows nothing."""
    if state is None:
        return None
    load = state.engine
    told = {
        "waiting": load.waiting,
        "running": load.running,
        "kv_export_backlog": load.kv_unpulled,
        "kv_used": load.kv_used,
    }
    gauges = {name: float(value) for name, value in told.items() if value is not None}
    if not gauges:
        return None
    return Reading(node_id=state.node_id, at_s=state.at_s, engine=AGENT, gauges=gauges)


def source_of(
    node: Node,
    pages: View,
    agent: View,
    *,
    now_s: float,
    age_max_s: float,
    pages_needed: bool = True,
    unread: str = "",
) -> Source:
    """Return what to read a node's signals from: something no older than `age_max_s`, or a doubt.

    An engine whose inner query fails goes on to export its last values (MindIE does), so a page
    with work on it of which no number has moved for `age_max_s` is frozen and not believed. Some
    queue gauges stay above zero in an idle engine (sgl-project/sglang#27028), which looks the same:
    there the agent's word that the engine is empty decides. Where `pages_needed` the agent's word
    alone is not enough: `unread` says why the last page could not be read.
    """
    word = agent if _is_recent(agent, now_s, age_max_s) else None
    if not _is_recent(pages, now_s, age_max_s):
        if pages_needed:
            silent = _silent(node, pages, None, now_s)
            return silent._replace(doubt=f"{silent.doubt}: {unread}") if unread else silent
        if word is None:
            return _silent(node, pages, agent, now_s)
        # Without pages the agent's word is all there is; it has no counters.
        return _believed(node, word, None)
    found = _believed(node, pages, word)
    still_s = _still_s(pages)
    if found.doubt or still_s <= age_max_s:
        return found
    if word is not None and _is_empty(word.last, node.role):
        return found._replace(is_idle=True)
    return found._replace(doubt=f"frozen: work inside, but no number moved for {still_s:.0f} s")


def _is_recent(view: View, now_s: float, age_max_s: float) -> bool:
    return view.last is not None and abs(now_s - view.last.at_s) <= age_max_s


def _believed(node: Node, pages: View, agent: View | None) -> Source:
    tells_queue = any(
        view is not None and view.last is not None and "waiting" in view.last.gauges
        for view in (pages, agent)
    )
    return Source(
        node=node,
        # Left out of a role's sum, the queue that it does not tell would count as none.
        doubt="" if tells_queue else "does not say how many requests wait",
        age_s=pages.age_s,
        engine=pages.history.engine,
        pages=pages,
        agent=agent,
    )


def _silent(node: Node, pages: View, agent: View | None, now_s: float) -> Source:
    """Return a source that is too old, or from ahead of the clock: neither can be told by."""
    told = [
        (view.last.at_s, what, view)
        for view, what in ((agent, "agent's word"), (pages, "page"))
        if view is not None and view.last is not None
    ]
    if not told:
        return Source(node=node, doubt="never answered", pages=pages)
    at_s, what, view = max(told, key=lambda row: row[0])
    age_s = now_s - at_s
    side = "old" if age_s >= 0 else "ahead of the clock"
    return Source(
        node=node,
        doubt=f"{what} {abs(age_s):.0f} s {side}",
        age_s=max(0.0, age_s),
        engine=view.history.engine,
        pages=view,
    )


def _still_s(pages: View) -> float:
    """Return for how long a page with work on it has not changed; 0 where nothing had to."""
    page = pages.last
    # A page without counters has nothing that must move.
    if page is None or not is_working(page):
        return 0.0
    return page.at_s - pages.history.moved_at_s


def _is_empty(page: Page | None, role: Role) -> bool:
    if page is None:
        return False
    # A decoder exports no KV, so that its agent need not know of any.
    unpulled = page.gauges.get("kv_export_backlog", math.nan if role is Role.PROMPT else 0.0)
    return unpulled == 0 == page.gauges.get("waiting") == page.gauges.get("running")
