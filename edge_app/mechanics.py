"""Mechanics: what a reversing scan, with the signed estimate as its ruler, finds out about motor and screw.

Pure: readings go in, motor targets come out. Small moves find which way the motor turns; then the stage goes up and
down through focus. Both branches are compared at the same defocus, so what the ruler gets wrong there cancels in the
backlash. It does not cancel in um per step: see `Mechanics`.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SCALE_DOUBT = 1.3
_SURE, _LOOKS_AT_REST, _AGREEING, _REFUSALS = 4.0, 5, 3, 2
_SPARE_UM, _CREEP_UM, _LARGEST_CREEP_UM, _GROWTH = 4.0, 0.3, 2.0, 1.5
_REFUSED_SHARE = 0.2
_PART_OF_RANGE, _MOST_DEPTHS, _FEWEST_DEPTHS, _POINTS, _SCANS = 0.5, 10.0, 4.0, 10, 3
_ENOUGH_UM, _NOISY = 0.05, 0.05
_PLAYS, _SOFT_UM, _ROUNDS, _TAIL = 56, 0.05, 6, 4.0
_LENGTHS_IN_DEPTHS = np.array([1.0, 1.7, 3.0])
_BIAS_OVER_NOISE = np.array([0.3, 1.0, 2.0, 4.0, 8.0, 16.0])
_DRAWS, _INTERVAL = 4000, (0.025, 0.975)
_SCATTERED = "the estimates do not follow the motor; find a place with more specimen, and check the coupling"


@dataclass(frozen=True)
class Reading:
    """One look: where the motor was, when, and the defocus seen there; `patches` (N,) um, NaN where not asked."""

    motor_steps: int
    time_s: float
    defocus_um: float
    sigma_um: float
    patches: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class GoTo:
    """Turn the motor to there, counted from where the first reading was taken, and look again."""

    motor_steps: int
    why: str


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
class Inconclusive:
    """The scan found no answer; the sentence says why and what to check."""

    sentence: str
    readings: int


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


class _NoAnswer(Exception):
    """Ends a scan; becomes `Inconclusive`."""


def scan(first: Reading, ground: ScanGround) -> Generator[GoTo, Reading | None, Mechanics | Inconclusive]:
    """Find direction, backlash and um per step.

    Send None for a look that was refused; two in a row are survived, and a fifth of all. The `first` look starts the
    scan, away from the ends of the ruler's range. The stage is left where the last one was taken.
    """
    walk = _Walk(first, ground)
    try:
        yield from _rest(walk)
        yield from _engage(walk)
        return (yield from _measure(walk))
    except _NoAnswer as why:
        return Inconclusive(str(why), len(walk.read))
    except np.linalg.LinAlgError:
        return Inconclusive(_SCATTERED, len(walk.read))


class _Walk:
    """Where the motor was and what was read there; from index `taut_at` on, turning by `turn`, the screw is taut."""

    def __init__(self, first: Reading, ground: ScanGround) -> None:
        self.ground = ground
        self._start = first.motor_steps
        self.at = [0]
        self.read: list[Reading | None] = [first]
        self.taut_at = self.turn = self.direction = 0

    @property
    def seen(self) -> list[Reading]:
        """The looks that were not refused."""
        return [reading for reading in self.read if reading is not None]

    def steps(self, distance_um: float) -> int:
        """Motor steps for a distance by the board file, at least one."""
        return max(1, round(distance_um / self.ground.um_per_step))

    def within(self, motor_steps: float) -> int:
        """The nearest step that lies in the window whatever the true scale."""
        longest_um = SCALE_DOUBT * self.ground.um_per_step
        low, high = -math.floor(self.ground.back_um / longest_um), math.floor(self.ground.ahead_um / longest_um)
        return min(max(round(motor_steps), low), high)

    def go(self, motor_steps: float, why: str) -> Generator[GoTo, Reading | None, Reading | None]:
        """Look somewhere else; ends the scan if too many looks were refused."""
        target = self.within(motor_steps)
        reading = yield GoTo(target, why)
        self.at.append(target if reading is None else reading.motor_steps - self._start)
        self.read.append(reading)
        refused = len(self.read) - len(self.seen)
        in_a_row = not any(self.read[-_REFUSALS - 1 :])
        if in_a_row or refused > max(_REFUSALS, _REFUSED_SHARE * len(self.read)):
            raise _NoAnswer("too many looks gave no estimate; start near focus, on a place with plenty of specimen")
        return reading

    def changes(self) -> list[int]:
        """Whether each of the last two looks lies surely above (1) or below (-1) those before; a refused one is 0."""
        rest_um = float(np.median([reading.defocus_um for reading in self.read[:-2] if reading is not None]))
        sure_um = _SURE * math.sqrt(2) * self.seen[0].sigma_um
        late_um = [rest_um if reading is None else reading.defocus_um for reading in self.read[-2:]]
        return [int(np.sign(value - rest_um)) if abs(value - rest_um) > sure_um else 0 for value in late_um]


Looking = Generator[GoTo, Reading | None, None]


def _rest(walk: _Walk) -> Looking:
    """Look at the start until enough looks agree: whatever moves later is compared with these."""
    for _ in range(_LOOKS_AT_REST - 1):
        yield from walk.go(0, "the same place again")
        values = np.array([reading.defocus_um for reading in walk.seen])
        if (np.abs(values - np.median(values)) <= _SURE * walk.seen[0].sigma_um).sum() >= _AGREEING:
            return
    raise _NoAnswer(f"looks at the same place differ by {np.ptp(values):.1f} um; find more specimen, check the lamp")


def _engage(walk: _Walk) -> Looking:
    """Creep one way until the estimate changes, and if it does not the other way: the direction, and a taut screw."""
    turn = 1 if walk.ground.ahead_um >= min(walk.ground.back_um, walk.ground.greatest_backlash_um) else -1
    for way in (turn, -turn):
        yield from _creep(walk, way)
        if walk.direction:
            return
    raise _NoAnswer(
        f"the motor was turned {np.ptp(walk.at) * walk.ground.um_per_step:.1f} um and nothing moved; check that it is "
        "connected, that its driver has power, that the coupling is tight, and that there is room to move"
    )


def _creep(walk: _Walk, turn: int) -> Looking:
    """Growing moves one way, and a least one as soon as there is a change: two looks that show it make it sure."""
    sigma_um = walk.seen[0].sigma_um
    least_um = size_um = max(_CREEP_UM, 2 * sigma_um)
    reach = walk.within(turn * walk.steps(walk.ground.greatest_backlash_um + max(_SPARE_UM, 2 * _SURE * sigma_um)))
    while walk.at[-1] != reach:
        ahead = min(walk.steps(size_um), abs(reach - walk.at[-1]))
        yield from walk.go(walk.at[-1] + turn * ahead, "a small move tells the direction")
        before, now = walk.changes()
        if now and now == before:
            walk.direction, walk.turn, walk.taut_at = now * turn, turn, len(walk.at) - 1
            return
        size_um = least_um if now else min(_GROWTH * size_um, max(_LARGEST_CREEP_UM, 2 * least_um))


def _measure(walk: _Walk) -> Generator[GoTo, Reading | None, Mechanics]:
    """Up and down: the first scan feels its way, the others know where to look.

    Only a wide interval of the backlash asks for more scans: um per step is limited by the ruler, which they share.
    """
    side = walk.turn * walk.direction
    half_um = min(_PART_OF_RANGE * walk.ground.range_um, _MOST_DEPTHS * walk.ground.depth_of_field_um)
    for way in (side, -side, side):
        yield from _feel(walk, way, half_um)
    targets = _targets(_History.of(walk), half_um, side, walk.direction)
    for number in range(2, max(_SCANS, walk.ground.most_scans) + 1):
        for target in targets:
            yield from walk.go(target, f"scan {number}")
        if number >= _SCANS:
            found = _conclude(walk, number)
            if np.ptp(found.backlash_ci_um) <= 2 * (_ENOUGH_UM + 0.01 * found.backlash_um):
                break
    return found


def _feel(walk: _Walk, way: int, half_um: float) -> Looking:
    """One pass, towards larger defocus where `way` is 1, until `half_um` from focus or the window's end."""
    turn, step_um = way * walk.direction, 2 * half_um / _POINTS
    start_um = here_um = walk.seen[-1].defocus_um
    slack_um = _SURE * walk.seen[-1].sigma_um
    looks = (half_um - way * start_um + walk.ground.greatest_backlash_um) * SCALE_DOUBT / step_um + 4
    while way * here_um < half_um - step_um / 2:
        target = walk.within(walk.at[-1] + turn * walk.steps(step_um))
        if target == walk.at[-1]:
            return
        reading = yield from walk.go(target, "through focus " + ("upwards" if way > 0 else "downwards"))
        looks -= 1
        if looks < 0:
            raise _NoAnswer(
                f"the estimate changed by {way * (here_um - start_um):.1f} um, far less than the motor turned; check "
                f"the coupling, um per step, and whether the play exceeds {walk.ground.greatest_backlash_um:g} um"
            )
        if reading is not None:
            gain_um = way * (reading.defocus_um - here_um)
            here_um += way * min(max(gain_um, -slack_um), _GROWTH * step_um + slack_um)


