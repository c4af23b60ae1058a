"""The rule of a rehearsal: from pairs of focus jobs, does the new model focus at least as well as the one in service?

Pure: pairs in, judgement out. What it weighs, and how often it errs, stands in docs/rehearsal.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev

CAP = 2.0
"""Depths of field beyond which a miss is a miss, however far."""
LOOKS_PRICE = 0.2
"""What as many looks as a job of its strategy usually takes are worth, in depths of field."""
MARGIN = 0.15
"""What the new model's mean loss may exceed the old one's by and still count as as good, in depths of field."""
LEVEL = 0.05
"""How often a model that is worse by exactly the margin is accepted."""
WORSE = 0.25
"""A job that ends so much farther from focus than it began has ended worse, in depths of field."""
WRONG = 1.0
"""Who says "in focus" farther away than this says it wrongly, in depths of field."""
WORTH = 0.5
"""Where nothing serves yet, what a model must better standing still by, in depths of field."""
FEWEST = 16
"""Pairs below which nothing is decided."""


@dataclass(frozen=True)
class Trial:
    """One rehearsed job: where it began and ended, true distances from focus in depths of field, both positive.

    `looks` is its looks over what its strategy usually takes. `claims` says that the job held itself to be in focus,
    `helped` that the model did not get there by itself, within the looks that it has, and `failed` why it gave no
    answer, if so.
    """

    start: float
    end: float
    looks: float
    claims: bool
    helped: bool = False
    failed: str = ""

    @property
    def loss(self) -> float:
        """Capped distance from focus plus the price of its looks, in depths of field."""
        missed = CAP if self.helped or self.failed else min(self.end, CAP)
        return missed + LOOKS_PRICE * self.looks

    @property
    def worse(self) -> bool:
        """Whether it left the objective farther from focus than it was."""
        return not self.helped and self.end > self.start + WORSE

    @property
    def wrong(self) -> bool:
        """Whether it claims a focus that is none."""
        return self.claims and not self.helped and self.end > WRONG


@dataclass(frozen=True)
class Pair:
    """The same job done by both models: same field, same start, same noise; `old` is None where none serves."""

    where: str
    old: Trial | None
    new: Trial

    @property
    def difference(self) -> float:
        """Loss of the new model over that of the old one, or over that of standing still."""
        return self.new.loss - (min(self.new.start, CAP) if self.old is None else self.old.loss)


@dataclass(frozen=True)
class Rehearsal:
    """Two models on the same jobs: labels ("" where no old one is), what it was done on, and how long it took."""

    task: str
    strategy: str
    on: str
    old: str
    new: str
    pairs: tuple[Pair, ...]
    took_s: float


@dataclass(frozen=True)
class Judgement:
    """Whether a model may serve, in one sentence why, and the figures behind it."""

    accepted: bool
    why: str
    figures: dict[str, float]


def judge(rehearsal: Rehearsal) -> Judgement:
    """Non-inferiority of the mean loss, with two counts that must not rise.

    Accepted where the upper end of the one-sided 95 % interval of the mean paired difference lies within the margin,
    no more jobs end worse than they began, no more claim a focus that is none, and none fails. Pairs without number
    are nobody's fault: fewer than two are refused.
    """
    pairs = rehearsal.pairs
    if len(pairs) < 2:
        return Judgement(False, f"{rehearsal.new} was rehearsed on {len(pairs)} jobs; two at least are needed", {})
    differences = [pair.difference for pair in pairs]
    margin = MARGIN if rehearsal.old else -WORTH
    figures = {
        "pairs": float(len(pairs)),
        "difference": fmean(differences),
        "upper": upper_bound(differences, LEVEL),
        "margin": margin,
        "worse_old": _count(pairs, True, lambda trial: trial.worse),
        "worse_new": _count(pairs, False, lambda trial: trial.worse),
        "wrong_old": _count(pairs, True, lambda trial: trial.wrong),
        "wrong_new": _count(pairs, False, lambda trial: trial.wrong),
        "focused_old": _count(pairs, True, _focused),
        "focused_new": _count(pairs, False, _focused),
        "failed_new": _count(pairs, False, lambda trial: bool(trial.failed)),
    }
    fault = _fault(rehearsal, figures)
    return Judgement(not fault, fault or _praise(rehearsal, figures), figures)


def upper_bound(differences: Sequence[float], level: float) -> float:
    """Upper end of the one-sided t interval of a mean: it lies below the true mean in `level` of all samples.

    The quantile of t is Cornish and Fisher's expansion around the normal one (Abramowitz and Stegun 26.7.5, three
    terms), right to 1 in 1,000 from 5 degrees of freedom on.
    """
    free = len(differences) - 1
    z = NormalDist().inv_cdf(1 - level)
    terms = (z, (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384)
    quantile = math.fsum(term / float(free) ** power for power, term in enumerate(terms))
    return fmean(differences) + quantile * stdev(differences) / math.sqrt(len(differences))


def _fault(rehearsal: Rehearsal, figures: dict[str, float]) -> str:
    """Why a model must not serve, or ""."""
    new, jobs = rehearsal.new, f"{len(rehearsal.pairs)} jobs on {rehearsal.on}"
    if figures["failed_new"]:
        first = next(pair.new.failed for pair in rehearsal.pairs if pair.new.failed)
        return f"{new} gave no answer in {figures['failed_new']:.0f} of {jobs}: {first}"
    for name, what in (
        ("worse", "ended farther from focus than they began"),
        ("wrong", "claimed a focus that was none"),
    ):
        before, now = figures[f"{name}_old"], figures[f"{name}_new"]
        if now > before:
            return f"{new} focuses worse: of {jobs} {now:.0f} {what}, with {_beside(rehearsal)} {before:.0f}"
    if figures["upper"] <= figures["margin"]:
        return ""
    reached = f"{figures['focused_new']:.0f} of {jobs} ended in focus, with {_beside(rehearsal)} "
    reached += f"{figures['focused_old']:.0f}"
    if not rehearsal.old:
        return f"{new} is of no use here: {reached}"
    return (
        f"{new} was not shown to focus as well: {reached}; its mean loss is {figures['difference']:+.2f} depths of "
        f"field (up to {figures['upper']:+.2f}; {MARGIN:g} is allowed)"
    )


def _praise(rehearsal: Rehearsal, figures: dict[str, float]) -> str:
    return (
        f"{rehearsal.new} focuses at least as well as {_beside(rehearsal)} in {len(rehearsal.pairs)} jobs on "
        f"{rehearsal.on}: {figures['focused_new']:.0f} ended in focus, before {figures['focused_old']:.0f}; its mean "
        f"loss is {figures['difference']:+.2f} depths of field (up to {figures['upper']:+.2f})"
    )


def _beside(rehearsal: Rehearsal) -> str:
    return rehearsal.old or "no model"


def _focused(trial: Trial) -> bool:
    return not trial.helped and not trial.failed and trial.end <= WRONG


def _count(pairs: Sequence[Pair], old: bool, what: Callable[[Trial], bool]) -> float:
    trials = [pair.old for pair in pairs if pair.old is not None] if old else [pair.new for pair in pairs]
    return float(sum(map(what, trials)))
