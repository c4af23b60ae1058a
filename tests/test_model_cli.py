"""parfocal-model from nothing to figures, on a tiny recipe of a family that reads features."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from typer.testing import CliRunner

from edge_app.bundle import ModelBundle, read
from edge_app.runtime import open_runtime
from model_export import cli
from model_export.card import model_card
from model_export.cli import _accept, app
from model_export.data import Features, open_split
from model_export.errors import NoData, NotAccepted, NotInstalled
from model_export.recipe import RECIPES, Recipe, load_recipe
from model_export.synthesis import Specimen
from model_export.teaching.defocus import Acceptance, made_of, make

if TYPE_CHECKING:
    from typer.testing import Result

    from model_export.train import Trained

torch = pytest.importorskip("torch", reason="model_export needs torch")
STEPS = 50
SMALL = {
    "tile_px": 448,
    "depths_per_specimen": 2,
    "train_specimens": 4,
    "validation_specimens": 2,
    "rings": 8,
    "highest": 40,
    "hidden": [16],
    "batch": 16,
    "steps": STEPS,
    "warmup_steps": 5,
    "checkpoint_every": 20,
    "sets": ["nominal"],
}
CALIBRATION = "[calibration]\nspecimens = 2\ndepths = 2\nframe_px = [448, 672]\n"
ACCEPTANCE = "[acceptance.nominal]\npatch_mae_um = 0.01\nsign = 1.0\n"
FEW = ("--specimens", "1", "--depths", "2")
FIGURES = {"mae_um", "median_um", "p95_um", "sign", "coverage_68", "coverage_95"}


@dataclass(frozen=True)
class Workshop:
    """Where everything lies that the commands made."""

    recipe: Path
    data: Path
    run: Path
    bundle: Path


def tell(*words: object, stdin: str = "") -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], input=stdin)


def done(*words: object, stdin: str = "") -> Result:
    """Run a command that must succeed."""
    result = tell(*words, stdin=stdin)
    assert result.exit_code == 0, (result.output, result.exception)
    return result


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """Synth, train and export, once."""
    folder = tmp_path_factory.mktemp("shop")
    made = Workshop(folder / "tiny.toml", folder / "data", folder / "run", folder / "tiny.parfocal")
    text = (RECIPES / "spectral_20x.toml").read_text(encoding="utf-8")
    for key, value in SMALL.items():
        text, count = re.subn(rf"(?m)^{key} = .*$", f"{key} = {json.dumps(value)}", text)
        assert count == 1, key
    made.recipe.write_text(text[: text.index("[acceptance")] + CALIBRATION + ACCEPTANCE, encoding="utf-8")
    done("synth", made.recipe, "--data", made.data, "--workers", 1)
    done("train", made.recipe, "--data", made.data, "--run", made.run)
    sources = ("--data", made.data, "--run", made.run)
    done("export", made.recipe, *sources, "--out", made.bundle, *FEW, "--no-accept")
    return made


@pytest.fixture
def recipe(shop: Workshop) -> Recipe:
    return load_recipe(str(shop.recipe))


@pytest.fixture
def features(shop: Workshop, recipe: Recipe) -> Features:
    opened = open_split(shop.data, "train", recipe)
    assert isinstance(opened, Features)
    return opened


@pytest.fixture
def bundle(shop: Workshop) -> ModelBundle:
    return read(shop.bundle)


@pytest.fixture(scope="module")
def figures(shop: Workshop) -> dict[str, Any]:
    result = done("evaluate", shop.bundle, "--set", "nominal", *FEW, "--runtime", "onnxruntime", "--json")
    parsed: dict[str, Any] = json.loads(result.stdout)
    return parsed


def quiet(*_: object) -> None:
    """Progress that nobody watches."""


class Interrupted(Exception):
    """Somebody pulled the plug."""


def test_shards_hold_the_features_of_informative_patches(features: Features, recipe: Recipe) -> None:
    made = make(recipe, "train", 1)
    second = features.specimen == 1
    assert 0 < second.sum() <= 8
    assert features.features[second] == pytest.approx(made["features"], abs=1e-4)
    assert np.array_equal(features.truth["z"][second], made["z"])
    assert np.array_equal(features.truth["thickness"][second], made["thickness"])


def test_a_specimen_that_shows_nothing_leaves_no_features(recipe: Recipe) -> None:
    blank = Specimen(np.full((2, 448, 448, 3), 200, np.uint8), np.zeros((2, 2, 2), np.float32), 0.0)
    made = made_of(recipe, blank, 3)
    assert made["features"].shape == (0, 8 * 7 + 3)
    assert len(made["z"]) == len(made["specimen"]) == 0


def test_the_network_standardises_what_it_was_trained_on(shop: Workshop, recipe: Recipe, features: Features) -> None:
    from model_export.train import load_trained

    net: Any = load_trained(recipe, shop.run).net
    assert net.centre.numpy() == pytest.approx(features.features.mean(axis=0), abs=1e-3)


def test_training_on_features_resumes_as_if_it_had_not_been_cut_off(
    shop: Workshop, recipe: Recipe, features: Features, tmp_path: Path
) -> None:
    from model_export.train import load_trained, train

    def pull_the_plug(step: int, _steps: int, _loss: float) -> None:
        if step == 30:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(recipe, features, tmp_path, pull_the_plug)
    torch.manual_seed(99)
    resumed, uninterrupted = train(recipe, features, tmp_path, quiet), load_trained(recipe, shop.run)
    assert same(resumed, uninterrupted)


def test_noise_on_the_features_counts(shop: Workshop, recipe: Recipe, features: Features, tmp_path: Path) -> None:
    from model_export.train import load_trained, train

    still = recipe.model_copy(update={"training": recipe.training.model_copy(update={"feature_noise": 0.0})})
    assert not same(train(still, features, tmp_path, quiet), load_trained(recipe, shop.run))


def same(one: Trained, other: Trained) -> bool:
    weights = other.net.state_dict()
    return all(
        torch.allclose(value, weights[name], rtol=1e-4, atol=1e-5) for name, value in one.net.state_dict().items()
    )


def test_a_bundle_says_what_it_is_for_and_where_it_comes_from(bundle: ModelBundle, recipe: Recipe) -> None:
    from model_export.families import family_of

    manifest = bundle.manifest
    assert (manifest.family, manifest.outputs) == ("spectral", family_of("spectral").OUTPUTS)
    assert (manifest.input.patches_at_most, manifest.input.min_contrast) == (48, recipe.min_contrast)
    assert manifest.passport.spherical_waves == (0.13, 0.17)
    assert (manifest.training.recipe_sha256, manifest.training.steps) == (recipe.sha256, STEPS)
    assert manifest.training.data_duration_s > 0
    assert set(manifest.metrics) == {"nominal", "onnx_parity"}


def test_a_bundle_covers_all_of_its_conditions(bundle: ModelBundle) -> None:
    assert bundle.manifest.passport.numerical_aperture == (0.7275, 0.7725)
    assert bundle.manifest.passport.longitudinal_colour_um is not None
    red, green, _ = bundle.manifest.passport.longitudinal_colour_um
    assert red == pytest.approx((0.475, 0.525), abs=1e-5)
    assert green[0] < 0.0 < green[1]


def test_a_bundle_has_its_card_beside_it(shop: Workshop) -> None:
    card = shop.bundle.with_suffix(".md").read_text(encoding="utf-8")
    assert "| nominal (1) | frame | 2 |" in card
    assert "Blank patches (under 2 % covered): nominal: precision" in card


def test_an_older_bundle_has_a_card_too(bundle: ModelBundle) -> None:
    figures = {key: value for key, value in bundle.manifest.metrics["nominal"].items() if key not in ("seed", "blank")}
    card = model_card(bundle.manifest.model_copy(update={"metrics": {"specimens": figures}}))
    assert "| specimens | frame | 2 |" in card
    assert "Blank patches (under 2 % covered): not scored." in card


def test_a_card_has_dashes_where_nothing_was_to_be_scored(bundle: ModelBundle) -> None:
    figures = bundle.manifest.metrics["nominal"]
    unscored = {"patch": figures["patch"] | {"sign": None}, "blank": {"precision": None, "recall": None, "patches": 0}}
    card = model_card(bundle.manifest.model_copy(update={"metrics": {"nominal": figures | unscored}}))
    assert re.search(r"\| nominal \(1\) \| patch \| \d+ \|( [\d.]+ \|){3} - \|", card)
    assert "nominal: precision -, recall - of 0" in card


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_every_runtime_answers_as_the_trained_network(
    runtime: str, shop: Workshop, recipe: Recipe, bundle: ModelBundle
) -> None:
    from firmware import plugins
    from model_export.train import load_trained

    if missing := plugins.load("edge_app.runtimes", runtime).missing():
        pytest.skip(missing)
    with torch.inference_mode():
        expected = load_trained(recipe, shop.run).net(torch.from_numpy(bundle.golden_in))
    answers = open_runtime(bundle, runtime, 1).infer(bundle.golden_in)
    for name, values in zip(bundle.manifest.outputs, expected, strict=True):
        assert answers[name] == pytest.approx(values.numpy(), abs=2e-3), name


def test_figures_come_as_one_json_document(figures: dict[str, Any]) -> None:
    assert (figures["set"], figures["seed"], figures["bundle"]) == ("nominal", 1, "spectral_20x@1.0.0")
    assert set(figures["patch"]) == set(figures["frame"]) == FIGURES
    assert set(figures["blank"]) == {"precision", "recall", "patches"}
    assert 0 <= figures["abstained"] <= 1
    assert (figures["frames"], figures["patches"] > 0) == (2, True)


def test_evaluation_gives_the_figures_of_the_card(figures: dict[str, Any], bundle: ModelBundle) -> None:
    metrics = bundle.manifest.metrics["nominal"]
    for unit in ("patch", "frame"):
        assert figures[unit] == pytest.approx(metrics[unit], abs=2e-3)
    assert figures["blank"] == metrics["blank"]


def test_evaluation_draws_pictures_and_notes_what_a_board_would_refuse(shop: Workshop, tmp_path: Path) -> None:
    options = ("--set", "10x", "--seed", -3, *FEW, "--runtime", "onnxruntime", "--pictures", tmp_path)
    result = done("evaluate", shop.bundle, *options)
    assert {path.name for path in tmp_path.iterdir()} == {"error.png", "calibration.png", "map.png"}
    assert "on the board this bundle would refuse these frames: the frame has NA 0.3" in " ".join(
        result.output.split()
    )


GOOD: dict[str, Any] = {
    "patch": {"mae_um": 0.2, "sign": 0.99},
    "frame": {"mae_um": 0.1, "median_um": 0.05, "coverage_68": 0.7, "coverage_95": 0.95},
    "blank": {"precision": 0.98, "recall": 0.97},
    "abstained": 0.02,
    "sign_uncertain": 0.0,
}
LIMITS = {
    "patch_mae_um": 0.2,
    "frame_mae_um": 0.12,
    "frame_median_um": 0.05,
    "sign": 0.99,
    "sign_uncertain": 0.0,
    "coverage_68": (0.60, 0.76),
    "coverage_95": (0.91, 0.98),
    "blank_precision": 0.97,
    "blank_recall": 0.97,
    "abstained": 0.02,
}


def missed(changes: dict[str, Any], **limits: Any) -> list[str]:
    return Acceptance.model_validate(limits or LIMITS).missed(GOOD | changes)


def test_a_model_at_its_limits_misses_none() -> None:
    assert set(LIMITS) == set(Acceptance.model_fields)
    assert missed({}) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"patch": {"mae_um": 0.21, "sign": 0.99}}, ["patch_mae_um 0.21 (at most 0.2)"]),
        ({"patch": {"mae_um": float("nan"), "sign": 0.99}}, ["patch_mae_um nan (at most 0.2)"]),
        ({"patch": {"mae_um": 0.1, "sign": None}}, ["sign not scored (at least 0.99)"]),
        (
            {"frame": GOOD["frame"] | {"mae_um": 0.13, "median_um": 0.06}},
            ["frame_mae_um 0.13", "frame_median_um"],
        ),
        ({"frame": GOOD["frame"] | {"coverage_68": 0.77}}, ["coverage_68 0.77 (0.6 to 0.76)"]),
        ({"frame": GOOD["frame"] | {"coverage_95": 0.9}}, ["coverage_95 0.9 (0.91 to 0.98)"]),
        ({"blank": {"precision": 0.96, "recall": None}}, ["blank_precision 0.96", "blank_recall not scored"]),
        ({"abstained": 0.03}, ["abstained 0.03 (at most 0.02)"]),
        ({"sign_uncertain": None}, ["sign_uncertain not scored (at least 0)"]),
    ],
)
def test_every_missed_limit_is_told_with_its_value(changes: dict[str, Any], words: list[str]) -> None:
    told = missed(changes)
    assert len(told) == len(words)
    assert all(miss.startswith(word) for miss, word in zip(told, words, strict=True))


def test_a_limit_that_is_not_stated_is_not_judged() -> None:
    assert missed({"frame": {"mae_um": 9.0, "median_um": 9.0, "coverage_68": 0, "coverage_95": 0}}, sign=0.9) == []


def test_a_model_beyond_its_limits_is_not_accepted_on_any_set(recipe: Recipe) -> None:
    limits = {"one": Acceptance(sign=0.999), "two": Acceptance(sign=0.9, abstained=0.0)}
    with pytest.raises(NotAccepted) as refused:
        _accept(recipe.model_copy(update={"acceptance": limits}), {"one": GOOD, "two": GOOD, "three": {}})
    assert "one: sign 0.99 (at least 0.999); two: abstained 0.02 (at most 0)" in str(refused.value)
    assert "--no-accept" in str(refused.value)


def test_export_refuses_a_model_beyond_its_limits(shop: Workshop, tmp_path: Path) -> None:
    sources = ("--data", shop.data, "--run", shop.run, "--out", tmp_path / "bad.parfocal")
    result = tell("export", shop.recipe, *sources, "--specimens", 1, "--depths", 1)
    assert isinstance(result.exception, NotAccepted)
    assert not (tmp_path / "bad.parfocal").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("evaluate", "--specimens", 0),
        ("evaluate", "--depths", -1),
        ("export", "spectral_20x", "--specimens", 0),
        ("synth", "spectral_20x", "--workers", 0),
        ("train", "spectral_20x", "--steps", 0),
        ("eager", "spectral_20x", "--patches", 0),
        ("eager", "spectral_20x", "--threads", 0),
    ],
)
def test_an_amount_below_one_is_refused(words: tuple[object, ...]) -> None:
    result = tell(*words)
    assert result.exit_code == 2
    assert str(words[-2]).strip("-") in result.output


@pytest.mark.parametrize("name", ["spectral_20x", "spectral_40x"])
def test_torch_is_timed_on_patches_of_the_models_size(name: str) -> None:
    result = done("eager", name, "--patches", 2, "--threads", 1, stdin="go\n")
    assert float(result.stdout) > 0


def test_training_without_shards_says_what_to_do(shop: Workshop, tmp_path: Path) -> None:
    result = tell("train", shop.recipe, "--data", tmp_path, "--run", tmp_path / "run")
    assert isinstance(result.exception, NoData)
    assert "parfocal-model synth" in str(result.exception)


def test_without_torch_training_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "find_spec", lambda name: None if name == "torch" else name)
    with pytest.raises(NotInstalled, match=r"training needs torch, .* run `make setup EXTRAS=openvino,train`"):
        cli._read("spectral_10x")


def test_a_fault_is_one_json_document_where_json_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["parfocal-model", "evaluate", "--set", "nosuch", "--json"])
    with pytest.raises(SystemExit, match="1"):
        cli.main()
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["kind"] == "BadRecipe"
    assert "the sets are: 10x, 40x" in error["message"]
