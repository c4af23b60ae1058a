"""The task `sharpness` as it is learnt: how blurred a window is, in waves of defocus, whatever it shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator
from rich.console import Console
from rich.table import Table as Rows

from edge_app.bundle import Manifest
from edge_app.passport import Passport
from edge_app.patches import PatchGrid, content
from firmware.focal_stack import focal_stack
from firmware.optics import PupilTable, depth_of_field_um, fine_ratio, good_size
from firmware.sensor import Sensor, expose
from model_export.card import cell
from model_export.conditions import Conditions, Range
from model_export.evaluate import load_set
from model_export.frames import Subject
from model_export.pupils import REFERENCE_EDGE, draw_optics, edge_of, referred, zernike
from model_export.recipe import Recipe, Table
from model_export.synthesis import SPLITS
from model_export.teaching import Asked, Figures, Made, Measured, Progress
from model_export.windows import KINDS, RESPONSES, Cameras, cut, light_of, photographed, seen

if TYPE_CHECKING:
    from torch import Tensor

TRUTHS = ("spherical", "edge", "waves")
TURNS = True
Calibration = Table
_KNEE = 0.15
_NEAR = 1.5
_JUDGED_PX = 512
_MARGIN_PX = 24
_GOLDEN = 3
_COLUMNS = {"mae_waves": "mean, waves", "median_waves": "median", "rank": "rank correlation with |z|"}


class Data(Table):
    """How many specimens, behind which microscopes, at which depths.

    `kinds` are shares of `windows.KINDS`. Each specimen is a square of `tile_px` behind one microscope
    (`pupils.draw_optics`) at `depths_per_specimen` depths: stratified over `near_depths` depths of field to both
    sides, `far_share` of them over `far_depths` instead, `focus_share` within a few of focus. Windows whose contrast
    is below `min_contrast` are left out.
    """

    kinds: dict[str, float]
    numerical_aperture: Range
    edge: Range
    spherical_waves: Range
    coverslip_share: float
    gamma_share: float
    jpeg_share: float
    near_depths: float
    far_depths: float
    far_share: float
    focus_share: float
    tile_px: int = Field(ge=128)
    depths_per_specimen: int
    train_specimens: int
    validation_specimens: int
    min_contrast: float

    @field_validator("kinds")
    @classmethod
    def _known(cls, kinds: dict[str, float]) -> dict[str, float]:
        unknown = sorted(set(kinds) - set(KINDS))
        if unknown or not kinds:
            raise ValueError(f"there is no kind {', '.join(unknown) or 'given'}; the kinds are: {', '.join(KINDS)}")
        return kinds


class Objective(Table):
    """The cost: a Huber loss of the score in knees, bent at `delta`, and shares of sigma's and the pupil's."""

    delta: float = 0.3
    sigma_share: float = 0.1
    pupil_share: float = 0.02


class Acceptance(Table):
    """What a bundle must keep on one evaluation set: mean errors of scores at most, rank correlation at least."""

    mae_waves: float | None = None
    rank: float | None = None

    def missed(self, figures: Figures) -> list[str]:
        """The limits that a set's figures do not keep, each in words."""
        missed = []
        if self.mae_waves is not None and not figures["patch"]["mae_waves"] <= self.mae_waves:
            missed.append(f"mae_waves {figures['patch']['mae_waves']:.3f} (at most {self.mae_waves:g})")
        if self.rank is not None and not figures["patch"]["rank"] >= self.rank:
            missed.append(f"rank {figures['patch']['rank']:.3f} (at least {self.rank:g})")
        return missed


def check_conditions(conditions: tuple[Conditions, ...]) -> None:
    """None at all: the microscopes are those of `[data]`."""
    if conditions:
        raise ValueError("this task draws its microscopes from [data]; remove [[conditions]]")


def check_recipe(recipe: Recipe) -> None:
    """Nothing to refuse: the score is for all optics."""


def make(recipe: Recipe, split: str, index: int) -> Made:
    """The features of a specimen's windows, with `waves` referred to the reference pupil, `spherical` and `edge`."""
    from model_export.data import features_of

    patches, made = _windows(recipe, split, index)
    return {"features": features_of(recipe, patches), **made, "specimen": np.full(len(patches), index, np.int32)}


