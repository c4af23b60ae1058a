"""first_move: what an axis's input lines say, and one small move there and back."""

from __future__ import annotations

from collections.abc import Iterator

from edge_app.doctor import NOTE, Finding, why
from firmware.zaxis import ZAxis

_SMALL_UM = 2.0
_BOTH_CLOSED = (
    "closed, and so is the other one, though no stage stands at both its ends: their common ground is loose, or "
    "active_low is the wrong way round (normally closed switches to ground: active_low = false; normally open ones: "
    "active_low = true)"
)
_CLOSED = (
    "closed: if the objective stands at that end, turn the knob away from it by hand until this says open; if not, "
    "the switch is stuck, its wire is loose (a normally closed switch then reads as closed), or active_low is the "
    "wrong way round"
)
_FAULT = (
    "active: the motor's driver reports a fault, or has no motor supply; switch that on, feel whether the driver is "
    'hot, look for a short circuit; then compare the level (DRV8825 FAULT: active_low = true, pull = "up"; TMC2209 '
    'DIAG: active_low = false, pull = "down")'
)
_NOTHING_TURNED = "if the motor did not turn: motor supply, EN (low is on), coil wires, current limit"


def findings(axis: ZAxis, move: bool, hindrance: str) -> Iterator[Finding]:
    """The lines, then the move if `move` wants it and neither a line nor another `hindrance` speaks against it."""
    try:
        lines = list(_lines(axis))
    except Exception as error:  # noqa: BLE001 - a driver may raise anything
        lines = [Finding("line", "all", False, why(error))]
    yield from lines
    if hindrance or not all(line.ok for line in lines):
        yield Finding(NOTE, "move", False, "not tried, for what is said above; mend that first")
    elif not move:
        yield Finding(NOTE, "move", True, "not tried, as asked")
    else:
        yield _moved(axis)


def _lines(axis: ZAxis) -> Iterator[Finding]:
    """What each input line says, and whether that can be."""
    lines = axis.lines()
    closed = [role for role, active in lines.items() if active and role.endswith("_switch")]
    for role, active in lines.items():
        switch, name = role.endswith("_switch"), role.replace("_", " ")
        if not active:
            yield Finding("line", name, True, "open" if switch else "inactive")
        elif switch:
            believed = f"; the axis believes to be at {axis.z_um:.1f} um" if axis.trusted else ""
            yield Finding("line", name, False, (_BOTH_CLOSED if len(closed) > 1 else _CLOSED) + believed)
        else:
            yield Finding("line", name, role != "fault", _FAULT if role == "fault" else "active")


def _moved(axis: ZAxis) -> Finding:
    """There and back, inside what an axis that does not know where it is may do blindly."""
    profile = axis.profile
    step_um = profile.um_per_step
    room_um = _SMALL_UM if axis.trusted else min(_SMALL_UM, profile.blind_um / 2)
    distance_um = int(room_um / step_um + 1e-6) * step_um
    if not distance_um:
        detail = f"not tried: one step is {step_um:g} um, and the axis may move only {room_um:g} um; raise blind_um"
        return Finding(NOTE, "move", False, detail)
    if axis.z_um + distance_um + profile.backlash_um > profile.high_um:
        distance_um = -distance_um
    try:
        there = axis.move_by(distance_um)
        axis.move_by(there.from_um - there.to_um)
    except Exception as error:  # noqa: BLE001
        return Finding("axis", "move", False, why(error))
    return Finding("axis", "move", True, f"{abs(distance_um):.2f} um there and back{_timing(axis)}; {_NOTHING_TURNED}")


def _timing(axis: ZAxis) -> str:
    """How evenly the pulses came, where the axis sends pulses."""
    timing = getattr(axis, "timing", None)
    if timing is None or not timing.pulses:
        return ""
    return f", {timing.pulses} pulses, {timing.late} of them late, the worst by {timing.worst_s * 1e6:.0f} us"
