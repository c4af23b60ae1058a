"""A tiny recipe all the way: synth, train, resume, export, a bundle; and what is refused on the way."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from edge_app.bundle import ModelBundle, read
from edge_app.estimate import Calibration
from edge_app.runtime import open_runtime
from model_export.data import Tiles, draw_batch, is_informative, open_tiles, random_crop
from model_export.errors import BadRecipe, NoData
from model_export.recipe import RECIPES, Recipe, load_recipe
from model_export.synthesis import SPLITS, draw_depths, draw_optics, draw_sensor, specimen_tiles, write_shards

if TYPE_CHECKING:
    from model_export.train import Trained

torch = pytest.importorskip("torch", reason="model_export needs torch")
STEPS = 6


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
    from model_export.export import export_network, make_bundle

    patches = np.stack([tile[:224, :224] for tile in open_tiles(shards, "validation", tiny()).shards[0]])
    path = tmp_path_factory.mktemp("bundle") / "tiny.parfocal"
    calibration = Calibration(4.0, 1.5, 0.25)
    exported = export_network(tiny(), trained, patches)
    path.write_bytes(make_bundle(tiny(), trained, exported, calibration, {"specimens": {}}, "abc"))
    return read(path)


def run(shards: Path, folder: Path, recipe: Recipe | None = None) -> Trained:
    from model_export.train import train

    recipe = recipe or tiny()
    return train(recipe, open_tiles(shards, "train", recipe), folder, quiet)


class Interrupted(Exception):
    """Somebody pulled the plug."""


def test_shards_hold_every_depth_of_every_specimen_once(shards: Path) -> None:
    tiles = open_tiles(shards, "train", tiny())
    assert [shard.shape for shard in tiles.shards] == [(6, 232, 232, 3)]
    assert tiles.specimen.tolist() == [0, 0, 1, 1, 2, 2]
    assert len(np.unique(tiles.z_um)) == 6


def test_shards_that_are_there_are_kept(shards: Path) -> None:
    before = (shards / "train-000.tiles.npy").stat().st_mtime_ns
    write_shards(tiny(), "train", 3, shards, 1, quiet)
    assert (shards / "train-000.tiles.npy").stat().st_mtime_ns == before


def test_shards_are_the_specimens_whatever_made_them(shards: Path) -> None:
    tiles, depths = specimen_tiles(tiny(), "train", 1)
    stored = open_tiles(shards, "train", tiny())
    assert np.array_equal(tiles, stored.shards[0][2:4])
    assert np.array_equal(depths, stored.z_um[2:4])


def test_splits_never_share_a_specimen() -> None:
    first = {split: specimen_tiles(tiny(), split, 0)[0].tobytes() for split in ("train", "validation")}
    assert first["train"] != first["validation"]
    assert len(set(SPLITS.values())) == len(SPLITS)


def test_a_run_that_was_cut_off_resumes_as_if_it_had_not_been(shards: Path, trained: Trained, tmp_path: Path) -> None:
    from model_export.train import train

    def pull_the_plug(step: int, _steps: int, _loss: float) -> None:
        if step == 4:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(tiny(), open_tiles(shards, "train", tiny()), tmp_path, pull_the_plug)
    resumed = run(shards, tmp_path)
    assert resumed.steps == STEPS
    assert resumed.loss == pytest.approx(trained.loss, rel=1e-5)
    for name, value in trained.net.state_dict().items():
        assert torch.allclose(resumed.net.state_dict()[name], value, rtol=1e-4, atol=1e-5), name


def test_training_teaches(shards: Path, tmp_path: Path) -> None:
    losses: list[float] = []
    from model_export.train import train

    recipe = tiny(steps=30, learning_rate=1e-2)
    tiles = open_tiles(shards, "train", recipe)
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
    assert manifest.passport.numerical_aperture == tiny().optics.numerical_aperture
    assert manifest.calibration == Calibration(4.0, 1.5, 0.25)
    assert (manifest.training.commit, manifest.training.steps) == ("abc", STEPS)
    assert manifest.flop_per_patch > 1e6


def test_a_bundle_answers_at_the_edge_as_the_network_did(bundle: ModelBundle, trained: Trained) -> None:
    counts = bundle.golden_in[:2]
    with torch.inference_mode():
        expected = trained.net(torch.from_numpy(counts))
    answers = open_runtime(bundle, "onnxruntime").infer(counts)
    assert answers["defocus_um"] == pytest.approx(expected[0].numpy(), abs=2e-3)
    assert answers["log_sigma"] == pytest.approx(expected[1].numpy(), abs=2e-3)


def test_a_folder_without_shards_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NoData, match="parfocal-model synth ldse_net_20x --data"):
        open_tiles(tmp_path, "train", tiny())


@pytest.mark.parametrize("part", ["tiles", "z", "specimen"])
def test_a_truncated_shard_is_refused(part: str, shards: Path, tmp_path: Path) -> None:
    for path in shards.iterdir():
        data = path.read_bytes()
        torn = path.name == f"train-000.{part}.npy"
        (tmp_path / path.name).write_bytes(data[: -len(data) // 8 if torn else len(data)])
    with pytest.raises(NoData, match="remove it and run synth again"):
        open_tiles(tmp_path, "train", tiny())


def test_the_shards_of_another_recipe_are_not_trained_on(shards: Path) -> None:
    other = tiny().model_copy(update={"seed": 5})
    with pytest.raises(NoData, match="made by another recipe"):
        open_tiles(shards, "train", other)


def test_the_shards_of_another_recipe_are_not_mixed_with_new_ones(shards: Path) -> None:
    other = tiny().model_copy(update={"seed": 5})
    with pytest.raises(NoData, match="made by another recipe"):
        write_shards(other, "validation", 2, shards, 1, quiet)
    assert len(open_tiles(shards, "train", tiny()).z_um) == 6


def test_the_training_numbers_do_not_decide_the_shards(shards: Path) -> None:
    assert len(open_tiles(shards, "train", tiny(learning_rate=1.0)).z_um) == 6


def test_a_batch_is_informative_and_follows_its_seed(shards: Path) -> None:
    tiles = open_tiles(shards, "train", tiny())
    (patches, z_um), (again, _) = (draw_batch(tiles, np.random.default_rng(3), 5) for _ in range(2))
    assert patches.shape == (5, 224, 224, 3)
    assert all(is_informative(patch) for patch in patches)
    assert set(z_um.tolist()) <= set(tiles.z_um.tolist())
    assert np.array_equal(patches, again)


def test_tiles_that_show_nothing_do_not_hang_the_training() -> None:
    blank = np.full((2, 232, 232, 3), 200, np.uint8)
    tiles = Tiles((blank,), np.zeros(2, np.float32), np.zeros(2, np.int32))
    with pytest.raises(NoData, match="next to nothing"):
        draw_batch(tiles, np.random.default_rng(1), 2)


def test_tiles_are_found_across_shards() -> None:
    shards = tuple(np.full((n, 1, 1, 3), n, np.uint8) for n in (2, 3))
    tiles = Tiles(shards, np.zeros(5, np.float32), np.zeros(5, np.int32))
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


def test_optics_and_cameras_stay_inside_the_recipes_ranges() -> None:
    table, rng = load_recipe("ldse_net_20x").optics, np.random.default_rng(1)
    drawn = [(draw_optics(rng, table), draw_sensor(rng, table)) for _ in range(200)]
    assert all(inside(o.numerical_aperture, table.numerical_aperture) for o, _ in drawn)
    assert all(inside(o.pixel_um, table.pixel_um) for o, _ in drawn)
    assert all(inside(s.exposure, table.exposure) for _, s in drawn)
    assert all(inside(min(s.gains), (1 - table.gain_spread, 1.0)) for _, s in drawn)


def inside(value: float, bounds: tuple[float, float]) -> bool:
    return bounds[0] <= value <= bounds[1]


def test_depths_cover_both_sides_and_reach_beyond_the_range() -> None:
    recipe, rng = load_recipe("ldse_net_20x"), np.random.default_rng(1)
    z = np.concatenate([draw_depths(rng, recipe) for _ in range(300)])
    assert abs((z > 0).mean() - 0.5) < 0.05
    assert 0.1 < (np.abs(z) > recipe.data.range_um).mean() < 0.4
    assert np.abs(z).max() <= recipe.data.far_um


def objective(defocus_um: float, truth_um: float, log_sigma: float = 0.0, clip_um: float = 14.0) -> float:
    from model_export.train import objective as loss

    answer, sigma, truth = (torch.tensor([float(v)]) for v in (defocus_um, log_sigma, truth_um))
    return float(loss(answer, sigma, truth, clip_um))


@pytest.mark.parametrize("side", [1.0, -1.0])
def test_beyond_the_range_only_the_side_counts(side: float) -> None:
    assert objective(side * 18, side * 20) == objective(side * 14.5, side * 20) == objective(side * 14, side * 14)
    assert objective(-side * 14, side * 20) > objective(side * 13, side * 20) > objective(side * 14, side * 20)


def test_inside_the_range_too_far_is_as_wrong_as_not_far_enough() -> None:
    assert objective(13.5, 13.0) == pytest.approx(objective(12.5, 13.0))
    assert objective(13.5, 13.0) > objective(13.0, 13.0)


def test_an_error_near_focus_weighs_more() -> None:
    assert objective(0.5, 0.0) > objective(8.5, 8.0)


def test_the_likelihood_is_best_where_sigma_is_the_error() -> None:
    tried = [objective(3.0, 1.0, log_sigma) for log_sigma in np.linspace(-1, 2, 31)]
    assert np.linspace(-1, 2, 31)[int(np.argmin(tried))] == pytest.approx(np.log(2.0), abs=0.06)


def test_an_easy_sigma_does_not_buy_off_a_hard_patch() -> None:
    from model_export.train import objective as loss

    gradients = []
    for log_sigma in (-1.0, 2.0):
        defocus_um = torch.tensor([3.0], requires_grad=True)
        loss(defocus_um, torch.tensor([log_sigma]), torch.tensor([1.0]), 14.0).backward()
        gradients.append(defocus_um.grad.item())
    assert gradients[0] == gradients[1] > 0


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seed = ", "sed = ", "sed"),
        ("range_um = 10.0", "range_um = -1.0", "range_um"),
        ("[optics]", "[optics", "ldse.toml"),
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
    ],
)
def test_a_recipe_for_no_network_is_refused(change: dict[str, object], message: str) -> None:
    from model_export.train import build

    with pytest.raises(BadRecipe, match=message):
        build(tiny().model_copy(update=change))
