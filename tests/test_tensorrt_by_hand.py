"""`parfocal-model engine`: builds or finds engines, proves and times them; and exits 0 where it may do nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import stand_in_gpu as machine
import stand_in_jetson as jetson
import stand_in_tensorrt as tensorrt
from typer.testing import CliRunner

from edge_app.bundle import FACTORY, read
from edge_app.errors import RuntimeFailed
from edge_app.nvidia.cache import EngineCache
from edge_app.runtimes import tensorrt as tensorrt_runtime
from model_export import engine
from model_export.cli import app

if TYPE_CHECKING:
    from typer.testing import Result

GREY = "spectral_20x_grey"
OTHERS = ["deepfocus", "hh_net_20x"]  # of the tasks sharpness and quality


@pytest.fixture
def gpu(tmp_path: Path, clean_environment: pytest.MonkeyPatch) -> Iterator[machine.Gpu]:
    with jetson.installed(tmp_path) as gpu:
        yield gpu


def tell(*words: object) -> Result:
    return CliRunner().invoke(app, ["engine", *(str(word) for word in words)])


def test_an_engine_is_built_once_and_then_found(gpu: machine.Gpu, tmp_path: Path) -> None:
    first, second = (json.loads(tell(GREY, "--json").stdout)["engines"] for _ in range(2))
    assert [(result["found"], result["error"]) for result in (*first, *second)] == [(False, ""), (True, "")]
    (made,) = first
    assert made["key"] == second[0]["key"]
    assert list(made["median_ms"]) == ["1", "48", "88"]
    assert all(ms > 0 for ms in made["median_ms"].values())
    assert [layer["kind"] for layer in made["layers"]] == ["Cast", "Myelin"]
    assert Path(made["kept_in"]).parent == tmp_path / "engines"
    assert gpu.left() == {}


def test_a_person_sees_key_size_times_and_layers(gpu: machine.Gpu) -> None:
    result = tell(GREY)
    assert result.exit_code == 0
    for word in (GREY, "built", "the whole network", "Myelin", "Float", "fp32"):
        assert word in result.stdout


def test_an_engine_that_answers_wrongly_is_an_error_and_the_others_are_made(gpu: machine.Gpu) -> None:
    tensorrt.FAULTS.wrong_by = 0.05
    result = tell(GREY, "--json")
    assert result.exit_code == 1
    assert "off by 0.05" in json.loads(result.stdout)["engines"][0]["error"]


def test_an_engine_that_is_kept_but_cannot_be_loaded_is_built_anew(gpu: machine.Gpu, tmp_path: Path) -> None:
    order = tensorrt_runtime.order(read(FACTORY / f"{GREY}.parfocal"))
    EngineCache(tmp_path / "engines").keep(order, b"of a TensorRT that says the same version", 1.0, ())
    first, second = (json.loads(tell(GREY, "--json").stdout)["engines"][0] for _ in range(2))
    assert (first["error"], first["found"]) == ("", False)
    assert (second["error"], second["found"]) == ("", True)


def test_a_network_that_tensorrt_refuses_is_an_error(gpu: machine.Gpu) -> None:
    tensorrt.FAULTS.parse = "no such operator"
    result = tell(GREY)
    assert result.exit_code == 1
    assert "no engine for spectral_20x_grey@1.0.0: TensorRT refused the network" in result.stdout
    assert "no such operator" in result.stdout


def test_without_a_gpu_it_fails_unless_it_may_do_nothing(gpu: machine.Gpu) -> None:
    gpu.devices = 0
    refused = tell(GREY)
    assert isinstance(refused.exception, RuntimeFailed)
    assert "knows no GPU" in str(refused.exception)
    allowed = tell("--if-possible", "--config", "/nowhere.toml", "--json")
    assert allowed.exit_code == 0
    assert "knows no GPU" in allowed.stderr
    assert json.loads(allowed.stdout)["engines"] == []


def test_factory_is_every_bundle_that_ships() -> None:
    assert [path.stem for path in engine.bundles_for("factory", None, None)] == sorted(
        path.stem for path in FACTORY.glob("*.parfocal")
    )


def test_with_a_board_it_is_what_its_objectives_get(clean_environment: pytest.MonkeyPatch) -> None:
    assert [path.stem for path in engine.bundles_for("", "simulated", None)] == [
        *OTHERS,
        "spectral_10x",
        "spectral_20x",
    ]


@pytest.mark.parametrize(
    ("line", "stems"),
    [
        ("", [*OTHERS, "spectral_10x", "spectral_20x"]),
        ('bundle = "none"', []),
        ('runtime = "openvino"', []),
        ('runtime = "tensorrt"\nbundle = "spectral_20x"', [*OTHERS, "spectral_20x"]),
        ('bundle = "spectral_40x"', OTHERS),
    ],
)
def test_with_a_configuration_it_is_what_that_serves_with_tensorrt(
    clean_environment: pytest.MonkeyPatch, tmp_path: Path, line: str, stems: list[str]
) -> None:
    config = tmp_path / "parfocal.toml"
    config.write_text(f'board = "simulated"\n{line}\n')
    assert [path.stem for path in engine.bundles_for("", None, config)] == stems
