"""The dashboard of the mesh: which links are wanted, which are up, and what keeps the rest down."""

from grafana_foundation_sdk.models import dashboard as model

from dashboards.panels import (
    CALM,
    Board,
    Steps,
    bars,
    curves,
    matrix,
    mean,
    number,
    quantiles,
    timeline,
)
from pd_autoscaler.model.link import LinkState
from pd_autoscaler.telemetry.pairs import STATE_NUMBERS

COLOURS = {
    LinkState.ABSENT: "#7f7f7f",
    LinkState.LINKING: "blue",
    LinkState.LINKED: "green",
    LinkState.UNLINKING: "purple",
    LinkState.FAILED: "red",
    LinkState.SUSPECT: "orange",
}
STATES = {number: (state.value, COLOURS[state]) for state, number in STATE_NUMBERS.items()}

COMPLETE: Steps = ((None, "red"), (0.9, "orange"), (1.0, "green"))
BUDGET: Steps = ((None, "green"), (0.8, "orange"), (0.9, "red"))
STUCK: Steps = ((None, "green"), (300, "orange"), (900, "red"))


def dashboard() -> model.Dashboard:
    """Return the dashboard."""
    board = Board(
        "pd-autoscaler: links",
        uid="pd-autoscaler-links",
        description="The mesh of decoder and prompt nodes: is it whole, and if not, why not.",
    )
    _mesh(board)
    _calls(board)
    _limits(board)
    return board.built()


def _mesh(board: Board) -> None:
    board.row(
        "Mesh",
        number(
            "Mesh completeness",
            "Share of the wanted pairs that are linked. A pair is wanted while both of its nodes "
            "are linking or serving.",
            "@links_wanted_up / (@links_wanted > 0)",
            unit="percentunit",
            steps=COMPLETE,
        ),
        number(
            "Wanted pairs down",
            "Wanted pairs that are not linked. A node that joins adds its own for a moment.",
            "@links_wanted - @links_wanted_up",
            unit="none",
            steps=CALM,
        ),
        number(
            "Failed or suspect",
            "Failed: the last call failed and is tried again. Suspect: one end may hold what the "
            "other lacks, and is cut by force first.",
            'sum(@links{state=~"failed|suspect"})',
            unit="none",
            steps=CALM,
        ),
        number(
            "Waves to go",
            "Rounds of 16 link calls that the busiest node still needs; an endpoint serves 16 at "
            "a time.",
            "@link_waves",
            unit="none",
            steps=((None, "green"), (2, "orange"), (8, "red")),
        ),
        number(
            "Hung native calls",
            "Calls of the library past their deadline that have not returned. Each holds a thread "
            "until its process ends.",
            "@hung_calls",
            unit="none",
            steps=CALM,
        ),
        number(
            "Pairs left out",
            "1 if there are too many pairs for series of their own: then the matrix is empty and "
            "only sums are shown.",
            "@link_up_capped",
            unit="none",
            steps=CALM,
        ),
        matrix(
            "Link matrix",
            "Every decoder against every prompt node, as it is now. `pd-autoscaler explain` says "
            "why a wanted pair is not up.",
            "max by (decoder, prompt) (@link_state)",
            row="decoder",
            column="prompt",
            values=STATES,
        ),
        timeline(
            "Wanted pairs that are down",
            "State of each wanted pair while it is not linked; empty is good.",
            "@link_state and @link_up == 0",
            "{{decoder}} - {{prompt}}",
            values=STATES,
        ),
        curves(
            "Links by state",
            "All known pairs, wanted or not: a leaving node's are unlinked, then forgotten.",
            [("@links", "{{state}}")],
            unit="none",
            is_stacked=True,
        ),
    )


def _calls(board: Board) -> None:
    failed = '@link_attempts_total{verb="link", code!~"LLM_SUCCESS|LLM_ALREADY_LINK"}'
    board.row(
        "Calls",
        curves(
            "Attempts by status code",
            "Pairs whose call ended, by what the library returned; `unknown` is a missed deadline, "
            "`none` a request that reached no library.",
            [
                (
                    "sum by (verb, code) (rate(@link_attempts_total[$__rate_interval])) > 0",
                    "{{verb}} {{code}}",
                ),
            ],
            unit="ops",
        ),
        curves(
            "Failed link attempts",
            "Link calls of a pair that ended without a link. Each pair backs off by itself.",
            [(f"sum(rate({failed}[$__rate_interval]))", "failed")],
            unit="ops",
        ),
        curves(
            "Duration of a link",
            "How long links took that came up; a whole wave takes about as long as one of them. "
            "Quantiles are interpolated within buckets, the mean is exact.",
            [mean("link_duration_seconds"), *quantiles("link_duration_seconds")],
            unit="s",
        ),
        curves(
            "Requests",
            "Requests to agents, each for the pairs of one node.",
            [("sum by (verb) (rate(@link_batches_total[$__rate_interval]))", "{{verb}}")],
            unit="reqps",
        ),
        curves(
            "Pairs in a link request",
            "The mean. More pairs in a request are fewer waves when a node joins; 16 is the most.",
            [mean("link_batch_pairs")],
            unit="none",
        ),
        curves(
            "Waves and hung calls",
            "Rounds of 16 calls still to go at the busiest node, and calls that never returned.",
            [("@link_waves", "waves"), ("@hung_calls", "hung calls")],
            unit="none",
        ),
    )


def _limits(board: Board) -> None:
    board.row(
        "Limits and stuck nodes",
        bars(
            "Links on the busiest card of a node",
            "The twenty nodes whose cards hold most links, up or being made; empty above 1,024 "
            "nodes.",
            "topk(20, @card_links)",
            "{{node}}",
            unit="none",
            steps=((None, "green"),),
        ),
        curves(
            "Link budget used",
            "Links on the busiest card of a role against the smallest card's limit; no curve where "
            "there is no limit.",
            [("@card_links_max / @card_links_limit", "{{role}}")],
            unit="percentunit",
            steps=BUDGET,
        ),
        curves(
            "Longest stay in a passing state",
            "Age of the node that has been coming or leaving for longest, by state. Every state "
            "has a deadline; a stay beyond it is an alarm.",
            [
                (
                    '@node_state_age_max_seconds{state!~"standby|serving|gone"}',
                    "{{role}} {{state}}",
                ),
            ],
            unit="s",
            steps=STUCK,
        ),
        curves(
            "Suspect nodes",
            "Nodes whose agent alone is silent: nothing is done to them or their links.",
            [("@suspect_nodes", "{{role}}")],
            unit="none",
            steps=CALM,
        ),
    )
