"""The mechanics on the simulated board with the factory bundle: calibrations over seeds, and a thousand watched moves.

`mechanics_trial.py calibrate SEEDS`, `watch MOVES`, `losses MOVES` and `slip FIELDS` print a line for each step, and
fail where a bound is missed. Frames are rendered whole, so that a calibration takes a minute and a move a second; all
four are `make test-mechanics`.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from edge_app.calibration import calibrate_mechanics
from edge_app.controller import Controller
from edge_app.job import Look
from edge_app.model import Model, ModelSource
from edge_app.passages import passage_of, returned_by
from edge_app.watch import Finding, Kind, MoveWatch, Suspicion
from firmware.clock import ManualClock
from firmware.microscope import Microscope, open_microscope, with_simulation
from firmware.profile import load_profile

BOARD = "simulated"
BACKLASH_UM, SCALE = 0.1, 0.01
REACH_UM, FIELD_MOVES = 8.0, 50
LOST_UM = (0.5, 1.5)
SLIP, SLIP_MOVES = 0.97, 20


def board(seed: int, **flaws: object) -> Microscope:
    """The board over a field of tissue, its zero set there."""
    profile = with_simulation(load_profile(BOARD), seed=seed, **flaws)
    window = profile.axis.model_copy(update={"homing": "window", "home_at_start": False})
    microscope = open_microscope(profile.model_copy(update={"axis": window}), ManualClock())
    world = microscope.world
    assert world is not None
    world.load_field(next(number for number in range(100) if world.kind_of(number) == "tissue"))
    microscope.axis.set_zero()
    return microscope


def ruler(microscope: Microscope) -> Model:
    """The factory bundle for the board."""
    return ModelSource("factory", "", 1).model_for(microscope.optics)


def stand(microscope: Microscope, defocus_um: float) -> None:
    """Put the stage there by hand."""
    world = microscope.world
    assert world is not None
    world.stage.carriage_um += defocus_um - world.truth_um()
    world.stage.motor_um = world.stage.carriage_um


def calibrations(seeds: int) -> Iterator[dict[str, object]]:
    """One calibration a seed: backlash 0 to 6 um (none for every fifth), step 10 % off, either direction."""
    for seed in range(seeds):
        rng = np.random.default_rng([77, seed])
        backlash_um = float(rng.uniform(0, 6)) if seed % 5 else 0.0
        scale, direction = 1 + float(rng.uniform(-0.1, 0.1)), int(rng.choice([1, -1]))
        flaws = {"backlash_um": backlash_um, "scale_error": scale - 1, "motor_direction": direction}
        microscope = board(seed, **flaws)
        stand(microscope, float(rng.uniform(-3, 3)))
        done = calibrate_mechanics(Controller(microscope, ruler(microscope)), False, lambda *_: None)
        row: dict[str, object] = {"seed": seed, "backlash_um": backlash_um, "sentence": done.sentence}
        if done.record is not None:
            found, step_um = done.record, 0.05 * scale
            row |= {
                "direction_right": found.direction == direction,
                "backlash_error_um": found.backlash_um - backlash_um,
                "scale_error": found.um_per_step / step_um - 1,
                "covered": [
                    found.backlash_ci_um[0] <= backlash_um <= found.backlash_ci_um[1],
                    found.um_per_step_ci[0] <= step_um <= found.um_per_step_ci[1],
                ],
                "readings": found.readings,
            }
        yield row


def within(row: dict[str, object]) -> bool:
    """Whether a calibration is as good as it must be."""
    return (
        row.get("direction_right") is True
        and abs(float(str(row["backlash_error_um"]))) <= BACKLASH_UM
        and abs(float(str(row["scale_error"]))) <= SCALE
    )


@dataclass
class Tally:
    """What a watch said of moves: of sound ones, and of those that lost max(0.5 um, 4 sigma) or more."""

    sound: int = 0
    suspected: int = 0
    false_alarms: int = 0
    lossy: int = 0
    lossy_found: int = 0
    sigma_um: list[float] = field(default_factory=list)
    error_um: list[float] = field(default_factory=list)


class Walk:
    """Random moves within 8 um of focus, some of them losing steps, each watched as a job watches its own."""

    def __init__(self, seed: int, loss_share: float) -> None:
        self.rng = np.random.default_rng([5, seed])
        self.loss_share = loss_share
        self.watch = MoveWatch()
        self.tally = Tally()
        self.last_um = 0.0
        self.found: list[Finding] = []
        self.model: Model | None = None

    def field(self, number: int) -> None:
        """Fifty moves in one field."""
        self.microscope = board(1000 + number, drift_um_per_min=0.5)
        self.model = self.model or ruler(self.microscope)
        self.controller = Controller(self.microscope, self.model)
        stand(self.microscope, 0.0)
        look = self.settled()
        for _ in range(FIELD_MOVES):
            look = self.move(look)

    def slip(self, number: int) -> int:
        """Moves with a coupling that slips, until the watch says so; 0 if it never does."""
        self.microscope = board(3000 + number)
        self.model = self.model or ruler(self.microscope)
        self.controller = Controller(self.microscope, self.model)
        stand(self.microscope, 0.0)
        world = self.microscope.world
        assert world is not None
        turn = world.stage.turn
        world.stage.turn = lambda distance_um, stops=True: turn(SLIP * distance_um, stops)  # type: ignore[method-assign]
        look, self.found = self.settled(), []
        for done in range(1, SLIP_MOVES + 1):
            look = self.move(look)
            if any(found.kind is Kind.SLIPPING for found in self.found):
                return done
        return 0

    def move(self, before: Look) -> Look:
        """One move, watched; gives the look that the next begins from."""
        axis, world = self.microscope.axis, self.microscope.world
        assert world is not None
        lost_um = float(self.rng.uniform(*LOST_UM)) if self.rng.uniform() < self.loss_share else 0.0
        losses = iter([lost_um])
        world.stage.slip = lambda: next(losses, 0.0)  # type: ignore[method-assign]
        move = axis.move_to(float(self.rng.uniform(-REACH_UM, REACH_UM)))
        after = self.controller.look()
        passage = passage_of(before.seen, move, after.seen, self.last_um)
        self.last_um = move.to_um - move.from_um
        if passage is None:
            return after
        noted = self.watch.note(passage)
        found: Finding | None = noted if isinstance(noted, Finding) else None
        if isinstance(noted, Suspicion):
            axis.move_to(move.from_um)
            apart = returned_by(before.seen, self.controller.look().seen)
            found = self.watch.confirm(noted, *apart) if apart is not None else None
            axis.move_to(move.to_um)
            after = self.controller.look()
        self.count(passage.sigma_um, passage.seen_um - passage.commanded_um, lost_um, noted, found)
        if lost_um:
            world.stage.motor_um = world.stage.carriage_um = axis.z_um
            after = self.settled()
        return after

    def settled(self) -> Look:
        """A look after a move that takes the play out, as a job begins."""
        self.microscope.axis.move_by(1.0)
        self.last_um = 1.0
        return self.controller.look()

    def count(self, sigma_um: float, error_um: float, lost_um: float, noted: object, found: Finding | None) -> None:
        """Book one move."""
        tally = self.tally
        self.found += [found] if found is not None else []
        if lost_um >= max(0.5, 4 * sigma_um):
            tally.lossy += 1
            tally.lossy_found += found is not None
        elif not lost_um:
            tally.sound += 1
            tally.suspected += noted is not None
            tally.false_alarms += found is not None
            tally.sigma_um.append(sigma_um)
            tally.error_um.append(error_um)


def slipping(fields: int) -> bool:
    """A coupling that loses 3 % of every way, field by field: after how many of 20 moves it is found."""
    after: list[int] = []
    walk = Walk(2, 0.0)
    for number in range(fields):
        walk.watch = MoveWatch()
        after.append(walk.slip(number))
        say({"field": number, "found_after_moves": after[-1]})
    return all(0 < moves <= SLIP_MOVES for moves in after)


def say(result: object) -> None:
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()


def calibrate(seeds: int) -> bool:
    rows = []
    for row in calibrations(seeds):
        rows.append(row | {"within": within(row)})
        say(rows[-1])
    good = sum(bool(row["within"]) for row in rows)
    say({"calibrations": seeds, "within_bounds": good})
    return good == seeds


def watched(moves: int, loss_share: float) -> bool:
    walk = Walk(1, loss_share)
    for number in range(math.ceil(moves / FIELD_MOVES)):
        walk.field(number)
        tally = walk.tally
        figures = {name: value for name, value in vars(tally).items() if not isinstance(value, list)}
        sigma, error = float(np.median(tally.sigma_um)), float(np.std(tally.error_um))
        say(figures | {"median_sigma_um": sigma, "error_um": error})
    found = tally.lossy_found >= 0.95 * tally.lossy
    return found and tally.false_alarms <= max(1, tally.sound / 1000)


def main() -> int:
    what, number = sys.argv[1], int(sys.argv[2])
    if what == "calibrate":
        return 0 if calibrate(number) else 1
    if what == "slip":
        return 0 if slipping(number) else 1
    return 0 if watched(number, {"watch": 0.0, "losses": 0.5}[what]) else 1


if __name__ == "__main__":
    sys.exit(main())
