"""The book of profiles: which one a node's pages are read with."""

from dataclasses import replace

import pytest

from pd_autoscaler.adapters.metrics.exposition import PageError
from pd_autoscaler.adapters.metrics.profiles import Profile, ProfileBook, shipped_profiles
from pd_autoscaler.adapters.metrics.profiles import book as book_module
from pd_autoscaler.adapters.metrics.profiles.meaning import Meanings, named
from pd_autoscaler.adapters.metrics.profiles.mindie import MINDIE
from pd_autoscaler.adapters.metrics.profiles.sglang import SGLANG
from pd_autoscaler.adapters.metrics.profiles.vllm import VLLM
from pd_autoscaler.adapters.metrics.source import check_source
from pd_autoscaler.errors import ConfigError
from pd_autoscaler.model.node import Node, Role
from pd_autoscaler.settings import ProviderSettings, ScrapeSettings, Settings, StaticNode
from tests.support import engine_pages
from tests.support.pages import node

PAGES = {
    "vllm": engine_pages.vllm(),
    "sglang": engine_pages.sglang(),
    "mindie": engine_pages.mindie(),
}


def book(default: str = "auto", *more: Profile) -> ProfileBook:
    return ProfileBook([*shipped_profiles(), *more], default)


def of(profile: str) -> Node:
    return replace(node("p0"), profile=profile)


def mine(name: str = "mine", recognised_by: tuple[str, ...] = (), extends: str = "") -> Profile:
    meanings = Meanings(gauges={"running": named("num_requests_running")})
    return Profile(
        name=name,
        prefixes=("vllm:",),
        meanings=dict.fromkeys(Role, meanings),
        recognised_by=recognised_by,
        extends=extends,
    )


@pytest.mark.parametrize("engine", PAGES)
def test_engines_are_told_apart_by_the_names_on_their_pages(engine: str) -> None:
    assert book().chosen(node("p0"), PAGES[engine]).name == engine


@pytest.mark.parametrize(
    "page",
    [
        engine_pages.vllm(prefix="vllm_"),
        b"vllm:num_requests_running 1.0\n",
        b"vllm:num_requests_running\t1.0\n",
        b'x 1\nvllm:num_requests_running{engine="0"} 1.0\n',
    ],
)
def test_an_engine_is_told_however_its_name_is_written(page: bytes) -> None:
    assert book().chosen(node("p0"), page) is VLLM


@pytest.mark.parametrize(
    "page",
    [
        b"# HELP vllm:num_requests_running So many.\n",
        b"vllm:num_requests_running_more 1.0\n",
        b'x{of="vllm:num_requests_running "} 1.0\n',
        b"my_vllm:num_requests_running 1.0\n",
    ],
)
def test_a_name_that_is_no_sample_of_the_engine_does_not_tell(page: bytes) -> None:
    with pytest.raises(PageError, match="no metric of the vllm, sglang or mindie profile"):
        book().chosen(node("p0"), page)


@pytest.mark.parametrize("engine", PAGES)
def test_engines_are_told_apart_by_the_names_of_their_samples(engine: str) -> None:
    profile = book().named(engine)

    for role in Role:
        assert book().chosen_for(node("p0"), profile.wanted_by(role)) is profile


def test_a_nodes_own_profile_goes_before_the_default_and_the_default_before_the_page() -> None:
    page = PAGES["vllm"]

    assert book("sglang").chosen(node("p0"), page) is SGLANG
    assert book("sglang").chosen(of("mindie"), page) is MINDIE
    assert book("sglang").chosen(of("auto"), page) is VLLM
    assert book("sglang").chosen_for(of("mindie"), ["vllm:num_requests_running"]) is MINDIE


def test_a_page_of_another_engine_under_a_fixed_profile_is_refused_when_it_is_read() -> None:
    chosen = book("mindie").chosen(node("p0"), PAGES["vllm"])

    with pytest.raises(PageError, match=r"no metric of the mindie profile.*there is vllm:"):
        chosen.reading(PAGES["vllm"], node_id="p0", role=Role.PROMPT, at_s=0.0)


def test_a_profile_that_a_node_names_and_nobody_has_makes_that_node_unreadable() -> None:
    with pytest.raises(PageError, match="no engine profile 'vlm', did you mean 'vllm'"):
        book().chosen(of("vlm"), PAGES["vllm"])


def test_a_restart_as_another_engine_is_noticed() -> None:
    told = book()

    engines = ("vllm", "vllm", "sglang", "mindie", "vllm")

    assert [told.chosen(node("p0"), PAGES[e]).name for e in engines] == list(engines)


def test_each_node_has_its_own_engine() -> None:
    told = book()

    assert [told.chosen(node(e), PAGES[e]).name for e in PAGES] == list(PAGES)
    assert [told.chosen(node(e), PAGES[e]).name for e in PAGES] == list(PAGES)


