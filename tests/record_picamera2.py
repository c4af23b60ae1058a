"""Record what picamera2 offers the driver, so that its stand-in can be held against the real one.

Run where picamera2 is installed: `python record_picamera2.py > picamera2_signatures.json`. `boards/picamera.sh`
compares the record with the newest picamera2, and makes it anew with `--record`.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

RECORD = Path(__file__).with_name("picamera2_signatures.json")
CALLS = {
    "Picamera2": (
        *("__init__", "global_camera_info", "camera_controls", "camera_configuration", "cancel_all_and_flush"),
        *("capture_request", "close", "configure", "create_preview_configuration", "set_controls", "start", "stop"),
    ),
    "Job": ("get_result",),
    "CompletedRequest": ("get_metadata", "make_array", "release"),
}
CONTROLS = (
    *("AeEnable", "AnalogueGain", "AwbEnable", "ColourGains", "ExposureTime", "FrameDurationLimits"),
    *("NoiseReductionMode", "Sharpness"),
)
METADATA = (
    *("AeLocked", "AeState", "AnalogueGain", "ColourGains", "ExposureTime", "FrameDuration"),
    *("SensorBlackLevels", "SensorTimestamp"),
)
PLAIN = (bool, int, float, str, type(None), dict, list)


def described(owner: Any, name: str) -> str:
    """A method's arguments without annotations, "property", or "" where there is none."""
    found = inspect.getattr_static(owner, name, None)
    if found is None:
        return ""
    if isinstance(found, property):
        return "property"
    parts = []
    for argument in inspect.signature(getattr(owner, name)).parameters.values():
        default = "" if argument.default is argument.empty else f"={_written(argument.default)}"
        parts.append(f"{argument.name}{default}")
    kind = "static " if isinstance(found, staticmethod) else ""
    return f"{kind}({', '.join(parts)})"


def described_calls(owners: Mapping[str, Any]) -> dict[str, str]:
    """What every call that the driver makes looks like, by "Class.method"."""
    return {f"{name}.{call}": described(owners[name], call) for name, calls in CALLS.items() for call in calls}


def _written(default: object) -> str:
    return repr(default) if isinstance(default, PLAIN) else "..."


def recorded() -> dict[str, Any]:
    """What the installed picamera2 and libcamera offer."""
    import libcamera
    import picamera2
    from picamera2 import configuration, formats, job, request

    controls = libcamera.controls
    types = {
        name: getattr(controls, name, None) or getattr(controls.draft, name) for name in sorted({*CONTROLS, *METADATA})
    }
    owners = {
        "Picamera2": picamera2.Picamera2,
        "Job": job.Job,
        "CompletedRequest": request.CompletedRequest,
    }
    return {
        "picamera2": metadata.version("picamera2"),
        "calls": described_calls(owners),
        "controls": {name: control.type.name for name, control in types.items()},
        "stream_keys": sorted(configuration.StreamConfiguration._ALLOWED_FIELDS),
        "sensor_keys": sorted(configuration.SensorConfiguration._ALLOWED_FIELDS),
        "formats": sorted(formats.ALL_FORMATS),
    }


def committed() -> dict[str, Any]:
    """The record as it was committed."""
    record: dict[str, Any] = json.loads(RECORD.read_text(encoding="utf-8"))
    return record


if __name__ == "__main__":
    print(json.dumps(recorded(), indent=1))  # noqa: T201
