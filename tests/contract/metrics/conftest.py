"""One real Prometheus for all tests of what is read from it: it takes seconds to begin."""

from collections.abc import Iterator, Sequence

import pytest

from tests.support.prometheus import ServedPages, watched_pages

ODD_ID = 'ü "q" \\.+*?a|b-c{}[]()^$'
ODD_SITE = "x\"y\\z|.*{}'`"


@pytest.fixture(scope="session", name="watched")
def _watched(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[str, list[ServedPages]]]:
    """Run it over a few pages, the last of which a second job scrapes as well."""

    def second(addresses: Sequence[str]) -> list[dict[str, object]]:
        labels = {"node_id": ODD_ID, "site": ODD_SITE}
        targets = [{"targets": [addresses[-1]], "labels": labels}]
        return [{"job_name": "second", "static_configs": targets}]

    folder = tmp_path_factory.mktemp("prometheus")
    with watched_pages(folder, count=4, extra=second) as watched:
        yield watched
