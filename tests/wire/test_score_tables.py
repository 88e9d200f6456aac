from dataclasses import replace

from rich.console import Console

from pd_autoscaler.cli.score_tables import caption, scores
from pd_autoscaler.sim.records import SLOS
from pd_autoscaler.sim.report.comparison import Comparison, comparison
from pd_autoscaler.sim.score import scored
from tests.support.runs import run_of

CHAT = SLOS[0]


def lines_of(compared: Comparison) -> list[str]:
    console = Console(width=120, markup=False, force_terminal=False)
    with console.capture() as capture:
        console.print(scores(compared, CHAT))
    return capture.get().splitlines()


def compared(*, cost_ratio: float | None = None, hours: float = 14.0) -> Comparison:
    runs = [
        run_of(policy, seed=seed, params=params, lasted_s=900.0)
        for policy, params in (("slo", {}), ("throughput-match", {"headroom": 0.875}))
        for seed in (0, 1)
    ]
    return comparison(
        [
            (
                run,
                replace(
                    scored(run, CHAT),
                    cost_ratio=cost_ratio,
                    node_hours=hours + run.seed,
                    goodput_per_node_hour=12345.0,
                ),
            )
            for run in runs
        ],
        [CHAT],
    )


def test_a_row_has_the_means_of_a_setting_and_its_parameters_below_its_name() -> None:
    lines = lines_of(compared())

    (slo,) = (line for line in lines if line.strip().startswith("slo"))
    assert "14.5±6.4" in slo
    assert "12345" in slo
    name = next(number for number, line in enumerate(lines) if "throughput-match" in line)
    assert lines[name + 1].strip() == "headroom=0.875"


def test_the_table_fits_120_columns_with_large_numbers_and_every_column() -> None:
    lines = lines_of(compared(cost_ratio=12.345, hours=123456.0))

    assert max(map(len, lines)) <= 120
    assert not [line for line in lines if "…" in line]
    assert any("123456±6" in line and "12.35" in line for line in lines)


def test_a_cost_ratio_that_nobody_has_takes_no_column() -> None:
    assert "ratio" not in "\n".join(lines_of(compared()))
    assert "ratio" in "\n".join(lines_of(compared(cost_ratio=1.1)))


def test_text_from_outside_cannot_steer_the_terminal() -> None:
    evil = "\x1b[2J[bold]x"
    run = replace(run_of(evil, lasted_s=900.0), scenario=evil)
    made = comparison([(run, scored(run, CHAT))], [CHAT])

    assert "\x1b" not in "\n".join(lines_of(made)) + caption(made, CHAT)
    assert "[bold]x" in "\n".join(lines_of(made))


def test_the_caption_says_what_the_table_is_of() -> None:
    assert caption(compared(), CHAT) == (
        "made-up, chat: TTFT 1 s, TPOT 50 ms; 2 runs of each; owed 99 % of both"
    )
