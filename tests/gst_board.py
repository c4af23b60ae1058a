"""A board with a GStreamer camera, what its pipelines end in, and GStreamer for real where this machine has it."""

from __future__ import annotations

import importlib.util
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from firmware.camera import Exposure
from firmware.cameras import gstreamer
from firmware.cameras.gstreamer import GstreamerCamera
from firmware.profile import BoardProfile, CameraProfile, load_profile

DISTRIBUTION = Path("/usr/lib/python3/dist-packages")
RGGB = {"kind": "raw", "pattern": "RGGB"}
SINK = "appsink name=sink sync=false drop=true max-buffers=1 enable-last-sample=false"
SIZE = "width=33,height=10,framerate=30/1"
RGB = "video/x-raw,format=RGB"


def a_board(options: dict[str, Any], **camera: Any) -> BoardProfile:
    given = {"width_px": 33, "height_px": 10, "exposure_ms": 8.0, "timeout_ms": 2000, **camera}
    profile = CameraProfile.model_validate({"driver": "gstreamer", "options": options, **given})
    return load_profile("simulated_tiny").model_copy(update={"camera": profile})


def next_of(camera: GstreamerCamera) -> Exposure:
    return camera._next(1.0)


class OnlyGi:
    """Finds the distribution's gi, and nothing else of what lies beside it."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        del path, target
        return PathFinder.find_spec(name, [str(DISTRIBUTION)]) if name == "gi" else None


@contextmanager
def real_gstreamer() -> Iterator[None]:
    """GStreamer for real; the distribution's gi will do where it was built for this very Python."""
    with ExitStack() as stack:
        fits = (DISTRIBUTION / "gi" / f"_gi{sysconfig.get_config_var('EXT_SUFFIX')}").exists()
        if importlib.util.find_spec("gi") is None and fits:
            sys.meta_path.append(OnlyGi)
            stack.callback(sys.meta_path.remove, OnlyGi)
        if why := gstreamer.missing():
            pytest.skip(why)
        Gst = gstreamer._sdk()[0]
        if not all(Gst.ElementFactory.find(name) for name in ("v4l2src", "jpegenc")):
            pytest.skip("apt install gstreamer1.0-plugins-good")
        yield
