"""Comparison: a bundle's variants scored beside it on the same frames, and the rule by which one of them serves."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_app.bundle import ModelBundle, Precision
from model_export.evaluate import INFORMATIVE, EvaluationSet, Figures, answer_set, fused, guess, score
from model_export.frames import Answered, Subject
from model_export.variants import Variant, check_bundle, predictor

LOWEST_FIRST: tuple[Precision, ...] = ("int8", "fp16")
SPECIMENS_AT_LEAST = 6
RULE = (
    "the lowest precision that on every set, against fp32 on the same frames, lets the frame error grow by no more "
    "than 5 % and by no more than a thousandth of the range (upper ends of 95 % intervals, bootstrap over at least "
    f"{SPECIMENS_AT_LEAST} specimens), the share of patches on the right side fall by no more than 0.2 points, and "
    "sigma's coverage fall and the share of abstentions grow by no more than 2 points or one frame; else fp32"
)
_GROWTH, _GROWTH_OF_RANGE, _SIDE, _COVERAGE = 0.05, 0.001, 0.002, 0.02
_ROUNDED = 5e-5  # figures have four decimals
_RESAMPLES = 2000
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Scored:
    """A variant's figures on a set, and its frames' errors (S, D) in um, specimen by specimen; NaN does not count."""

    figures: Figures
    errors_um: Array


@dataclass(frozen=True)
class Growth:
    """How a frame error grows against fp32's: in um with its 95 % interval, and the upper end as a share."""

    mean_um: float
    low_um: float
    high_um: float
    share_high: float


