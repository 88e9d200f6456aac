"""Engines behind TLS: whom the scraper trusts, and how it says who it is."""

import ssl
from pathlib import Path

import pytest

from pd_autoscaler.adapters.metrics.connection import tls_context
from pd_autoscaler.errors import ConfigError
from tests.support.certificates import Certificates, Signed, certificates
from tests.support.metrics_servers import (
    read,
    redirected,
    scraping,
    serving_engines,
    with_page,
)


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return certificates(tmp_path_factory.mktemp("certificates"))


def server_context(signed: Certificates, *, asks_for_a_client: bool = False) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=signed.ca)
    context.load_cert_chain(signed.server.cert, signed.server.key)
    if asks_for_a_client:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


async def test_an_engine_of_the_own_authority_is_read(signed: Certificates) -> None:
    async with (
        serving_engines(server_context(signed)) as engines,
        scraping(tls=tls_context(ca_file=signed.ca)) as scraper,
    ):
        assert list(await read(scraper, engines.node("p", with_page()))) == ["p"]


async def test_an_engine_that_nobody_vouches_for_is_refused(signed: Certificates) -> None:
    async with serving_engines(server_context(signed)) as engines, scraping() as scraper:
        assert await read(scraper, engines.node("p", with_page())) == {}

        assert "/p: TLS: certificate verify failed" in scraper.errors["p"]
        assert engines.asked == []


async def test_an_engine_of_another_name_is_refused(signed: Certificates) -> None:
    async with (
        serving_engines(server_context(signed)) as engines,
        scraping(tls=tls_context(ca_file=signed.ca)) as scraper,
    ):
        engines.url = engines.url.replace("127.0.0.1", "localhost")
        assert await read(scraper, engines.node("p", with_page())) == {}

        assert "certificate is not valid for 'localhost'" in scraper.errors["p"]


async def test_an_engine_that_asks_who_is_there_is_told(signed: Certificates) -> None:
    asking = server_context(signed, asks_for_a_client=True)
    client = signed.client
    known = tls_context(ca_file=signed.ca, cert_file=client.cert, key_file=client.key)
    async with serving_engines(asking) as engines:
        target = engines.node("p", with_page())
        async with scraping(tls=known) as scraper:
            assert list(await read(scraper, target)) == ["p"]
        async with scraping(tls=tls_context(ca_file=signed.ca)) as scraper:
            assert await read(scraper, target) == {}
            assert "p" in scraper.errors


async def test_a_redirect_to_the_same_host_with_tls_is_followed_and_back_is_not(
    signed: Certificates,
) -> None:
    async with (
        serving_engines() as plain,
        serving_engines(server_context(signed)) as safe,
        scraping(tls=tls_context(ca_file=signed.ca), token="a secret") as scraper,
    ):
        up = plain.node("up", redirected(f"{safe.url}/page"))
        down = safe.node("down", redirected(f"{plain.url}/page"))
        safe.answers["page"] = plain.answers["page"] = with_page()

        assert list(await read(scraper, up, down)) == ["up"]

        assert "redirects elsewhere are not followed" in scraper.errors["down"]
        assert plain.asked == ["up"]


def test_without_files_the_system_decides_whom_to_trust() -> None:
    assert tls_context() is None


def test_a_certificate_and_its_key_may_be_one_file(signed: Certificates, tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes(signed.client.cert.read_bytes() + signed.client.key.read_bytes())

    assert tls_context(cert_file=both) is not None


def test_files_that_are_no_certificates_are_named(signed: Certificates, tmp_path: Path) -> None:
    junk, gone = tmp_path / "junk", tmp_path / "gone"
    junk.write_text("not PEM")
    other = Signed(signed.client.cert, signed.server.key)

    assert _refusal(ca_file=gone) == (
        f"scrape.ca_file: {gone} cannot be read: No such file or directory"
    )
    assert _refusal(ca_file=junk).startswith(f"scrape.ca_file: {junk} is not a usable PEM file")
    assert _refusal(cert_file=gone) == (
        f"scrape.cert_file, scrape.key_file: {gone} with its own key cannot be read: "
        "No such file or directory"
    )
    assert "KEY_VALUES_MISMATCH" in _refusal(cert_file=other.cert, key_file=other.key)


def test_a_key_with_a_password_is_refused_and_nobody_is_asked_for_it(signed: Certificates) -> None:
    refusal = _refusal(cert_file=signed.client.cert, key_file=signed.client_key_locked)

    assert "is not a usable PEM file" in refusal


def _refusal(**files: Path) -> str:
    with pytest.raises(ConfigError) as refusal:
        tls_context(**files)
    return str(refusal.value)
