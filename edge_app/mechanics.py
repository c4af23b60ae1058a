"""Mechanics: what readings of a signed ruler say about motor and screw, with intervals.

The two branches of a reversing scan are compared at the same defocus, so what the ruler gets wrong there cancels in
the backlash. It does not cancel in um per step: see `Mechanics`. `edge_app/scan.py` takes the readings.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SCALE_DOUBT = 1.3
SCATTERED = "the estimates do not follow the motor; find a place with more specimen, and check the coupling"
_NOISY = 0.05
_PLAYS, _SOFT_UM, _ROUNDS, _TAIL = 56, 0.05, 6, 4.0
_LENGTHS_IN_DEPTHS = np.array([1.0, 1.7, 3.0])
_BIAS_OVER_NOISE = np.array([0.3, 1.0, 2.0, 4.0, 8.0, 16.0])
_DRAWS, _INTERVAL = 4000, (0.025, 0.975)


class NoAnswer(Exception):
    """The readings have no answer; the sentence says why and what to check."""


@dataclass(frozen=True)
class Reading:
    """One look: where the motor was, when, and the defocus seen there; `patches` (N,) um, NaN where not asked."""

    motor_steps: int
    time_s: float
    defocus_um: float
    sigma_um: float
    patches: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class ScanGround:
    """What a scan may know and do; lengths in um.

    `um_per_step` is the board file's and may be wrong by 30 %. `back_um` and `ahead_um` (both positive) are how far
    the motor may run backwards and forwards from the start; they are kept even if a step is 30 % longer than the
    board file says. The ruler reads to +-`range_um`. `ruler_share` is one standard deviation of the ruler's own
    scale, relative. The default stands for optics as the model was trained for; an aperture declared 1 % wrong makes
    it 0.02, for blur grows with NA^2 (`firmware.optics`).
    """

    um_per_step: float
    back_um: float
    ahead_um: float
    depth_of_field_um: float
    range_um: float
    greatest_backlash_um: float = 8.0
    ruler_share: float = 0.005
    most_scans: int = 6


@dataclass(frozen=True)
class Mechanics:
    """How motor and screw move the objective; intervals are of 95 %.

    `direction` is +1 where positive steps move the objective away from the specimen. `backlash_um` is the travel that
    a reversal loses; it shares the relative error of `um_per_step`, which is as good as the ruler: a bias that varies
    smoothly through focus looks just like another step size, and no number of looks at one specimen tells them apart
    (other fields do). Nor is a coupling that slips steadily told from a finer screw. `residual_um` is a look's noise.
    """

    direction: int
    backlash_um: float
    backlash_ci_um: tuple[float, float]
    um_per_step: float
    um_per_step_ci: tuple[float, float]
    scans: int
    readings: int
    residual_um: float
    sentence: str


@dataclass(frozen=True)
class History:
    """All motor positions (M,) since the screw was taut, turning by `turn`; `seen` (n,) are those with a reading.

    `direction` is what small moves found out: +1 where positive steps move the objective away from the specimen.
    """

    steps: Floats
    turn: int
    direction: int
    seen: NDArray[np.intp]
    minutes: Floats
    defocus_um: Floats
    ground: ScanGround

    @classmethod
    def of(cls, at: list[int], read: list[Reading | None], turn: int, direction: int, ground: ScanGround) -> History:
        """Motor positions and what was read at each, None where a look was refused."""
        seen = np.flatnonzero([reading is not None for reading in read])
        time_s, values = np.array([(one.time_s, one.defocus_um) for one in read if one is not None]).T
        return cls(np.array(at, float), turn, direction, seen, (time_s - time_s.mean()) / 60.0, values, ground)

    def carriage(self, plays: Floats) -> Floats:
        """Where the carriage stood at each reading for each of B plays, all in steps: (B, n).

        The play operator (Krasnosel'skii and Pokrovskii, Systems with Hysteresis, 1989, section 2). A negative play
        is its mirror image, so that a screw without play is not an end of the scale.
        """
        half = np.abs(plays) / 2
        now = self.steps[0] - self.turn * half
        path = np.empty((len(self.steps), len(plays)))
        for place, step in enumerate(self.steps):
            path[place] = now = np.clip(now, step - half, step + half)
        mirrored = self.steps[:, None] + np.where(plays < 0, -1.0, 1.0) * (path - self.steps[:, None])
        return np.ascontiguousarray(mirrored[self.seen].T)

    def rough(self) -> tuple[float, float, float, Floats]:
        """The play, in steps, and line with the least absolute error.

        Returns:
            Play; um per signed step; defocus now with the carriage at 0, um; each reading's error, (n,) um.
        """
        most = SCALE_DOUBT * self.ground.greatest_backlash_um / self.ground.um_per_step
        plays, scale = np.linspace(-0.1 * most, most, _PLAYS), np.ptp(self.steps)
        columns = np.stack(np.broadcast_arrays(self.carriage(plays) / scale, 1.0, self.minutes), axis=2)
        weights = np.ones(columns.shape[:2])
        for _ in range(_ROUNDS):
            normal = np.einsum("bni,bn,bnj->bij", columns, weights, columns) + 1e-9 * np.eye(3)
            right = np.einsum("bni,bn,n->bi", columns, weights, self.defocus_um)
            line = np.linalg.solve(normal, right[..., None])[..., 0]
            errors_um = self.defocus_um - np.einsum("bni,bi->bn", columns, line)
            weights = 1.0 / np.maximum(np.abs(errors_um), _SOFT_UM)
        best = int(np.argmin(np.abs(errors_um).sum(axis=1)))
        slope, level, drift = line[best]
        return float(plays[best]), float(slope / scale), float(level + drift * self.minutes[-1]), errors_um[best]


@dataclass(frozen=True)
class _Posterior:
    """What is believed of (um per step, offset, drift, change of play in steps), over H kinds of ruler bias.

    `means` (H, 4), `covariances` (H, 4, 4), `shares` (H,); of the likeliest kind a look's noise, and each look's (n,).
    """

    means: Floats
    covariances: Floats
    shares: Floats
    noise_um: float
    errors_um: Floats


def _regress(columns: Floats, values: Floats, places_um: Floats, trust: Floats, depth_um: float) -> _Posterior:
    """Generalised least squares of `values` (n,) um on `columns` (n, 4), readings weighing `trust` (n,).

    The ruler's bias is a Gaussian process over the defocus `places_um` (n,), its size and length (in units of
    `depth_um`) unknown: every kind counts by its restricted likelihood, the noise being integrated out (Rasmussen
    and Williams, Gaussian Processes for Machine Learning, 2006, sections 2.7 and 5.4).
    """
    apart = (places_um[:, None] - places_um) / depth_um
    kernels = np.exp(-0.5 * (apart / _LENGTHS_IN_DEPTHS[:, None, None]) ** 2)
    biases = (_BIAS_OVER_NOISE[:, None, None, None] ** 2 * kernels).reshape(-1, *apart.shape)
    roots = np.linalg.cholesky(biases + np.diag(1.0 / trust))
    whole = np.linalg.solve(roots, np.column_stack([columns, values]))
    white, aim = whole[..., :-1], whole[..., -1:]
    inverse = np.linalg.inv(white.swapaxes(1, 2) @ white)
    means = inverse @ white.swapaxes(1, 2) @ aim
    rest = aim - white @ means
    spare = len(values) - columns.shape[1]
    squares = np.square(rest).sum(axis=(1, 2))
    sizes = np.log(np.diagonal(roots, axis1=1, axis2=2)).sum(axis=1) - 0.5 * np.linalg.slogdet(inverse)[1]
    chances = -sizes - 0.5 * spare * np.log(squares / squares.min())
    shares = np.exp(chances - chances.max())
    best = int(np.argmax(shares))
    errors_um = np.linalg.solve(roots[best].T, rest[best, :, 0]) / trust
    covariances = inverse * (squares / spare)[:, None, None]
    return _Posterior(means[..., 0], covariances, shares / shares.sum(), (squares[best] / spare) ** 0.5, errors_um)


def _trust(errors_um: Floats, noise_um: float) -> Floats:
    """Weights of readings whose errors have Student's t distribution (Lange, Little and Taylor, JASA 84, 1989)."""
    return np.asarray((_TAIL + 1) / (_TAIL + (errors_um / noise_um) ** 2))


