"""The dashboard of the signals: how well the engines are seen, and what is concluded from it."""

from grafana_foundation_sdk.models import dashboard as model

from dashboards.panels import CALM, Board, Steps, curves, number, timeline

ON_OFF = {0: ("no", "transparent"), 1: ("yes", "blue")}
FULL: Steps = ((None, "red"), (0.5, "orange"), (1.0, "green"))


def dashboard() -> model.Dashboard:
    """Return the dashboard."""
    board = Board(
        "pd-autoscaler: signals",
        uid="pd-autoscaler-signals",
        description="How fresh the engines' metrics are, which side they say is the bottleneck, "
        "and what they teach about demand and capacity.",
    )
    _sight(board)
    _reading(board)
    _bottleneck(board)
    _demand(board)
    _capacity(board)
    return board.built()


def _sight(board: Board) -> None:
    serving = '@nodes{state="serving"}'
    board.row(
        "Now",
        *(
            number(
                f"Fresh {role} nodes",
                "Share of the serving nodes whose metrics are believed. Below all of them nothing "
                "is removed; below `guard.fresh_quorum` the target is held.",
                f'@fresh_nodes{{role="{role}"}} / ignoring(state) ({serving} > 0)',
                unit="percentunit",
                steps=FULL,
            )
            for role in ("prompt", "decoder")
        ),
        number(
            "Nodes not believed",
            "Serving nodes that are silent, old or frozen. `pd-autoscaler explain` says why.",
            "sum(@doubtful_nodes)",
            unit="none",
            steps=CALM,
        ),
        number(
            "KV transfers that fail",
            "A second, both roles together. Above `guard.transfer_failure_share` of the requests "
            "nothing is removed.",
            'sum(@signals{signal="transfer_failure_rate"})',
            unit="ops",
            steps=((None, "green"), (0.001, "red")),
        ),
    )


def _reading(board: Board) -> None:
    board.row(
        "Reading the engines",
        curves(
            "Pages read and missed",
            "A second. A miss is a page that did not come, came late, or could not be read.",
            [
                ("rate(@scraped_pages_total[$__rate_interval])", "read"),
                ("rate(@scrape_failures_total[$__rate_interval])", "missed"),
            ],
            unit="ops",
        ),
        curves(
            "Bytes read",
            "Of engine pages, decompressed.",
            [("rate(@scraped_bytes_total[$__rate_interval])", "bytes")],
            unit="Bps",
        ),
        curves(
            "Age of each signal",
            "Of the oldest page behind it. A gap is a signal that is unknown.",
            [("@signal_age_seconds", "{{role}} {{signal}}")],
            unit="s",
        ),
        curves(
            "Nodes by engine",
            "The profile that each node's pages are read with, by role.",
            [("@engine_nodes", "{{role}} {{engine}}")],
            unit="none",
            is_stacked=True,
        ),
    )


def _bottleneck(board: Board) -> None:
    board.row(
        "Which side is at fault",
        timeline(
            "Bottleneck",
            "What the signals below say together. Unknown: no prompt node comes and none of either "
            "role goes; link: nothing is scaled before the links are repaired.",
            "@bottleneck",
            "{{side}}",
            values=ON_OFF,
        ),
        curves(
            "Prompts waiting, and KV that nobody has pulled",
            "Requests. A prompt queue with KV not pulled is held up by decoders or links.",
            [
                ('@signals{role="prompt", signal="queue"}', "waiting"),
                ('@signals{role="prompt", signal="kv_export_backlog"}', "KV not pulled"),
                ('@signals{role="decoder", signal="transfer_wait"}', "decoders waiting for KV"),
                ('@signals{role="decoder", signal="queue"}', "waiting at decoders"),
            ],
            unit="none",
        ),
        curves(
            "First token and queue, 95th percentile",
            "Of the prompt side, over `scrape.window_s`.",
            [('@signals{role="prompt", signal=~"ttft_p95_s|queue_time_p95_s"}', "{{signal}}")],
            unit="s",
        ),
        curves(
            "Transfers that failed, KV that expired, preemptions",
            "A second, by role: each is a request computed again, or lost.",
            [
                (
                    '@signals{signal=~"transfer_failure_rate|kv_expired_rate|preempt_rate"}',
                    "{{role}} {{signal}}",
                )
            ],
            unit="ops",
        ),
    )


def _demand(board: Board) -> None:
    board.row(
        "Demand",
        curves(
            "Requests a second",
            "Read where they enter: finished and the change of what is inside.",
            [('@demand{quantity="requests_per_s"}', "requests")],
            unit="reqps",
        ),
        curves(
            "Tokens a request",
            "Mean lengths of prompts and answers.",
            [('@demand{quantity=~"input_len|output_len"}', "{{quantity}}")],
            unit="none",
        ),
        curves(
            "Prompt tokens that no cache had",
            "Share of all prompt tokens.",
            [('@demand{quantity="uncached_share"}', "uncached")],
            unit="percentunit",
        ),
        curves(
            "Requests in decode batches",
            "Requests that all decoders together generate tokens for.",
            [('@demand{quantity="decode_running"}', "running")],
            unit="none",
        ),
    )


def _capacity(board: Board) -> None:
    board.row(
        "Capacity of one node, as learnt",
        curves(
            "Prefill tokens a second",
            "What a busy prompt node of each class computes.",
            [('@node_capacity{quantity="prefill_tokens_per_s"}', "{{node_class}}")],
            unit="none",
        ),
        curves(
            "Decode step: base and each request",
            "Seconds of a step before any request, and for each one in the batch.",
            [
                (
                    '@node_capacity{quantity=~"step_base_s|step_per_request_s"}',
                    "{{node_class}} {{quantity}}",
                )
            ],
            unit="s",
        ),
        curves(
            "Error of the fit",
            "Typical relative error of late; above a half it is a guess.",
            [('@node_capacity{quantity="error"}', "{{role}} {{node_class}}")],
            unit="percentunit",
        ),
        curves(
            "Samples",
            "How many windows of a node it was learnt from.",
            [("@node_capacity_samples", "{{role}} {{node_class}}")],
            unit="none",
        ),
    )
