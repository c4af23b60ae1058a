"""Scan: where the motor is to go and look, so that its direction, its backlash and its step can be told.

Pure: readings go in, motor targets come out. Small moves find which way the motor turns; then the stage goes up and
down through focus.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass

import numpy as np

from edge_app.mechanics import SCALE_DOUBT, SCATTERED, History, Mechanics, NoAnswer, Reading, ScanGround, conclude

_SURE, _LOOKS_AT_REST, _AGREEING, _REFUSALS = 4.0, 5, 3, 2
_REFUSED_SHARE = 0.2
_SPARE_UM, _CREEP_UM, _LARGEST_CREEP_UM, _GROWTH = 4.0, 0.3, 2.0, 1.5
# Beyond half of its range a model's answers shrink towards focus.
_PART_OF_RANGE, _MOST_DEPTHS, _FEWEST_DEPTHS = 0.5, 10.0, 4.0
_POINTS, _SCANS, _ENOUGH_UM = 10, 3, 0.05


@dataclass(frozen=True)
class GoTo:
    """Turn the motor to there, counted from where the first reading was taken, and look again."""

    motor_steps: int
    why: str


@dataclass(frozen=True)
class Inconclusive:
    """The scan found no answer; the sentence says why and what to check."""

    sentence: str
    readings: int


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
    except NoAnswer as why:
        return Inconclusive(str(why), len(walk.read))
    except np.linalg.LinAlgError:
        return Inconclusive(SCATTERED, len(walk.read))


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

    def history(self) -> History:
        """What has been read since the screw is taut."""
        since = self.taut_at
        return History.of(self.at[since:], self.read[since:], self.turn, self.direction, self.ground)

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
            raise NoAnswer("too many looks gave no estimate; start near focus, on a place with plenty of specimen")
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
    raise NoAnswer(f"looks at the same place differ by {np.ptp(values):.1f} um; find more specimen, check the lamp")


def _engage(walk: _Walk) -> Looking:
    """Creep one way until the estimate changes, and if it does not the other way: the direction, and a taut screw."""
    turn = 1 if walk.ground.ahead_um >= min(walk.ground.back_um, walk.ground.greatest_backlash_um) else -1
    for way in (turn, -turn):
        yield from _creep(walk, way)
        if walk.direction:
            return
    raise NoAnswer(
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
    targets = _targets(walk.history(), half_um, side)
    for number in range(2, max(_SCANS, walk.ground.most_scans) + 1):
        for target in targets:
            yield from walk.go(target, f"scan {number}")
        if number >= _SCANS:
            found = conclude(walk.history(), number, len(walk.read))
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
            raise NoAnswer(
                f"the estimate changed by {way * (here_um - start_um):.1f} um, far less than the motor turned; check "
                f"the coupling, um per step, and whether the play exceeds {walk.ground.greatest_backlash_um:g} um"
            )
        if reading is not None:
            gain_um = way * (reading.defocus_um - here_um)
            here_um += way * min(max(gain_um, -slack_um), _GROWTH * step_um + slack_um)


def _targets(history: History, half_um: float, side: int) -> list[float]:
    """Motor steps of one scan that put both branches at the same defocus; the stage is now at its `side` end."""
    play, slope_um, offset_um, _ = history.rough()
    seen_um = np.sort(history.defocus_um)
    low_um, high_um = max(-half_um, float(seen_um[1])), min(half_um, float(seen_um[-2]))
    least_um = _FEWEST_DEPTHS * history.ground.depth_of_field_um
    if high_um - low_um < least_um:
        room = f"there was room to see {high_um - low_um:.1f} um of travel, and {least_um:.1f} um are needed"
        raise NoAnswer(f"{room}; start nearer focus, or allow more travel")
    places, half_play = (
        (np.linspace(low_um, high_um, _POINTS) - offset_um) / slope_um,
        history.direction * max(play, 0.0) / 2,
    )
    return [float(place + way * half_play) for way in (-side, side) for place in places[::way][1:]]
