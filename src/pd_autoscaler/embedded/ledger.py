"""The ledger: what a controller did, counted from its reports for the summary of a run."""

from collections import Counter

from pd_autoscaler.model.decision import Hold, HoldReason
from pd_autoscaler.model.node import Role
from pd_autoscaler.model.plan import LinkNodes
from pd_autoscaler.model.report import Done, Report


class Ledger:
    """A `ports.ReportSink` that counts; holds are counted when their reason changes."""

    def __init__(self) -> None:
        self.scale_outs: Counter[str] = Counter({role.value: 0 for role in Role})
        self.scale_ins: Counter[str] = Counter({role.value: 0 for role in Role})
        self.target_changes = 0
        self.links_made = 0
        self.links_failed = 0
        self.holds: Counter[str] = Counter()
        self._held: HoldReason | None = None

    def append(self, report: Report) -> None:
        """Take in one report."""
        before, after = report.snapshot.target, report.target
        if after != before:
            self.target_changes += 1
            for role in Role:
                grown = after.of(role) - before.of(role)
                (self.scale_outs if grown > 0 else self.scale_ins)[role.value] += abs(grown)
        reason = report.guarded.reason if isinstance(report.guarded, Hold) else None
        if reason is not None and reason is not self._held:
            self.holds[reason.value] += 1
        self._held = reason
        for outcome in report.outcomes:
            if isinstance(outcome.action, LinkNodes):
                pairs = len(outcome.action.prompts)
                if isinstance(outcome, Done):
                    self.links_made += pairs
                else:
                    self.links_failed += pairs

    def wire(self) -> dict[str, object]:
        """Return the counts as a JSON object."""
        return {
            "target_changes": self.target_changes,
            "scale_outs": dict(self.scale_outs),
            "scale_ins": dict(self.scale_ins),
            "links_made": self.links_made,
            "links_failed": self.links_failed,
            "holds": dict(self.holds),
        }
