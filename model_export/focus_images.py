"""Error of focus against the number of images: the network beside measures that a bounded Brent search climbs.

After the paper's Figure 4. The network has the start and a bracket to both sides; each further image lies off the
estimate so far, on alternate sides, the first opposite to the nearest look: in focus itself the score is flat. Brent's
method searches `SEARCH_DEPTHS` depths of field to both sides of the start and its best place so far counts. Everybody
starts at the same places.

Source of the search: R. P. Brent, Algorithms for Minimization without Derivatives (1973), chapter 5, localmin.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator

import numpy as np
from numpy.typing import NDArray

from edge_app.curve import FocusCurve, match
from edge_app.measures import MEASURES
from edge_app.model import Model
from edge_app.tasks.sharpness import BlurScores
from model_export.flat_world import FlatWorld
from model_export.focus_curves import SHORT
from model_export.focus_trials import FIELD_PX, SEED, START_DEPTHS, spread

FEWEST, MOST = 3, 10
BRACKET_DEPTHS, SEARCH_DEPTHS = 8.0, 10.0
CLIMBED = ("Tenengrad", "HPF")
NETWORK = "DeepFocus"
_OFF_DEPTHS, _OFF_RANGE = 1.35, (0.85, 2.0)
_GOLDEN = (3 - math.sqrt(5)) / 2
_ROOM_DEPTHS = 60.0
_TINY = 1e-9
Doubles = NDArray[np.float64]
Errors = dict[str, list[list[float]]]


def errors(
    model: Model, objective: str, curve: FocusCurve, specimens: int, starts: int, tick: Callable[[], None]
) -> Errors:
    """Absolute errors, um, by method: for each job one after `FEWEST` to `MOST` images."""
    told: Errors = {NETWORK: [], **{name: [] for name in CLIMBED}}
    for index in range(specimens):
        depth_um = FlatWorld(objective, 0, SEED, 128, 1.0).depth_of_field_um
        world = FlatWorld(objective, index, SEED, FIELD_PX, _ROOM_DEPTHS * depth_um)
        rng = np.random.default_rng((SEED, index, 3))
        for start_um in (rng.uniform(-START_DEPTHS, START_DEPTHS, starts) * depth_um).tolist():
            told[NETWORK].append(_matched(model, world, curve, start_um))
            for name in CLIMBED:
                told[name].append(_climbed(world, SHORT[name], start_um))
            tick()
    return told


def summary(told: Errors) -> dict[str, dict[int, dict[str, float]]]:
    """Mean, median and 95th percentile by method and number of images."""
    return {
        name: {FEWEST + k: spread([job[k] for job in jobs]) for k in range(MOST - FEWEST + 1)}
        for name, jobs in told.items()
    }


def _matched(model: Model, world: FlatWorld, curve: FocusCurve, start_um: float) -> list[float]:
    reach_um = min(BRACKET_DEPTHS * world.depth_of_field_um, float(curve.z_um[-1]))
    z_um = [start_um - reach_um, start_um, start_um + reach_um]
    scores = [_scores(model, world, z) for z in z_um]
    found = []
    for count in range(FEWEST, MOST + 1):
        low_um, high_um = min(z_um) - reach_um, max(z_um) + reach_um
        matched = match(curve, np.array(z_um), np.stack(scores), low_um, high_um).focus_um
        focus_um = float(np.nanmedian(matched))
        found.append(abs(focus_um))
        side = (-1) ** (count - FEWEST)
        z_um.append(_opposite(np.array(z_um[:3]) - focus_um, world.depth_of_field_um) * side + focus_um)
        scores.append(_scores(model, world, z_um[-1]))
    return found


def _opposite(off_um: Doubles, depth_um: float) -> float:
    """Where to look, from the estimate: as far as the look nearest to `_OFF_DEPTHS`, on the other side."""
    nearest = float(off_um[int(np.abs(np.abs(off_um) - _OFF_DEPTHS * depth_um).argmin())])
    low, high = _OFF_RANGE
    return -math.copysign(min(max(abs(nearest), low * depth_um), high * depth_um), nearest)


def _scores(model: Model, world: FlatWorld, z_um: float) -> Doubles:
    answer = world.look(model, z_um).answer
    assert isinstance(answer, BlurScores)
    return answer.scores.astype(np.float64)


def _climbed(world: FlatWorld, measure: str, start_um: float) -> list[float]:
    """Errors of the best place after `FEWEST` to `MOST` images."""
    half_um = SEARCH_DEPTHS * world.depth_of_field_um
    search = localmin(start_um - half_um, start_um + half_um, 0.005 * world.depth_of_field_um)
    z_um = next(search)
    best, best_um, found = math.inf, z_um, []
    for count in range(1, MOST + 1):
        (frame,) = world.photographs(np.array([z_um]))
        value = -float(MEASURES[measure](frame[..., 1].astype(np.float32)))
        if value < best:
            best, best_um = value, z_um
        if count >= FEWEST:
            found.append(abs(best_um))
        z_um = search.send(value)
    return found


def localmin(low: float, high: float, tolerance: float) -> Generator[float, float, None]:
    """Yields where to look next between two ends, and is sent the value there; goes on for ever.

    Golden sections, and parabolas through the three best places where these fall inside and shrink.
    """
    x = w = v = low + _GOLDEN * (high - low)
    fx = fw = fv = yield x
    step = before = 0.0
    while True:
        middle = 0.5 * (low + high)
        parabola = _vertex(x, w, v, fx, fw, fv)
        inside = parabola is not None and low < x + parabola < high and abs(parabola) < 0.5 * abs(before)
        before = step if inside else (high - x if x < middle else low - x)
        step = parabola if inside and parabola is not None else _GOLDEN * before
        u = x + (step if abs(step) >= tolerance else math.copysign(tolerance, step or middle - x))
        fu = yield u
        if fu <= fx:
            low, high = (x, high) if u >= x else (low, x)
            v, fv, w, fw, x, fx = w, fw, x, fx, u, fu
        else:
            low, high = (u, high) if u < x else (low, u)
            if fu <= fw or w == x:
                v, fv, w, fw = w, fw, u, fu
            elif fu <= fv or v in (x, w):
                v, fv = u, fu


def _vertex(x: float, w: float, v: float, fx: float, fw: float, fv: float) -> float | None:
    """The step from x to the vertex of the parabola through three places; None where they have none."""
    r, q = (x - w) * (fx - fv), (x - v) * (fx - fw)
    p, q = (x - v) * q - (x - w) * r, 2 * (q - r)
    return None if abs(q) < _TINY * (abs(p) + _TINY) or q == 0 else -p / q
