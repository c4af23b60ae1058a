"""doctor: what this machine has, what is missing, and what to install; board_doctor examines one board."""

from __future__ import annotations

import importlib.util
import os
import platform
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import ValidationError
from rich.console import Console
from rich.table import Column, Table

from edge_app import bundle, runtime, selection
from edge_app.errors import AppError, BundleNotFound
from edge_app.model import open_model
from edge_app.nvidia import driver
from edge_app.nvidia.cache import cache_folder
from edge_app.services import version
from firmware import plugins
from firmware.clock import ManualClock
from firmware.errors import FirmwareError
from firmware.frames import FrameOptics
from firmware.microscope import open_microscope
from firmware.profile import board_names, load_profile
from firmware.table import explain

TRIAL_BOARD = "simulated_tiny"
_DARK = 0.05
OPTIONAL = {
    "openvino": "pip install 'parfocal[openvino]'; faster on x86",
    "tensorrt": "comes with JetPack; apt install python3-libnvinfer",
    "pycuda": "pip install 'parfocal[jetson]'",
    "picamera2": "apt install python3-picamera2, in an environment with --system-site-packages",
    "gi": (
        "apt install python3-gi gir1.2-gst-plugins-base-1.0 gstreamer1.0-plugins-base gstreamer1.0-plugins-good, "
        "in an environment with --system-site-packages"
    ),
    "gpiozero": "pip install 'parfocal[rpi]'",
    "lgpio": "pip install 'parfocal[rpi]', or apt install python3-lgpio on Python 3.13",
    "gpiod": "pip install 'parfocal[jetson]'",
    "pymmcore_plus": "pip install 'parfocal[mm]'; x86_64 only",
    "torch": "pip install 'parfocal[train]'; for training only",
}


NOTE = "note"
"""What a finding is that does not keep a board from working."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `detail` says what there is, or what to do."""

    what: str
    name: str
    ok: bool
    detail: str


def why(error: Exception) -> str:
    """What went wrong, in a line; drivers may raise anything."""
    if isinstance(error, ValidationError):
        return explain(error)
    if isinstance(error, (FirmwareError, AppError)):
        return str(error)
    return f"unforeseen: {type(error).__name__}: {error}; report this, with what `parfocal doctor` says"


def examine() -> dict[str, Any]:
    """Look at the machine.

    Returns:
        {"parfocal", "python", "machine", "cores", "memory_gib", "simulated_board_works",
        "findings": [{"what", "name", "ok", "detail"}]}
    """
    trial = _trial()
    findings = [trial, _gpu(), *_runtimes(), *_bundles(), *_drivers(), *_boards(), *_packages()]
    return {
        "parfocal": version(),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "findings": [asdict(finding) for finding in findings],
        "simulated_board_works": trial.ok,
    }


def table(findings: list[dict[str, Any]]) -> Table:
    """Findings, a row each."""
    rows = Table("what", Column("name", overflow="fold"), "", Column("detail", overflow="fold"))
    for finding in findings:
        mark = "ok" if finding["ok"] else "" if finding["what"] == NOTE else "--"
        rows.add_row(finding["what"], finding["name"], mark, finding["detail"])
    return rows


def print_table(result: dict[str, Any], out: Console) -> None:
    """Show the findings to a person."""
    head = ("parfocal", "python", "machine", "cores", "memory_gib")
    out.print(", ".join(f"{name} {result[name]}" for name in head))
    out.print(table(result["findings"]))
    works = result["simulated_board_works"]
    out.print("the simulated board works" if works else "the simulated board does not work: see the first line")


def _trial() -> Finding:
    """Open a small simulated board, take a frame, and load its model, which has to answer its golden inputs."""
    try:
        with open_microscope(load_profile(TRIAL_BOARD), ManualClock()) as microscope:
            frame = microscope.capture()
        model = open_model(selection.choose(frame.optics))
    except (FirmwareError, AppError) as error:
        return Finding("trial", TRIAL_BOARD, False, str(error))
    if frame.pixels.mean() < _DARK * (2**frame.bits - 1):
        return Finding("trial", TRIAL_BOARD, False, "its frame is black: the installation is damaged, install it anew")
    answers = f"{model.label} answers as it must in {model.runtime.name}"
    return Finding("trial", TRIAL_BOARD, True, f"took a frame of {frame.width_px}x{frame.height_px}; {answers}")


def _gpu() -> Finding:
    """NVIDIA's, asked of the driver alone; most boards have none."""
    found = driver.probe()
    if isinstance(found, str):
        return Finding("gpu", "nvidia", False, f"{found}; only the runtime tensorrt needs it")
    memory_gib = found.memory_bytes / 2**30
    detail = f"compute capability {found.architecture}, {memory_gib:.1f} GiB, CUDA {found.cuda}"
    kept = cache_folder()
    return Finding("gpu", found.name, True, f"{detail}; {len(list(kept.glob('*.engine')))} engines in {kept}")


def _runtimes() -> list[Finding]:
    return [Finding("runtime", name, not why, why or "can be used") for name, why in runtime.available().items()]


def _bundles() -> list[Finding]:
    paths = bundle.factory_bundles()
    if not paths:
        return [Finding("bundle", "factory", False, "none is installed; only the strategy sweep works")]
    return [_bundle(path.name) for path in paths]


def _bundle(name: str) -> Finding:
    try:
        manifest = bundle.read(bundle.FACTORY / name).manifest
    except AppError as error:
        return Finding("bundle", name, False, str(error))
    return Finding("bundle", name, True, f"{manifest.label}: {manifest.description}")


def _drivers() -> list[Finding]:
    """Each driver by file; one whose library is missing says so itself, through `missing()`."""
    found = []
    for what, package in (("camera", "firmware.cameras"), ("axis", "firmware.axes"), ("gpio", "firmware.gpio")):
        for name in plugins.names(package):
            missing = getattr(plugins.load(package, name), "missing", None)
            why = missing() if missing is not None else ""
            found.append(Finding(what, name, not why, why or "can be used"))
    return found


def _boards() -> list[Finding]:
    return [_board(name) for name in board_names()]


def _board(name: str) -> Finding:
    try:
        profile = load_profile(name)
        plugins.load("firmware.cameras", profile.camera.driver)
        plugins.load("firmware.axes", profile.axis.driver)
    except FirmwareError as error:
        return Finding("board", name, False, str(error))
    uses = [f"{objective.name}: {_model_for(profile.frame_optics(objective))}" for objective in profile.objective]
    return Finding("board", name, True, f"{profile.description}. Models: {'; '.join(uses)}")


def _model_for(optics: FrameOptics) -> str:
    """The factory bundle that an objective gets, or that it gets none."""
    try:
        return bundle.read(selection.choose(optics)).manifest.label
    except BundleNotFound:
        return "none fits, use the sweep"


def _packages() -> list[Finding]:
    found = []
    for name, cure in OPTIONAL.items():
        here = importlib.util.find_spec(name) is not None
        found.append(Finding("optional", name, here, "installed" if here else cure))
    return found
