"""The reversing scan on a stage of arithmetic: its screw has play, its ruler a bias that varies through focus."""

import math
from collections.abc import Callable, Iterator
from functools import cache
from itertools import product

import numpy as np
import pytest

from edge_app.mechanics import SCALE_DOUBT, Mechanics, Reading, ScanGround
from edge_app.scan import GoTo, Inconclusive, scan
from firmware.clock import SystemClock
from firmware.flaws import SimulationTable
from firmware.simulation import Stage

NOMINAL_UM = 0.05
GROUND = ScanGround(NOMINAL_UM, 30.0, 40.0, 0.95, 10.0, ruler_share=0.0)
BIAS_LENGTH_UM = 1.5
# The factory bundle's own, within 5 um of focus behind the simulated board, is 0.01 to 0.03 um.
USUAL_UM = 0.03
SEEDS = 20
Answer = Mechanics | Inconclusive


class Bench:
    """Motor, screw with play, drift, and a ruler with bias, noise, outliers and an end; lengths in um."""

    def __init__(
        self,
        seed: int = 0,
        backlash_um: float = 2.0,
        scale: float = 1.0,
        direction: int = 1,
        bias_um: float = USUAL_UM,
        start_um: float | None = None,
        noise_um: float = 0.02,
        sigma_um: float = 0.1,
    ) -> None:
        self.rng = np.random.default_rng([seed, 23])
        self.um_per_step = NOMINAL_UM * scale * direction
        self.backlash_um, self.noise_um, self.sigma_um = backlash_um, noise_um, sigma_um
        self.carriage_um = float(self.rng.uniform(-backlash_um / 2, backlash_um / 2))
        self.start_um = self.rng.uniform(-4, 4) if start_um is None else start_um
        self.offset_um = self.start_um - self.carriage_um
        self.drift_um_s = float(self.rng.choice([-1, 1])) * 0.5 / 60
        places = np.arange(-30.0, 30.0, 0.1)
        kernel = np.exp(-(np.arange(-6.0, 6.0, 0.1) ** 2) / BIAS_LENGTH_UM**2)
        bias = np.convolve(self.rng.normal(size=len(places) + len(kernel) - 1), kernel, "valid")
        self._places, self._bias = places, bias_um * bias / math.sqrt((kernel**2).sum())
        self.path: list[int] = []
        self.time_s = 0.0

    def defocus_um(self, steps: int) -> float:
        """Turn the motor and let the carriage follow."""
        motor_um, half_um = steps * self.um_per_step, self.backlash_um / 2
        self.carriage_um = min(max(self.carriage_um, motor_um - half_um), motor_um + half_um)
        return self.offset_um + self.carriage_um + self.drift_um_s * self.time_s

    def look(self, steps: int) -> Reading | None:
        self.path.append(steps)
        self.time_s += 0.5
        true_um = self.defocus_um(steps)
        if abs(true_um) > 11.5:
            return None
        wild = self.rng.standard_t(1.5) if self.rng.uniform() < 0.015 else 0.0
        seen_um = true_um + np.interp(true_um, self._places, self._bias) + self.rng.normal() * self.noise_um + wild
        return Reading(steps, self.time_s, float(seen_um), self.sigma_um)


Look = Callable[[int], Reading | None]


def drive(look: Look, ground: ScanGround = GROUND, targets: list[GoTo] | None = None) -> Answer:
    first = look(0)
    assert first is not None
    plan = scan(first, ground)
    try:
        target = next(plan)
        while True:
            assert isinstance(target, GoTo)
            if targets is not None:
                targets.append(target)
            target = plan.send(look(target.motor_steps))
    except StopIteration as ended:
        answer: Answer = ended.value
        return answer


def measured(look: Look, ground: ScanGround = GROUND) -> Mechanics:
    answer = drive(look, ground)
    assert isinstance(answer, Mechanics), answer
    return answer


def refused(look: Look, ground: ScanGround = GROUND) -> Inconclusive:
    answer = drive(look, ground)
    assert isinstance(answer, Inconclusive), answer
    return answer


def cases(bias_um: float) -> Iterator[Bench]:
    for seed, backlash_um, scale, direction in product(range(SEEDS), (0.0, 2.0, 6.0), (0.9, 1.1), (1, -1)):
        if (seed + round(10 * scale) + direction) % (2 if bias_um == USUAL_UM else 4) == 0:
            yield Bench(seed, backlash_um, scale, direction, bias_um)


@cache
def world(bias_um: float) -> list[tuple[Bench, Mechanics]]:
    """Scans of 20 seeds and three plays, with half of the scales and directions (a quarter for other biases)."""
    return [(bench, measured(bench.look)) for bench in cases(bias_um)]


def scale_errors(bias_um: float) -> list[float]:
    return [answer.um_per_step / abs(bench.um_per_step) - 1 for bench, answer in world(bias_um)]


BIASES_UM = pytest.mark.parametrize("bias_um", [0.015, USUAL_UM, 0.06])


