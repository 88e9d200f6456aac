"""First tokens: how long users wait for one, also while none comes at all."""

from collections.abc import Iterator, Sequence

from pd_autoscaler.core.windows import Page, View


def waited_p95_s(views: Sequence[View]) -> float | None:
    """Return a lower bound of the 95th percentile of the wait for a first token while none comes.

    None if one came anywhere in the window, or if nobody is known to wait. Whoever waited on a page
    and on every page since has had no first token since that page, as nobody had one; each request
    counts with what it has waited so far.
    """
    counts = [view.observed_count("ttft_s") for view in views]
    if any(counts):
        return None
    rows = sorted(
        row
        for view, count in zip(views, counts, strict=True)
        # Where the count is unknown nobody can say that none came.
        if count is not None
        for row in _waits(view.inside)
    )
    rank, seen = 0.95 * sum(count for _, count in rows), 0.0
    for wait_s, count in rows:
        seen += count
        if seen >= rank:
            return wait_s or None
    return None


def _waits(pages: Sequence[Page]) -> Iterator[tuple[float, float]]:
    """Give the requests that wait on every page from one to the newest, and for how long."""
    least = [_waiting(page, pages[0]) for page in pages]
    for i in reversed(range(len(least) - 1)):
        least[i] = min(least[i], least[i + 1])
    before = 0.0
    for page, count in zip(pages, least, strict=True):
        if count > before:
            yield pages[-1].at_s - page.at_s, count - before
            before = count


def _waiting(page: Page, first: Page) -> float:
    waiting = page.gauges.get("waiting", 0.0)
    received = page.counters.get("requests_received")
    if received is None:
        return waiting
    # MindIE's waiting requests include those that had their first token long ago and whose KV no
    # decoder has pulled; those that came in a window without a first token are not among them.
    return min(waiting, received - first.counters.get("requests_received", received))
