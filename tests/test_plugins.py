"""One contract for every file in a plug-in folder: a new file is covered the moment it exists."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from edge_app import doctor
from firmware import plugins
from firmware.camera import Camera
from firmware.clock import ManualClock
from firmware.errors import ProfileError, UnknownPlugin
from firmware.microscope import open_microscope
from firmware.profile import BoardProfile, board_names, load_profile
from firmware.specimens import KINDS
from firmware.zaxis import ZAxis
from model_export.evaluate import load_set, set_names
from model_export.recipe import load_recipe, recipe_names
from model_export.teaching import teaching_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDERS = (
    "firmware.cameras",
    "firmware.axes",
    "firmware.gpio",
    "edge_app.runtimes",
    "edge_app.tasks",
    "edge_app.strategies",
    "model_export.families",
)
SDKS = (
    *("gi", "gpiod", "gpiozero", "lgpio", "libcamera", "openvino", "onnxruntime", "picamera2", "pycuda"),
    *("pymmcore_plus", "tensorrt"),
)
BLOCKED = """
import sys
from firmware import plugins
for name in {sdks!r}:
    sys.modules[name] = None
for folder in {folders!r}:
    for name in plugins.names(folder):
        plugins.load(folder, name)
print("all imported")
"""


def each(folder: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("plugin", plugins.names(folder))


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_folder_has_something_in_it(folder: str) -> None:
    assert plugins.names(folder)


def test_an_unknown_plugin_is_told_what_there_is() -> None:
    with pytest.raises(UnknownPlugin, match=r"no 'polaroid' in firmware/cameras/; it has: .*simulated"):
        plugins.load("firmware.cameras", "polaroid")


def test_every_driver_imports_on_a_machine_without_its_sdk() -> None:
    script = BLOCKED.format(sdks=SDKS, folders=FOLDERS[:-1])
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout == "all imported\n", done.stderr


def without_simulation() -> BoardProfile:
    return load_profile("simulated_tiny").model_copy(update={"simulation": None})


@each("firmware.cameras")
def test_every_camera_driver_opens_a_camera(plugin: str) -> None:
    module = plugins.load("firmware.cameras", plugin)
    assert module.__doc__
    assert list(inspect.signature(module.open_camera).parameters) == ["profile", "clock", "world"]
    assert module.open_camera.__annotations__["return"] in ("Camera", Camera)


@each("firmware.axes")
def test_every_axis_driver_opens_an_axis(plugin: str) -> None:
    module = plugins.load("firmware.axes", plugin)
    assert module.__doc__
    assert list(inspect.signature(module.open_axis).parameters) == ["profile", "clock", "world"]
    assert module.open_axis.__annotations__["return"] in ("ZAxis", ZAxis)


@each("firmware.gpio")
def test_every_gpio_library_says_what_is_missing_and_opens_pins(plugin: str) -> None:
    module = plugins.load("firmware.gpio", plugin)
    assert isinstance(module.missing(), str)
    assert list(inspect.signature(module.open_pins).parameters) == ["chip", "outputs", "inputs"]


@pytest.mark.parametrize(("folder", "opener"), [("cameras", "open_camera"), ("axes", "open_axis")])
def test_simulated_drivers_refuse_a_board_that_is_not_simulated(folder: str, opener: str) -> None:
    module = plugins.load(f"firmware.{folder}", "simulated")
    with pytest.raises(ProfileError, match=r"needs a \[simulation\] table"):
        getattr(module, opener)(without_simulation(), ManualClock(), None)


@pytest.mark.parametrize("board", board_names())
def test_every_board_names_drivers_and_a_strategy_that_exist(board: str) -> None:
    profile = load_profile(board)
    assert profile.camera.driver in plugins.names("firmware.cameras")
    assert profile.axis.driver in plugins.names("firmware.axes")
    assert profile.focus.strategy in plugins.names("edge_app.strategies")


@pytest.mark.parametrize("board", [b for b in board_names() if b.startswith("simulated")])
def test_every_simulated_board_opens_homes_and_moves(board: str) -> None:
    with open_microscope(load_profile(board), ManualClock()) as microscope:
        assert microscope.axis.move_to(5.0).to_um == pytest.approx(5.0)
        assert microscope.camera.shape == (
            microscope.profile.camera.height_px,
            microscope.profile.camera.width_px,
        )


@each("edge_app.runtimes")
def test_every_runtime_says_what_is_missing_and_can_load(plugin: str) -> None:
    module = plugins.load("edge_app.runtimes", plugin)
    assert isinstance(module.missing(), str)
    assert list(inspect.signature(module.load).parameters) == ["bundle", "threads"]
    if hasattr(module, "preparation"):
        assert list(inspect.signature(module.preparation).parameters) == ["bundle"]


def test_every_sdk_is_known_wherever_sdks_are_listed() -> None:
    table = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    laws = {law["id"]: law for law in table["importlinter"]["contracts"]}
    untyped = {one.removesuffix(".*") for override in table["mypy"]["overrides"] for one in override["module"]}
    forbidden = set(laws["sdks-in-drivers"]["forbidden_modules"])
    assert forbidden <= set(SDKS)
    assert forbidden <= untyped
    assert forbidden - {"libcamera"} <= set(doctor.OPTIONAL)
    imported = {name for folder in FOLDERS[:4] for path in sources(folder) for name in lazily(path)}
    assert imported <= set(SDKS) | {"numpy", "pydantic"}


def sources(package: str) -> list[Path]:
    folder = Path(str(plugins.__file__)).parents[1] / package.replace(".", "/")
    return sorted(folder.glob("*.py"))


def lazily(path: Path) -> set[str]:
    """What a file imports beyond the standard library and us."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"firmware", "edge_app"}


