"""The spectral front end against numpy's FFT, and that the whole network is small and the same in every runtime."""

from __future__ import annotations

import json
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from oracle import manifest

from edge_app.bundle import Input, ModelBundle
from firmware import plugins
from model_export.recipe import load_recipe, recipe_names

if TYPE_CHECKING:
    from model_export.families.spectral import Net

torch = pytest.importorskip("torch", reason="model_export needs torch")
RECIPES = [name for name in recipe_names() if load_recipe(name).family == "spectral"]
RINGS, HIGHEST = 12, 40


def patches(count: int = 2, seed: int = 1) -> np.ndarray:
    """Coloured clouds: (N, 224, 224, 3) uint8."""
    noise = np.random.default_rng(seed).normal(size=(count, 224, 224, 3))
    clouds = np.stack([cv2.GaussianBlur(patch, (0, 0), 2.0) for patch in noise])
    return np.clip(150 + 200 * clouds + 5 * noise, 0, 255).astype(np.uint8)


def features(
    counts: np.ndarray, colours: int = 3, density: bool = True, rings: int = RINGS, highest: int = HIGHEST
) -> np.ndarray:
    from model_export.families.spectral import Rings

    with torch.no_grad():
        given = Rings(rings, highest, colours, density)(torch.from_numpy(np.ascontiguousarray(counts)))
    return np.asarray(given.numpy())


def parts(row: np.ndarray, colours: int = 3, rings: int = RINGS) -> dict[str, np.ndarray]:
    """One patch's features by what they are."""
    ends = np.cumsum([rings * colours, rings * (colours - 1), rings * (colours - 1)])
    power, ratio, coherence, level = np.split(row, ends)
    return {
        "power": power.reshape(colours, rings),
        "ratio": ratio.reshape(-1, rings),
        "coherence": coherence.reshape(-1, rings),
        "level": level,
    }


def spectrum(image: np.ndarray) -> np.ndarray:
    """Fourier coefficients of a windowed image (224, 224) at positive and at negative ky: (2, K, K) complex."""
    window = np.hanning(225)[:224]
    transformed = np.fft.fft2(image * np.outer(window, window)) / (window**2).sum() * 2
    f = np.arange(1, HIGHEST + 1)
    return np.stack([transformed[np.ix_(f, f)], transformed[np.ix_(-f, f)]])


def over_rings(values: np.ndarray) -> np.ndarray:
    """Averages over rings that overlap as triangles do on a logarithmic scale: (K, K) to (R,)."""
    f = np.arange(1, HIGHEST + 1)
    radius = np.hypot(f[:, None], f[None])
    steps = np.log(radius / 2.0) / np.log(HIGHEST / 2.0) * (RINGS - 1)
    weights = np.maximum(1 - np.abs(steps - np.arange(RINGS)[:, None, None]), 0.0)
    weights[:, (radius > HIGHEST) | (radius < 2.0)] = 0.0
    return np.asarray((weights * values).sum(axis=(1, 2)) / weights.sum(axis=(1, 2)))


def expected(patch: np.ndarray, density: bool = True) -> dict[str, np.ndarray]:
    """The features of a patch (224, 224, 3) by way of the FFT."""
    x = np.moveaxis(patch.astype(np.float64) + 1.0, -1, 0)
    x = np.log(x) if density else x
    level = x[:, ::8, ::8].mean(axis=(1, 2))
    x = x if density else x / level[:, None, None]
    spectra = [spectrum(image) for image in x]
    power = np.array([over_rings((np.abs(both) ** 2).mean(axis=0)) for both in spectra])
    shared = [over_rings(np.real(np.multiply(one, np.conj(other))).mean(axis=0)) for one, other in pairwise(spectra)]
    log_power = np.log(power + 1e-6)
    return {
        "power": log_power,
        "ratio": log_power[:-1] - log_power[1:],
        "coherence": np.array(shared) / np.sqrt(power[:-1] * power[1:]),
        "level": level if density else np.log(level),
    }


@pytest.mark.parametrize("density", [True, False])
@pytest.mark.parametrize("part", ["power", "ratio", "coherence", "level"])
def test_features_are_those_of_a_fourier_transform(part: str, density: bool) -> None:
    counts = patches(1)
    given = parts(features(counts, density=density)[0])[part]
    assert given == pytest.approx(expected(counts[0], density)[part], abs=1e-3)


def test_white_noise_has_the_same_power_at_every_frequency() -> None:
    flat = np.random.default_rng(1).integers(100, 110, (8, 224, 224, 3)).astype(np.uint8)
    power = np.stack([parts(row)["power"] for row in features(flat)]).mean(axis=(0, 1))
    assert np.ptp(power[4:]) < 0.2


@pytest.mark.parametrize("turn", ["upside down", "left to right", "transposed"])
def test_the_orientation_of_a_patch_does_not_matter(turn: str) -> None:
    counts = patches()
    turned = {
        "upside down": np.roll(counts[:, ::-1], 1, axis=1),  # the window is zero in row 0, not in row 223
        "left to right": np.roll(counts[:, :, ::-1], 1, axis=2),
        "transposed": counts.swapaxes(1, 2),
    }[turn]
    assert features(turned) == pytest.approx(features(counts), abs=1e-3)


