"""The watch over the first jobs of a new model: does it keep up with the record of the one that it replaced? Pure.

Two shares of all jobs are compared: those that ended in focus, as each job checks by itself, and those with an answer
of the verdict OK to go by. They are looked at `LOOKS` times, by an exact one-sided test of each (Fisher's, given how
many of both models' jobs were good), at a level of `FALSE` over the number of tests. So a model that is as good as the
old one is rolled back in at most `FALSE` of all switches, if jobs are independent of each other.

Where the old model has no record to speak of, that holds for every model whose shares reach `FLOOR`, however hard its
specimens are; what is found then is only a model that hardly ever focuses, after 32 jobs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from edge_app.ota.tally import Tally

FALSE = 0.01
"""How often a model that is as good as the old one is rolled back, at most."""
LOOKS = (8, 16, 32, 64)
"""After how many jobs the shares are compared; after the last of them the watch is over."""
SHORT = 32
"""An old record of fewer jobs is no measure; then `FLOOR` is."""
FLOOR = 0.25
"""Where no record says more, the share of jobs that a new model must not fall short of; blank fields left out."""
FAILURES = 2
"""So many jobs in a row without any answer are no hiccup, and the new model is given up at once."""
LEVEL = FALSE / (2 * len(LOOKS))
"""Of each single test."""


@dataclass(frozen=True)
class Watch:
    """What the first jobs say of a new model, and why."""

    state: Literal["watching", "settled", "worse"]
    why: str


def judge(new: Tally, old: Tally) -> Watch:
    """What the record of a new model says beside the old one's; to be asked after every job of the new one.

    Args:
        new: Since the switch, and not shortened.
        old: Of the model that served before, as long as it served.
    """
    if new.failed_in_row >= FAILURES:
        return Watch("worse", f"{new.failed_in_row} jobs in a row got no answer from it")
    so_far = f"{new.improved} of {new.jobs} jobs ended in focus, {new.ok} had an answer to go by"
    last = new.jobs >= LOOKS[-1]
    if new.jobs not in LOOKS and not last:
        return Watch("watching", f"{so_far}; {LOOKS[-1] - new.jobs} more are watched")
    worse = _worse(new, old)
    if worse:
        return Watch("worse", worse)
    if last:
        return Watch("settled", f"{so_far}, which is no worse than before")
    return Watch("watching", f"{so_far}, no worse than before; {LOOKS[-1] - new.jobs} more are watched")


def fewer_by_chance(good: int, jobs: int, good_before: int, jobs_before: int) -> float:
    """How likely so few good jobs are by chance if both models are alike: Fisher's exact test, one-sided.

    The hypergeometric probability of `good` or fewer among `jobs`, given the good ones of both records together.
    """
    all_good, every = good + good_before, jobs + jobs_before
    lowest = max(0, jobs - (every - all_good))
    ways = sum(math.comb(all_good, k) * math.comb(every - all_good, jobs - k) for k in range(lowest, good + 1))
    return ways / math.comb(every, jobs)


def fewer_than_share(good: int, jobs: int, share: float) -> float:
    """How likely so few good jobs are by chance if each is good with this probability: the binomial lower tail."""
    return math.fsum(math.comb(jobs, k) * share**k * (1 - share) ** (jobs - k) for k in range(good + 1))


def _worse(new: Tally, old: Tally) -> str:
    """Which share fell more than chance explains, or ""."""
    for good, before, what in (
        (new.improved, old.improved, "ended in focus"),
        (new.ok, old.ok, "had a usable answer"),
    ):
        if old.jobs >= SHORT:
            chance = fewer_by_chance(good, new.jobs, before, old.jobs)
            beside = f"{before / old.jobs:.0%} of {old.jobs} with the model before"
        else:
            seen = new.jobs - new.blank
            chance = fewer_than_share(good, seen, FLOOR)
            beside = f"{FLOOR:.0%} expected, since the model before has a record of {old.jobs} jobs only"
        if chance <= LEVEL:
            return (
                f"{good} of its first {new.jobs} jobs {what}, beside {beside}; by chance that happens once in "
                f"{min(1 / max(chance, 1e-9), 1e9):.0f} switches"
            )
    return ""
