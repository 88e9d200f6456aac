"""What reading engines' metrics costs, against prometheus_client's parser and against Prometheus.

`python -m benchmarks.scrape [--json] [--only parser|cycle]`

Parser: pages of a server with eight vLLM engines, in the shape of a real one's (all its families,
its histograms' buckets; drawn values), eight different ones. Both parsers read them in turns, in
one run; CPU time, best of as many rounds each, after one that does not count. Ours reads what the
vllm profile wants of a prompt node and of a decoder node; theirs reads everything, for it cannot do
less, and is given text that is decoded already. `page to reading` is the whole of what the daemon
does with a page once it has its bytes.

Cycle: the daemon's own scraper, profile and session over loopback addresses that each answer with
one page of one engine, uncompressed, from processes of our own; every interval all of them are
asked, connections are kept. Value: user and system time of the scraping process from /proc, per
cycle, the first left out. Reference: that of a real Prometheus server with the same addresses,
interval and machine, over as many cycles, the first two left out in which it makes its series; less
what it spends on no targets in the same time. Prometheus also stores every sample (its own
database, in a temporary folder), the scraper keeps one reading a node: the figures say what each
costs as it runs, not how good either parser is.
"""

import argparse
import gc
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from importlib.metadata import version

import anyio
from benchmarks.support import scrape_prometheus
from benchmarks.support.rows import Row, compared, measured, printed
from benchmarks.support.scrape_pages import vllm_page
from benchmarks.support.scrape_targets import running_targets
from prometheus_client.parser import text_string_to_metric_families

from pd_autoscaler.adapters.metrics.connection import metrics_session
from pd_autoscaler.adapters.metrics.exposition import PageParser
from pd_autoscaler.adapters.metrics.profiles import Profile, ProfileBook, shipped_profiles
from pd_autoscaler.adapters.metrics.scrape import Scraper
from pd_autoscaler.model.node import Node, NodeState, Role

AIM_PARSER = 0.01
AIM_CYCLE = 1.0

_PAGES = 8
_WARM_CYCLES = 1


def _best_s(rounds: int, *works: Callable[[], object]) -> list[float]:
    """Return the CPU seconds of each work's quickest round, after one that is not counted.

    The works take turns, so that what disturbs the machine disturbs them alike.
    """
    found: list[list[float]] = [[] for _ in works]
    for _ in range(1 + rounds):
        for work, took_s in zip(works, found, strict=True):
            gc.collect()
            start_s = time.process_time()
            work()
            took_s.append(time.process_time() - start_s)
    return [min(took_s[1:]) for took_s in found]


def _parsed(parser: PageParser, pages: Iterable[bytes]) -> None:
    for page in pages:
        parser.samples(page)


def _readings(profile: Profile, role: Role, pages: Iterable[bytes]) -> None:
    for page in pages:
        profile.reading(page, node_id="n", role=role, at_s=0.0)


def _referred(texts: Iterable[str]) -> None:
    for text in texts:
        for _ in text_string_to_metric_families(text):
            pass


def parser_rows(*, engines: int, rounds: int) -> Iterator[Row]:
    """Compare parsers on the same pages."""
    pages = [vllm_page(engines=engines, seed=seed) for seed in range(_PAGES)]
    texts = [page.decode() for page in pages]
    lines, size = pages[0].count(b"\n"), sum(map(len, pages)) / _PAGES
    told = f"{engines} engines, {lines} lines, {size / 1000:.0f} kB"
    print(f"parser: pages of {told}; prometheus_client {version('prometheus_client')}", flush=True)
    vllm = ProfileBook(shipped_profiles()).named("vllm")
    parsers = {role: PageParser(vllm.wanted_by(role)) for role in Role}
    theirs_s, *ours_s = _best_s(
        rounds,
        partial(_referred, texts),
        *(partial(_parsed, parsers[role], pages) for role in Role),
        *(partial(_readings, vllm, role, pages) for role in Role),
    )
    yield measured(f"prometheus_client.parser, {lines} lines", _PAGES / theirs_s, "pages/s")
    for role, parsed_s, read_s in zip(Role, ours_s[: len(Role)], ours_s[len(Role) :], strict=True):
        samples = len(parsers[role].samples(pages[0]))
        name = f"{role.value} page, {lines} lines, {samples} samples wanted"
        yield compared(
            f"{name}: CPU a page",
            parsed_s / _PAGES * 1e6,
            "us",
            reference=theirs_s / _PAGES * 1e6,
            aim=AIM_PARSER,
        )
        yield measured(f"{name}: times as fast", theirs_s / parsed_s, "x")
        yield measured(f"{name}: pages", _PAGES / parsed_s, "pages/s")
        yield measured(f"{name}: bytes", _PAGES * size / parsed_s / 1e6, "MB/s")
        yield measured(f"{name}: page to reading", read_s / _PAGES * 1e6, "us")


