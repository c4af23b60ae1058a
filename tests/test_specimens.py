"""Procedural specimens: light between none and all, seeded, and as different as their names say."""

from __future__ import annotations

import numpy as np
import pytest

from firmware.optics import Floats
from firmware.specimens import GLOWING, KINDS, Specimen, make_specimen

PITCH_UM = 0.15


def specimen(kind: str, seed: int = 1, side: int = 500) -> Floats:
    return np.asarray(make_specimen(kind, np.random.default_rng(seed), (side, side), PITCH_UM))


def covered(kind: str) -> float:
    """The share of green light's way that is not clear, over some specimens."""
    return float(np.mean([(specimen(kind, seed)[1] < 0.95).mean() for seed in range(6)]))


def test_what_glows_is_a_kind() -> None:
    assert KINDS.keys() >= GLOWING


def test_fluorescence_is_bright_cells_on_a_dark_haze() -> None:
    fields = [specimen("fluorescence", seed) for seed in range(6)]
    for light in fields:
        ground = light.min(axis=(1, 2))
        assert 0.008 <= ground.min() <= ground.max() <= 0.03
    assert max(light.max() for light in fields) == 1.0
    assert 0.1 < np.mean([(light.max(axis=0) < 0.05).mean() for light in fields]) < 0.8


def test_each_stain_glows_in_its_colour_and_all_share_the_cells() -> None:
    red, green, blue = (specimen("fluorescence", 2)[c].ravel() for c in range(3))
    for own, others in ((red, (green, blue)), (green, (red, blue)), (blue, (red, green))):
        brightest = own > np.percentile(own, 99.8)
        assert all(own[brightest].mean() > 1.5 * other[brightest].mean() for other in others)
    assert np.corrcoef(green, blue)[0, 1] > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_light_is_weakened_and_never_made(kind: str) -> None:
    light = specimen(kind)
    assert light.dtype == np.float32
    assert light.shape == (3, 500, 500)
    assert light.min() > 0.0
    assert light.max() <= 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_specimen(kind: str) -> None:
    assert np.array_equal(specimen(kind, 7), specimen(kind, 7))


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"blank"}))
def test_another_seed_gives_another_specimen(kind: str) -> None:
    assert any(not np.array_equal(specimen(kind, 0), specimen(kind, seed)) for seed in (1, 2, 3))


def test_a_blank_field_is_clear() -> None:
    assert specimen("blank").min() == 1.0


def test_tissue_covers_more_than_a_smear_and_a_smear_more_than_a_sparse_field() -> None:
    assert covered("tissue") > 1.5 * covered("smear")
    assert covered("smear") > covered("sparse") > 0.0


def test_stains_absorb_green_more_than_red() -> None:
    red, green, _ = specimen("tissue").mean(axis=(1, 2))
    assert green < red


def test_tissue_has_detail_as_fine_as_the_grid() -> None:
    green = specimen("tissue")[1]
    assert np.diff(green, axis=0).std() > 0.005
    assert np.diff(green, axis=0, n=2).std() > 0.005


def test_narrow_and_long_grids_are_filled() -> None:
    light = np.asarray(make_specimen("smear", np.random.default_rng(3), (40, 1500), PITCH_UM))
    assert light.shape == (3, 40, 1500)
    assert np.isfinite(light).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [1.0, 0.4])
def test_a_piece_shows_what_the_whole_shows_there(kind: str, share: float) -> None:
    made = make_specimen(kind, np.random.default_rng(4), (300, 350), PITCH_UM)
    made = Specimen(made.stains, made.glows, share)
    whole, rows, columns = np.asarray(made), np.array([[5], [3], [8]]), np.array([[9, 4, 4, 250]])
    assert made.shape == whole.shape == (3, 300, 350)
    assert np.array_equal(made[:, 20:230, 7:300][1, 10:], whole[1, 30:230, 7:300])
    assert np.array_equal(np.asarray(made[:, ::4, ::4]), whole[:, ::4, ::4])
    assert np.array_equal(made[2, rows, columns], whole[2][rows, columns])


def test_a_share_weakens_absorbance_and_emission() -> None:
    amount = np.full((1, 1), 2.0, np.float32)
    stains = [(np.array([0.1, 0.2, 0.3]), amount)]
    assert float(np.asarray(Specimen(stains, False, 0.5))[1, 0, 0]) == pytest.approx(np.exp(-0.2))
    assert float(np.asarray(Specimen(stains, True, 0.5))[1, 0, 0]) == pytest.approx(0.2)


def test_a_specimen_takes_no_more_room_than_its_stains() -> None:
    tissue = make_specimen("tissue", np.random.default_rng(1), (200, 200), PITCH_UM)
    assert sum(amount.nbytes for _, amount in tissue.stains) == 2 * 200 * 200 * 4
