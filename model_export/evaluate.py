"""How good a model is, on evaluation sets that seeds define: by patch, by frame, and at telling blank from not."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from edge_app.answer import Verdict
from edge_app.estimate import Calibration, DefocusEstimate, fuse
from edge_app.tasks.defocus import answers_of
from firmware.frames import FrameOptics
from firmware.optics import depth_of_field_um
from firmware.table import explain
from model_export.conditions import Conditions
from model_export.errors import BadRecipe, NoData
from model_export.frames import BLANK, FRAME_PX, Answered, Subject, answer_all, frames_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SETS = Path(__file__).parent / "sets"
SPECIMENS = 12
DEPTHS = 12
INFORMATIVE = 0.20
_UNSEEN = 1000
_BELOW_ZERO = 2**63  # numpy takes no negative seeds; these become large ones
_QUIET = (Verdict.OK, Verdict.OUT_OF_RANGE)
Figures = dict[str, Any]


class EvaluationSet(BaseModel):
    """One set: what is drawn, over which range of defocus, in frames of which size. Its name is its file's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    description: str
    range_um: float
    frame_px: tuple[int, int] = FRAME_PX
    conditions: Conditions

    def frame_optics(self) -> FrameOptics:
        """What the board file of such a microscope would say of its optics and camera."""
        return self.conditions.draw(np.random.default_rng(0)).frame_optics()


def set_names() -> list[str]:
    """The sets that ship."""
    return sorted(path.stem for path in SETS.glob("*.toml"))


def load_set(name: str) -> EvaluationSet:
    """A set by name (from sets/) or by path.

    Raises:
        BadRecipe: There is none of that name, or its file is wrong.
    """
    path = Path(name) if name.endswith(".toml") else SETS / f"{name}.toml"
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        return EvaluationSet.model_validate({"name": path.stem, **table})
    except (OSError, UnicodeDecodeError) as error:
        known = ", ".join(set_names())
        raise BadRecipe(f"there is no evaluation set {name!r}; the sets are: {known}") from error
    except ValidationError as error:
        raise BadRecipe(f"evaluation set {name!r}: {explain(error)}") from error
    except tomllib.TOMLDecodeError as error:
        raise BadRecipe(f"evaluation set {name!r}: {error}") from error


def answer_set(
    wanted: EvaluationSet,
    subject: Subject,
    seed: int,
    progress: Callable[[], None],
    specimens: int = SPECIMENS,
    depths: int = DEPTHS,
) -> list[Answered]:
    """Ask a model about every frame of a set; training never draws from these seeds, of which any integer is one."""
    name = zlib.crc32(wanted.name.encode())
    seeds = (seed if seed >= 0 else seed % _BELOW_ZERO, _UNSEEN, name)
    truths = frames_of(wanted.conditions, wanted.range_um, seeds, specimens, depths, wanted.frame_px, subject.patch_px)
    return answer_all(truths, subject, progress)


def fused(answered: Answered, calibration: Calibration) -> DefocusEstimate | None:
    """What serving would say of a frame; None where no patch shows anything."""
    if not answered.informative.any():
        return None
    outputs, chosen = answered.asked()
    return fuse(answers_of(outputs), chosen, answered.grid, calibration, "")


def score(answered: list[Answered], calibration: Calibration) -> Figures:
    """The figures of a set.

    Patches count that are covered to more than 20 %. `sign` counts where |z| exceeds half a depth of field.
    Frames with no such patch are left out. A frame is abstained on with a verdict other than OK and OUT_OF_RANGE;
    it counts with its best guess. A share of nothing is None.

    Raises:
        NoData: No frame has such a patch, or the model asks about none of them.
    """
    aperture = answered[0].optics.numerical_aperture or 1.0
    depth_um = depth_of_field_um(aperture)
    told = [a for a in answered if (a.covered > INFORMATIVE).any()]
    patches = [_patches(a, calibration) for a in told if a.informative.any()]
    if not any(len(values) for values, _, _ in patches):
        raise NoData("none of these frames shows specimen that the model asks about; take more specimens")
    values, truths, patch_sigmas = (np.concatenate(column) for column in zip(*patches, strict=True))
    estimates = [fused(a, calibration) for a in told]
    guesses = np.array([guess(e) for e in estimates])
    sigmas = np.array([0.0 if e is None else e.sigma_um for e in estimates])
    verdicts = [Verdict.NO_CONTENT if e is None else e.verdict for e in estimates]
    return {
        "patch_px": answered[0].grid.patch_px,
        "frames": len(told),
        "patches": len(values),
        "patch": _figures(values, truths, patch_sigmas, depth_um),
        "frame": _figures(guesses, np.array([a.truth_um for a in told]), sigmas, depth_um),
        "blank": _blank(answered),
        "abstained": _share(verdict not in _QUIET for verdict in verdicts),
        "sign_uncertain": _share(verdict is Verdict.SIGN_UNCERTAIN for verdict in verdicts),
        "out_of_range": _share(verdict is Verdict.OUT_OF_RANGE for verdict in verdicts),
    }


def _patches(answered: Answered, calibration: Calibration) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    counts = (answered.covered > INFORMATIVE)[answered.informative]
    answers = answers_of(answered.outputs)
    return (
        answers.defocus_um[counts],
        answered.patch_truth_um[answered.informative][counts],
        answers.sigma_um[counts] * calibration.patch_scale,
    )


def guess(estimate: DefocusEstimate | None) -> float:
    """The estimate; where the side is not known, the distance on the side that most of the patches' weight names."""
    if estimate is None:
        return 0.0
    if estimate.verdict is Verdict.SIGN_UNCERTAIN:
        weight = 1.0 / np.square(estimate.patches.sigma_um)
        above = float(np.nansum(np.sign(estimate.patches.defocus_um) * weight)) >= 0
        return estimate.defocus_um if above else -estimate.defocus_um
    return estimate.defocus_um


def _blank(answered: list[Answered]) -> Figures:
    """How well patches without specimen are told: blank is under 2 % covered, informative over 20 %.

    Where no patch is blank there is nothing to tell.
    """
    covered = np.concatenate([a.covered for a in answered])
    called = ~np.concatenate([a.informative for a in answered])
    blank, informative = covered < BLANK, covered > INFORMATIVE
    return {
        "precision": _share(blank[called & (blank | informative)]) if blank.any() else None,
        "recall": _share(called[blank]),
        "patches": int(blank.sum()),
    }


def _figures(value: NDArray[Any], truth: NDArray[Any], sigma: NDArray[Any], depth_um: float) -> Figures:
    error = np.abs(value - truth)
    far = np.abs(truth) > 0.5 * depth_um
    return {
        "mae_um": round(float(error.mean()), 4),
        "median_um": round(float(np.median(error)), 4),
        "p95_um": round(float(np.percentile(error, 95)), 4),
        "sign": _share((np.sign(value) == np.sign(truth))[far]),
        "coverage_68": _share(error <= sigma),
        "coverage_95": _share(error <= 1.96 * sigma),
    }


def _share(of: Iterable[bool]) -> float | None:
    """How many of them are true, 0 to 1; None of nothing."""
    flags = list(of)
    return round(float(np.mean(flags)), 4) if flags else None
