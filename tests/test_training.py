"""A tiny recipe of a family that reads tiles, all the way to a bundle; and what is refused on the way."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from edge_app.bundle import Calibrations, CalibrationTable, ModelBundle, read
from edge_app.runtime import open_runtime
from model_export.data import Features, Tiles, is_informative, open_split, random_crop
from model_export.errors import BadRecipe, NoData
from model_export.recipe import RECIPES, Recipe, load_recipe
from model_export.synthesis import SPLITS, draw_depths, specimen_tiles, write_shards
from model_export.teaching import teaching_of

if TYPE_CHECKING:
    from model_export.train import Trained

torch = pytest.importorskip("torch", reason="model_export needs torch")
STEPS = 6
CALIBRATION = Calibrations(
    known=CalibrationTable(patch_scale=1.5, floor_um=0.25, patch_share=0.1, spread_share=1.0),
    unknown=CalibrationTable(patch_scale=1.6, floor_um=0.35, patch_share=0.2, spread_share=1.5),
)


def tiny(**training: object) -> Recipe:
    """The real recipe with everything small."""
    real = load_recipe("ldse_net_20x")
    small_data = {"tile_px": 232, "depths_per_specimen": 2, "train_specimens": 3, "validation_specimens": 2}
    few_steps = {"batch": 4, "steps": STEPS, "warmup_steps": 2, "checkpoint_every": 3}
    small_net = {"stem": 8, "growth": 4, "layers": [1, 1, 1, 1], "transitions": [8, 8, 8], "scale_um": 8.0}
    return real.model_copy(
        update={
            "data": real.data.model_copy(update=small_data | {"range_um": 4.0, "far_um": 6.0}),
            "network": small_net,
            "training": real.training.model_copy(update=few_steps | training),
        }
    )


def quiet(*_: object) -> None:
    """Progress that nobody watches."""


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    for split, count in (("train", 3), ("validation", 2)):
        write_shards(tiny(), split, count, folder, 1, quiet)
    return folder


@pytest.fixture(scope="module")
def trained(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return run(shards, tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def bundle(shards: Path, trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    from model_export.export import export_network, make_bundle, manifest_of

    patches = np.stack([tile[:224, :224] for tile in tiles_of(shards, "validation").shards[0]])
    path = tmp_path_factory.mktemp("bundle") / "tiny.parfocal"
    exported = export_network(tiny(), trained, patches)
    manifest = manifest_of(tiny(), trained, exported, CALIBRATION, "abc", 60.0)
    path.write_bytes(make_bundle(manifest, exported, {"nominal": {}}))
    return read(path)


def run(shards: Path, folder: Path, recipe: Recipe | None = None) -> Trained:
    from model_export.train import train

    recipe = recipe or tiny()
    return train(recipe, open_split(shards, "train", recipe), folder, quiet)


def tiles_of(shards: Path, split: str = "train", recipe: Recipe | None = None) -> Tiles:
    opened = open_split(shards, split, recipe or tiny())
    assert isinstance(opened, Tiles)
    return opened


class Interrupted(Exception):
    """Somebody pulled the plug."""


def test_shards_hold_every_depth_of_every_specimen_once(shards: Path) -> None:
    tiles = tiles_of(shards)
    assert [shard.shape for shard in tiles.shards] == [(6, 232, 232, 3)]
    assert tiles.specimen.tolist() == [0, 0, 1, 1, 2, 2]
    assert len(np.unique(tiles.truth["z"])) == 6


def test_shards_that_are_there_are_kept(shards: Path) -> None:
    before = (shards / "train-000.tiles.npy").stat().st_mtime_ns
    write_shards(tiny(), "train", 3, shards, 1, quiet)
    assert (shards / "train-000.tiles.npy").stat().st_mtime_ns == before


def test_shards_are_the_specimens_whatever_made_them(shards: Path) -> None:
    made = specimen_tiles(tiny(), "train", 1)
    stored = tiles_of(shards)
    assert np.array_equal(made.tiles, stored.shards[0][2:4])
    assert np.array_equal(made.z_um.ravel(), stored.truth["z"][2:4])
    assert stored.truth["thickness"][2:4] == pytest.approx([made.thickness_um] * 2)


def test_splits_never_share_a_specimen() -> None:
    first = {split: specimen_tiles(tiny(), split, 0).tiles.tobytes() for split in ("train", "validation")}
    assert first["train"] != first["validation"]
    assert len(set(SPLITS.values())) == len(SPLITS)


def test_a_run_that_was_cut_off_resumes_as_if_it_had_not_been(shards: Path, trained: Trained, tmp_path: Path) -> None:
    from model_export.train import train

    def pull_the_plug(step: int, _steps: int, _loss: float) -> None:
        if step == 4:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(tiny(), tiles_of(shards), tmp_path, pull_the_plug)
    resumed = run(shards, tmp_path)
    assert resumed.steps == STEPS
    assert resumed.loss == pytest.approx(trained.loss, rel=1e-5)
    for name, value in trained.net.state_dict().items():
        assert torch.allclose(resumed.net.state_dict()[name], value, rtol=1e-4, atol=1e-5), name


def test_training_teaches(shards: Path, tmp_path: Path) -> None:
    losses: list[float] = []
    from model_export.train import train

    recipe = tiny(steps=30, learning_rate=1e-2)
    tiles = tiles_of(shards, "train", recipe)
    train(recipe, tiles, tmp_path, lambda _step, _steps, loss: losses.append(loss))
    assert losses[-1] < 0.9 * losses[0]


def test_a_finished_run_is_loaded_and_not_trained_again(shards: Path, tmp_path: Path) -> None:
    from model_export.train import load_trained

    done = run(shards, tmp_path)
    again = run(shards, tmp_path)
    loaded = load_trained(tiny(), tmp_path)
    assert again.loss == loaded.loss == done.loss
    assert all(torch.equal(loaded.net.state_dict()[k], v) for k, v in done.net.state_dict().items())


def test_a_checkpoint_of_another_network_is_refused(shards: Path, tmp_path: Path) -> None:
    from model_export.train import load_trained

    run(shards, tmp_path)
    wider = tiny().model_copy(update={"network": tiny().network | {"stem": 12}})
    with pytest.raises(NoData, match="another recipe"):
        load_trained(wider, tmp_path)


def test_a_truncated_checkpoint_is_refused(shards: Path, tmp_path: Path) -> None:
    from model_export.train import load_trained

    (tmp_path / "checkpoint.pt").write_bytes(b"PK")
    with pytest.raises(NoData, match=r"checkpoint\.pt does not hold this recipe's network"):
        load_trained(tiny(), tmp_path)
    with pytest.raises(NoData, match=r"checkpoint\.pt does not hold this recipe's network"):
        run(shards, tmp_path)


def test_a_run_without_a_checkpoint_says_what_to_do(tmp_path: Path) -> None:
    from model_export.train import load_trained

    with pytest.raises(NoData, match="train first: parfocal-model train ldse_net_20x"):
        load_trained(tiny(), tmp_path)


def test_a_bundle_carries_its_passport(bundle: ModelBundle) -> None:
    manifest = bundle.manifest
    assert (manifest.task, manifest.family, manifest.outputs) == (
        "defocus",
        "ldse_net",
        ("defocus_um", "log_sigma"),
    )
    assert manifest.passport.numerical_aperture == tiny().conditions[0].optics.numerical_aperture
    assert manifest.passport.response == tiny().accepts
    assert (manifest.input.patches_at_most, manifest.input.min_contrast) == (0, tiny().min_contrast)
    assert manifest.calibration == CALIBRATION
    assert (manifest.training.commit, manifest.training.steps) == ("abc", STEPS)
    assert manifest.flop_per_patch > 1e6


def test_a_passport_accepts_the_aberrations_of_all_conditions_and_knows_those_of_some() -> None:
    from model_export.passport import passport_of

    passport = passport_of(load_recipe("spectral_20x"))
    assert (passport.spherical_waves, passport.spherical_waves_accepted) == ((0.13, 0.17), (0.0, 0.35))
    assert passport.longitudinal_colour_um_accepted is not None
    red, green, blue = passport.longitudinal_colour_um_accepted
    assert red == pytest.approx((0.3, 0.7), abs=1e-5)
    assert green == pytest.approx((0.0, 0.0), abs=1e-5)
    assert blue == pytest.approx((-0.56, -0.24), abs=1e-5)


@pytest.mark.parametrize("name", sorted(path.stem for path in RECIPES.glob("*.toml")))
def test_a_passport_accepts_what_its_own_recipe_declares(name: str) -> None:
    recipe = load_recipe(name)
    passport = teaching_of(recipe.task).passport(recipe)
    settings = [conditions.draw(np.random.default_rng(1)) for conditions in recipe.conditions]
    assert [passport.check(setting.frame_optics()) for setting in settings] == [None] * len(settings)


def test_a_bundle_answers_at_the_edge_as_the_network_did(bundle: ModelBundle, trained: Trained) -> None:
    counts = bundle.golden_in[:2]
    with torch.inference_mode():
        expected = trained.net(torch.from_numpy(counts))
    answers = open_runtime(bundle, "onnxruntime").infer(counts)
    assert answers["defocus_um"] == pytest.approx(expected[0].numpy(), abs=2e-3)
    assert answers["log_sigma"] == pytest.approx(expected[1].numpy(), abs=2e-3)


def test_a_folder_without_shards_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NoData, match="parfocal-model synth ldse_net_20x --data"):
        open_split(tmp_path, "train", tiny())


@pytest.mark.parametrize("part", ["tiles", "z", "specimen"])
def test_a_truncated_shard_is_refused(part: str, shards: Path, tmp_path: Path) -> None:
    for path in shards.iterdir():
        data = path.read_bytes()
        torn = path.name == f"train-000.{part}.npy"
        (tmp_path / path.name).write_bytes(data[: -len(data) // 8 if torn else len(data)])
    with pytest.raises(NoData, match="remove it and run synth again"):
        open_split(tmp_path, "train", tiny())


def test_the_shards_of_another_recipe_are_not_trained_on(shards: Path) -> None:
    other = tiny().model_copy(update={"seed": 5})
    with pytest.raises(NoData, match="made by another recipe"):
        open_split(shards, "train", other)


def test_the_shards_of_another_recipe_are_not_mixed_with_new_ones(shards: Path) -> None:
    other = tiny().model_copy(update={"seed": 5})
    with pytest.raises(NoData, match="made by another recipe"):
        write_shards(other, "validation", 2, shards, 1, quiet)
    assert len(tiles_of(shards).specimen) == 6


def test_the_training_numbers_do_not_decide_the_shards(shards: Path) -> None:
    assert len(tiles_of(shards, "train", tiny(learning_rate=1.0)).specimen) == 6


def test_a_batch_is_informative_and_follows_its_seed(shards: Path) -> None:
    tiles = tiles_of(shards)
    (patches, _, truth), (again, *_) = (tiles.draw(np.random.default_rng(3), 5) for _ in range(2))
    assert patches.shape == (5, 224, 224, 3)
    assert all(is_informative(patch, tiny().data.min_contrast) for patch in patches)
    assert set(truth["z"].tolist()) <= set(tiles.truth["z"].tolist())
    assert np.array_equal(patches, again)


def test_tiles_that_show_nothing_do_not_hang_the_training() -> None:
    blank = np.full((2, 232, 232, 3), 200, np.uint8)
    tiles = Tiles((blank,), {"z": np.zeros(2, np.float32)}, np.zeros(2, np.int32), 0.012)
    with pytest.raises(NoData, match="next to nothing"):
        tiles.draw(np.random.default_rng(1), 2)


def test_features_of_nothing_are_refused() -> None:
    nothing = Features(np.empty((0, 3), np.float32), {"z": np.empty(0, np.float32)}, np.empty(0, np.int32))
    with pytest.raises(NoData, match="no patch is informative"):
        nothing.draw(np.random.default_rng(1), 2)


def test_features_are_drawn_with_what_is_true_of_them_and_what_is_read_beside_them() -> None:
    rows = np.arange(5, dtype=np.float32)
    also, truth = {"whole": 3 * rows[:, None]}, {"z": -rows, "pupil": 2 * rows[:, None]}
    split = Features(rows[:, None], truth, np.zeros(5, np.int32), also)
    features, drawn_also, drawn = split.draw(np.random.default_rng(1), 20)
    assert np.array_equal(features[:, 0], -drawn["z"])
    assert np.array_equal(2 * features, drawn["pupil"])
    assert np.array_equal(3 * features, drawn_also["whole"])
    assert len(np.unique(drawn["z"])) > 2


def test_tiles_are_drawn_with_what_is_true_of_them_and_what_is_read_beside_them() -> None:
    rows = np.arange(6, dtype=np.float32)
    shards = tuple(
        np.full((3, 8, 8, 3), first, np.uint8) + np.arange(3, dtype=np.uint8)[:, None, None, None] for first in (0, 3)
    )
    tiles = Tiles(shards, {"z": rows}, np.zeros(6, np.int32), 0.0, 4, {"whole": 2 * rows[:, None]})
    seen, also, truth = tiles.draw(np.random.default_rng(1), 30)
    assert np.array_equal(seen[:, 0, 0, 0], truth["z"])
    assert np.array_equal(2 * truth["z"], also["whole"][:, 0])
    assert len(np.unique(truth["z"])) == 6


def test_tiles_are_found_across_shards() -> None:
    shards = tuple(np.full((n, 1, 1, 3), n, np.uint8) for n in (2, 3))
    tiles = Tiles(shards, {}, np.zeros(5, np.int32), 0.012)
    assert [int(tiles.tile(k)[0, 0, 0]) for k in range(5)] == [2, 2, 3, 3, 3]
    with pytest.raises(IndexError):
        tiles.tile(5)


def test_crops_come_in_all_eight_orientations() -> None:
    tile = np.arange(224 * 224 * 3, dtype=np.uint32).reshape(224, 224, 3).astype(np.uint8)
    tile[0, 0], tile[0, -1], tile[-1, 0], tile[-1, -1] = 1, 2, 3, 4
    rng = np.random.default_rng(1)
    crops = (random_crop(tile, rng) for _ in range(200))
    corners = {(int(c[0, 0, 0]), int(c[0, -1, 0]), int(c[-1, 0, 0])) for c in crops}
    assert len(corners) == 8


def test_crops_that_must_not_be_turned_stand_as_they_were_seen() -> None:
    tile = np.arange(300 * 300, dtype=np.uint32).reshape(300, 300, 1).repeat(3, 2)
    rng = np.random.default_rng(1)
    crops = [random_crop(tile.astype(np.uint8), rng, 224, turns=False) for _ in range(20)]
    steps = [int(crop[0, 1, 0]) - int(crop[0, 0, 0]) for crop in crops]
    assert {step % 256 for step in steps} == {1}


def test_depths_cover_both_sides_and_reach_beyond_the_range() -> None:
    recipe, rng = load_recipe("ldse_net_20x"), np.random.default_rng(1)
    z = np.concatenate([draw_depths(rng, recipe.data) for _ in range(300)])
    assert abs((z > 0).mean() - 0.5) < 0.05
    assert 0.1 < (np.abs(z) > recipe.data.range_um).mean() < 0.4
    assert np.abs(z).max() <= recipe.data.far_um


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seed = ", "sed = ", "sed"),
        ("range_um = 10.0", "range_um = -1.0", "range_um"),
        ("pixel_um = [", "pixel_mm = [", "pixel_mm"),
        ("[data]", "[data", "ldse.toml"),
        ('["nominal", "optics"]', "[]", "sets"),
        ("[network]", "[objective]\nslope = 1.0\n[network]", "objective: slope"),
        ("patch_mae_um = ", "patch_mae = ", "acceptance: nominal.patch_mae"),
        ("seed = ", 'task = "juggling"\nseed = ', "no task 'juggling' in model_export/teaching; it has: defocus"),
    ],
)
def test_a_wrong_recipe_is_refused_by_the_name_of_what_is_wrong(
    old: str, new: str, message: str, tmp_path: Path
) -> None:
    text = (RECIPES / "ldse_net_20x.toml").read_text(encoding="utf-8")
    path = tmp_path / "ldse.toml"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(BadRecipe, match=message):
        load_recipe(str(path))


def test_an_unknown_recipe_is_told_what_there_is() -> None:
    with pytest.raises(BadRecipe, match=r"'soup'.*ldse_net_20x"):
        load_recipe("soup")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"family": "alex_net"}, "no 'alex_net' in model_export/families"),
        ({"network": {"depth": 3}}, "depth"),
        ({"task": "quality"}, "is of the task 'defocus', and the recipe of 'quality'"),
    ],
)
def test_a_recipe_for_no_network_is_refused(change: dict[str, object], message: str) -> None:
    from model_export.train import build

    with pytest.raises(BadRecipe, match=message):
        build(tiny().model_copy(update=change))


def test_validation_tells_the_error_on_patches_within_the_range() -> None:
    from torch import Tensor, nn

    from model_export.train import validate

    class Late(nn.Module):
        """Says half a micrometre too much."""

        def answer(self, features: Tensor) -> tuple[Tensor, Tensor]:
            return features[:, 0] + 0.5, features[:, 0]

    z = np.linspace(-9, 9, 50, dtype=np.float32)
    far = np.full(50, 22.0, np.float32)
    seen, truth = np.concatenate([z, far * 0])[:, None], np.concatenate([z, far])
    split = Features(seen, {"z": truth, "thickness": truth * 0}, np.zeros(100, np.int32))
    assert validate(tiny(), Late(), split) == "the mean error is 0.50 um, the median 0.50 um"


def test_a_recipe_whose_sets_show_another_microscope_is_refused_before_it_is_trained() -> None:
    from model_export.passport import check_sets

    recipe = load_recipe("spectral_10x")
    check_sets(recipe)
    with pytest.raises(BadRecipe, match=r"set 'nominal': the frame has NA 0\.75.*name sets of the recipe's own"):
        check_sets(recipe.model_copy(update={"sets": ("10x", "nominal")}))
    short = recipe.model_copy(update={"data": recipe.data.model_copy(update={"range_um": 20.0})})
    with pytest.raises(BadRecipe, match=r"range is \+-40 um, and the recipe's \+-20 um"):
        check_sets(short)


def test_what_serves_and_judges_a_network_does_not_make_another_checkpoint() -> None:
    recipe = load_recipe("spectral_10x")
    served = recipe.model_copy(update={"min_contrast": 0.5, "sets": ("nominal",)})
    assert served.trains == recipe.trains
    assert served.sha256 != recipe.sha256
    assert recipe.model_copy(update={"seed": 3}).trains != recipe.trains


def test_crops_are_as_large_as_the_networks_patches() -> None:
    noise = np.random.default_rng(1).integers(0, 255, (2, 500, 500, 3), np.uint8)
    tiles = Tiles((noise,), {}, np.zeros(2, np.int32), 0.0, 448)
    assert tiles.draw(np.random.default_rng(1), 3).seen.shape == (3, 448, 448, 3)
