"""Reading arrivals: every format, prefix caches, tables of rates, and what is refused."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pd_autoscaler.errors import ConfigError
from pd_autoscaler.workload.dispersion import dispersion
from pd_autoscaler.workload.prefix_cache import PrefixCache
from pd_autoscaler.workload.rate_table import read_rates
from pd_autoscaler.workload.reading import read_arrivals
from pd_autoscaler.workload.request import Request
from pd_autoscaler.workload.trace import read_trace
from tests.support.real_data import real_data

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:05.5000000,110,27
2023-11-16 18:17:03.5000000,4808,10
"""
MOONCAKE = """{"timestamp": 0, "input_length": 1100, "output_length": 5, "hash_ids": [1, 2, 3]}
{"timestamp": 500, "input_length": 1600, "output_length": 6, "hash_ids": [1, 2, 4, 5]}
{"timestamp": 900, "input_length": 1024, "output_length": 7, "hash_ids": [1, 2]}
{"timestamp": 950, "input_length": 900, "output_length": 8}
"""
RATES = """t_s,req_per_s,input_tokens,output_tokens
0,4,500,100
600,8,2000,50
1200,2,500,100
"""


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "workload"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_an_azure_trace_is_sorted_and_begins_at_zero(tmp_path: Path) -> None:
    arrivals = read_arrivals(written(tmp_path, AZURE))

    assert arrivals.at_s.tolist() == pytest.approx([0, 2])
    assert arrivals.input_tokens.tolist() == [4808, 110]
    assert arrivals.output_tokens.tolist() == [10, 27]
    assert arrivals.cached_tokens.tolist() == [0, 0]


def test_a_prompt_hits_the_blocks_it_begins_with_but_never_all_of_them(tmp_path: Path) -> None:
    arrivals = read_arrivals(written(tmp_path, MOONCAKE))

    # The third prompt is known whole; its last block is computed all the same.
    assert arrivals.cached_tokens.tolist() == [0, 1024, 512, 0]
    assert read_arrivals(written(tmp_path, MOONCAKE), cache_tokens=0).cached_tokens.sum() == 0


def test_a_full_cache_forgets_first_what_was_used_longest_ago_and_ends_before_beginnings() -> None:
    cache = PrefixCache(3 * 512, block_tokens=512)

    assert cache.cached_tokens(["a", "b", "c"], 3 * 512) == 0
    assert cache.cached_tokens(["d"], 600) == 0  # "c" goes, the end of the oldest prompt.
    assert cache.cached_tokens(["a", "b", "c"], 3 * 512) == 2 * 512
    assert cache.cached_tokens(["d"], 600) == 0
    assert cache.cached_tokens([], 9) == 0
    with pytest.raises(ConfigError, match="cache_tokens is -1"):
        PrefixCache(-1, block_tokens=512)


@given(
    st.lists(st.tuples(st.lists(st.integers(0, 6), max_size=6), st.integers(1, 4000)), max_size=30),
    st.integers(0, 10),
)
def test_a_larger_cache_never_hits_less(
    prompts: list[tuple[list[int], int]], blocks_max: int
) -> None:
    sizes = (blocks_max * 512, (blocks_max + 3) * 512, math.inf)
    caches = [PrefixCache(size, block_tokens=512) for size in sizes]
    for path, tokens in prompts:
        # A block's name stands for all before it, too.
        blocks = [tuple(path[: n + 1]) for n in range(len(path))]
        hits = [cache.cached_tokens(blocks, tokens) for cache in caches]
        assert 0 <= hits[0] <= hits[1] <= hits[2] < tokens


@pytest.mark.parametrize(
    "header",
    [
        "at_s,input_tokens,output_tokens",
        "arrival_s,input_tokens,output_tokens",
        '"At_S", "Input tokens", "Output tokens"',
        "Timestamp,Request tokens,Response tokens",
        "arrived_at,num_prefill_tokens,num_decode_tokens",
        "arrival_timestamp,prompt_size,token_size",
    ],
)
def test_a_plain_csv_is_known_by_its_columns_whatever_tool_named_them(
    tmp_path: Path, header: str
) -> None:
    path = written(tmp_path, f"{header}\n10.5,100,7\n12,30,8\n")

    arrivals = read_arrivals(path)

    assert arrivals.at_s.tolist() == [0, 1.5]
    assert arrivals.input_tokens.tolist() == [100, 30]
    assert arrivals.output_tokens.tolist() == [7, 8]
    assert read_trace(path) == (Request(0, 100, 7), Request(1.5, 30, 8))


