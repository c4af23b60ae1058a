"""MoveWatch: whether the objective went as far as it was told, and if not, what kind of fault that is.

Pure. A loss in one move is suspected at once and confirmed by driving back: both looks at the same place share what
the ruler gets wrong, so their difference is far surer than either. Losses too small to be seen in one move show in
the history.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_SUSPECT, _SUSPECT_UM = 2.2, 0.25
_CONFIRM, _CONFIRM_UM = 3.5, 0.25
_WINDOW, _FEWEST = 20, 4
_ALARM, _ALARM_WITHOUT_ONE, _APART = 14.0, 7.0, 7.0
_LEAST_SLIP, _LEAST_BACKLASH_UM = 0.02, 0.2
_HUBER, _ROUNDS, _NOTHING = 2.0, 3, 1e-9
_MEMORY, _PRIOR, _CLIP = 300, 20.0, 4.0


class Kind(Enum):
    """What is wrong with the motion."""

    LOST_STEPS = "lost steps"
    SLIPPING = "slipping coupling"
    BACKLASH_DRIFTED = "backlash drifted"


@dataclass(frozen=True)
class Passage:
    """A finished move: what was commanded, what was seen (um, positive away from the specimen), one sigma of that.

    `reversed`: the move turned the motor the other way than the one before it, or took play out on its way.
    """

    commanded_um: float
    seen_um: float
    sigma_um: float
    reversed: bool


@dataclass(frozen=True)
class Suspicion:
    """This move may have lost `loss_um` (always positive): drive back to where it began, look, and `confirm`."""

    passage: Passage
    loss_um: float


@dataclass(frozen=True)
class Finding:
    """A fault; `size` is a share of every move for SLIPPING, else um (for BACKLASH_DRIFTED positive is more play)."""

    kind: Kind
    size: float
    sentence: str


class MoveWatch:
    """Keeps the last moves and judges every new one.

    What it shows, for Gaussian and for heavy-tailed errors (Student's t with 4 degrees of freedom), sigma 0.05 to
    0.3 um, claimed right, 1.4 times too large or 1.2 times too small: a loss of max(0.5 um, 4 sigma) in one move is
    suspected in 95 % of moves; 3 % of sound moves at most are suspected; one sound move in 1,000 at most ends in a
    finding, all kinds together. If sigma is claimed too large the watch needs some 150 moves to learn that.

    A steady slip of 3 % is found within 20 moves if these are 60 sigma long (root mean square): 6 um for a sigma of
    0.1 um, 18 um for 0.3 um; lengths must vary, or some moves reverse and some not, for slip to be told from drifted
    backlash. The window holds 20 moves, so moves under 20 sigma seldom show so small a slip, and a slip under 2 %
    is not told from the ruler's own scale, nor a change of backlash under 0.2 um from its own error.
    """

    def __init__(self) -> None:
        self._moves: list[Passage] = []
        self._recent: list[Passage] = []
        self._claim = self._claim_before = 1.0

    @property
    def claim(self) -> float:
        """How large the real errors are over what sigma claims; 1 until there is experience."""
        return self._claim

    def reset(self) -> None:
        """Forget all moves, because a calibration has been adopted; what was learned of sigma is kept."""
        self._moves, self._recent, self._claim_before = [], [], self._claim

    def note(self, passage: Passage) -> Suspicion | Finding | None:
        """Judge a move; after a finding about several moves these are not used again."""
        if passage.commanded_um == 0.0 or not math.isfinite(passage.seen_um) or not passage.sigma_um > 0.0:
            return None
        self._moves = [*self._moves, passage][-_MEMORY:]
        self._recent = [*self._recent, passage][-_WINDOW:]
        self._claim = _claim(_Losses.of(self._moves), self._claim_before)
        finding = self._history()
        if finding is not None:
            self._recent = []
            return finding
        loss_um = _loss_um(passage)
        if loss_um > max(_SUSPECT * self._claim * passage.sigma_um, _SUSPECT_UM):
            return Suspicion(passage, loss_um)
        return None

    def confirm(self, suspicion: Suspicion, returned_um: float, sigma_um: float) -> Finding | None:
        """Judge by the look taken back where the suspected move began.

        Args:
            suspicion: What `note` said.
            returned_um: Defocus seen now minus defocus seen before the move; see `paired`.
            sigma_um: One sigma of that.

        Steps lost on the way out leave the return short by just that loss. A coupling that slips both ways and play
        that is lost in both reversals bring the stage back to where it was: they are left to the history.
        """
        passage = suspicion.passage
        loss_um = -math.copysign(1.0, passage.commanded_um) * returned_um
        if not loss_um > max(_CONFIRM * sigma_um, _CONFIRM_UM):
            return None
        self._moves = [move for move in self._moves if move is not passage]
        self._recent = [move for move in self._recent if move is not passage]
        far = f"a move of {passage.commanded_um:+.1f} um ended {loss_um:.2f} um short, and so did the way back"
        return Finding(Kind.LOST_STEPS, loss_um, f"{far}: steps were lost; home the axis, and check load and speed")

    def _history(self) -> Finding | None:
        """The fault that explains the recent moves, if one does and the other does not."""
        if len(self._recent) < _FEWEST:
            return None
        losses = _Losses.of(self._recent, self._claim)
        share, by_slip = losses.explained_by(losses.length_um)
        more_um, by_play = losses.explained_by(losses.reversed)
        gain = max(by_slip.sum(), by_play.sum())
        best = by_slip if by_slip.sum() >= by_play.sum() else by_play
        if gain < _ALARM or gain - best.max() < _ALARM_WITHOUT_ONE:
            return None
        alike = abs(by_slip.sum() - by_play.sum()) < _APART
        if alike and len(self._recent) < _WINDOW:
            return None
        if best is by_slip:
            return _slipping(share, alike) if share >= _LEAST_SLIP else None
        return _drifted(more_um, alike) if abs(more_um) >= _LEAST_BACKLASH_UM else None


def _slipping(share: float, alike: bool) -> Finding:
    doubt = ", unless the backlash has grown: the moves were too much alike to tell" if alike else ""
    return Finding(
        Kind.SLIPPING, share, f"every move falls {share:.1%} short{doubt}; tighten the coupling, then calibrate again"
    )


def _drifted(more_um: float, alike: bool) -> Finding:
    doubt = ", unless the coupling slips: the moves were too much alike to tell" if alike else ""
    change = "more" if more_um > 0 else "less"
    what = f"moves that reverse lose {abs(more_um):.2f} um {change} than the calibrated backlash"
    return Finding(Kind.BACKLASH_DRIFTED, more_um, f"{what}{doubt}; calibrate the mechanics again")


@dataclass(frozen=True)
class _Losses:
    """What n moves lost, how long they were, whether they reversed (1 or 0), one sigma; all (n,)."""

    loss_um: Floats
    length_um: Floats
    reversed: Floats
    sigma_um: Floats

    @classmethod
    def of(cls, moves: list[Passage], claim: float = 1.0) -> _Losses:
        table = np.array([(_loss_um(move), abs(move.commanded_um), move.reversed, move.sigma_um) for move in moves])
        return cls(table[:, 0], table[:, 1], table[:, 2], table[:, 3] * claim)

    def explained_by(self, cause: Floats) -> tuple[float, Floats]:
        """The size of a cause (n,), and the deviance that each move loses by it, (n,): about chi-square in all."""
        left = self._left(cause[:, None] / self.sigma_um[:, None])
        return left[0][0], 2 * (_cost(self.loss_um / self.sigma_um) - _cost(left[1]))

    def errors(self) -> Floats:
        """What neither length nor reversal explains, in sigmas, (n,)."""
        return self._left(np.column_stack([self.length_um, self.reversed]) / self.sigma_um[:, None])[1]

    def _left(self, causes: Floats) -> tuple[Floats, Floats]:
        """Sizes of causes (n, p), and the rest in sigmas, by Huber's regression (Robust Statistics, 1981, ch. 7)."""
        loss = self.loss_um / self.sigma_um
        rest, none = loss, _NOTHING * np.eye(causes.shape[1])
        for _ in range(_ROUNDS):
            weighted = causes.T * np.minimum(1.0, _HUBER / np.maximum(np.abs(rest), _NOTHING))
            sizes = np.asarray(np.linalg.solve(weighted @ causes + none, weighted @ loss))
            rest = loss - causes @ sizes
        return sizes, rest


def _loss_um(passage: Passage) -> float:
    return math.copysign(1.0, passage.commanded_um) * (passage.commanded_um - passage.seen_um)


def _cost(errors: Floats) -> Floats:
    """Huber's loss of errors in sigmas."""
    size = np.abs(errors)
    return np.where(size <= _HUBER, 0.5 * size**2, _HUBER * (size - 0.5 * _HUBER))


def _claim(losses: _Losses, before: float) -> float:
    """Real errors over claimed ones, root mean square; a few moves change little, and so does a wild one."""
    squares = np.minimum(np.abs(losses.errors()), _CLIP) ** 2
    return math.sqrt((_PRIOR * before**2 + squares.sum()) / (_PRIOR + max(len(squares) - 2, 0)))


def paired(first_values: NDArray[np.floating], again_values: NDArray[np.floating]) -> tuple[float, float]:
    """How much defocus changed between two looks at the same place, um, and one sigma of that.

    Args:
        first_values: (N,) the patches' answers in the first look, NaN where not asked.
        again_values: (N,) in the second.

    The median of the differences and its standard error, 1.25 robust standard deviations over the root of the number
    of patches. An error that all patches of a look share (vibration, drift) is not in it. NaN and infinity where
    fewer than two patches were asked both times.
    """
    both = np.isfinite(first_values) & np.isfinite(again_values)
    count = int(both.sum())
    if count < 2:
        return math.nan, math.inf
    apart_um = np.asarray(again_values[both], float) - np.asarray(first_values[both], float)
    middle_um = float(np.median(apart_um))
    spread_um = 1.4826 * float(np.median(np.abs(apart_um - middle_um))) * count / (count - 0.8)
    return middle_um, 1.2533 * spread_um / math.sqrt(count)
