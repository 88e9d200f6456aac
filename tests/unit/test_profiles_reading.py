"""Profiles of any engine: what is no number, what is missing, and pages of something else."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest

from pd_autoscaler.adapters.metrics.exposition import PageError, PageParser, Series, weight_of
from pd_autoscaler.adapters.metrics.profiles import Profile, shipped_profiles
from pd_autoscaler.adapters.metrics.profiles import reader as reader_module
from pd_autoscaler.adapters.metrics.profiles.cells import BOUNDS_MAX
from pd_autoscaler.adapters.metrics.profiles.meaning import (
    COUNTERS,
    GAUGES,
    HISTOGRAMS,
    Buckets,
    Combine,
    Distribution,
    Meaning,
    Meanings,
    Term,
    Value,
    named,
)
from pd_autoscaler.adapters.metrics.profiles.mindie import MINDIE
from pd_autoscaler.adapters.metrics.profiles.sglang import SGLANG
from pd_autoscaler.adapters.metrics.profiles.vllm import VLLM
from pd_autoscaler.model.node import Role
from pd_autoscaler.model.signals import Reading
from tests.support import engine_pages
from tests.support.pages import line, rows

INF = math.inf
TTFT = "vllm:time_to_first_token_seconds"

EachEngine = pytest.mark.parametrize(
    ("profile", "page"),
    [
        (VLLM, engine_pages.vllm()),
        (SGLANG, engine_pages.sglang()),
        (MINDIE, engine_pages.mindie()),
    ],
    ids=["vllm", "sglang", "mindie"],
)
EachRole = pytest.mark.parametrize("role", list(Role))


def read(page: bytes, role: Role = Role.PROMPT, profile: Profile = VLLM) -> Reading:
    return profile.reading(page, node_id="n", role=role, at_s=7.0)


def of(meanings: Meanings) -> Profile:
    return Profile(name="mine", meanings=dict.fromkeys(Role, meanings))


def test_what_a_page_lacks_is_absent_and_never_zero() -> None:
    got = read(line("vllm:num_requests_running", 0.0).encode())

    assert got.gauges == {"running": 0.0}
    assert got.counters == {}
    assert got.histograms == {}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1.0, 2e18, 1e308])
def test_a_value_that_is_no_count_is_unknown(value: float) -> None:
    text = line("vllm:num_requests_waiting", value) + line("vllm:num_requests_running", 1.0)

    assert read(text.encode()).gauges == {"running": 1.0}


def test_values_too_large_to_be_added_up_are_unknown_and_do_no_harm() -> None:
    both = [line("vllm:num_requests_waiting", 1e308, engine=engine) for engine in "01"]
    text = "".join(both) + line("vllm:num_requests_running", 1.0)
    text += "".join(line(f"{TTFT}_bucket", 1e308, le="+Inf", engine=engine) for engine in "01")
    text += "".join(line(f"{TTFT}_sum", 1e308, engine=engine) for engine in "01")

    got = read(text.encode())

    assert (got.gauges, got.counters, got.histograms) == ({"running": 1.0}, {}, {})


def test_a_sum_of_terms_that_a_unit_makes_too_large_is_unknown() -> None:
    terms = (Term(names=("all",), factor=1e300), Term(names=("some",), factor=-1e300))
    profile = of(Meanings(gauges={"waiting": Meaning((Value(terms),)), "running": named("some")}))

    got = read((line("all", 1e17) + line("some", 1e17)).encode(), profile=profile)

    assert got.gauges == {"running": 1e17}


def test_labels_whose_product_is_too_large_are_unknown() -> None:
    text = line("vllm:num_requests_running", 1.0)
    for engine in "01":
        sizes = {"num_gpu_blocks": "1e200", "block_size": "1e100"}
        text += line("vllm:cache_config_info", 1.0, engine=engine, **sizes)

    assert read(text.encode()).gauges == {"running": 1.0}


def test_a_rank_of_thousands_of_digits_is_none() -> None:
    ranks = ("9" * 5000, "1")
    text = "".join(line("sglang:num_running_reqs", 3.0, tp_rank=rank) for rank in ranks)

    assert read(text.encode(), profile=SGLANG).gauges == {"running": 3.0}


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_a_sum_with_one_that_is_no_count_is_unknown(value: float) -> None:
    text = line("vllm:num_requests_waiting", value, engine="0")
    text += line("vllm:num_requests_waiting", 5.0, engine="1")
    text += line("vllm:num_requests_running", 1.0)

    assert read(text.encode()).gauges == {"running": 1.0}


@EachEngine
@EachRole
def test_a_whole_page_lacks_nothing(profile: Profile, page: bytes, role: Role) -> None:
    assert profile.missing(read(page, role, profile), role) == ()


@EachEngine
@EachRole
def test_every_name_is_one_that_readings_have(profile: Profile, page: bytes, role: Role) -> None:
    got = read(page, role, profile)

    assert got.gauges.keys() <= GAUGES
    assert got.histograms.keys() <= HISTOGRAMS
    means = {f"{name}{suffix}" for name in HISTOGRAMS for suffix in ("_sum", "_count")}
    assert got.counters.keys() <= COUNTERS | means
    assert got.engine == profile.name


@EachEngine
@EachRole
def test_samples_that_came_another_way_read_as_the_page_does(
    profile: Profile, page: bytes, role: Role
) -> None:
    samples = PageParser(profile.wanted_by(role)).samples(page)

    got = profile.reading_of(samples, node_id="n", role=role, at_s=7.0)

    assert got == read(page, role, profile)


def test_a_sum_of_what_may_all_be_absent_does_not_tell_how_many_engines_there_are() -> None:
    either = Value(
        (Term(names=("lost",), is_optional=True), Term(names=("refused",), is_optional=True))
    )
    profile = of(Meanings(counters={"transfer_failures": Meaning((either,))}))

    assert read(b"lost 3\n", profile=profile).parts == {}
    assert read(b"lost 3\nrefused 1\n", profile=profile).parts == {}


def test_what_is_missing_is_said_with_the_names_that_were_tried() -> None:
    missing = SGLANG.missing(read(engine_pages.sglang(), profile=SGLANG), Role.PROMPT)
    bare = Reading(node_id="n", at_s=0.0)

    assert missing == ()
    assert (
        "waiting: no sglang:num_queue_reqs + (sglang:num_prefill_bootstrap_queue_reqs or "
        "sglang:num_prefill_prealloc_queue_reqs)"
    ) in SGLANG.missing(bare, Role.PROMPT)
    assert (
        'prompt_tokens: no sglang:realtime_tokens_total{mode="prefill_compute"}, '
        "nor sglang:prompt_tokens_total - sglang:cached_tokens_total"
    ) in SGLANG.missing(bare, Role.PROMPT)
    assert (
        "input_len: no sglang:prompt_tokens_histogram, "
        "nor sglang:prompt_tokens_total / sglang:num_requests_total"
    ) in SGLANG.missing(bare, Role.PROMPT)
    assert ("kv_used: no vllm:kv_cache_usage_perc, nor vllm:gpu_cache_usage_perc") in VLLM.missing(
        bare, Role.PROMPT
    )


def test_a_histogram_without_buckets_is_missing_though_its_mean_is_known() -> None:
    got = read((line(f"{TTFT}_sum", 3.0) + line(f"{TTFT}_count", 2.0)).encode())

    assert (got.counters["ttft_s_sum"], got.counters["ttft_s_count"]) == (3.0, 2.0)
    assert f"ttft_s: no {TTFT}" in VLLM.missing(got, Role.PROMPT)


@pytest.mark.parametrize(
    "rows",
    [
        [("0.5", 3.0), ("+Inf", 2.0)],
        [("0.5", math.nan), ("+Inf", 2.0)],
        [("0.5", INF), ("+Inf", 2.0)],
        [("0.5", 2e18), ("+Inf", 2e18)],
        [("0.5", 1.0), ("1e19", 1.0), ("+Inf", 2.0)],
        [("-Inf", 1.0), ("+Inf", 2.0)],
        [("0.5", -1.0), ("+Inf", 2.0)],
        [("half", 1.0), ("+Inf", 2.0)],
        [("NaN", 1.0), ("+Inf", 2.0)],
        [("0.5", 1.0)],
    ],
)
def test_buckets_that_make_no_histogram_are_unknown(rows: list[tuple[str, float]]) -> None:
    text = "".join(line(f"{TTFT}_bucket", value, le=bound) for bound, value in rows)

    assert read(text.encode()).histograms == {}


def test_a_page_with_every_series_twice_is_read_once() -> None:
    page = engine_pages.vllm()

    assert read(page + page) == read(page)


def test_a_series_with_two_values_is_told_and_not_added_up() -> None:
    page = line("vllm:num_requests_waiting", 3.0, engine="0").encode()

    with pytest.raises(PageError, match=r"num_requests_waiting.* has two values, 3 and 4"):
        read(page + page.replace(b" 3", b" 4"))


def test_a_bucket_without_a_bound_makes_no_histogram() -> None:
    text = line(f"{TTFT}_bucket", 1.0) + line(f"{TTFT}_bucket", 1.0, le="+Inf")

    assert read(text.encode()).histograms == {}


def test_a_missing_top_bucket_is_the_count() -> None:
    text = line(f"{TTFT}_bucket", 1.0, le="0.5") + line(f"{TTFT}_count", 3.0)

    assert rows(read(text.encode()).histograms["ttft_s"]) == ((0.5, 1.0), (INF, 3.0))


def test_engines_with_other_bounds_cannot_be_added_up() -> None:
    text = "".join(
        line(f"{TTFT}_bucket", 1.0, le=bound, engine=engine)
        for engine, bound in (("0", "0.5"), ("0", "+Inf"), ("1", "0.9"), ("1", "+Inf"))
    )

    assert read(text.encode()).histograms == {}


def test_bounds_of_one_node_are_not_those_of_the_next() -> None:
    def page(bound: str) -> bytes:
        rows = line(f"{TTFT}_bucket", 1.0, le=bound) + line(f"{TTFT}_bucket", 2.0, le="+Inf")
        return rows.encode()

    assert rows(read(page("0.5")).histograms["ttft_s"]) == ((0.5, 1.0), (INF, 2.0))
    assert rows(read(page("0.75")).histograms["ttft_s"]) == ((0.75, 1.0), (INF, 2.0))


def test_more_bounds_than_any_engine_has_make_no_histogram_and_cost_other_pages_nothing() -> None:
    def page(count: int) -> bytes:
        rows = [line(f"{TTFT}_bucket", 1.0, le=str(bound)) for bound in range(count - 1)]
        return "".join([*rows, line(f"{TTFT}_bucket", 1.0, le="+Inf")]).encode()

    profile = replace(VLLM)  # With a memory of its own.
    reader = profile._readers[Role.PROMPT]
    cells = reader._cell_count + reader._bucket_count

    assert len(rows(read(page(BOUNDS_MAX), profile=profile).histograms["ttft_s"])) == BOUNDS_MAX
    assert read(page(BOUNDS_MAX + 1), profile=profile).histograms == {}
    assert len(rows(read(page(20), profile=profile).histograms["ttft_s"])) == 20
    assert reader._cell_count + reader._bucket_count == cells


def test_a_bound_that_is_no_number_does_not_disorder_those_of_later_pages() -> None:
    def page(*bounds: str) -> bytes:
        rows = [line("first_s_bucket", float(bound), le=bound) for bound in bounds]
        return "".join([*rows, line("first_s_bucket", 9.0, le="+Inf")]).encode()

    profile = of(
        Meanings(histograms={"ttft_s": Distribution((Buckets(Term(names=("first_s",))),))})
    )

    assert read(page("0.1", "2", "NaN"), profile=profile).histograms == {}
    assert rows(read(page("1.5", "2", "3"), profile=profile).histograms["ttft_s"]) == (
        (1.5, 1.5),
        (2.0, 2.0),
        (3.0, 3.0),
        (INF, 9.0),
    )


def test_units_and_combinations_are_those_of_the_meaning() -> None:
    profile = of(
        Meanings(
            gauges={
                "running": named("batch", combine=Combine.MAX),
                "kv_used": Meaning((Value((Term(names=("used",), factor=0.01),)),)),
            },
            histograms={"ttft_s": Distribution((Buckets(Term(names=("ttft_ms",), factor=0.001)),))},
        )
    )
    text = line("batch", 3.0, engine="0") + line("batch", 5.0, engine="1") + line("used", 40.0)
    text += line("ttft_ms_bucket", 1.0, le="500") + line("ttft_ms_bucket", 2.0, le="+Inf")
    text += line("ttft_ms_sum", 1500.0) + line("ttft_ms_count", 2.0)

    got = read(text.encode(), profile=profile)

    assert got.gauges == {"running": 5.0, "kv_used": pytest.approx(0.4)}
    assert rows(got.histograms["ttft_s"]) == ((0.5, 1.0), (INF, 2.0))
    assert got.counters == {"ttft_s_sum": pytest.approx(1.5), "ttft_s_count": 2.0}


def test_a_difference_below_zero_is_unknown() -> None:
    terms = (Term(names=("all",)), Term(names=("some",), factor=-1.0))
    profile = of(Meanings(gauges={"waiting": Meaning((Value(terms),)), "running": named("some")}))

    got = read((line("all", 1.0) + line("some", 2.0)).encode(), profile=profile)

    assert got.gauges == {"running": 2.0}


def test_series_past_the_limit_are_forgotten_and_read_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reader_module, "ROUTES_MAX", 2)
    profile = of(Meanings(gauges={"running": named("batch")}))

    def running(pod: int) -> float:
        samples = [(Series("batch", {"pod": str(pod)}), float(pod))]
        got = profile.reading_of(samples, node_id="n", role=Role.PROMPT, at_s=0.0)
        return got.gauges["running"]

    assert [running(pod) for pod in range(10)] == [float(pod) for pod in range(10)]
    assert len(profile._readers[Role.PROMPT]._routes) <= 3


def test_series_that_take_too_much_memory_are_forgotten_and_read_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reader_module, "ROUTES_MAX_BYTES", 50_000)
    profile = of(Meanings(gauges={"running": named("batch")}))
    reader = profile._readers[Role.PROMPT]

    for pod in range(100):
        labels = {f"x{n}": "" for n in range(100)} | {"pod": str(pod)}
        samples = [(Series("batch", labels), float(pod))]
        got = profile.reading_of(samples, node_id="n", role=Role.PROMPT, at_s=0.0)
        assert got.gauges["running"] == float(pod)
        kept = [weight_of(route.series) for route in reader._routes.values()]
        assert sum(kept[:-1]) <= 50_000


PROCESS_ALONE = b"python_info 1.0\nprocess_cpu_seconds_total 3.0\n"
NOTHING = "no metric of the vllm profile"


@pytest.mark.parametrize(
    ("page", "why"),
    [
        (b"", f"{NOTHING} on an empty page: are its metrics switched off.*--disable-log-stats"),
        (b"\n\n", f"{NOTHING} on an empty page"),
        (PROCESS_ALONE, f"{NOTHING} among 2 names .*nothing but the process's own: are its"),
        (b"# HELP x y\n", f"{NOTHING} among 0 names"),
        (b"<html><body>It works!</body></html>\n", f"{NOTHING} on what is no page .*'<html>"),
        (b'{"status": "up"}\n', f"{NOTHING} on what is no page of metrics"),
        (
            engine_pages.sglang(),
            f"{NOTHING} .*vllm:num_requests_running.*; there is sglang:num_.*: another engine",
        ),
        (engine_pages.mindie(), "there is num_requests_running, .*: another engine"),
        (
            b"VLLM:Num_Requests_Running 1.0\n",
            "there is VLLM:Num_Requests_Running, but case counts: vllm:num_requests_running is",
        ),
    ],
)
def test_a_page_with_nothing_known_says_what_was_looked_for_and_why(page: bytes, why: str) -> None:
    with pytest.raises(PageError, match=why):
        read(page)


def test_names_without_the_labels_they_need_are_nothing_known() -> None:
    why = "there is vllm:num_requests_waiting_by_reason, but not with the labels that are read"

    with pytest.raises(PageError, match=f"no metric of the vllm profile .*{why}"):
        read(line("vllm:num_requests_waiting_by_reason", 1.0, reason="other").encode())


def test_samples_with_nothing_known_are_refused() -> None:
    with pytest.raises(PageError, match="no metric of the vllm profile among 1 name"):
        VLLM.reading_of([(Series("up", {}), 1.0)], node_id="n", role=Role.PROMPT, at_s=0.0)


@EachEngine
def test_a_page_cut_short_is_refused(profile: Profile, page: bytes) -> None:
    with pytest.raises(PageError, match="cut short"):
        read(page[:-1], profile=profile)


@pytest.mark.parametrize("write", [engine_pages.vllm, engine_pages.sglang, engine_pages.mindie])
def test_each_role_reads_what_it_needs_alone(write: Callable[[], bytes]) -> None:
    page = write()
    profile = next(p for p in shipped_profiles() if p.is_on(page))

    prompt, decoder = (profile.wanted_by(role) for role in (Role.PROMPT, Role.DECODER))

    assert prompt - decoder
    assert decoder - prompt
