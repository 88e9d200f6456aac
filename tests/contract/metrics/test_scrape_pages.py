"""What engines answer, and what is made of it: packed, cut short, elsewhere, or no page at all."""

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator

import pytest
from aiohttp import ClientSession, web

from pd_autoscaler.adapters.metrics.scrape import Scraper
from tests.support.metrics_servers import (
    BOMB,
    PAGE,
    Answer,
    Engines,
    book,
    broken_off,
    endless,
    packed,
    read,
    redirected,
    scraping,
    serving_engines,
    with_page,
    with_status,
)
from tests.support.pages import node

OPEN_METRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
CUT = "compressed data has no end"
PACKED = gzip.compress(PAGE)


@pytest.fixture
async def engines() -> AsyncIterator[Engines]:
    async with serving_engines() as engines:
        yield engines


@pytest.mark.parametrize(
    "answer",
    [
        with_page(),
        with_page(content_type="text/plain"),
        with_page(PAGE + b"# EOF\n", OPEN_METRICS),
        with_page(PAGE + b"# EOF", OPEN_METRICS),
        packed(PACKED),
        packed(PACKED, "X-GZIP"),
        packed(zlib.compress(PAGE), "deflate"),
        packed(PAGE, "identity"),
    ],
)
async def test_a_page_is_read_however_it_is_packed(engines: Engines, answer: Answer) -> None:
    async with scraping() as scraper:
        readings = await read(scraper, engines.node("p", answer))

        assert readings["p"].gauges["waiting"] == 3.0
        assert scraper.scraped.page_bytes >= len(PAGE)
    assert "gzip" in engines.headers[0]["Accept-Encoding"]


BAD: list[tuple[Answer, str]] = [
    (with_status(500), "HTTP 500"),
    (with_status(404), "HTTP 404"),
    (with_status(204), "HTTP 204"),
    (with_status(401), "HTTP 401: scrape.token is missing or not the right one"),
    (with_status(403), "HTTP 403: scrape.token is missing or not the right one"),
    (with_status(304), "HTTP 304"),
    (with_page(b"<html>hello</html>\n"), "sglang"),
    (with_page(b""), "sglang"),
    (packed(b""), "sglang"),
    (with_page(b"\x00\xff" * 99), "no page of metrics"),
    (with_page(PAGE[:-5]), "cut short"),
    (with_page(PAGE, OPEN_METRICS), "is cut short: it has no # EOF"),
    (with_page(PAGE + b"# EOF of something\n", OPEN_METRICS), "it has no # EOF"),
    (with_page(PAGE + b'vllm:num_requests_waiting{engine="0"} many\n'), "many"),
    (broken_off, "payload"),
    (endless, "answer is larger than 1000000 bytes"),
    (with_page(PAGE + b"x 1\n" * 250_000), "answer is larger than 1000000 bytes"),
    (BOMB, "answer is larger than 1000000 bytes"),
    # A name in the head of a gzip file takes room and unpacks to nothing.
    (packed(b"\x1f\x8b\x08\x08" + b"\0" * 6 + b"n" * 2_000_000), "larger than 1000000 bytes"),
    (packed(PACKED[:-9]), CUT),
    (packed(PACKED[:-1]), CUT),
    (packed(PACKED * 2), "goes on after the end of its compressed data"),
    (packed(b"\x1f\x8b" + b"no gzip at all" * 9), "cannot be unpacked"),
    (packed(PAGE), "cannot be unpacked: Error -3 while decompressing data: incorrect header"),
    (packed(PACKED, "br"), "packed as 'br', which was not asked for"),
    (packed(PACKED, "gzip, gzip"), "packed as 'gzip, gzip', which was not asked for"),
]


@pytest.mark.parametrize(("answer", "error"), BAD, ids=[error for _, error in BAD])
async def test_a_bad_page_makes_its_node_absent_and_harms_no_other(
    engines: Engines, answer: Answer, error: str
) -> None:
    bad, good = engines.node("bad", answer), engines.node("good", with_page())

    async with scraping() as scraper:
        readings = await read(scraper, bad, good)

    assert list(readings) == ["good"]
    assert list(scraper.errors) == ["bad"]
    assert scraper.errors["bad"].startswith(f"{bad.metrics_url}: ")
    assert error in scraper.errors["bad"]
    assert (scraper.scraped.pages, scraper.scraped.failures) == (1, 1)


async def test_a_page_may_be_exactly_as_large_as_allowed(engines: Engines) -> None:
    target = engines.node("p", with_page())
    packed_target = engines.node("q", packed(PACKED))

    async with scraping(size_max_bytes=len(PAGE)) as scraper:
        assert list(await read(scraper, target, packed_target)) == ["p", "q"]
    async with scraping(size_max_bytes=len(PAGE) - 1) as scraper:
        assert list(await read(scraper, target, packed_target)) == []