@each("edge_app.tasks")
def test_every_task_answers_for_named_outputs(plugin: str) -> None:
    module = plugins.load("edge_app.tasks", plugin)
    assert callable(module.answer)
    assert module.OUTPUTS
    assert all(name.isidentifier() for name in module.OUTPUTS)
    assert callable(module.refuse)
    assert callable(module.lacks)


@each("edge_app.strategies")
def test_every_strategy_plans_and_says_what_it_is(plugin: str) -> None:
    module = plugins.load("edge_app.strategies", plugin)
    assert callable(module.plan)
    assert isinstance(module.TASK, str)
    assert module.SUMMARY
    assert module.SUMMARY[-1] != "."


@pytest.mark.parametrize("recipe", recipe_names())
def test_every_recipe_loads_and_its_family_exists(recipe: str) -> None:
    table = load_recipe(recipe)
    assert table.name == recipe
    assert table.family in plugins.names("model_export.families")
    assert set(table.sets) <= set(set_names())
    if table.task == "defocus":
        assert table.data.range_um <= table.training.clip_um <= table.data.far_um
    assert all(set(conditions.slide.kinds) <= set(KINDS) for conditions in table.conditions)


@pytest.mark.parametrize("recipe", [name for name in recipe_names() if load_recipe(name).task == "defocus"])
def test_the_conditions_of_a_recipe_make_one_passport(recipe: str) -> None:
    conditions = load_recipe(recipe).conditions
    assert len({(c.contrast, c.camera.monochrome, c.optics.magnification) for c in conditions}) == 1
    assert {c.camera.response for c in conditions} <= set(load_recipe(recipe).accepts)


@pytest.mark.parametrize("recipe", recipe_names())
def test_a_recipe_is_judged_on_frames_that_its_passport_accepts(recipe: str) -> None:
    table = load_recipe(recipe)
    passport = teaching_of(table.task).passport(table)
    assert [passport.check(load_set(name).frame_optics()) for name in table.sets] == [None] * len(table.sets)


@pytest.mark.parametrize("recipe", [name for name in recipe_names() if load_recipe(name).task == "defocus"])
def test_a_set_is_of_known_optics_where_its_recipes_passport_says_so(recipe: str) -> None:
    from model_export.passport import passport_of

    table = load_recipe(recipe)
    for wanted in map(load_set, table.sets):
        assert passport_of(table).knows(wanted.frame_optics()) == (
            wanted.conditions.known and any(c.known for c in table.conditions)
        )
        assert wanted.range_um == table.data.range_um