def test_nodes_past_the_limit_are_told_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book_module, "REMEMBERED_MAX", 2)
    told = book()

    for number in range(5):
        assert told.chosen(node(f"p{number}"), PAGES["vllm"]) is VLLM
    assert len(told._seen) <= 2


def test_a_page_with_the_names_of_two_engines_is_refused_unless_the_profile_is_named() -> None:
    page = PAGES["vllm"] + PAGES["sglang"]

    with pytest.raises(PageError, match="names of vllm and sglang: name the node's profile"):
        book().chosen(node("p0"), page)
    chosen = book().chosen(of("vllm"), page)
    got = chosen.reading(page, node_id="p0", role=Role.PROMPT, at_s=0.0)
    assert got == VLLM.reading(PAGES["vllm"], node_id="p0", role=Role.PROMPT, at_s=0.0)


@pytest.mark.parametrize(
    ("page", "why"),
    [
        (b"", "on an empty page: are its metrics switched off.*--enable-metrics.*MIES_SERVICE"),
        (b"python_info 1.0\n", "nothing but the process's own"),
        (b"# nothing\n", "looked for npu_cache_usage_perc, sglang:num_running_reqs, sglang_num"),
        (b"SGLANG:num_running_reqs 1.0\n", "case counts: sglang:num_running_reqs is read"),
        (
            b"vllm:num_requests_waiting 1.0\n",
            (
                "there is vllm:num_requests_waiting, but none of the names that engines are told "
                "by: name the node's profile"
            ),
        ),
        (b"tgi_queue_size 1.0\n", "there is tgi_queue_size: another engine"),
    ],
)
def test_a_page_of_no_known_engine_is_refused_with_the_likely_cause(page: bytes, why: str) -> None:
    with pytest.raises(PageError, match=f"no metric of the vllm, sglang or mindie profile.*{why}"):
        book().chosen(node("p0"), page)


def test_samples_of_no_known_engine_are_refused() -> None:
    with pytest.raises(PageError, match=r"among 1 name .*there is up: another engine"):
        book().chosen_for(node("p0"), ["up"])


def test_a_profile_of_ones_own_is_used_only_where_it_is_named() -> None:
    assert book("auto", mine()).chosen(node("p0"), PAGES["vllm"]) is VLLM
    assert book("auto", mine()).chosen(of("mine"), PAGES["vllm"]).name == "mine"
    assert book("mine", mine()).chosen(node("p0"), PAGES["vllm"]).name == "mine"


def test_a_profile_made_from_another_is_preferred_where_both_know_the_page() -> None:
    recognised = ("num_requests_running",)
    first = mine("first", recognised, extends="vllm")
    second = mine("second", recognised, extends="first")

    assert book("auto", first, second).chosen(node("p0"), PAGES["vllm"]) is second


def test_two_profiles_that_know_a_page_alike_are_refused() -> None:
    with pytest.raises(PageError, match="names of vllm and mine"):
        book("auto", mine("mine", ("num_requests_running",))).chosen(node("p0"), PAGES["vllm"])


def test_an_unknown_profile_is_refused_with_those_there_are() -> None:
    listed = "there are: auto, mindie, sglang, vllm, vllm-ascend"

    with pytest.raises(ConfigError, match=f"no engine profile 'sglan', did you mean .*{listed}"):
        book().named("sglan")
    with pytest.raises(ConfigError, match="no engine profile 'tgi' "):
        book("tgi")


@pytest.mark.parametrize("taken", ["vllm", "vllm-ascend", "auto"])
def test_two_profiles_of_one_name_are_refused(taken: str) -> None:
    with pytest.raises(ConfigError, match=f"two engine profiles are named '{taken}'"):
        book("auto", mine(taken))


def test_a_nodes_profile_is_refused_where_nobody_has_it_and_where_no_page_is_read() -> None:
    def settings(profile: str | None, scrape: ScrapeSettings) -> Settings:
        listed = StaticNode(
            id="p0",
            role=Role.PROMPT,
            agent_urls=("http://p0:1",),
            metrics_url="http://p0:2",
            profile=profile,
        )
        return Settings(provider=ProviderSettings(kind="static", nodes=(listed,)), scrape=scrape)

    pages, agents = ScrapeSettings(), ScrapeSettings(source="agents")

    check_source(settings("vllm", pages))
    check_source(settings(None, agents))
    with pytest.raises(ConfigError, match="no engine profile 'vlm', did you mean 'vllm'"):
        check_source(settings("vlm", pages))
    with pytest.raises(ConfigError, match=r"p0 a profile and scrape\.source is agents; it would"):
        check_source(settings("vllm", agents))
