"""Settings of where metrics come from: what a source lacks, what it would ignore, its tokens."""

from pathlib import Path

import pytest
import yaml

from pd_autoscaler.errors import ConfigError
from pd_autoscaler.settings import ScrapeSettings, Settings, load
from pd_autoscaler.settings.relations import of_scrape


@pytest.fixture(autouse=True)
def _in_an_empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _loaded(scrape: str) -> Settings:
    path = Path("pd.yaml")
    path.write_text(f"scrape: {{{scrape}}}\n", encoding="utf-8")
    return load(path)


def _refusal(scrape: str) -> str:
    with pytest.raises(ConfigError) as refusal:
        _loaded(scrape)
    return str(refusal.value)


PROMQL = "promql: {url: 'http://p:9090'"

BOTH = "give both, which may be one file"


@pytest.mark.parametrize(
    ("scrape", "problems"),
    [
        (
            "source: promql",
            ["scrape.source is promql and scrape.promql is missing; give the server's url"],
        ),
        (PROMQL + "}", ["scrape.promql is set and scrape.source is pages; it would be ignored"]),
        (
            "source: agents, " + PROMQL + "}",
            ["scrape.promql is set and scrape.source is agents; it would be ignored"],
        ),
        (
            "source: promql, token: t, " + PROMQL + "}",
            ["scrape.token is set and scrape.source is promql; it would be ignored"],
        ),
        (
            "source: agents, token_file: t, ca_file: c, cert_file: d, key_file: k, profiles: [p]",
            [
                f"scrape.{name} is set and scrape.source is agents; it would be ignored"
                for name in ("token_file", "ca_file", "cert_file", "key_file", "profiles")
            ],
        ),
        (
            "cert_file: c",
            [f"scrape.cert_file is set and scrape.key_file is not; {BOTH}"],
        ),
        (
            "key_file: k",
            [f"scrape.key_file is set and scrape.cert_file is not; {BOTH}"],
        ),
        ("token: t, token_file: t", ["scrape.token and scrape.token_file are both set; keep one"]),
        (
            "source: promql, " + PROMQL + ", token: t, token_file: t}",
            ["scrape.promql.token and scrape.promql.token_file are both set; keep one"],
        ),
        (
            "source: promql, " + PROMQL + ", matchers: {job: e, a-b: c, 9a: d}}",
            [
                f"scrape.promql.matchers has '{name}', which is no label name: letters, digits "
                "and '_', and no digit first"
                for name in ("a-b", "9a")
            ],
        ),
        ("", []),
        ("source: agents", []),
        ("token: t, ca_file: c, cert_file: d, key_file: d, profiles: [p]", []),
        ("source: promql, ca_file: c, " + PROMQL + ", token: t, matchers: {_a9: 'x\"'}}", []),
    ],
)
def test_what_a_source_of_metrics_lacks_or_would_ignore_is_told(
    scrape: str, problems: list[str]
) -> None:
    given = ScrapeSettings.model_validate(yaml.safe_load("{" + scrape + "}"))

    assert list(of_scrape(given)) == problems


def test_the_tokens_of_engines_and_of_prometheus_come_from_their_files() -> None:
    Path("engines").write_text("e\n", encoding="utf-8")
    Path("prometheus").write_text("correct horse\n", encoding="utf-8")

    pages = _loaded("token_file: engines")
    promql = _loaded(f"source: promql, {PROMQL}, token_file: prometheus}}").scrape.promql

    assert pages.scrape.token is not None
    assert (pages.scrape.token.get_secret_value(), pages.scrape.token_file) == ("e", None)
    assert promql is not None
    assert promql.token is not None
    assert promql.token.get_secret_value() == "correct horse"
    assert "correct horse" not in repr(promql)
    assert Settings.model_validate(pages.model_dump()) == pages


def test_a_token_file_that_is_missing_or_empty_is_named() -> None:
    Path("empty").write_text(" \n", encoding="utf-8")

    assert _refusal("token_file: empty") == (
        "scrape.token_file: empty must hold at least one character"
    )
    assert _refusal(f"source: promql, {PROMQL}, token_file: none}}") == (
        "scrape.promql.token_file: none cannot be read: No such file or directory"
    )


@pytest.mark.parametrize("name", ["my label", "9a", "a-b", ""])
def test_a_label_of_nodes_must_be_a_labels_name(name: str) -> None:
    assert _refusal(f"source: promql, {PROMQL}, node_label: '{name}'}}") == (
        f"pd.yaml:1: scrape.promql.node_label is '{name}', and must be a label's name: letters, "
        "digits and '_', and no digit first"
    )
    assert _loaded(f"source: promql, {PROMQL}, node_label: _p9}}").scrape.promql is not None


def test_a_wrong_token_or_address_of_a_server_is_told_and_no_secret_shown() -> None:
    assert _refusal("source: promql, promql: {url: p, token: 12345}") == (
        "pd.yaml:1: scrape.promql.url is 'p', and must be an address such as http://host:port\n"
        "pd.yaml:1: scrape.promql.token is set, and must be quoted text of at least 1 character"
    )
