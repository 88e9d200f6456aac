"""Runs of a long benchmark, kept in a file so that it may go on where it ended."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from pd_autoscaler.sim.comparing import Job
from pd_autoscaler.sim.score import Score


class Kept:
    """Scores by job, one JSON line each; without a file nothing is kept.

    Whoever changes a policy, or what all of them go by, deletes its lines, or the file.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lines: dict[str, Score] = {}
        for line in path.read_text().splitlines() if path and path.exists() else []:
            row = json.loads(line)
            score = row["score"]
            self._lines[row["job"]] = Score(**score | {"recovery_s": tuple(score["recovery_s"])})

    def split(self, jobs: Sequence[Job]) -> tuple[list[tuple[Job, Score]], list[Job]]:
        """Return the jobs that are done with their scores, and those that are not."""
        done = [(job, self._lines[key]) for job in jobs if (key := _key(job)) in self._lines]
        return done, [job for job in jobs if _key(job) not in self._lines]

    def add(self, job: Job, score: Score) -> None:
        """Keep one more run."""
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(json.dumps({"job": _key(job), "score": asdict(score)}) + "\n")


def _key(job: Job) -> str:
    return " ".join(_parts(job))


def _parts(job: Job) -> Iterator[str]:
    yield from (job.scenario, job.policy, str(job.seed))
    yield from (f"{name}={value}" for name, value in sorted(job.params.items()))
    setting = job.setting
    yield f"{setting.nodes_mean:g} nodes, {setting.slo.ttft_s:g} s, {setting.slo.tpot_s:g} s"
