"""The objective of the task `defocus`: what a wrong answer costs in training."""

from __future__ import annotations

from torch import Tensor, nn, where, zeros_like

from model_export.recipe import Recipe

_SIGMA = 0.1
_SIDE = 0.05
_DISTANCE = 0.2
_THICKNESS = 0.2


def objective(answers: dict[str, Tensor], truth_um: Tensor, thickness_um: Tensor, recipe: Recipe) -> Tensor:
    """Mean cost of answers (N,) by output name, given the true defocus and thickness of the specimen (N,) in um.

    Huber on the error, stricter near focus, plus the Gaussian likelihood of the error under sigma. The likelihood
    does not reach the defocus (its error is detached), so that an easy sigma cannot buy off a hard patch. Of a
    truth beyond the recipe's `clip_um` any answer beyond it on the same side is right. Families that answer them
    are also held to the side (cross-entropy of the logit of "above focus"), to the distance, which is Huber on
    |z| whatever the side, and to the thickness, Huber within a twentieth of the range.
    """
    unit, clip = recipe.data.range_um / 10, recipe.training.clip_um
    truth = truth_um.clamp(-clip, clip)
    beyond = truth_um.abs() > clip
    scale = recipe.training.error_floor * unit + recipe.training.error_slope * truth.abs()
    error = _forgiven(answers["defocus_um"] - truth, beyond & (answers["defocus_um"] * truth.sign() > clip))
    log_sigma = answers["log_sigma"].clamp(-5.0, 3.0)
    likelihood = log_sigma + 0.5 * error.detach().square() * (-2 * log_sigma).exp()
    cost = _huber(error / scale) + _SIGMA * likelihood.mean()
    if "side" in answers:
        above = (truth > 0).to(truth.dtype)
        sides = nn.functional.binary_cross_entropy_with_logits(answers["side"], above, reduction="none")
        cost = cost + _SIDE * sides.mean()
    if "distance_um" in answers:
        off = _forgiven(answers["distance_um"] - truth.abs(), beyond & (answers["distance_um"] > clip))
        cost = cost + _DISTANCE * _huber(off / scale)
    if "thickness_um" in answers:
        cost = cost + _THICKNESS * _huber((answers["thickness_um"] - thickness_um) / (0.5 * unit))
    return cost


def _forgiven(error: Tensor, right: Tensor) -> Tensor:
    return where(right, zeros_like(error), error)


def _huber(error: Tensor) -> Tensor:
    return nn.functional.huber_loss(error, zeros_like(error), delta=1.0)
