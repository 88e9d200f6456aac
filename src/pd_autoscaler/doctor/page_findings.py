"""What a node's page says, and whether it is the page of an engine that can be read."""

from collections.abc import Iterator

from pd_autoscaler.adapters.addresses import shown
from pd_autoscaler.adapters.metrics.faults import Trouble
from pd_autoscaler.doctor.findings import Finding, not_checked, ok, problem, warning
from pd_autoscaler.doctor.pages import Kind, Look
from pd_autoscaler.doctor.seen import Answer, NodeSeen, PageSeen
from pd_autoscaler.doctor.troubles import refused, unanswered

SLOW_S = 1.0
"""A page that takes longer is near the deadline of a scrape (2.5 s unless it is set)."""
START_S = 60.0
"""A younger process has only just begun to count."""
SETTING = "metrics_url"
SWITCHED_ON = (
    "switch the engine's metrics on (vLLM: no --disable-log-stats; SGLang: --enable-metrics; "
    "MindIE: MIES_SERVICE_MONITOR_MODE=1, port 1027)"
)
NEEDED = frozenset(
    {"waiting", "running", "kv_used", "ttft_s", "tpot_s", "prompt_tokens", "generation_tokens"}
)
"""Signals without which no bottleneck can be told; others make a decision better."""


def of_page(node: NodeSeen) -> Iterator[Finding]:
    """Judge the page: is it there, whose is it, and does it have what this role needs."""
    page = node.page
    if page is None:
        yield not_checked(
            "metrics",
            node.skipped.get(
                "metrics", "no metrics_url is given (a node that is starting has none yet)"
            ),
        )
        return
    trouble = _unread(page)
    if trouble is not None:
        yield trouble
        return
    assert isinstance(page.reply, Answer)  # noqa: S101  # What is unread has been told.
    assert page.look is not None  # noqa: S101  # As above.
    yield _answered(page.reply, page.look)
    if page.look.kind is not Kind.METRICS:
        yield _no_page(page.url, page.look)
        return
    yield _profile(node, page.look)
    if page.look.reading is not None:
        yield _names(page.look)
        yield from _sum(node, page.look)
    yield from _uptime(page.reply, page.look)
    if page.look.reading is not None:
        yield _moves(page, page.look)


def _unread(page: PageSeen) -> Finding | None:
    if isinstance(page.reply, Trouble):
        what = "the engine with its metrics"
        return unanswered("metrics", page.url, page.reply, setting=SETTING, what=what)
    finding = refused(
        "metrics",
        page.url,
        page.reply,
        setting=SETTING,
        token="scrape.token",  # noqa: S106  # The setting's name.
    )
    if finding is not None and page.reply.status == 404:
        return problem("metrics", finding.seen, f"{finding.fix}, or {SWITCHED_ON}")
    return finding


def _answered(answer: Answer, look: Look) -> Finding:
    seen = f"{look.size / 1000:.0f} kB in {answer.took_s * 1000:.0f} ms"
    if answer.took_s > SLOW_S:
        fix = "see what keeps the engine's HTTP server busy, or raise scrape.deadline_s"
        return warning("metrics", f"a slow page: {seen}", fix)
    return ok("metrics", seen)


def _no_page(url: str, look: Look) -> Finding:
    if look.kind is Kind.EMPTY:
        return problem("page", f"{shown(url)}: an empty page", SWITCHED_ON)
    seen = f"{shown(url)}: {look.kind}, not a page of metrics"
    return problem("page", seen, f"correct {SETTING}: it must name the engine's own metrics page")


def _profile(node: NodeSeen, look: Look) -> Finding:
    check = "profile"
    if look.error and look.detected:
        seen = f"the page is that of {look.detected}, and it is read as {node.profile}"
        if node.profile in {"auto", look.detected}:
            seen = f"the page of {look.detected} cannot be read: {look.error}"
            return problem(check, seen, f"correct {SETTING}, or see what lies between it and here")
        return problem(check, seen, f"set profile (or scrape.profile) to {look.detected} or auto")
    if look.error:
        fix = f"{SWITCHED_ON}, correct {SETTING}, or give a profile of your own (scrape.profiles)"
        return problem(check, look.error, fix)
    how = "told by its names" if node.profile == "auto" else "as configured"
    return ok(check, f"{look.profile}, {how}")