async def scraped(addresses: Sequence[str], *, cycles: int, interval_s: float) -> tuple[float, int]:
    """Run whole cycles of the scraper; return the CPU seconds of one, and how many pages it read.

    Raises RuntimeError if any page was not read.
    """
    nodes = [
        Node(
            id=f"n{index}",
            role=tuple(Role)[index % 2],
            state=NodeState.SERVING,
            since_s=0.0,
            metrics_url=f"http://{address}/metrics",
        )
        for index, address in enumerate(addresses)
    ]
    cpu_s, start = 0.0, 0
    async with metrics_session(keepalive_s=2 * interval_s + 15) as session:
        scraper = Scraper(session, ProfileBook(shipped_profiles()), deadline_s=60.0)
        for cycle in range(_WARM_CYCLES + cycles):
            if cycle == _WARM_CYCLES:
                cpu_s, start = scrape_prometheus.cpu_s_of(os.getpid()), scraper.scraped.pages
            due_s = anyio.current_time() + interval_s
            await scraper.read(nodes)
            await anyio.sleep_until(due_s)
        cpu_s = scrape_prometheus.cpu_s_of(os.getpid()) - cpu_s
        if scraper.scraped.failures:
            raise RuntimeError(
                f"{scraper.scraped.failures} failed: {[*scraper.errors.values()][:3]}"
            )
        return cpu_s / cycles, scraper.scraped.pages - start


async def cycle_rows(
    targets: int, *, engines: int, cycles: int, interval_s: float
) -> Sequence[Row]:
    """Compare a cycle of the scraper with one of Prometheus."""
    async with running_targets(targets, engines=engines) as running:
        lines = vllm_page(engines=engines).count(b"\n")
        ours_s, pages = await scraped(running.addresses, cycles=cycles, interval_s=interval_s)
        served = await running.asked()
        print(
            f"cycle: {targets} targets, pages of {lines} lines, every {interval_s:g} s; scraper: "
            f"{pages} pages in {cycles} cycles ({served} served with the first)",
            flush=True,
        )
        name = f"cycle of {targets} targets, {lines} lines each: CPU"
        if scrape_prometheus.program() is None:
            print("left out: the comparison with Prometheus, which is not installed", flush=True)
            return [measured(name, ours_s, "s")]
        found = await scrape_prometheus.spent(
            running.addresses, running.asked, cycles=cycles, interval_s=interval_s
        )
        print(
            f"{scrape_prometheus.version()}: {found.pages} pages, {found.cpu_s:.2f} s CPU, "
            f"and {found.idle_s:.2f} s idle in the same time",
            flush=True,
        )
        return [compared(name, ours_s, "s", reference=found.per(targets), aim=AIM_CYCLE)]


def main(argv: Sequence[str] | None = None) -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scrape", description=__doc__)
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--only", choices=("parser", "cycle"), help="by default both")
    parser.add_argument("--engines", type=int, default=8, help="of a page for the parser")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--targets", type=int, default=1000)
    parser.add_argument("--target-engines", type=int, default=1, help="of each target's page")
    parser.add_argument("--cycles", type=int, default=5)
    parser.add_argument("--interval-s", type=float, default=5.0)
    args = parser.parse_args(argv)
    rows: list[Row] = []
    if args.only != "cycle":
        rows += parser_rows(engines=args.engines, rounds=args.rounds)
    if args.only != "parser":
        rows += anyio.run(
            lambda: cycle_rows(
                args.targets,
                engines=args.target_engines,
                cycles=args.cycles,
                interval_s=args.interval_s,
            )
        )
    printed("scrape", rows, is_json=args.json)


if __name__ == "__main__":
    main()
