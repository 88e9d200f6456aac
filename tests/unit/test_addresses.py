"""What of an address may be told to anybody."""

import aiohttp
import pytest

from pd_autoscaler.adapters.addresses import shown
from pd_autoscaler.adapters.json_api import JsonApi
from pd_autoscaler.errors import TransientError


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://h:1/metrics", "http://h:1/metrics"),
        ("http://me:hush@h:1/m?a=b", "http://h:1/m?a=b"),
        ("http://hush@[::1]:9", "http://[::1]:9"),
        ("//me:hush@h/m", "//h/m"),
        # An @ elsewhere ends no password.
        ("http://h:1/metrics?token=a@b", "http://h:1/metrics?token=a@b"),
        ("http://me:hush@h:1/m@n?token=a@b", "http://h:1/m@n?token=a@b"),
        ("/login?user=a@b", "/login?user=a@b"),
        # What is no address has no place for a password: all before the last @ may be one.
        ("http://me:hu/sh@h:1/m", "http://h:1/m"),
        ("http://me:hush@[h/m", "http://[h/m"),
        ("me:hush@h:1", "h:1"),
        ("http://me:hush@", "http://"),
        ("", ""),
    ],
)
def test_a_password_is_left_out_and_all_else_is_told(url: str, told: str) -> None:
    assert shown(url) == told


@pytest.mark.parametrize("url", ["http://me:hush@", "http://me:hush@h:99999"])
async def test_an_api_whose_address_is_none_is_told_without_its_password(url: str) -> None:
    async with aiohttp.ClientSession() as session:
        with pytest.raises(TransientError) as refused:
            await JsonApi(url, session=session, timeout_s=5.0).read("/nodes")

    assert "hush" not in str(refused.value)
