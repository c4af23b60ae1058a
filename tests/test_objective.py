"""What a wrong answer costs in training, and what costs nothing."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest

from model_export.recipe import Recipe, load_recipe

torch = pytest.importorskip("torch", reason="model_export needs torch")


@lru_cache
def recipe() -> Recipe:
    """Clips at 14 um."""
    return load_recipe("ldse_net_20x")


def cost(truth_um: float, defocus_um: float, log_sigma: float = 0.0, **others: float) -> float:
    """The cost of one patch's answers."""
    from model_export.objective import objective

    answers = {"defocus_um": defocus_um, "log_sigma": log_sigma} | others
    told = {name: torch.tensor([value]) for name, value in answers.items()}
    return float(objective(told, torch.tensor([truth_um]), torch.tensor([1.0]), recipe()))


@pytest.mark.parametrize("side", [1.0, -1.0])
def test_beyond_the_range_only_the_side_counts(side: float) -> None:
    assert cost(side * 20, side * 18) == cost(side * 20, side * 14.5) == cost(side * 14, side * 14)
    assert cost(side * 20, -side * 14) > cost(side * 20, side * 13) > cost(side * 20, side * 14)


def test_inside_the_range_too_far_is_as_wrong_as_not_far_enough() -> None:
    assert cost(13.0, 13.5) == pytest.approx(cost(13.0, 12.5))
    assert cost(13.0, 13.5) > cost(13.0, 13.0)


def test_an_error_near_focus_weighs_more() -> None:
    assert cost(0.0, 0.5) > cost(8.0, 8.5)


def test_errors_are_weighed_on_the_scale_of_the_range() -> None:
    from model_export.objective import objective

    table = recipe()
    wide = table.model_copy(
        update={
            "data": table.data.model_copy(update={"range_um": 40.0}),
            "training": table.training.model_copy(update={"clip_um": 56.0}),
        }
    )
    told = {"defocus_um": torch.tensor([4.0]), "log_sigma": torch.tensor([0.0])}
    zero = torch.zeros(1)
    assert objective(told, zero, zero, wide) < objective(told, zero, zero, table)


def test_the_likelihood_is_best_where_sigma_is_the_error() -> None:
    tried = [cost(1.0, 3.0, log_sigma) for log_sigma in np.linspace(-1, 2, 31).tolist()]
    assert np.linspace(-1, 2, 31)[int(np.argmin(tried))] == pytest.approx(np.log(2.0), abs=0.06)


def test_an_easy_sigma_does_not_buy_off_a_hard_patch() -> None:
    from model_export.objective import objective

    gradients = []
    for log_sigma in (-1.0, 2.0):
        defocus_um = torch.tensor([3.0], requires_grad=True)
        told = {"defocus_um": defocus_um, "log_sigma": torch.tensor([log_sigma])}
        objective(told, torch.ones(1), torch.ones(1), recipe()).backward()
        assert defocus_um.grad is not None
        gradients.append(defocus_um.grad.item())
    assert gradients[0] == gradients[1] > 0


@pytest.mark.parametrize("truth_um", [3.0, -3.0])
def test_the_wrong_side_costs_more_than_the_right_one(truth_um: float) -> None:
    right, wrong = np.sign(truth_um) * 2.0, -np.sign(truth_um) * 2.0
    assert cost(truth_um, truth_um, side=wrong) > cost(truth_um, truth_um, side=0.0)
    assert cost(truth_um, truth_um, side=0.0) > cost(truth_um, truth_um, side=right)


@pytest.mark.parametrize("truth_um", [3.0, -3.0])
def test_the_distance_is_judged_whatever_the_side(truth_um: float) -> None:
    assert cost(truth_um, truth_um, distance_um=3.0) == pytest.approx(cost(truth_um, truth_um))
    assert cost(truth_um, truth_um, distance_um=4.0) > cost(truth_um, truth_um, distance_um=3.5)


def test_beyond_the_range_a_distance_beyond_it_is_right() -> None:
    assert cost(-20.0, -20.0, distance_um=17.0) == pytest.approx(cost(-20.0, -20.0))
    assert cost(-20.0, -20.0, distance_um=13.0) > cost(-20.0, -20.0)


def test_a_family_that_tells_no_side_is_not_held_to_one() -> None:
    assert cost(3.0, 3.0) < cost(3.0, 3.0, side=-1.0)
    assert cost(3.0, 3.0) < cost(3.0, 3.0, distance_um=9.0)


def test_a_family_that_says_how_thick_the_specimen_is_is_held_to_it() -> None:
    right, thin, thick = (cost(2.0, 2.0, thickness_um=said) for said in (1.0, 0.5, 2.0))
    assert cost(2.0, 2.0) == pytest.approx(right)
    assert right < thin < thick
