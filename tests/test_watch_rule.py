"""The watch over a new model's first jobs: its counts, and how often it errs, worked out exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache, partial
from math import comb
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from updating import NAME, Offering, bring, bundle, install, opened, silent, updates

from edge_app.answer import Verdict
from edge_app.appliance import Appliance
from edge_app.errors import RuntimeFailed
from edge_app.job import Ending, Outcome
from edge_app.model import Model
from edge_app.ota.depot import Depot
from edge_app.ota.tally import KEPT, Tally, in_focus
from edge_app.ota.watch_rule import FALSE, FLOOR, LEVEL, LOOKS, SHORT, fewer_by_chance, fewer_than_share, judge
from edge_app.ota.watcher import Watcher


def outcome(ending: Ending, verdict: Verdict = Verdict.OK) -> Outcome:
    return Outcome(ending, verdict, "", 0.0, 0.0, 2, 1, 1.0, "single_shot", None)


def tally(good: int, jobs: int, ok: int | None = None, blank: int = 0) -> Tally:
    return Tally(jobs=jobs, improved=good, ok=good if ok is None else ok, blank=blank)


@pytest.mark.parametrize(
    ("ending", "verdict", "expected"),
    [
        (Ending.FOCUSED, Verdict.OK, Tally(jobs=1, improved=1, ok=1)),
        (Ending.FOCUSED, Verdict.OUT_OF_RANGE, Tally(jobs=1, improved=1)),
        (Ending.STAYED, Verdict.OK, Tally(jobs=1, improved=1, ok=1)),
        (Ending.STAYED, Verdict.NO_CONTENT, Tally(jobs=1, blank=1)),
        (Ending.RETURNED, Verdict.OK, Tally(jobs=1, improved=1, ok=1)),
        (Ending.RETURNED, Verdict.DISAGREEMENT, Tally(jobs=1)),
        (Ending.STOPPED, Verdict.OK, Tally()),
    ],
)
def test_a_job_is_counted_by_its_ending_and_verdict(ending: Ending, verdict: Verdict, expected: Tally) -> None:
    assert Tally().after(outcome(ending, verdict)) == expected


def test_a_tally_agrees_with_the_words_for_people_on_what_is_in_focus() -> None:
    from edge_app import verbs, wire, wire_answers
    from edge_app.stubs.parfocal.v1 import focus_pb2

    for ending in Ending:
        for verdict in Verdict:
            sent = focus_pb2.Outcome(kind=wire.ENDINGS[ending], verdict=wire_answers.VERDICTS[verdict])
            assert verbs.in_focus(sent) == in_focus(outcome(ending, verdict))


def test_an_answer_ends_a_row_of_failures() -> None:
    failed = Tally().after_failure()

    assert (failed.jobs, failed.failed, failed.failed_in_row) == (1, 1, 1)
    assert failed.after(outcome(Ending.FOCUSED)).failed_in_row == 0


def test_a_long_record_is_halved_and_keeps_its_shares() -> None:
    short = tally(1900, 2000).shortened()

    assert short.jobs <= KEPT
    assert short.improved / short.jobs == pytest.approx(0.95, abs=0.01)
    assert tally(19, 20).shortened() == tally(19, 20)


def test_a_tally_comes_back_from_its_counts_and_refuses_impossible_ones() -> None:
    counts = tally(5, 9, ok=7, blank=1).as_counts()

    assert Tally.from_counts(counts) == tally(5, 9, ok=7, blank=1)
    for wrong in ({**counts, "jobs": 3}, {**counts, "more": 1}, {**counts, "ok": -1}, {**counts, "failed": 5}):
        with pytest.raises(ValueError, match="tally"):
            Tally.from_counts(wrong)


def test_two_jobs_without_an_answer_end_the_watch_at_once_and_one_does_not() -> None:
    once = Tally().after_failure()

    assert judge(once, tally(95, 100)).state == "watching"
    assert judge(once.after_failure(), tally(95, 100)).state == "worse"
    assert judge(once.after(outcome(Ending.FOCUSED)).after_failure(), tally(95, 100)).state == "watching"


def test_between_the_looks_nothing_is_judged() -> None:
    assert judge(tally(0, LOOKS[0] - 1), tally(95, 100)).state == "watching"
    assert judge(tally(0, LOOKS[0]), tally(95, 100)).state == "worse"
    assert judge(tally(5, LOOKS[0] + 1), tally(95, 100)).state == "watching"


def test_as_good_a_model_settles_after_the_last_look_even_if_that_was_missed() -> None:
    assert judge(tally(61, 64), tally(95, 100)).state == "settled"
    assert judge(tally(67, 70), tally(95, 100)).state == "settled"
    assert judge(tally(30, 70), tally(95, 100)).state == "worse"


def test_answers_that_cannot_be_used_count_even_where_sweeps_save_every_job() -> None:
    saved_by_sweeps = tally(16, 16, ok=2)

    found = judge(saved_by_sweeps, tally(95, 100))

    assert found.state == "worse"
    assert "2 of its first 16 jobs had a usable answer, beside 95%" in found.why


def test_blank_fields_count_in_both_records_alike() -> None:
    mostly_blank = tally(40, 100, blank=58)

    assert judge(tally(4, 8, blank=4), mostly_blank).state == "watching"
    assert judge(tally(7, 16, blank=9), mostly_blank).state == "watching"


def test_without_a_record_a_floor_holds_for_jobs_that_had_something_to_see() -> None:
    nothing = Tally()

    assert judge(tally(1, 32), nothing).state == "worse"
    assert (
        "beside 25% expected, since the model before has a record of 0 jobs only" in judge(tally(1, 32), nothing).why
    )
    assert judge(tally(1, 32, blank=8), nothing).state == "watching"
    assert judge(tally(2, 32), nothing).state == "watching"


def test_the_exact_test_agrees_with_a_table_worked_by_hand() -> None:
    # 1 of 4 beside 3 of 4: (C(4,0) C(4,4) + C(4,1) C(4,3)) / C(8,4)
    assert fewer_by_chance(1, 4, 3, 4) == pytest.approx(17 / 70)
    assert fewer_by_chance(4, 4, 3, 4) == pytest.approx(1.0)
    assert fewer_than_share(1, 3, 0.5) == pytest.approx(0.5)


def shares_of(count: int, share: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Probability of 0 to `count` good jobs."""
    return np.array([comb(count, k) * share**k * (1 - share) ** (count - k) for k in range(count + 1)])


