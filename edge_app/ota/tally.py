"""Tally: how the focus jobs of one model ended, as counts; what the watch over a new model goes by. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace

from edge_app.answer import Verdict
from edge_app.job import Ending, Outcome

KEPT = 1024
"""Jobs that a record holds at most; then all its counts are halved, so that it follows what the board does of late."""
_BLANK = (Verdict.NO_CONTENT, Verdict.TOO_DARK, Verdict.SATURATED)


def in_focus(outcome: Outcome) -> bool:
    """Whether a job holds that it ended in focus: it moved there, or found nothing sharper than where it began."""
    if outcome.ending in (Ending.STAYED, Ending.RETURNED):
        return outcome.verdict is Verdict.OK
    return outcome.ending is Ending.FOCUSED


@dataclass(frozen=True)
class Tally:
    """Counts of one model's jobs that were not stopped.

    `improved` ended in focus, by the check that every job makes; `ok` had an answer with the verdict OK to go by;
    `blank` found nothing to look at; `failed` got no answer at all, `failed_in_row` of them the latest without a
    break. Every `failed` job is one of `jobs`.
    """

    jobs: int = 0
    improved: int = 0
    ok: int = 0
    blank: int = 0
    failed: int = 0
    failed_in_row: int = 0

    def after(self, outcome: Outcome) -> Tally:
        """With one more job; one that somebody stopped says nothing of the model, and is not counted."""
        if outcome.ending is Ending.STOPPED:
            return self
        return replace(
            self._with_one_more(),
            improved=self.improved + in_focus(outcome),
            ok=self.ok + (outcome.verdict is Verdict.OK),
            blank=self.blank + (outcome.verdict in _BLANK),
            failed_in_row=0,
        )

    def after_failure(self) -> Tally:
        """With one more job that ended because the model gave no answer (RuntimeFailed)."""
        more = self._with_one_more()
        return replace(more, failed=self.failed + 1, failed_in_row=self.failed_in_row + 1)

    def shortened(self) -> Tally:
        """The same shares of at most `KEPT` jobs; call it before counting on, never while a new model is watched."""
        if self.jobs <= KEPT:
            return self
        counts = {name: count // 2 for name, count in asdict(self).items()}
        return Tally(**{**counts, "failed_in_row": self.failed_in_row}).shortened()

    def as_counts(self) -> dict[str, int]:
        """By name, for a file."""
        return asdict(self)

    @classmethod
    def from_counts(cls, counts: Mapping[str, int]) -> Tally:
        """What `as_counts` gave.

        Raises:
            ValueError: A name is missing or unknown, or the counts contradict each other.
        """
        if set(counts) != {known.name for known in fields(cls)}:
            raise ValueError(f"a tally counts {', '.join(known.name for known in fields(cls))}")
        tally = cls(**counts)
        inside = all(0 <= count <= tally.jobs for count in counts.values())
        if not inside or tally.improved + tally.failed > tally.jobs or tally.failed_in_row > tally.failed:
            raise ValueError(f"a tally whose counts contradict each other: {dict(counts)}")
        return tally

    def _with_one_more(self) -> Tally:
        return replace(self, jobs=self.jobs + 1)