def _fit(history: History) -> tuple[float, _Posterior]:
    """The play in steps and the posterior about it: Gauss-Newton in the play, outliers trusted less each round."""
    play, slope, offset_um, errors_um = history.rough()
    trust = _trust(errors_um, 1.4826 * float(np.median(np.abs(errors_um))) + 1e-6)
    places_um = slope * history.carriage(np.array([play]))[0] + offset_um
    for _ in range(_ROUNDS):
        if abs(slope) < 0.1 * history.ground.um_per_step or abs(play) > 0.8 * np.ptp(history.steps):
            raise NoAnswer(SCATTERED)
        nudge = 0.01 / abs(slope)
        less, at, more = history.carriage(play + np.array([-nudge, 0.0, nudge]))
        columns = np.column_stack([at, np.ones_like(at), history.minutes, slope * (more - less) / (2 * nudge)])
        found = _regress(columns, history.defocus_um, places_um, trust, history.ground.depth_of_field_um)
        mean = found.shares @ found.means
        places_um, slope, before = columns @ mean, float(mean[0]), play
        trust = _trust(found.errors_um, found.noise_um)
        play += float(mean[3])
    return before, found


def conclude(history: History, scans: int, readings: int) -> Mechanics:
    """Direction, play and step with their intervals, from draws of the posterior, the ruler's own scale included.

    Raises:
        NoAnswer: The readings do not follow the motor.
    """
    ground, rng = history.ground, np.random.default_rng(0)
    play, found = _fit(history)
    kinds = rng.choice(len(found.shares), _DRAWS, p=found.shares)
    spread = np.linalg.cholesky(found.covariances)[kinds] @ rng.normal(size=(_DRAWS, 4, 1))
    draws = found.means[kinds] + spread[..., 0]
    steps_um = draws[:, 0] * history.direction * (1.0 + ground.ruler_share * rng.normal(size=_DRAWS))
    plays_um = (play + draws[:, 3]) * steps_um
    low, high = (float(end) for end in np.quantile(steps_um, _INTERVAL))
    if low <= 0 or high - low > 0.5 * low or found.noise_um > _NOISY * np.ptp(history.defocus_um):
        raise NoAnswer(SCATTERED)
    least_um, most_um = (max(float(end), 0.0) for end in np.quantile(plays_um, _INTERVAL))
    if least_um < ground.um_per_step:  # less play than one step cannot be told from none
        least_um = 0.0
    step_um, play_um = float(steps_um.mean()), max(float(plays_um.mean()), 0.0)
    way = "away from" if history.direction > 0 else "towards"
    sentence = (
        f"positive steps move the objective {way} the specimen; backlash {play_um:.2f} um "
        f"({least_um:.2f} to {most_um:.2f}); {step_um:.5f} um per step ({low:.5f} to {high:.5f})"
    )
    if not 1 / SCALE_DOUBT < step_um / ground.um_per_step < SCALE_DOUBT:
        sentence += f", far from the board file's {ground.um_per_step:g}: check that, and the coupling for slip"
    plays, sizes = (play_um, (least_um, most_um)), (step_um, (low, high))
    return Mechanics(history.direction, *plays, *sizes, scans, readings, found.noise_um, sentence)