def score_together(
    wanted: EvaluationSet,
    bundle: ModelBundle,
    variants: Sequence[Variant],
    seed: int,
    amount: tuple[int, int],
    progress: Callable[[], None],
) -> dict[str, Scored | None]:
    """Score a bundle and its variants on the very same frames of a set.

    Args:
        wanted: The set.
        bundle: In fp32.
        variants: Made of it.
        seed: Of the set.
        amount: Specimens, and depths of each.
        progress: Called after each frame.

    Returns:
        By precision, fp32 among them; None where an answer is not a number.

    Raises:
        ExportError: As `variants.check_bundle`.
        NoData: No frame shows specimen that is asked about.
    """
    check_bundle(bundle.manifest)
    predicts = {"fp32": predictor(bundle, bundle.onnx), **{v.precision: v.predict for v in variants}}

    def together(counts: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        return {f"{kind}/{name}": v for kind, predict in predicts.items() for name, v in predict(counts).items()}

    goes_in, calibration = bundle.manifest.input, bundle.manifest.calibration_for(wanted.frame_optics())
    subject = Subject(together, goes_in.patches_at_most, goes_in.min_contrast, goes_in.patch_px)
    answered = answer_set(wanted, subject, seed, progress, *amount)
    scored: dict[str, Scored | None] = {}
    for kind in predicts:
        own = [_only(a, kind) for a in answered]
        if not all(np.isfinite(values).all() for a in own for values in a.outputs.values()):
            scored[kind] = None
            continue
        errors = [_error_um(a, guess(fused(a, calibration))) for a in own]
        scored[kind] = Scored(score(own, calibration), np.array(errors).reshape(amount))
    return scored


def growth(before_um: Array, after_um: Array) -> Growth:
    """How frame errors (S, D) grew, with 95 % intervals from a paired bootstrap over the S specimens."""
    counts = np.isfinite(before_um).sum(axis=1)
    sums = np.nansum(before_um, axis=1), np.nansum(after_um, axis=1)
    picks = np.random.default_rng(0).integers(len(counts), size=(_RESAMPLES, len(counts)))
    picks = picks[counts[picks].sum(axis=1) > 0]
    before, after = (total[picks].sum(axis=1) / counts[picks].sum(axis=1) for total in sums)
    low, high = np.percentile(after - before, (2.5, 97.5))
    return Growth(
        float((sums[1].sum() - sums[0].sum()) / counts.sum()),
        float(low),
        float(high),
        float(np.percentile(after / np.maximum(before, 1e-9) - 1, 97.5)),
    )


def misses(before: Scored, after: Scored | None, range_um: float) -> list[str]:
    """What of the rule a variant does not keep on one set, in words."""
    if after is None:
        return ["an answer is not a number"]
    if len(before.errors_um) < SPECIMENS_AT_LEAST:
        return [f"{len(before.errors_um)} specimens are too few to tell (at least {SPECIMENS_AT_LEAST})"]
    grew, old, new = growth(before.errors_um, after.errors_um), before.figures, after.figures
    limit_um, frame = _GROWTH_OF_RANGE * range_um, 1 / old["frames"]
    judged = [
        ("the frame error may grow by, um", grew.high_um, limit_um),
        ("the frame error may grow by the share", grew.share_high, _GROWTH),
        ("patches on the right side fall by", _fall(old["patch"]["sign"], new["patch"]["sign"]), _SIDE),
        ("frames abstained on grow by", new["abstained"] - old["abstained"], max(_COVERAGE, frame)),
    ]
    judged += [
        (f"{unit} {part} falls by", _fall(old[unit][part], new[unit][part]), most)
        for unit, most in (("patch", _COVERAGE), ("frame", max(_COVERAGE, frame)))
        for part in ("coverage_68", "coverage_95")
    ]
    return [f"{what} {value:.3g} (at most {most:.3g})" for what, value, most in judged if not value <= most + _ROUNDED]


def choose(missed: Mapping[str, Mapping[str, list[str]]]) -> Precision:
    """The lowest precision that misses nothing on any set; `missed` holds what each misses, by precision and set."""
    return next((kind for kind in LOWEST_FIRST if kind in missed and not any(missed[kind].values())), "fp32")


def document(
    bundle: ModelBundle,
    variants: Sequence[Variant],
    scored: Mapping[str, Mapping[str, Scored | None]],
    seed: int,
) -> dict[str, Any]:
    """All that was found, as one JSON document; `scored` is by set and precision, fp32 among them."""
    range_um = check_bundle(bundle.manifest)
    kinds = [variant.precision for variant in variants]
    sets: dict[str, dict[str, Any]] = {}
    for name, of in scored.items():
        before = of["fp32"]
        assert before is not None, "a bundle that serves answers numbers"
        sets[name] = {"fp32": before.figures}
        for kind in kinds:
            after = of[kind]
            found: dict[str, Any] = {"misses": misses(before, after, range_um)}
            if after is not None:
                found |= {**after.figures, "growth": asdict(growth(before.errors_um, after.errors_um))}
            sets[name][kind] = found
    return {
        "bundle": bundle.manifest.label,
        "seed": seed,
        "rule": RULE,
        "choice": choose({kind: {name: of[kind]["misses"] for name, of in sets.items()} for kind in kinds}),
        "onnx_bytes": {"fp32": len(bundle.onnx), **{v.precision: len(v.onnx) for v in variants}},
        "moved_on_golden": {v.precision: {name: _number(d) for name, d in v.moved.items()} for v in variants},
        "sets": sets,
    }


def _number(value: float) -> float | None:
    """What JSON can hold of it."""
    return value if math.isfinite(value) else None


def _only(answered: Answered, kind: str) -> Answered:
    prefix = f"{kind}/"
    own = {name[len(prefix) :]: v for name, v in answered.outputs.items() if name.startswith(prefix)}
    return replace(answered, outputs=own)


def _error_um(answered: Answered, guess_um: float) -> float:
    """A frame's error; NaN where the score leaves the frame out."""
    return abs(guess_um - answered.truth_um) if (answered.covered > INFORMATIVE).any() else float("nan")


def _fall(before: float | None, after: float | None) -> float:
    """By how much a share fell; what cannot be scored does not fall, as the frames are the same."""
    return 0.0 if before is None or after is None else before - after