async def test_a_session_that_unpacks_by_itself_is_refused() -> None:
    async with ClientSession() as session:
        with pytest.raises(ValueError, match="metrics_session"):
            Scraper(session, book())


@pytest.mark.parametrize(
    "said", [b"", b"\x00" * 99, b"HTTP/1.1 two hundred\r\n\r\n", b"SSH-2.0-x\r\n"]
)
async def test_a_port_that_does_not_speak_http_is_an_error_of_its_node(said: bytes) -> None:
    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(say, "127.0.0.1", 0) as server, scraping() as scraper:
        port = server.sockets[0].getsockname()[1]
        target = node("p", metrics_url=f"http://127.0.0.1:{port}/metrics")
        assert await read(scraper, target) == {}
        assert "p" in scraper.errors


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("where", ["/p/real", "p/real", "{url}/p/real"])
async def test_a_redirect_on_the_same_server_is_followed_with_the_token(
    engines: Engines, status: int, where: str
) -> None:
    target = engines.node("p", redirected(where.format(url=engines.url), status))
    engines.answers["p/real"] = with_page()

    async with scraping(token="a secret") as scraper:
        assert list(await read(scraper, target)) == ["p"]

    assert engines.asked == ["p", "p/real"]
    assert [h["Authorization"] for h in engines.headers] == ["Bearer a secret"] * 2


async def test_a_redirect_keeps_the_user_of_the_nodes_own_url(engines: Engines) -> None:
    own = engines.url.replace("//", "//me:mine@")
    engines.answers["p"] = redirected(engines.url.replace("//", "//you:yours@") + "/p/real")
    engines.answers["p/real"] = with_page()

    async with scraping() as scraper:
        assert list(await read(scraper, node("p", metrics_url=f"{own}/p"))) == ["p"]

    first, second = [h["Authorization"] for h in engines.headers]
    assert first == second


async def test_a_redirect_to_another_server_is_refused_and_nothing_is_sent_there(
    engines: Engines,
) -> None:
    async with serving_engines() as other, scraping(token="a secret") as scraper:
        other.answers["p"] = with_page()
        by_name = engines.url.replace("127.0.0.1", "localhost")
        places = [
            f"{other.url}/p",  # Another port is another engine.
            f"{by_name}/p",
            f"//user:password@{other.url.removeprefix('http://')}/p",
            "ftp://127.0.0.1/p",
        ]
        nodes = [engines.node(f"n{i}", redirected(place)) for i, place in enumerate(places)]

        assert await read(scraper, *nodes) == {}

        assert other.asked == []
        assert scraper.errors["n0"] == (
            f"{engines.url}/n0: HTTP 307 to {other.url}/p; redirects elsewhere are not followed"
        )
        assert "password" not in scraper.errors["n2"]
        assert all("elsewhere" in error for error in scraper.errors.values())


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("", "HTTP 307 to nowhere; redirects elsewhere are not followed"),
        ("http://[", "IPv6"),
        ("/p", "more than 3 redirects"),
    ],
)
async def test_a_redirect_that_leads_nowhere_is_an_error_of_its_node(
    engines: Engines, where: str, error: str
) -> None:
    async with scraping() as scraper:
        assert await read(scraper, engines.node("p", redirected(where))) == {}

        assert error in scraper.errors["p"]
    assert len(engines.asked) <= 4


async def test_without_a_token_none_is_sent(engines: Engines) -> None:
    async with scraping() as scraper:
        await read(scraper, engines.node("p", with_page()))

    assert "Authorization" not in engines.headers[0]


async def test_what_a_cookie_says_goes_to_nobody(engines: Engines) -> None:
    async def with_cookie(request: web.Request) -> web.StreamResponse:
        answer = web.Response(body=PAGE)
        answer.set_cookie("who", "me")
        return answer

    # Cookies of a bare address are kept by nobody, so it needs a name to show this.
    engines.url = engines.url.replace("127.0.0.1", "localhost")
    target = engines.node("p", with_cookie)
    async with scraping() as scraper:
        await read(scraper, target)
        await read(scraper, target)
        assert scraper.errors == {}

    assert ["Cookie" in headers for headers in engines.headers] == [False, False]


async def test_a_password_in_a_url_is_not_told(engines: Engines) -> None:
    url = engines.url.replace("//", "//me:hush@")
    engines.answers["p"] = with_status(500)
    async with scraping() as scraper:
        await read(scraper, node("p", metrics_url=f"{url}/p"))

        assert scraper.errors["p"] == f"{engines.url}/p: HTTP 500"