def _windows(recipe: Recipe, split: str, index: int) -> tuple[NDArray[np.uint8], Made]:
    """A specimen's windows that show something, (N, P, P, 3) uint8, and what is true of each, (N,) float32."""
    data: Data = recipe.data
    rng = np.random.default_rng((recipe.seed, SPLITS[split], index))
    kind = str(rng.choice(list(data.kinds), p=np.array(list(data.kinds.values())) / sum(data.kinds.values())))
    optics = draw_optics(rng, data.numerical_aperture, data.edge, data.spherical_waves, data.coverslip_share)
    z_um = _depths(rng, data) * depth_of_field_um(optics.numerical_aperture)
    table = PupilTable(optics, float(np.abs(z_um).max()) + 0.01)
    cameras = Cameras(data.gamma_share, data.jpeg_share)
    images = seen(kind, rng, optics, table, z_um, data.tile_px)
    tiles = [cut(photographed(image, kind, rng, cameras), recipe.patch_px) for image in images]
    kept = [_informative(tile, data.min_contrast) for tile in tiles]
    found = zernike(table, z_um)
    truths = (np.abs(found.spherical), np.full(len(z_um), edge_of(optics)), referred(found.defocus, edge_of(optics)))
    counts = [int(keep.sum()) for keep in kept]
    made = {name: np.repeat(values, counts).astype(np.float32) for name, values in zip(TRUTHS, truths, strict=True)}
    return np.concatenate([tile[keep] for tile, keep in zip(tiles, kept, strict=True)]), made


def _depths(rng: np.random.Generator, data: Data) -> NDArray[np.float64]:
    """Depths of one specimen, in depths of field."""
    count = data.depths_per_specimen
    place = (np.arange(count) + rng.uniform(size=count)) / count * 2 - 1
    far, focus = rng.uniform(size=(2, count))
    depths = np.where(far < data.far_share, data.far_depths, data.near_depths) * place
    return np.where(focus < data.focus_share, rng.normal(0, _NEAR, count), depths)


def _informative(patches: NDArray[np.uint8], min_contrast: float) -> NDArray[np.bool_]:
    """Which of the patches (N, P, P, 3) serving would ask about, (N,)."""
    grid = PatchGrid(1, 1, 0, 0, patches.shape[1])
    return np.array([content(patch, grid, min_contrast).informative[0] for patch in patches], bool)


def golden(recipe: Recipe, index: int) -> Asked:
    """The first windows of a validation specimen that show something."""
    return Asked(_windows(recipe, "validation", index)[0][:_GOLDEN])


def objective(answers: dict[str, Tensor], truth: dict[str, Tensor], recipe: Recipe) -> Tensor:
    """Errors of the score, the likelihood of sigma (which does not move the score), and of what else the pupil is."""
    import torch
    from torch.nn import functional

    table: Objective = recipe.objective
    knee = float(recipe.network.get("knee", _KNEE))
    score, wanted = answers["blur"] / knee, torch.asinh(truth["waves"] / knee)
    error = functional.huber_loss(score, wanted, delta=table.delta) / table.delta
    log_sigma = answers["log_sigma"].clamp(-4.0, 2.0)
    sigma = ((score - wanted).abs().detach() * torch.exp(-log_sigma) + log_sigma).mean()
    pupil = sum((10 * (answers[name] - truth[name])).square().mean() for name in ("spherical", "edge"))
    return error + table.sigma_share * sigma + table.pupil_share * pupil


def validate(recipe: Recipe, answers: Made, truth: Made) -> str:
    """Mean absolute error of the score, near focus and all over."""
    knee = float(recipe.network.get("knee", _KNEE))
    wanted = knee * np.arcsinh(truth["waves"] / knee)
    error, near = np.abs(answers["blur"] - wanted), truth["waves"] < 2 * knee
    return f"the mean error is {error.mean():.3f} waves, near focus {error[near].mean():.3f}"


def calibrate(recipe: Recipe, subject: Subject, progress: Progress) -> None:
    """None: the objective's own curve is recorded on the board."""


def passport(recipe: Recipe) -> Passport:
    """Any optics, colours and contrast."""
    return Passport(
        numerical_aperture=None,
        pixel_um=None,
        immersion_index=None,
        colour=None,
        contrast=None,
        response=recipe.accepts,
        range_um=None,
    )


def facts(recipe: Recipe) -> dict[str, float]:
    """Where the score turns logarithmic, in waves, and which pupil the waves are referred to."""
    return {"knee_waves": float(recipe.network.get("knee", _KNEE)), "reference_edge": REFERENCE_EDGE}