@dataclass(frozen=True)
class _History:
    """All motor positions (M,) since the screw was taut, turning by `turn`; `seen` (n,) are those with a reading."""

    steps: Floats
    turn: int
    seen: NDArray[np.intp]
    minutes: Floats
    defocus_um: Floats
    ground: ScanGround

    @classmethod
    def of(cls, walk: _Walk) -> _History:
        read, steps = walk.read[walk.taut_at :], np.array(walk.at[walk.taut_at :], float)
        seen = np.flatnonzero([reading is not None for reading in read])
        time_s, values = np.array([(one.time_s, one.defocus_um) for one in read if one is not None]).T
        return cls(steps, walk.turn, seen, (time_s - time_s.mean()) / 60.0, values, walk.ground)

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


def _targets(history: _History, half_um: float, side: int, direction: int) -> list[float]:
    """Motor steps of one scan that put both branches at the same defocus; the stage is now at its `side` end."""
    play, slope_um, offset_um, _ = history.rough()
    seen_um = np.sort(history.defocus_um)
    low_um, high_um = max(-half_um, float(seen_um[1])), min(half_um, float(seen_um[-2]))
    least_um = _FEWEST_DEPTHS * history.ground.depth_of_field_um
    if high_um - low_um < least_um:
        room = f"there was room to see {high_um - low_um:.1f} um of travel, and {least_um:.1f} um are needed"
        raise _NoAnswer(f"{room}; start nearer focus, or allow more travel")
    places, half_play = (np.linspace(low_um, high_um, _POINTS) - offset_um) / slope_um, direction * max(play, 0.0) / 2
    return [float(place + way * half_play) for way in (-side, side) for place in places[::way][1:]]


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