def test_a_plain_csv_may_have_milliseconds_dates_other_columns_and_cached_tokens(
    tmp_path: Path,
) -> None:
    ms = "id,at_ms,input_tokens,output_tokens,cached_tokens\na,500,100,7,64\nb,750,30,8,0\n"
    dates = "time,prompt_tokens,completion_tokens\n2024-05-01 10:00:00,5,6\n2024-05-01T10:01,7,8\n"

    arrivals = read_arrivals(written(tmp_path, ms))
    assert arrivals.at_s.tolist() == [0, 0.25]
    assert arrivals.cached_tokens.tolist() == [64, 0]
    assert read_trace(written(tmp_path, ms))[0] == Request(0, 100, 7, 64)
    assert read_trace(written(tmp_path, ms), tokens_max=50)[0] == Request(0, 50, 7, 49)
    assert read_arrivals(written(tmp_path, dates)).at_s.tolist() == [0, 60]


def test_a_table_of_rates_makes_its_requests_from_the_seed(tmp_path: Path) -> None:
    path = written(tmp_path, RATES)
    once, again, other = (read_arrivals(path, seed=seed) for seed in (1, 1, 2))

    assert np.array_equal(once.at_s, again.at_s)
    assert np.array_equal(once.input_tokens, again.input_tokens)
    assert not np.array_equal(once.at_s[:100], other.at_s[:100])
    stretches = ((0, 4, 500, 100), (600, 8, 2000, 50), (1200, 2, 500, 100))
    for begin_s, rate, inputs, outputs in stretches:
        of = (once.at_s >= begin_s) & (once.at_s < begin_s + 600)
        assert of.sum() == pytest.approx(600 * rate, rel=0.1)
        assert once.input_tokens[of].mean() == pytest.approx(inputs, rel=0.12)
        assert once.output_tokens[of].mean() == pytest.approx(outputs, rel=0.12)
    assert once.span_s < 1800


def test_quantiles_give_lengths_their_spread_and_the_mean_their_size(tmp_path: Path) -> None:
    head = "t_s,req_per_s,mean_input_tokens,mean_output_tokens,in_p10,in_p50,in_p90,out_p50,iat_cv"
    arrivals = read_arrivals(
        written(
            tmp_path,
            f"{head}\n0,20,1000,100,200,900,1950,30,3\n3600,20,1000,100,200,900,1950,30,3\n",
        )
    )
    p10, p50, p90 = np.quantile(arrivals.input_tokens, (0.1, 0.5, 0.9))

    assert arrivals.input_tokens.mean() == pytest.approx(1000, rel=0.03)
    assert p90 / p50 == pytest.approx(1950 / 900, rel=0.05)
    assert p50 / p10 == pytest.approx(900 / 200, rel=0.1)
    assert 5 < dispersion(arrivals, 10) < 13  # The square of iat_cv.


def test_a_long_table_is_thinned_before_its_requests_are_drawn(tmp_path: Path) -> None:
    path = written(tmp_path, "t_s,rps,isl,osl\n0,9e6,100,10\n3600,9e6,100,10\n")

    assert len(read_arrivals(path, requests_max=5000)) == pytest.approx(5000, rel=0.1)
    with pytest.raises(ConfigError, match="64,800,000,000 requests"):
        read_arrivals(path)


def test_a_long_trace_keeps_about_so_many_requests_by_the_seed(tmp_path: Path) -> None:
    path = written(tmp_path, "at_s,isl,osl\n" + "".join(f"{n},5,6\n" for n in range(3000)))

    kept, again, other = (read_arrivals(path, requests_max=300, seed=s) for s in (1, 1, 2))

    assert len(kept) == pytest.approx(300, rel=0.2)
    assert kept.at_s.tolist() == again.at_s.tolist() != other.at_s.tolist()
    assert len(read_arrivals(path, requests_max=3000)) == 3000
    with pytest.raises(ConfigError, match="requests_max is 0"):
        read_arrivals(path, requests_max=0)


