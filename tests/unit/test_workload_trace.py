"""Trace readers."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pd_autoscaler.errors import ConfigError
from pd_autoscaler.workload.request import Request
from pd_autoscaler.workload.trace import read_trace

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.9799600,4808,10
2023-11-16 18:17:04.0319600,3180,8
2023-11-16 18:17:05.4799600,110,27
"""
MOONCAKE = """{"timestamp": 1000, "input_length": 6758, "output_length": 500, "hash_ids": [0, 1]}

{"timestamp": 4000, "input_length": 7322, "output_length": 490}
"""


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "trace"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_an_azure_trace_is_known_by_its_header_and_begins_at_zero(tmp_path: Path) -> None:
    requests = read_trace(written(tmp_path, AZURE))

    assert [(r.input_tokens, r.output_tokens) for r in requests] == [
        (4808, 10),
        (3180, 8),
        (110, 27),
    ]
    assert [r.at_s for r in requests] == pytest.approx([0, 0.052, 1.5], abs=1e-5)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("\ufeff" + AZURE, id="byte order mark"),
        pytest.param(AZURE.replace("\n", "\r\n"), id="Windows line ends"),
        pytest.param(AZURE.rstrip("\n"), id="no last line end"),
        pytest.param(AZURE.replace(",4808", "+00:00,4808"), id="one time has an offset"),
    ],
)
def test_an_azure_trace_may_be_written_in_several_ways(tmp_path: Path, text: str) -> None:
    assert read_trace(written(tmp_path, text)) == read_trace(written(tmp_path, AZURE))


def test_a_mooncake_trace_counts_its_milliseconds_from_the_first_request(tmp_path: Path) -> None:
    assert read_trace(written(tmp_path, MOONCAKE)) == (
        Request(0.0, 6758, 500),
        Request(3.0, 7322, 490),
    )


def test_requests_come_in_order_of_arrival_whatever_the_order_of_rows(tmp_path: Path) -> None:
    rows = [f'{{"timestamp": {ms}, "input_length": {ms}, "output_length": 1}}' for ms in (9, 3, 6)]

    requests = read_trace(written(tmp_path, "\n".join(rows)))

    assert [r.input_tokens for r in requests] == [3, 6, 9]


def test_token_counts_are_clipped_only_when_asked(tmp_path: Path) -> None:
    path = written(tmp_path, MOONCAKE)

    assert [r.input_tokens for r in read_trace(path)] == [6758, 7322]
    clipped = read_trace(path, tokens_max=495)
    assert [(r.input_tokens, r.output_tokens) for r in clipped] == [(495, 495), (495, 490)]
    with pytest.raises(ConfigError, match="tokens_max is 0"):
        read_trace(path, tokens_max=0)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("", "holds no request", id="empty"),
        pytest.param(AZURE.splitlines()[0], "holds no request", id="header alone"),
        pytest.param("a,b\n1,2\n", ":1: is not a known trace format", id="another CSV"),
        pytest.param("x" * 200_000, ":1: is not a known trace format", id="one long line"),
        pytest.param("[1]\n", ":1: is not a known trace format", id="another JSON"),
        pytest.param(b"\xff\xfe\x00", "is not a text file", id="binary"),
        pytest.param(AZURE + "2023-11-16 18:17:06,1\n", ":5: has no 3 columns", id="short row"),
        pytest.param(AZURE + "yesterday,1,1\n", ":5: TIMESTAMP 'yesterday'", id="bad time"),
        pytest.param(AZURE + "2023-11-16,0,1\n", ":5: ContextTokens '0'", id="no input"),
        pytest.param(AZURE + "2023-11-16,1,-3\n", ":5: GeneratedTokens '-3'", id="negative"),
        pytest.param(AZURE + "2023-11-16,1,1.5\n", ":5: GeneratedTokens '1.5'", id="half a token"),
        pytest.param(MOONCAKE + "{\n", ":4: is not JSON", id="cut off"),
        pytest.param(MOONCAKE + "[" * 100_000, ":4: is not JSON", id="deep"),
        pytest.param(MOONCAKE + "3\n", ":4: lacks timestamp", id="no object"),
        pytest.param('{"timestamp": 1, "input_length": 2}', ":1: lacks output_length", id="lacks"),
        pytest.param(
            '{"timestamp": NaN, "input_length": 2, "output_length": 1}',
            ":1: timestamp nan",
            id="nan",
        ),
        pytest.param(
            '{"timestamp": 1' + "0" * 400 + ', "input_length": 2, "output_length": 1}',
            ":1: timestamp 1",
            id="no float",
        ),
        pytest.param(
            '{"timestamp": 1, "input_length": true, "output_length": 1}',
            ":1: input_length True",
            id="truth",
        ),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_line(
    tmp_path: Path, text: str | bytes, says: str
) -> None:
    path = written(tmp_path, text)

    with pytest.raises(ConfigError) as refusal:
        read_trace(path)

    message = str(refusal.value)
    assert message.startswith(str(path))
    assert says in message
    assert "\n" not in message


def test_a_missing_file_and_a_folder_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing: cannot be read \(No such file"):
        read_trace(tmp_path / "nothing")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_trace(tmp_path)


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_any_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes
) -> None:
    folder = tmp_path_factory.mktemp("noise")
    for head in (b"", AZURE.encode(), MOONCAKE.encode()):
        try:
            requests = read_trace(written(folder, head + noise))
        except ConfigError:
            continue
        assert requests[0].at_s == 0


def test_the_embedded_cluster_reads_traces_and_profiles_without_numpy() -> None:
    modules = ("embedded.cluster_main", "workload.trace", "engine_model.known", "cli")
    program = "import sys; sys.modules['numpy'] = None\n" + "".join(
        f"import pd_autoscaler.{module}\n" for module in modules
    )

    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True
    )

    assert (done.returncode, done.stderr) == (0, "")
