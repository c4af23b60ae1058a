"""HH-Net: the paper's network and the edge variant, what they are taught, and how they are judged."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edge_app.bundle import find
from edge_app.model import open_model
from edge_app.patches import PatchGrid
from edge_app.tasks.quality import INDICES, class_of, grade, spacing_um
from firmware.frames import FrameOptics
from model_export import graded
from model_export.errors import BadRecipe, NoData
from model_export.evaluate import load_set
from model_export.frames import subject_of
from model_export.recipe import load_recipe
from model_export.teaching import quality as teaching

if TYPE_CHECKING:
    from model_export.families.hh_net import Net

torch = pytest.importorskip("torch", reason="model_export needs torch")
RECIPE = load_recipe("hh_net_20x")
PAPER_PARAMETERS = 24_141_447
SPACING_UM = 2 * 0.535 / 0.75**2


@lru_cache
def net(variant: str, handcrafted: bool = True) -> Net:
    from model_export.families.hh_net import Net

    torch.manual_seed(1)
    return Net(variant, handcrafted=handcrafted).eval()


def noise(count: int, seed: int = 1) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 256, (count, 300, 300, 3), dtype=np.uint8)
    return torch.from_numpy(counts), torch.from_numpy(rng.normal(size=(count, 18)).astype(np.float32))


def voted(z: float, index: int, even: bool = False, patches: int = 2, right: int | None = None) -> graded.Voted:
    """A frame whose patches are sure of a class, the first `right` of them of the true one instead."""
    classes = np.full(patches, INDICES.index(index))
    classes[: right or 0] = class_of(np.array([z]))[0]
    probabilities = np.full((patches, 7), 0.01, np.float32)
    probabilities[np.arange(patches), classes] = 0.94
    told = grade(probabilities, np.ones(patches, bool), PatchGrid(1, patches, 0, 0, 300), SPACING_UM, "")
    return graded.Voted(z, np.full(patches, z), probabilities, even, told)


def test_the_papers_network_has_thirteen_convolutions_in_five_stages() -> None:
    convolutions = [m for m in net("paper").modules() if isinstance(m, torch.nn.Conv2d)]
    assert [(c.kernel_size[0], c.out_channels) for c in convolutions] == [
        *[(5, 64)] * 2,
        *[(3, 128)] * 2,
        *[(3, 256)] * 3,
        *[(3, 512)] * 3,
        *[(3, 512)] * 3,
    ]
    assert sum(isinstance(m, torch.nn.MaxPool2d) for m in net("paper").modules()) == 5


@pytest.mark.parametrize("variant", ["paper", "edge"])
def test_the_head_joins_224_numbers_of_the_patch_with_32_of_the_frame(variant: str) -> None:
    layers = [(m.in_features, m.out_features) for m in net(variant).modules() if isinstance(m, torch.nn.Linear)]
    assert [out for _, out in layers] == [224, 32, 256, 7]
    assert (layers[1][0], layers[2][0]) == (18, 256)
    assert [m.p for m in net(variant).modules() if isinstance(m, torch.nn.Dropout)] == [0.7, 0.5]


def test_the_papers_network_has_as_many_parameters_as_its_layers_say() -> None:
    assert sum(p.numel() for p in net("paper").parameters()) == PAPER_PARAMETERS


@pytest.mark.parametrize("variant", ["paper", "edge"])
def test_a_variant_answers_seven_logits_to_a_patch_and_its_frame(variant: str) -> None:
    with torch.no_grad():
        (logits,) = net(variant)(*noise(2))
    assert logits.shape == (2, 7)
    assert bool(torch.isfinite(logits).all())


@pytest.mark.parametrize("variant", ["paper", "edge"])
def test_a_variant_exports_with_a_free_batch_and_answers_as_in_torch(variant: str) -> None:
    from model_export.export import answers_of, check_parity, to_onnx
    from model_export.families.hh_net import ALSO, OUTPUTS

    counts, handcrafted = (part.numpy() for part in noise(3, seed=2))
    also = {"handcrafted": handcrafted}
    exported = to_onnx(net(variant), OUTPUTS, 300, ALSO)
    golden = answers_of(net(variant), counts, OUTPUTS, also)
    assert check_parity(exported, golden, counts, also) < 2e-3


def test_the_edge_variant_weighs_less_than_two_megabytes() -> None:
    from model_export.export import to_onnx
    from model_export.families.hh_net import ALSO, OUTPUTS

    assert len(to_onnx(net("edge"), OUTPUTS, 300, ALSO)) < 2e6


def test_the_features_of_the_frame_matter_unless_they_are_ablated() -> None:
    counts, handcrafted = noise(1)
    with torch.no_grad():
        listens, deaf = (
            [net("edge", with_them)(counts, features)[0] for features in (handcrafted, -handcrafted)]
            for with_them in (True, False)
        )
    assert not torch.allclose(listens[0], listens[1])
    assert torch.equal(deaf[0], deaf[1])


def test_a_frame_unlike_any_other_does_not_run_away_with_the_answer() -> None:
    counts, handcrafted = noise(1)
    with torch.no_grad():
        far, farther = (net("edge")(counts, handcrafted * by)[0] for by in (1e3, 1e6))
    assert torch.allclose(far, farther, atol=1e-2)


def test_a_variant_that_does_not_exist_is_refused() -> None:
    from model_export.families.hh_net import Net

    with pytest.raises(ValueError, match="edge or paper"):
        Net("huge")


def test_classes_pass_into_each_other_at_their_edges_and_add_up_to_one() -> None:
    z = torch.linspace(-9, 9, 361)
    shares = torch.stack(teaching._shares(z, 0.5), dim=1)
    assert torch.allclose(shares.sum(dim=1), torch.ones(361))
    assert float(shares.min()) >= 0
    at = {round(float(value), 2): row for value, row in zip(z, shares, strict=True)}
    assert at[0.0][4] == 1.0
    assert at[0.5][[3, 4]].tolist() == pytest.approx([0.5, 0.5], abs=1e-5)
    assert (at[4.0][0], at[-3.0][0]) == (1.0, 1.0)


def test_the_objective_is_least_for_the_true_class() -> None:
    truth = {"z": torch.tensor([0.0, SPACING_UM, -6 * SPACING_UM])}
    right = 9.0 * torch.eye(7)[[4, 3, 0]]
    wrong = 9.0 * torch.eye(7)[[3, 3, 0]]
    costs = [float(teaching.objective({"logits": logits}, truth, RECIPE)) for logits in (right, wrong)]
    assert costs[0] < 0.01 < costs[1]


def test_training_depths_lie_one_in_every_stratum_or_all_far_out() -> None:
    drawn = [teaching.draw_depths(np.random.default_rng(seed), RECIPE.data) for seed in range(60)]
    far = [z for z in drawn if np.abs(z).min() > RECIPE.data.range_um - 2]
    near = [z for z in drawn if len(np.unique(np.floor((z / RECIPE.data.range_um + 1) / 2 * 9))) == 9]
    assert len(near) + len(far) == 60
    assert 0 < len(far) < 15
    assert max(np.abs(z).max() for z in far) <= RECIPE.data.far_um


def test_a_recipe_whose_range_is_not_that_of_its_classes_is_refused_before_training() -> None:
    wrong = RECIPE.model_copy(update={"data": RECIPE.data.model_copy(update={"range_um": 10.0})})
    with pytest.raises(BadRecipe, match=r"4\.5 spacings are 8\.56 um"):
        teaching.check_recipe(wrong)


def test_the_recipe_states_the_spacing_and_a_passport_without_an_end() -> None:
    assert teaching.spacing_um(RECIPE) == pytest.approx(SPACING_UM)
    assert teaching.facts(RECIPE) == {"spacing_depths": 2.0}
    assert teaching.passport(RECIPE).range_um is None


def test_golden_patches_come_with_their_frames_features_and_leave_a_bundle_light() -> None:
    given = [teaching.golden(RECIPE, index) for index in range(2)]
    assert [len(asked.counts) for asked in given] == [1, 0]
    assert [asked.also["handcrafted"].shape for asked in given] == [(1, 18), (0, 18)]
    assert given[1].counts.shape == (0, 300, 300, 3)


def test_evaluation_frames_lie_at_all_centres_and_a_quarter_of_them_anywhere() -> None:
    drawn = [graded.draw_z(np.random.default_rng(turn), 16, turn) for turn in range(40)]
    z, even = (np.concatenate(column) for column in zip(*drawn, strict=True))
    off = np.abs(z - np.rint(z))
    assert even.mean() == pytest.approx(0.25)
    assert off[~even].max() <= graded.WITHIN < off[even].max()
    assert set(np.rint(z[even]).astype(int)) >= set(graded.CENTRES)
    assert z.min() >= -3.5
    assert z.max() <= 4.5


def test_figures_count_frames_at_the_centres_and_those_drawn_evenly_apart() -> None:
    frames = [voted(0.1, 0), voted(1.1, 1), voted(2.1, 3), voted(0.45, 1, even=True), voted(-3.0, 4, even=True)]
    figures = graded.score(frames, SPACING_UM)
    assert (figures["centres"]["frames"], figures["centres"]["certainty"]) == (4, 0.75)
    assert (figures["contiguous"]["frames"], figures["contiguous"]["certainty"]) == (2, 0.5)
    assert figures["off_by_one"]["certainty"] == 1.0
    assert (figures["index"]["2"], figures["index"]["4"], figures["index"]["-1"]) == (0.0, 1.0, None)


def test_total_blur_next_to_the_nearest_class_is_off_by_one() -> None:
    figures = graded.score([voted(-2.4, 4, even=True), voted(-2.0, -2)], SPACING_UM)
    assert (figures["contiguous"]["hard"], figures["off_by_one"]["hard"]) == (0.0, 1.0)


def test_patches_are_scored_one_by_one_and_frames_by_their_votes() -> None:
    figures = graded.score([voted(1.0, 2, patches=3, right=2), voted(0.0, 0, even=True)], SPACING_UM)
    assert figures["centres"]["patch"] == pytest.approx(4 / 5)
    assert figures["centres"]["hard"] == 1.0


def test_frames_with_a_single_voter_are_also_told_apart() -> None:
    figures = graded.score([voted(1.0, 2, patches=1), voted(0.0, 0, even=True)], SPACING_UM)
    assert (figures["centres"]["hard"], figures["several"]["hard"]) == (0.5, 1.0)
    assert figures["several"]["frames"] == 1


def test_a_frame_without_content_is_left_out_and_counted() -> None:
    blank = graded.Voted(0.0, np.empty(0), np.empty((0, 7), np.float32), False, None)
    figures = graded.score([blank, voted(0.0, 0, even=True)], SPACING_UM)
    assert figures["without_content"] == 0.5
    assert figures["centres"]["frames"] == 1


def test_frames_that_show_nothing_at_all_cannot_be_scored() -> None:
    blank = graded.Voted(0.0, np.empty(0), np.empty((0, 7), np.float32), True, None)
    with pytest.raises(NoData, match="more specimens"):
        graded.score([blank], SPACING_UM)


def test_limits_that_are_missed_are_told_in_words() -> None:
    figures = graded.score([voted(0.0, 1), voted(0.0, 0, even=True)], SPACING_UM)
    missed = teaching.Acceptance(patch=0.9, frame=0.4).missed(figures)
    assert missed == ["patch 0.5 (at least 0.9)"]


def test_confusion_counts_true_classes_down_and_votes_across() -> None:
    table = graded.confusion([voted(1.0, 0), voted(0.0, 0), voted(0.45, 0)])
    assert (table[3, 4], table[4, 4], table.sum()) == (1, 1, 2)


def test_the_shipped_bundle_weighs_less_than_two_megabytes() -> None:
    assert find("hh_net_20x").stat().st_size < 2e6


def test_the_shipped_bundle_grades_frames_that_it_never_saw() -> None:
    model = open_model(find("hh_net_20x"), "onnxruntime")
    apart_um = spacing_um(model.bundle.manifest, FrameOptics(numerical_aperture=0.75))
    frames = graded.frames_of_set(load_set("nominal"), apart_um, seed=71, amount=(1, 8), patch_px=300)
    told = [graded.ask(truth, even, subject_of(model), apart_um) for truth, even in frames]
    right = [v.grade is not None and v.grade.index == INDICES[class_of(np.array([v.z]))[0]] for v in told]
    assert sum(right) >= 7
