"""Selection: which of a board's bundles it uses, by its optics and its camera."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_app import bundle as bundles
from edge_app.answer import DEFOCUS
from edge_app.bundle import Manifest
from edge_app.errors import BundleNotFound
from edge_app.passport import Passport, Range
from edge_app.shelf import Shelf
from firmware.frames import FrameOptics

FACTORY = "factory"
_ANYTHING = (0.01, 100.0)


@dataclass(frozen=True)
class Choice:
    """A bundle, and in one sentence why it is this one; `fits` is False where its passport will refuse."""

    path: Path
    why: str
    fits: bool


def preferred(manifests: Sequence[Manifest], optics: FrameOptics) -> int | None:
    """Which of these models is to judge frames through these optics; None where every passport refuses.

    Of those that accept: the one for the fewest kinds of response, then with the smallest frame error (on the first
    set that all of them report), then for the narrowest optics, then the first by name.

    Returns:
        Its index in `manifests`.
    """
    accepting = [index for index, m in enumerate(manifests) if m.passport.check(optics) is None]
    errors_um = _errors_um([manifests[index] for index in accepting])

    def rank(candidate: int) -> tuple[int, float, float, str]:
        manifest = manifests[accepting[candidate]]
        passport = manifest.passport
        return len(passport.response), errors_um[candidate], _width(passport), manifest.label

    best = min(range(len(accepting)), key=rank, default=None)
    return None if best is None else accepting[best]


def best_by_task(manifests: Sequence[Manifest], optics: FrameOptics) -> set[int]:
    """The preferred one of each task that has one that accepts: their indices in `manifests`."""
    best = set()
    for task in {manifest.task for manifest in manifests}:
        places = [index for index, manifest in enumerate(manifests) if manifest.task == task]
        first = preferred([manifests[index] for index in places], optics)
        best |= set() if first is None else {places[first]}
    return best


def choose(optics: FrameOptics, task: str = DEFOCUS) -> Path:
    """The factory bundle of a task for these optics.

    Raises:
        BundleNotFound: None that ships accepts them; the message says what each would need.
    """
    choice = _from_factory(optics, task, Shelf())
    if not choice.fits:
        raise BundleNotFound(choice.why)
    return choice.path


def select(name: str, optics: FrameOptics, task: str = DEFOCUS, shelf: Shelf | None = None) -> Choice:
    """What a setting means on a board: `factory` is chosen for the optics, anything else is taken as it says.

    `shelf` are the board's bundles where they are not only those that ship.
    Where no factory bundle accepts the optics it is the one that comes closest, whose passport then refuses. A bundle
    that was named and is for another task leaves this one to the factory.

    Raises:
        BundleNotFound: There is no such bundle, or none ships.
        BundleCorrupt: It is damaged.
    """
    shelf = shelf or Shelf()
    if name == FACTORY:
        return _from_factory(optics, task, shelf)
    path = shelf.find(name)
    manifest = bundles.read(path).manifest
    if manifest.task != task:
        return _from_factory(optics, task, shelf)
    refusal = manifest.passport.check(optics)
    return Choice(path, "asked for by name" if refusal is None else refusal[1], refusal is None)


def _from_factory(optics: FrameOptics, task: str, shelf: Shelf) -> Choice:
    shipped = [(path, bundle.manifest) for path, bundle in shelf.readable() if bundle.manifest.task == task]
    if not shipped:
        cure = "name a .parfocal file, or use the strategy sweep"
        raise BundleNotFound(f"no factory bundle for {task} can be read; {cure}")
    best = preferred([manifest for _, manifest in shipped], optics)
    if best is not None:
        return Choice(shipped[best][0], _why([manifest for _, manifest in shipped], optics), True)
    path, manifest = min(shipped, key=lambda item: (_distance(item[1].passport, optics), item[1].label))
    refusal = manifest.passport.check(optics)
    assert refusal is not None
    return Choice(path, f"no factory bundle fits; {manifest.label} comes closest: {refusal[1]}", False)


def _why(manifests: Sequence[Manifest], optics: FrameOptics) -> str:
    accepting = sum(manifest.passport.check(optics) is None for manifest in manifests)
    if accepting == 1:
        return "the only factory bundle that accepts this camera and objective"
    return f"the best of {accepting} factory bundles that accept this camera and objective"


def _errors_um(manifests: Sequence[Manifest]) -> list[float]:
    """Frame error of each on the first set that all of them report; all alike where there is none."""
    reported = [_frame_errors_um(manifest) for manifest in manifests]
    shared = set.intersection(*map(set, reported)) if reported else set()
    return [errors[min(shared)] if shared else 0.0 for errors in reported]


def _frame_errors_um(manifest: Manifest) -> dict[str, float]:
    """Mean frame error by set; what is no such figure is passed over."""
    found = {}
    for name, figures in manifest.metrics.items():
        frame = figures.get("frame") if isinstance(figures, dict) else None
        error_um = frame.get("mae_um") if isinstance(frame, dict) else None
        if isinstance(error_um, (int, float)) and math.isfinite(error_um):
            found[name] = float(error_um)
    return found


def _width(passport: Passport) -> float:
    """How much optics a passport accepts: the ranges' spans as factors, multiplied, as a logarithm."""
    ranges = (bounds or _ANYTHING for bounds in (passport.numerical_aperture, passport.pixel_um))
    return sum(math.log(high / low) for low, high in ranges)


def _distance(passport: Passport, optics: FrameOptics) -> float:
    """How far optics lie outside a passport: ten for each thing of another kind, and factors as logarithms."""
    others = (
        passport.contrast not in (None, optics.contrast),
        passport.colour not in (None, optics.colour),
        optics.response not in passport.response,
        passport.immersion_index is not None and abs(passport.immersion_index - optics.immersion_index) >= 0.02,
    )
    missed = _missed(optics.numerical_aperture, passport.numerical_aperture)
    return 10.0 * sum(others) + missed + _missed(optics.pixel_um, passport.pixel_um)


def _missed(value: float | None, bounds: Range | None) -> float:
    """The factor between a value and the nearest end of a range, as a logarithm; nothing inside or unknown."""
    if value is None or bounds is None:
        return 0.0
    return max(math.log(bounds[0] / value), math.log(value / bounds[1]), 0.0)