def test_counts_are_clipped_when_asked_and_cached_tokens_stay_a_part(tmp_path: Path) -> None:
    arrivals = read_arrivals(written(tmp_path, MOONCAKE), tokens_max=600)

    assert arrivals.input_tokens.tolist() == [600, 600, 600, 600]
    assert arrivals.cached_tokens.tolist() == [0, 599, 512, 0]
    with pytest.raises(ConfigError, match="tokens_max is 0"):
        read_arrivals(written(tmp_path, MOONCAKE), tokens_max=0)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("", "holds no request", id="empty"),
        pytest.param("at_s,input_tokens,output_tokens\n", "holds no request", id="header"),
        pytest.param("a,b\n1,2\n", ":1: is not a known trace format", id="another CSV"),
        pytest.param("at_s,isl,osl\n-1,2,3\n", ":2: at_s '-1' is no number not below", id="below"),
        pytest.param("at_s,isl,osl\nnan,2,3\n", ":2: at_s 'nan' is no number", id="nan"),
        pytest.param("at_s,isl,osl\n1,2\n", ":2: has no 3 columns", id="short"),
        pytest.param("at_s,isl,osl\n1,2,0\n", ":2: osl '0' is no count of 1", id="no output"),
        pytest.param("at_s,isl,osl\n1,1" + "0" * 30 + ",3\n", ":2: isl", id="too long to count"),
        pytest.param(
            "at_s,isl,osl,cached_tokens\n1,5,6,5\n", ":2: 5 cached tokens", id="all is cached"
        ),
        pytest.param(
            MOONCAKE + '{"timestamp": 1, "input_length": 1, "output_length": 1, "hash_ids": 3}',
            ":5: hash_ids 3 is no list",
            id="no list of blocks",
        ),
        pytest.param("t_s,req_per_s\n0,1\n", ":1: has no column input_tokens", id="no lengths"),
        pytest.param(RATES.splitlines()[0], "needs two rows", id="no rates"),
        pytest.param(RATES + "1200,1,1,1\n", ":5: t_s 1200 is not after 1200", id="same time"),
        pytest.param(RATES + "1800,-1,1,1\n", ":5: req_per_s '-1'", id="negative rate"),
        pytest.param(RATES + "1800,1,0,1\n", ":5: input_tokens '0' is no number", id="no length"),
        pytest.param(RATES + "1800,1\n", ":5: has no 4 columns", id="short row"),
        pytest.param(
            "t_s,rps,isl,osl,out_p50,out_p99\n0,1,5,5,9,1e300\n1,1,5,5,1,1\n",
            "quantiles of output_tokens 1e+300",
            id="quantile",
        ),
        pytest.param(
            "t_s,rps,isl,osl,in_p10,in_p50\n0,1,5,5,9,2\n", ":2: in_p10 and", id="falling"
        ),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_line(tmp_path: Path, text: str, says: str) -> None:
    path = written(tmp_path, text)

    with pytest.raises(ConfigError) as refusal:
        read_arrivals(path)

    message = str(refusal.value)
    assert message.startswith(str(path))
    assert says in message
    assert "\n" not in message


def test_a_table_of_rates_is_no_trace(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=":1: is a table of rates"):
        read_trace(written(tmp_path, RATES))


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_any_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes
) -> None:
    folder = tmp_path_factory.mktemp("noise")
    for head in ("", AZURE, MOONCAKE, RATES, "at_s,isl,osl,cached_tokens\n1,2,3,0\n"):
        try:
            arrivals = read_arrivals(written(folder, head.encode() + noise), requests_max=1000)
        except ConfigError:
            continue
        assert (arrivals.cached_tokens < arrivals.input_tokens).all()


@pytest.mark.parametrize(
    ("name", "count", "hit", "per_minute"),
    [
        ("AzureLLMInferenceTrace_conv_2023.csv", 19366, 0, 16.1),
        ("AzureLLMInferenceTrace_code_2023.csv", 8819, 0, 164),
        ("mooncake_conversation_trace.jsonl", 12031, 0.373, 2.9),
    ],
)
def test_real_traces_have_the_figures_that_are_known_of_them(
    name: str, count: int, hit: float, per_minute: float
) -> None:
    arrivals = read_arrivals(real_data(f"traces/{name}"))

    assert len(arrivals) == count
    assert arrivals.cached_tokens.sum() / arrivals.input_tokens.sum() == pytest.approx(
        hit, abs=1e-3
    )
    assert dispersion(arrivals, 60) == pytest.approx(per_minute, rel=0.01)


def test_a_smaller_cache_hits_less_of_mooncakes_trace() -> None:
    path = real_data("traces/mooncake_conversation_trace.jsonl")

    small = read_arrivals(path, cache_tokens=3e6).cached_tokens.sum()

    assert 0 < small < 0.6 * read_arrivals(path).cached_tokens.sum()


def test_servegens_fortnight_keeps_its_means() -> None:
    path = real_data("traces/servegen_language_m-mid_10min.csv")
    rates = read_rates(path)
    arrivals = read_arrivals(path, seed=3, requests_max=100_000)

    weights = rates.request_per_s * rates.for_s / rates.requests
    assert rates.end_s == 14 * 86400
    assert len(arrivals) == pytest.approx(100_000, rel=0.03)
    for lengths, column in (
        (rates.inputs, arrivals.input_tokens),
        (rates.outputs, arrivals.output_tokens),
    ):
        assert column.mean() == pytest.approx((lengths.means * weights).sum(), rel=0.03)
    busiest = int(np.argmax(rates.request_per_s))
    of = (arrivals.at_s // 600) == busiest
    assert of.sum() == pytest.approx(100_000 * weights[busiest], rel=0.4)