def _fit(history: _History) -> tuple[float, _Posterior]:
    """The play in steps and the posterior about it: Gauss-Newton in the play, outliers trusted less each round."""
    play, slope, offset_um, errors_um = history.rough()
    trust = _trust(errors_um, 1.4826 * float(np.median(np.abs(errors_um))) + 1e-6)
    places_um = slope * history.carriage(np.array([play]))[0] + offset_um
    for _ in range(_ROUNDS):
        if abs(slope) < 0.1 * history.ground.um_per_step or abs(play) > 0.8 * np.ptp(history.steps):
            raise _NoAnswer(_SCATTERED)
        nudge = 0.01 / abs(slope)
        less, at, more = history.carriage(play + np.array([-nudge, 0.0, nudge]))
        columns = np.column_stack([at, np.ones_like(at), history.minutes, slope * (more - less) / (2 * nudge)])
        found = _regress(columns, history.defocus_um, places_um, trust, history.ground.depth_of_field_um)
        mean = found.shares @ found.means
        places_um, slope, before = columns @ mean, float(mean[0]), play
        trust = _trust(found.errors_um, found.noise_um)
        play += float(mean[3])
    return before, found


def _conclude(walk: _Walk, scans: int) -> Mechanics:
    """Intervals from draws of the posterior, the ruler's own scale included."""
    history, ground, rng = _History.of(walk), walk.ground, np.random.default_rng(0)
    play, found = _fit(history)
    kinds = rng.choice(len(found.shares), _DRAWS, p=found.shares)
    spread = np.linalg.cholesky(found.covariances)[kinds] @ rng.normal(size=(_DRAWS, 4, 1))
    draws = found.means[kinds] + spread[..., 0]
    steps_um = draws[:, 0] * walk.direction * (1.0 + ground.ruler_share * rng.normal(size=_DRAWS))
    plays_um = (play + draws[:, 3]) * steps_um
    low, high = (float(end) for end in np.quantile(steps_um, _INTERVAL))
    if low <= 0 or high - low > 0.5 * low or found.noise_um > _NOISY * np.ptp(history.defocus_um):
        raise _NoAnswer(_SCATTERED)
    least_um, most_um = (max(float(end), 0.0) for end in np.quantile(plays_um, _INTERVAL))
    if least_um < ground.um_per_step:  # less play than one step cannot be told from none
        least_um = 0.0
    step_um, play_um = float(steps_um.mean()), max(float(plays_um.mean()), 0.0)
    sentence = (
        f"positive steps move the objective {'away from' if walk.direction > 0 else 'towards'} the specimen; backlash "
        f"{play_um:.2f} um ({least_um:.2f} to {most_um:.2f}); {step_um:.5f} um per step ({low:.5f} to {high:.5f})"
    )
    if not 1 / SCALE_DOUBT < step_um / ground.um_per_step < SCALE_DOUBT:
        sentence += f", far from the board file's {ground.um_per_step:g}: check that, and the coupling for slip"
    plays, sizes = (play_um, (least_um, most_um)), (step_um, (low, high))
    return Mechanics(walk.direction, *plays, *sizes, scans, len(walk.read), found.noise_um, sentence)
