"""The dashboard of the service: target against actual, and why the controller does what it does."""

from grafana_foundation_sdk.models import dashboard as model

from dashboards.panels import CALM, Board, Steps, curves, number, quantiles, timeline, word

PLAIN: Steps = ((None, "blue"),)
ON_OFF = {0: ("no", "transparent"), 1: ("yes", "blue")}


def dashboard() -> model.Dashboard:
    """Return the dashboard."""
    board = Board(
        "pd-autoscaler: overview",
        uid="pd-autoscaler-overview",
        description="What the controller wants, what there is, and what it waits for.",
    )
    _now(board)
    _nodes(board)
    _decisions(board)
    _load(board)
    _loop(board)
    return board.built()


def _now(board: Board) -> None:
    board.row(
        "Now",
        word(
            "Mode",
            "Active acts; paused keeps the target and repairs; stopped does nothing; advisory "
            "decides and reports.",
            "@mode == 1",
            "{{mode}}",
        ),
        number(
            "Serving ratio",
            "Serving prompt nodes per serving decoder node.",
            "@serving_ratio",
            unit="none",
            steps=PLAIN,
        ),
        number(
            "Nodes short",
            "Nodes of either role that the target asks for and that do not serve.",
            'sum(clamp_min(@target_nodes - ignoring(state) @nodes{state="serving"}, 0))',
            unit="none",
            steps=((None, "green"), (1, "orange")),
        ),
        number(
            "Mesh completeness",
            "Share of the wanted pairs that are linked; the links dashboard has the rest.",
            "@links_wanted_up / (@links_wanted > 0)",
            unit="percentunit",
            steps=((None, "red"), (0.9, "orange"), (1.0, "green")),
        ),
        number(
            "Alarms",
            "Alarms of the last cycle. `pd-autoscaler status` has their wording.",
            "@alarms",
            unit="none",
            steps=CALM,
        ),
        number(
            "Since the last cycle",
            "Serving goes on without the controller, but nothing is repaired or scaled.",
            "time() - @last_cycle_timestamp_seconds",
            unit="s",
            steps=((None, "green"), (60, "orange"), (120, "red")),
        ),
    )


def _nodes(board: Board) -> None:
    target = {role: f'@target_nodes{{role="{role}"}}' for role in ("prompt", "decoder")}
    coming = 'state=~"starting|initialising|linking|switching"'
    board.row(
        "Nodes",
        *(
            curves(
                f"{role.capitalize()} nodes: target and serving",
                "The standing target against the nodes that serve, and those on their way.",
                [
                    (target[role], "target"),
                    (f'@nodes{{role="{role}", state="serving"}}', "serving"),
                    (f'sum(@nodes{{role="{role}", {coming}}})', "coming"),
                ],
                unit="none",
            )
            for role in target
        ),
        curves(
            "Prompt nodes per decoder node",
            "The ratio wanted and the ratio that serves.",
            [
                (
                    f"{target['prompt']} / ignoring(role) ({target['decoder']} > 0)",
                    "target",
                ),
                ("@serving_ratio", "serving"),
            ],
            unit="none",
        ),
        curves(
            "Nodes by state",
            "Every node that is known, of either role.",
            [("sum by (state) (@nodes) > 0", "{{state}}")],
            unit="none",
            is_stacked=True,
        ),
    )


def _decisions(board: Board) -> None:
    unsuccessful = '@actions_total{outcome!="done"}[$__rate_interval]'
    board.row(
        "Decisions",
        curves(
            "Holds by reason",
            "Cycles a second that kept the standing target, and why; the operating guide explains "
            "each reason.",
            [("sum by (reason) (rate(@holds_total[$__rate_interval])) > 0", "{{reason}}")],
            unit="ops",
            is_stacked=True,
        ),
        curves(
            "Moves of the target",
            "The target grew, shrank, or moved between the roles, each minute.",
            [
                (
                    "60 * sum by (direction) (rate(@target_changes_total[$__rate_interval]))",
                    "{{direction}}",
                )
            ],
            unit="opm",
        ),
        curves(
            "Gates of the guard",
            "What cut or stopped a target, each second; a target may meet several.",
            [("sum by (gate) (rate(@gates_total[$__rate_interval])) > 0", "{{gate}}")],
            unit="ops",
        ),
        curves(
            "Actions that did not succeed",
            "Failed ones are tried again; unknown ones first wait until the effect is seen.",
            [(f"sum by (action, outcome) (rate({unsuccessful})) > 0", "{{action}} {{outcome}}")],
            unit="ops",
        ),
    )


def _load(board: Board) -> None:
    board.row(
        "Load",
        curves(
            "Requests waiting and running",
            "As the policy saw them: each fresh node's mean over `scrape.window_s`, added up by "
            "role. A gap is unknown.",
            [('@signals{signal=~"queue|running|transfer_wait"}', "{{role}} {{signal}}")],
            unit="none",
        ),
        curves(
            "KV cache in use",
            "Over `scrape.window_s`: the mean of a role's nodes, and the most that any one had.",
            [('@signals{signal=~"kv_used_.*"}', "{{role}} {{signal}}")],
            unit="percentunit",
        ),
        curves(
            "Latency as the policy saw it",
            "95th percentiles: to the first token, of each token after it, and in the queue.",
            [('@signals{signal=~".*_p95_s"}', "{{role}} {{signal}}")],
            unit="s",
        ),
        timeline(
            "Bottleneck",
            "The side that holds requests up: no node is added where it would not help.",
            "@bottleneck",
            "{{side}}",
            values=ON_OFF,
        ),
    )


def _loop(board: Board) -> None:
    board.row(
        "Control loop",
        curves(
            "Duration of a cycle",
            "How long cycles took; actions go on beyond them.",
            quantiles("cycle_duration_seconds"),
            unit="s",
        ),
        curves(
            "Duration of each phase",
            "Where a cycle's time goes.",
            quantiles("phase_duration_seconds", by="phase", where='phase!="other"'),
            unit="s",
        ),
        curves(
            "Freshness of engine pages",
            "Age of the oldest of the nodes' newest pages, by role.",
            [("@scrape_age_max_seconds", "{{role}}")],
            unit="s",
        ),
        curves(
            "Errors and alarms",
            "Policy and advisor calls and journal writes that failed, each second; alarms now.",
            [
                ("rate(@policy_errors_total[$__rate_interval])", "policy errors"),
                ("rate(@journal_errors_total[$__rate_interval])", "journal errors"),
                ("rate(@advisor_errors_total[$__rate_interval])", "advisor errors"),
                ("@alarms", "alarms"),
            ],
            unit="none",
        ),
    )
    board.row(
        "Shadow policies",
        curves(
            "Where each would be",
            "Nodes by role: the standing target, and that of each shadow policy.",
            [
                ("@target_nodes", "acting {{role}}"),
                ("@shadow_target_nodes", "{{policy}} {{role}}"),
            ],
            unit="none",
        ),
        curves(
            "Moves and failures",
            "Moves that shadow policies would have made, and calls that failed, each second.",
            [
                (
                    "sum by (policy) (rate(@shadow_target_changes_total[$__rate_interval]))",
                    "{{policy}} moves",
                ),
                ("rate(@shadow_policy_errors_total[$__rate_interval])", "{{policy}} failures"),
            ],
            unit="none",
        ),
    )
