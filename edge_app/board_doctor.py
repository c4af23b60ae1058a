"""board_doctor: one board, step by step: libraries, groups, devices, wires, one small move, one frame, the model.

Goes on after a failure where it can. What a driver needs is asked of its own file (firmware/needs.py).
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from rich.console import Console

from edge_app import first_light, first_move, host
from edge_app.config import Settings, state_folder
from edge_app.doctor import NOTE, Finding, table, why
from edge_app.errors import AppError
from edge_app.host import Host
from edge_app.measured import Memory
from edge_app.services import version
from firmware import plugins
from firmware.errors import AxisError, FirmwareError
from firmware.microscope import Microscope, remember
from firmware.needs import Needs
from firmware.profile import BoardProfile, load_profile
from firmware.simulation import World
from firmware.zaxis import ZAxis

_KINDS = {"firmware.cameras": "camera", "firmware.axes": "axis"}


def examine(settings: Settings, move: bool = True, machine: Host | None = None) -> dict[str, Any]:
    """Examine the board that the settings name; `move` allows one small move there and back.

    Returns:
        {"parfocal", "board", "works", "findings": [{"what", "name", "ok", "detail"}]}
    """
    try:
        profile = load_profile(settings.board)
    except FirmwareError as error:
        found = [Finding("board", settings.board, False, str(error))]
    else:
        found = [Finding("board", profile.name, True, profile.description)]
        found += findings(profile, settings, move, machine or host.this_host())
    return {
        "parfocal": version(),
        "board": settings.board,
        "works": all(finding.ok for finding in found if finding.what != NOTE),
        "findings": [asdict(finding) for finding in found],
    }


def print_table(result: dict[str, Any], out: Console) -> None:
    """Show the findings to a person."""
    out.print(table(result["findings"]))
    works = f"{result['board']} works"
    out.print(
        works if result["works"] else f"{result['board']} does not work yet: see what is marked --, from the top"
    )


def findings(profile: BoardProfile, settings: Settings, move: bool, machine: Host) -> Iterator[Finding]:
    """Look at one thing after the other, and close everything in the end."""
    parts = yield from _parts(profile)
    yield from _requirements(parts, machine)
    folder = settings.state or (None if profile.simulation is not None else state_folder())
    profile = yield from _remembered(profile, folder)
    with ExitStack() as opened:
        try:
            world = World(profile, machine.clock) if profile.simulation is not None else None
        except FirmwareError as error:
            yield Finding("board", "simulation", False, str(error))
            return
        bench = _Bench(profile, machine, world, opened, folder if world is None else None)
        axis = yield from _axis(bench, move)
        microscope = yield from _microscope(bench, axis or _Absent(profile.axis, machine.clock))
        yield from first_light.findings(profile, settings, microscope)


@dataclass(frozen=True)
class _Part:
    """A plug-in of the board, and what it needs."""

    kind: str
    name: str
    module: ModuleType
    needs: Needs


@dataclass(frozen=True)
class _Bench:
    """What opening takes; `ledger` is the folder of the axis's record, None where it keeps none."""

    profile: BoardProfile
    machine: Host
    world: World | None
    opened: ExitStack
    ledger: Path | None


class _Absent(ZAxis):
    """Stands in for an axis that could not be opened, so that camera and model are tried nevertheless."""

    def _drive(self, steps: int, halt: object) -> int:
        raise AxisError(f"the axis could not be opened; no {steps} steps ({halt})")


def _parts(profile: BoardProfile) -> Generator[Finding, None, list[_Part]]:
    """The board's plug-ins, and those that they load in their turn; a finding for each that cannot be had."""
    asked = [("firmware.cameras", profile.camera.driver), ("firmware.axes", profile.axis.driver)]
    found = []
    for package, name in asked:
        kind = _KINDS.get(package, package.rpartition(".")[2])
        try:
            module = plugins.load(package, name)
            needs = module.needs(profile) if hasattr(module, "needs") else Needs()
        except Exception as error:  # noqa: BLE001 - a driver may raise anything
            yield Finding(kind, name, False, f"its keys in the board file are wrong: {why(error)}")
            continue
        found.append(_Part(kind, name, module, needs))
        asked += needs.uses
    return found


def _requirements(parts: list[_Part], machine: Host) -> Iterator[Finding]:
    for part in parts:
        missing = part.module.missing() if hasattr(part.module, "missing") else ""
        yield Finding("library", f"{part.kind} {part.name}", not missing, missing or "all there")
    devices = list(dict.fromkeys(device for part in parts for device in part.needs.devices))
    for group in dict.fromkeys(device.group for device in devices):
        yield machine.group(group, [device.paths for device in devices if device.group == group])
    yield from map(machine.device, devices)
    if any(part.needs.realtime for part in parts):
        yield machine.priority()
    for part in parts:
        yield from (Finding(NOTE, name, False, text) for name, text in part.needs.notes.items())


def _remembered(profile: BoardProfile, folder: Path | None) -> Generator[Finding, None, BoardProfile]:
    """The board by its measured mechanics, if it has measured them."""
    if folder is None:
        return profile
    yield host.folder(folder)
    try:
        memory = Memory(profile, folder)
    except (AppError, FirmwareError) as error:
        yield Finding("state", "mechanics", False, str(error))
        return profile
    record = memory.record
    found = "direction, step and backlash are the board file's; `parfocal calibrate mechanics` measures them"
    if record is not None:
        found = f"measured {record.at}: direction {record.direction:+d}, backlash {record.backlash_um:.2f} um"
    yield Finding(NOTE, "mechanics", record is not None, found)
    return memory.profile


def _axis(bench: _Bench, move: bool) -> Generator[Finding, None, ZAxis | None]:
    """Open the axis, read its lines, and move it a little if nothing speaks against it."""
    driver = bench.profile.axis.driver
    try:
        axis: ZAxis = plugins.load("firmware.axes", driver).open_axis(bench.profile, bench.machine.clock, bench.world)
    except Exception as error:  # noqa: BLE001 - a driver may raise anything
        yield Finding("axis", driver, False, why(error))
        return None
    bench.opened.callback(_close, axis)
    unrecorded = _unrecorded(axis, bench)
    yield Finding("axis", driver, not unrecorded, unrecorded or f"open; {axis.trust.value}{_next(axis)}")
    yield from first_move.findings(axis, move, unrecorded)
    return axis


def _next(axis: ZAxis) -> str:
    """What makes an axis know where it is."""
    if axis.trusted:
        return f", at {axis.z_um:.1f} um"
    return "; `parfocal set-zero` tells it" if axis.profile.homing == "window" else "; `parfocal home` tells it"


def _unrecorded(axis: ZAxis, bench: _Bench) -> str:
    """Have the axis record its moves as a server would; what stands in the way, or ""."""
    try:
        remember(axis, bench.profile, bench.ledger)
        if bench.profile.axis.homing == "device":
            axis.home()
    except Exception as error:  # noqa: BLE001
        return why(error)
    return ""


def _microscope(bench: _Bench, axis: ZAxis) -> Generator[Finding, None, Microscope | None]:
    """Open the camera beside the axis."""
    profile = bench.profile
    try:
        camera = plugins.load("firmware.cameras", profile.camera.driver).open_camera(
            profile, bench.machine.clock, bench.world
        )
    except Exception as error:  # noqa: BLE001
        yield Finding("camera", profile.camera.driver, False, why(error))
        return None
    bench.opened.callback(_close, camera)
    return Microscope(profile, camera, axis, bench.machine.clock, profile.objective[0], bench.world)


def _close(thing: Any) -> None:
    with suppress(Exception):  # what does not close ends with the process
        thing.close()