@BIASES_UM
def test_the_direction_is_always_right(bias_um: float) -> None:
    assert len(world(bias_um)) >= 60
    assert all(answer.direction == np.sign(bench.um_per_step) for bench, answer in world(bias_um))


@pytest.mark.parametrize(("bias_um", "least_share"), [(0.015, 1.0), (USUAL_UM, 1.0), (0.06, 0.92)])
def test_the_backlash_is_found_within_a_tenth_of_a_micrometre(bias_um: float, least_share: float) -> None:
    errors_um = [answer.backlash_um - bench.backlash_um for bench, answer in world(bias_um)]
    assert np.mean(np.abs(errors_um) < 0.1) >= least_share
    assert np.abs(errors_um).max() < 0.2


@pytest.mark.parametrize(("bias_um", "least_share"), [(0.015, 1.0), (USUAL_UM, 0.95), (0.06, 0.6)])
def test_um_per_step_is_found_within_one_percent_as_far_as_the_ruler_allows(
    bias_um: float, least_share: float
) -> None:
    assert np.mean(np.abs(scale_errors(bias_um)) < 0.01) >= least_share


def test_a_worse_ruler_gives_wider_intervals_of_um_per_step() -> None:
    widths = [
        np.mean([np.ptp(answer.um_per_step_ci) / answer.um_per_step for _, answer in world(b)]) for b in (0.015, 0.06)
    ]
    assert widths[1] > 2 * widths[0]
    assert widths[0] < 0.015


@BIASES_UM
def test_the_intervals_cover_the_truth(bias_um: float) -> None:
    found = world(bias_um)
    plays = [answer.backlash_ci_um[0] <= bench.backlash_um <= answer.backlash_ci_um[1] for bench, answer in found]
    scales = [
        answer.um_per_step_ci[0] <= abs(bench.um_per_step) <= answer.um_per_step_ci[1] for bench, answer in found
    ]
    assert np.mean(plays) >= 0.9
    assert np.mean(scales) >= 0.9


def test_a_screw_without_play_gets_an_interval_with_zero_and_no_negative_play() -> None:
    without = [answer for bench, answer in world(USUAL_UM) if bench.backlash_um == 0.0]
    assert all(answer.backlash_um >= 0.0 and answer.backlash_ci_um[0] == 0.0 for answer in without)
    assert max(answer.backlash_ci_um[1] for answer in without) < 0.1


def test_the_looks_are_few() -> None:
    looks = [answer.readings for _, answer in world(USUAL_UM)]
    assert max(looks) <= 150
    assert np.mean(looks) < 85
    assert all(answer.readings == len(bench.path) for bench, answer in world(USUAL_UM))


def test_only_small_moves_are_made_before_the_direction_is_known() -> None:
    for seed, backlash_um, direction in product(range(4), (0.0, 2.0, 6.0), (1, -1)):
        bench, targets = Bench(seed, backlash_um, 1.1, direction), list[GoTo]()
        drive(bench.look, targets=targets)
        known = next(place for place, target in enumerate(targets) if target.why.startswith("through focus"))
        small_um = np.array(bench.path[: known + 1]) * NOMINAL_UM
        assert np.abs(np.diff(small_um)).max() <= 2.0 + 1e-9
        assert np.abs(small_um).max() * 1.1 <= backlash_um + 3.5
        assert np.ptp(bench.path) * NOMINAL_UM > 8.0


def test_the_window_is_kept_even_if_the_steps_are_longer_than_the_board_file_says() -> None:
    ground = ScanGround(NOMINAL_UM, 10.0, 14.0, 0.95, 10.0)
    for seed in range(6):
        bench = Bench(seed, scale=SCALE_DOUBT, direction=(-1) ** seed, start_um=2.0)
        drive(bench.look, ground)
        reach_um = np.array(bench.path) * abs(bench.um_per_step)
        assert reach_um.min() >= -10.0 - 1e-9
        assert reach_um.max() <= 14.0 + 1e-9


def test_the_scan_stays_in_the_range_of_the_ruler() -> None:
    for seed in range(6):
        bench, seen_um = Bench(seed, backlash_um=6.0), list[float]()

        def look(steps: int, bench: Bench = bench, seen_um: list[float] = seen_um) -> Reading | None:
            reading = bench.look(steps)
            seen_um.append(bench.offset_um + bench.carriage_um)
            return reading

        measured(look)
        assert np.abs(seen_um).max() < 11.0


def test_a_step_thirty_percent_off_is_measured_all_the_same() -> None:
    for scale in (0.7, 1.3):
        bench = Bench(3, scale=scale)
        assert measured(bench.look).um_per_step == pytest.approx(bench.um_per_step, rel=0.015)


def test_a_step_far_from_the_board_file_is_said_in_the_sentence() -> None:
    assert "board file" in measured(Bench(scale=1.45, backlash_um=0.0).look).sentence
    assert "board file" not in measured(Bench(scale=1.1).look).sentence