def _names(look: Look) -> Finding:
    reading = look.reading
    assert reading is not None  # noqa: S101  # Only pages that were read come here.
    there = {*reading.gauges, *reading.counters, *reading.histograms}
    seen = f"{len(there)} signals of a {look.role} node"
    lacking = {line.partition(":")[0]: line for line in look.missing}
    if needed := [line for name, line in lacking.items() if name in NEEDED]:
        fix = f"{look.hint or SWITCHED_ON}; or name them in a profile of your own (scrape.profiles)"
        return warning("names", f"{seen}; not there: {'; '.join(needed)}", fix)
    return ok("names", f"{seen}, not {', '.join(sorted(lacking))}" if lacking else seen)


def _sum(node: NodeSeen, look: Look) -> Iterator[Finding]:
    check, ranks = "one engine", len(node.agents)
    if look.evidence.is_both:
        seen = f"the counters are those of both roles: {look.evidence.because}"
        fix = (
            f"give {SETTING} the engine's own page, not a coordinator's sum over nodes; an engine "
            "that serves whole requests by itself has no role"
        )
        yield problem(check, seen, fix)
    elif ranks and len(look.engines) > ranks:
        seen = f"the page has {len(look.engines)} engines and the node {ranks} agents"
        fix = f"list the agents of all ranks, or give {SETTING} the page of this node alone"
        yield warning(check, seen, fix)
    elif look.engines:
        yield ok(check, f"{len(look.engines)} on the page")


def _uptime(answer: Answer, look: Look) -> Iterator[Finding]:
    if look.started_unix_s is None:
        yield not_checked("uptime", "the page does not say when its process began")
        return
    # Of the same machine as the page's time, where it is told: clocks may be apart.
    now_unix_s = look.now_unix_s or answer.received_unix_s
    age_s = now_unix_s - look.started_unix_s
    if age_s < START_S:
        seen = f"its process began {max(0.0, age_s):.0f} s ago"
        yield warning("uptime", seen, "if nobody restarted it, see its log for why it ended")
        return
    shown_age = f"{age_s / 3600:.1f} h" if age_s >= 3600 else f"{age_s / 60:.0f} min"
    yield ok("uptime", shown_age)


def _moves(page: PageSeen, first: Look) -> Finding:
    check, later = "moves", page.later
    if later is None or later.reading is None or first.reading is None:
        return not_checked(check, f"no second page could be read{_why_no_later(page)}")
    before, after = first.reading, later.reading
    back = sorted(k for k, v in after.counters.items() if v < before.counters.get(k, v))
    if back:
        seen = f"within {page.apart_s:.1f} s these went back: {', '.join(back)}"
        if first.started_unix_s != later.started_unix_s:
            return warning(check, f"{seen}; another process answered", "see if it restarted")
        fix = f"give {SETTING} one engine's own address: several answer at this one, or it restarts"
        return problem(check, seen, fix)
    inside = sum(after.gauges.get(name, 0.0) for name in ("running", "waiting"))
    if before.counters != after.counters:
        count = sum(v != before.counters.get(k) for k, v in after.counters.items())
        return ok(check, f"{count} of {len(after.counters)} counters within {page.apart_s:.1f} s")
    if not inside:
        return ok(check, "nothing is inside, and nothing moves")
    if before.gauges != after.gauges:
        return ok(check, f"gauges, no counter, within {page.apart_s:.1f} s")
    seen = f"{inside:.0f} requests are inside and nothing moved within {page.apart_s:.1f} s"
    fix = "look again; a page that stays so is frozen: see the engine's log, restart it"
    return warning(check, seen, fix)


def _why_no_later(page: PageSeen) -> str:
    """Say why the second page could not be read, if that is known."""
    match page.later_reply:
        case Trouble(said=said):
            return f": {said}"
        case Answer(status=status) if status != 200:
            return f": HTTP {status}"
        case _:
            later = page.later
            return "" if later is None else f": {later.error or f'it was {later.kind}'}"