def rolled_back(share: float, is_worse: Callable[[int, int], bool], looks: Iterable[int] = LOOKS) -> float:
    """Exact probability that one measure ends the watch: good jobs are added up from look to look."""
    alive, before, gone = np.array([1.0]), 0, 0.0
    for jobs in looks:
        alive = np.convolve(alive, shares_of(jobs - before, share))
        lost = np.array([is_worse(good, jobs) for good in range(jobs + 1)])
        gone, before = gone + float(alive[lost].sum()), jobs
        alive = np.where(lost, 0.0, alive)
    return gone


def rate(share_old: float, share_new: float, record: int) -> float:
    """Exact probability of a rollback by one measure, over all records that the old model may have."""

    @cache
    def least_kept(good_before: int, jobs: int) -> int:
        """The fewest good jobs that are not worse; more good jobs are never worse."""
        low, high = 0, jobs
        while low < high:
            middle = (low + high) // 2
            if fewer_by_chance(middle, jobs, good_before, record) <= LEVEL:
                low = middle + 1
            else:
                high = middle
        return low

    def is_worse(good_before: int, good: int, jobs: int) -> bool:
        return good < least_kept(good_before, jobs)

    total = 0.0
    for good_before, weight in enumerate(shares_of(record, share_old).tolist()):
        if weight > 1e-7:
            total += weight * rolled_back(share_new, partial(is_worse, good_before))
    return total


@pytest.mark.parametrize("record", [SHORT, 100, 300])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.8, 0.9, 0.95, 0.99])
def test_as_good_a_model_is_rolled_back_in_at_most_one_switch_of_a_hundred(share: float, record: int) -> None:
    by_two_measures = 2 * rate(share, share, record)

    assert by_two_measures <= FALSE


def without_a_record(share: float) -> float:
    """Exact probability of a rollback by one measure, where the old model has no record to speak of."""
    return rolled_back(share, lambda good, jobs: fewer_than_share(good, jobs, FLOOR) <= LEVEL)


@pytest.mark.parametrize("share", [0.25, 0.26, 0.3, 0.4, 0.5, 0.7, 0.9, 0.99])
def test_on_hard_specimens_as_good_a_model_stays_without_a_record_too(share: float) -> None:
    by_two_measures = 2 * without_a_record(share)

    assert by_two_measures <= FALSE


def test_without_a_record_a_model_that_hardly_ever_focuses_is_found() -> None:
    assert without_a_record(0.0) == pytest.approx(1.0)
    assert without_a_record(0.05) >= 0.9
    assert without_a_record(0.2) <= 0.02


@pytest.mark.parametrize(("before", "now", "least"), [(0.95, 0.6, 0.97), (0.95, 0.3, 0.999), (0.8, 0.3, 0.98)])
def test_a_model_that_is_much_worse_is_found(before: float, now: float, least: float) -> None:
    assert rate(before, now, 100) >= least


class Jobs:
    """An appliance of which the watch sees only which model is open."""

    unanswered = "defocus"

    def __init__(self, depot: Depot) -> None:
        self.controller = self.models = self
        self._depot = depot

    def loaded(self, task: str) -> Model | None:
        return opened(self._depot.shelf().find(NAME), silent) if task == "defocus" else None


def test_a_version_that_serves_once_more_is_watched_from_its_first_job_on(tmp_path: Path) -> None:
    offering, left = Offering(), list[str]()
    board = updates(tmp_path, offering)
    install(board.depot, bundle("1.0.0"), "1.0.0")
    offering.offer("1.1.0")
    bring(board)

    def watcher() -> Watcher:
        return Watcher(cast(Appliance, Jobs(board.depot)), board.depot, lambda version, _: left.append(version.label))

    for _ in range(2):
        watcher().ended("focus", RuntimeFailed("no answer"))
    assert left == ["net@1.1.0"], "a restart does not begin anew"
    board.roll_back()
    board.forgive("net@1.1.0")
    bring(board)
    watching = watcher()
    assert watching.watched_jobs == 0
    watching.ended("focus", RuntimeFailed("a hiccup"))
    assert (left, watching.watched_jobs) == (["net@1.1.0"], 1)


def test_the_exact_rates_are_those_of_the_judge_itself() -> None:
    rng = np.random.default_rng(3)
    ended = 0
    for _ in range(400):
        old = tally(int(rng.binomial(100, 0.95)), 100, ok=100)
        new = Tally()
        while judge(new, old).state == "watching":
            good = bool(rng.uniform() < 0.7)
            new = replace(new, jobs=new.jobs + 1, improved=new.improved + good, ok=new.ok + 1)
        ended += judge(new, old).state == "worse"

    assert ended / 400 == pytest.approx(rate(0.95, 0.7, 100), abs=0.06)