def test_a_colourless_patch_is_coherent_and_its_colours_are_alike() -> None:
    grey = np.repeat(patches()[..., :1], 3, axis=-1)
    told = parts(features(grey)[0])
    assert told["coherence"] == pytest.approx(np.ones((2, RINGS)), abs=1e-3)
    assert told["ratio"] == pytest.approx(np.zeros((2, RINGS)), abs=1e-6)


def test_colours_that_have_nothing_in_common_are_not_coherent() -> None:
    assert np.abs(parts(features(patches())[0])["coherence"][:, 4:]).max() < 0.5


def test_a_blurred_colour_shows_in_the_ratios() -> None:
    counts = np.repeat(patches()[..., :1], 3, axis=-1)
    counts[0, ..., 2] = cv2.GaussianBlur(counts[0, ..., 2], (0, 0), 2.0)
    ratio = parts(features(counts)[0])["ratio"]
    assert (np.diff(ratio[1]) > 0).all()
    assert ratio[1, -1] > 1.0
    assert ratio[0] == pytest.approx(np.zeros(RINGS), abs=1e-6)


def test_one_colour_is_read_from_the_first_plane() -> None:
    counts = patches()
    grey = features(counts, colours=1)
    assert grey.shape == (2, RINGS + 1)
    assert grey[:, :RINGS] == pytest.approx(features(counts)[:, :RINGS], abs=1e-4)


@pytest.mark.parametrize("density", [True, False])
def test_twice_the_light_changes_the_level_and_nothing_else(density: bool) -> None:
    dim = patches() // 4 + 20
    bright = (2 * (dim.astype(np.int64) + 1) - 1).astype(np.uint8)
    under_dim, under_bright = (parts(features(counts, density=density)[0]) for counts in (dim, bright))
    for name in ("power", "ratio", "coherence"):
        assert under_bright[name] == pytest.approx(under_dim[name], abs=1e-3), name
    assert under_bright["level"] == pytest.approx(under_dim["level"] + np.log(2), abs=1e-3)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipes_rings_all_hold_frequencies(name: str) -> None:
    front = net_of(name).front
    with torch.no_grad():
        given = front(torch.from_numpy(np.tile(patches(), (1, front.binning, front.binning, 1))))
    assert given.shape == (2, front.width)
    assert bool(torch.isfinite(given).all())


def test_standardised_features_have_no_mean_and_unit_spread() -> None:
    from model_export.families.spectral import Net

    net = Net(RINGS, HIGHEST, [8], 8.0)
    width = net.front.width
    given = torch.from_numpy(np.random.default_rng(1).normal(5, 3, (50, width)).astype(np.float32))
    net.standardise(given)
    standard = (given - net.centre) / net.spread
    assert standard.mean(dim=0).numpy() == pytest.approx(np.zeros(width), abs=1e-4)
    assert standard.std(dim=0).numpy() == pytest.approx(np.ones(width), abs=1e-2)


@pytest.mark.parametrize("colours", [1, 3])
def test_features_are_as_many_as_the_front_end_says(colours: int) -> None:
    from model_export.families.spectral import Rings

    assert features(patches(), colours).shape == (2, Rings(RINGS, HIGHEST, colours, True).width)


def net_of(name: str) -> Net:
    """The untrained network of a recipe."""
    return _net(json.dumps(load_recipe(name).network))


@lru_cache
def _net(network: str) -> Net:
    from model_export.families.spectral import Net

    torch.manual_seed(1)
    return Net(**json.loads(network)).eval()


@lru_cache
def _onnx(network: str) -> bytes:
    from model_export.export import to_onnx
    from model_export.families.spectral import OUTPUTS

    return to_onnx(_net(network), OUTPUTS, json.loads(network).get("patch_px", 224))


def test_a_larger_patch_is_binned_to_224() -> None:
    from model_export.families.spectral import Rings

    large = torch.from_numpy(np.repeat(np.repeat(patches(), 2, axis=1), 2, axis=2))
    with torch.no_grad():
        given = Rings(RINGS, HIGHEST, 3, True, 448)(large).numpy()
    assert given == pytest.approx(features(patches()), abs=1e-4)
    with pytest.raises(ValueError, match="no multiple of 224"):
        Rings(RINGS, HIGHEST, 3, True, 300)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipes_graph_fits_into_600_kib(name: str) -> None:
    assert len(_onnx(json.dumps(load_recipe(name).network))) <= 600 * 1024


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("name", ["spectral_20x", "spectral_20x_fluorescence", "spectral_20x_grey"])
def test_a_runtime_answers_as_torch_does(runtime: str, name: str) -> None:
    from model_export.families.spectral import OUTPUTS

    module = plugins.load("edge_app.runtimes", runtime)
    if module.missing():
        pytest.skip(module.missing())
    counts = patches(5, seed=2)
    page = manifest().model_copy(update={"outputs": OUTPUTS, "input": Input(name="counts", patch_px=224)})
    told = {output: np.zeros(len(counts), np.float32) for output in OUTPUTS}
    bundle = ModelBundle(page, _onnx(json.dumps(load_recipe(name).network)), counts, told, "", 0)
    answers = module.load(bundle, 1).infer(counts)
    with torch.no_grad():
        of_torch = dict(zip(OUTPUTS, net_of(name)(torch.from_numpy(counts)), strict=True))
    for output in OUTPUTS:
        assert answers[output] == pytest.approx(of_torch[output].numpy(), abs=2e-3), output