def measure(
    manifest: Manifest, subject: Subject, name: str, seed: int, amount: tuple[int, int], progress: Progress
) -> Measured:
    """Score windows of specimens that no training has seen, each at depths over the set's range."""
    wanted, (specimens, depths) = load_set(name), amount
    knee, errors, ranks = manifest.facts["knee_waves"], [], []
    for index in range(specimens):
        rng = np.random.default_rng((seed, len(name), index))
        z_um = (np.arange(depths) + rng.uniform(size=depths)) / depths * 2 * wanted.range_um - wanted.range_um
        patches, waves, edge = _judged(wanted.conditions, rng, z_um, (index + 0.5) / specimens, subject)
        progress((index + 1) * depths, specimens * depths)
        usable = patches.any(axis=(0, 2, 3, 4))
        if not usable.any():
            continue
        scores = subject.predict(patches[:, usable].reshape(-1, *patches.shape[2:]))["blur"].reshape(depths, -1)
        errors.append(np.abs(scores - knee * np.arcsinh(referred(waves, edge) / knee)[:, None]).ravel())
        ranks += [_rank(column, np.abs(z_um)) for column in scores.T]
    error = np.concatenate(errors)
    patch = {"mae_waves": float(error.mean()), "median_waves": float(np.median(error)), "rank": float(np.mean(ranks))}
    return Measured({"patch": patch, "description": wanted.description, "specimens": specimens, "depths": depths})


def _judged(
    conditions: Conditions, rng: np.random.Generator, z_um: NDArray[np.float64], quantile: float, subject: Subject
) -> tuple[NDArray[np.uint8], NDArray[np.float64], float]:
    """Windows of one new specimen, (Z, N, P, P, 3) uint8, its waves (Z,) and the edge of its pupil.

    Windows that serving would not ask about near focus are zeros at all depths.
    """
    setting = conditions.draw(rng, quantile)
    optics = setting.optics
    table = PupilTable(optics, float(np.abs(z_um).max()) + 0.01)
    a, b = fine_ratio(optics)
    size = good_size(_JUDGED_PX + _MARGIN_PX, a, b)
    light = light_of(setting.kind, rng, size // a * b, optics.pixel_um * a / b)
    images = focal_stack(light, table, table.radial_otf(z_um), RESPONSES[0])[:, :_JUDGED_PX, :_JUDGED_PX]
    plane = {"pattern": "mono", "mono_response": (1.0, 0.0, 0.0)}
    sensor = Sensor(setting.sensor.full_well_e, setting.sensor.read_noise_e, setting.sensor.exposure, **plane)  # type: ignore[arg-type]
    shots = [expose(np.broadcast_to(image, (3, *image.shape)), sensor, rng).astype(np.uint8) for image in images]
    patches = np.stack([cut(shot, subject.patch_px) for shot in shots])
    shows = _informative(patches[int(np.abs(z_um).argmin())], subject.min_contrast)
    patches[:, ~shows] = 0
    return patches, zernike(table, z_um).defocus, edge_of(optics)


def _rank(scores: NDArray[np.float32], distance_um: NDArray[np.float64]) -> float:
    """Spearman's rank correlation."""
    first, second = (np.argsort(np.argsort(values)).astype(np.float64) for values in (scores, distance_um))
    return float(np.corrcoef(first, second)[0, 1])


def show(metrics: Mapping[str, Figures], out: Console) -> None:
    """A table of errors in waves."""
    table = Rows("set", *_COLUMNS.values(), title="score of single windows")
    for name, figures in metrics.items():
        table.add_row(name, *(cell(figures["patch"][key]) for key in _COLUMNS))
    out.print(table)


def card(manifest: Manifest) -> str:
    """What the score is, and how good it is on single windows."""
    knee, edge = manifest.facts["knee_waves"], manifest.facts["reference_edge"]
    scored = {name: figures for name, figures in manifest.metrics.items() if isinstance(figures, dict)}
    rows = "\n".join(
        f"| {name} | {f['patch']['mae_waves']:.3f} | {f['patch']['median_waves']:.3f} | {f['patch']['rank']:.3f} |"
        for name, f in scored.items()
        if "patch" in f
    )
    return _CARD.format(knee=knee, edge=edge, rows=rows)


_CARD = """\
## What it is for

One number for how blurred a patch of 128 pixels is, of any specimen, through any objective, in any contrast, colour
or grey (green is read). It is {knee:g} asinh(w / {knee:g}), w being the absolute Zernike defocus coefficient in waves
at 535 nm behind a pupil with its edge at {edge:g} cycles per pixel. It says nothing about the side of focus. On a
board it serves the strategy `few_shot`, after `parfocal calibrate focus` has recorded its curve for the objective in
place.

## How well it does

Single patches of simulated specimens that no training has seen, over each set's range of defocus (um of travel
times the aperture make the waves). What it does for focusing stands in docs/deepfocus.md.

| set | mean error, waves | median | rank correlation with distance from focus |
| --- | --- | --- | --- |
{rows}
"""