def test_the_rulers_own_scale_widens_both_intervals() -> None:
    plain = measured(Bench(backlash_um=6.0).look)
    ground = ScanGround(NOMINAL_UM, 30.0, 40.0, 0.95, 10.0, ruler_share=0.03)
    doubted = measured(Bench(backlash_um=6.0).look, ground)
    assert np.ptp(doubted.um_per_step_ci) > 2 * 1.96 * 0.025 * NOMINAL_UM > 2 * np.ptp(plain.um_per_step_ci)
    assert np.ptp(doubted.backlash_ci_um) > 2 * 1.96 * 0.025 * 6.0


@pytest.mark.parametrize("backlash_um", [0.0, 3.0])
def test_the_simulated_stage_is_measured_too(backlash_um: float) -> None:
    table = SimulationTable(backlash_um=backlash_um, scale_error=-0.08, motor_direction=-1)
    stage, rng, at = Stage(table, SystemClock()), np.random.default_rng(1), [0, 0]

    def look(steps: int) -> Reading:
        stage.turn(table.motor_direction * (steps - at[0]) * NOMINAL_UM)
        at[0], at[1] = steps, at[1] + 1
        return Reading(steps, 0.5 * at[1], stage.carriage_um + 1.0 + float(rng.normal(0, 0.02)), 0.1)

    answer = measured(look)
    assert answer.direction == -1
    assert answer.backlash_um == pytest.approx(backlash_um, abs=0.05)
    assert answer.um_per_step == pytest.approx(NOMINAL_UM * 0.92, rel=0.005)


@pytest.mark.parametrize("at", [1, 7, 20, 45])
def test_two_refused_looks_are_survived_and_the_third_ends_the_scan(at: int) -> None:
    def blind(bench: Bench, looks: set[int]) -> Look:
        def look(steps: int) -> Reading | None:
            reading = bench.look(steps)
            return None if len(bench.path) - 1 in looks else reading

        return look

    bench = Bench(4)
    answer = measured(blind(bench, {at, at + 1}))
    assert answer.backlash_um == pytest.approx(2.0, abs=0.1)
    assert answer.direction == 1
    assert "no estimate" in refused(blind(Bench(4), {at, at + 1, at + 2})).sentence


def test_a_motor_that_is_not_connected_is_said_to_be_so() -> None:
    bench = Bench(backlash_um=0.0)
    bench.um_per_step = 0.0
    answer = refused(bench.look)
    assert "nothing moved" in answer.sentence
    assert "connected" in answer.sentence
    assert max(bench.path) * NOMINAL_UM == pytest.approx(12.0, abs=0.05)
    assert min(bench.path) * NOMINAL_UM == pytest.approx(-12.0, abs=0.05)
    assert np.abs(np.diff(bench.path)).max() * NOMINAL_UM <= 2.0 + 1e-9


def test_a_ruler_of_noise_never_gives_an_answer() -> None:
    rng = np.random.default_rng(8)
    for _ in range(40):
        answer = refused(lambda steps: Reading(steps, 0.0, float(rng.uniform(-8, 8)), 0.1))
        assert answer.readings < 90
    sentence = refused(lambda steps: Reading(steps, 0.0, float(rng.uniform(-8, 8)), 0.1)).sentence
    assert "same place" in sentence


def test_a_ruler_without_a_sign_gives_no_answer() -> None:
    benches = [Bench(seed) for seed in range(8)]

    def unsigned(steps: int) -> Reading | None:
        reading = benches[-1].look(steps)
        return reading and Reading(steps, reading.time_s, abs(reading.defocus_um), 0.1)

    while benches:
        refused(unsigned)
        benches.pop()


def test_a_motor_that_turns_back_on_itself_is_found_out() -> None:
    bench = Bench(2, backlash_um=0.0)

    def look(steps: int) -> Reading | None:
        return bench.look(steps if len(bench.path) < 8 else 2 * bench.path[7] - steps)

    answer = refused(look)
    assert "check the coupling" in answer.sentence


def test_a_stage_that_sticks_half_way_is_found_out() -> None:
    bench = Bench(2)

    def look(steps: int) -> Reading | None:
        if len(bench.path) > 22:
            bench.offset_um += bench.carriage_um
            bench.um_per_step = bench.carriage_um = 0.0
        return bench.look(steps)

    refused(look)


def test_too_small_a_window_is_said_to_be_so() -> None:
    tiny = ScanGround(NOMINAL_UM, 3.0, 3.0, 0.95, 10.0)
    assert "allow more travel" in refused(Bench(backlash_um=1.0).look, tiny).sentence


def test_the_start_need_not_be_step_zero() -> None:
    def shifted(steps: int, bench: Bench) -> Reading | None:
        reading = bench.look(steps)
        return reading and Reading(steps + 500, reading.time_s, reading.defocus_um, 0.1)

    bench = Bench(5)
    assert measured(lambda steps: shifted(steps, bench)) == measured(Bench(5).look)
