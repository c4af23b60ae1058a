"""The GStreamer camera on a scripted stream: its dates, locks and reconnections, and what a missing piece is told."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
from gst_board import a_board, next_of

from firmware.cameras import gstreamer
from firmware.cameras.gstreamer import GstreamerCamera, Stream
from firmware.clock import ManualClock
from firmware.errors import CameraError, MissingDriver
from firmware.gst import GstreamerOptions


class Script:
    """A stream whose samples are ages in seconds, None for one that has no stamp, or what is raised."""

    def __init__(self, clock: ManualClock, samples: list[float | Exception | None]) -> None:
        self.clock, self.samples = clock, samples
        self.told: dict[str, object] = {}
        self.stops = 0

    def pull(self, timeout_s: float) -> Any:
        del timeout_s
        self.clock.sleep(0.1)
        sample = self.samples.pop(0)
        if isinstance(sample, Exception):
            raise sample
        return sample

    def age_s(self, sample: Any) -> Any:
        self.clock.sleep(5.0)
        return sample

    def set(self, name: str, value: object) -> None:
        self.told[name] = value

    def stop(self) -> None:
        self.stops += 1


class Scripted(GstreamerCamera):
    """A camera on a script instead of a pipeline; it counts how often it connects."""

    def __init__(self, samples: list[float | Exception | None], **options: Any) -> None:
        self.clock = ManualClock(100.0)
        self.script = Script(self.clock, samples)
        self.connected = 0
        chosen = {"source": "nvarguscamerasrc", **options}
        super().__init__(a_board(chosen), self.clock, GstreamerOptions.model_validate(chosen), "")

    def _connect(self) -> Stream:
        self.connected += 1
        return self.script  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("options", "late_s"),
    [
        ({"source": "nvarguscamerasrc"}, 0.1),
        ({"source": "nvarguscamerasrc", "framerate": 60}, 0.05),
        ({"source": "v4l2src"}, 2 / 30),
        ({"source": "libcamerasrc"}, 1 / 30),
        ({"source": "nvarguscamerasrc", "latency_ms": 20}, 0.02),
        ({"source": "v4l2src", "latency_ms": 0}, 0.0),
    ],
)
def test_the_exposure_ended_as_long_before_the_stamp_as_the_source_may_be_late(
    options: dict[str, Any], late_s: float
) -> None:
    exposure = next_of(Scripted([0.03], **options))
    assert exposure.ended_s == pytest.approx(100.1 - 0.03 - late_s)
    assert exposure.ended_s - exposure.started_s == pytest.approx(0.008)


def test_a_pause_while_the_clocks_are_read_makes_a_frame_no_younger() -> None:
    camera = Scripted([0.0], latency_ms=0)
    assert next_of(camera).ended_s == pytest.approx(100.1)
    assert camera.clock.now_s() == pytest.approx(105.1)


def test_a_frame_without_a_stamp_is_as_old_as_the_last_look() -> None:
    camera = Scripted([None, None], latency_ms=0)
    assert next_of(camera).ended_s == pytest.approx(100.0)
    camera.clock.sleep(60.0)
    second = next_of(camera)
    assert second.ended_s == pytest.approx(100.0)
    assert second.settings == {"dated_by": "arrival"}


def test_a_frame_says_when_it_was_dated_by_its_stamp() -> None:
    assert next_of(Scripted([0.0])).settings == {"dated_by": "timestamp"}


@pytest.mark.parametrize("fault", [TimeoutError(), CameraError("unplugged")])
def test_after_a_fault_the_camera_connects_anew(fault: Exception) -> None:
    camera = Scripted([fault, 0.0])
    with pytest.raises(type(fault)):
        next_of(camera)
    assert (camera.script.stops, camera.connected) == (1, 1)
    next_of(camera)
    assert (camera.script.stops, camera.connected) == (1, 2)


@pytest.mark.parametrize(
    ("source", "locked", "free"),
    [
        ("nvarguscamerasrc", {"aelock": True, "awblock": True}, {"aelock": False, "awblock": False}),
        ("libcamerasrc", {"awb-enable": False}, {"awb-enable": True}),
        ("v4l2src", {}, {}),
    ],
)
def test_what_a_source_regulates_is_locked_while_held(
    source: str, locked: dict[str, bool], free: dict[str, bool]
) -> None:
    camera = Scripted([], source=source)
    with camera.held():
        assert camera.script.told == locked
    assert camera.script.told == free


def test_a_stream_that_is_gone_is_not_told_to_unlock() -> None:
    camera = Scripted([TimeoutError()])
    with camera.held(), pytest.raises(TimeoutError):
        next_of(camera)
    assert camera.script.told == {"aelock": True, "awblock": True}


def test_a_missing_gi_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gi", None)
    with pytest.raises(MissingDriver, match=r"apt install python3-gi gir1\.2-gst-plugins-base-1\.0 .*site-packages"):
        gstreamer.open_camera(a_board({"source": "videotestsrc"}), ManualClock(), None)
    assert "python3-gi" in gstreamer.missing()


def test_a_missing_description_of_gstreamer_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    bare = ModuleType("gi")
    monkeypatch.setitem(sys.modules, "gi", bare)

    def require_version(name: str, version: str) -> None:
        raise ValueError(f"Namespace {name} not available for version {version}")

    monkeypatch.setattr(bare, "require_version", require_version, raising=False)
    assert "(Namespace Gst not available for version 1.0): apt install" in gstreamer.missing()


@pytest.mark.parametrize(
    ("words", "kind", "cure"),
    [
        ('no element "nvarguscamerasrc"', MissingDriver, "comes with JetPack"),
        ('no element "jpegdec"', MissingDriver, r"install gstreamer1\.0-plugins-good"),
        ('no element "libcamerasrc"', MissingDriver, r"install gstreamer1\.0-libcamera"),
        ('no element "videoconvert"', MissingDriver, r"install gstreamer1\.0-plugins-base"),
        ('no property "ae-enable" in element "libcamerasrc"', MissingDriver, r"install libcamera 0\.4"),
        ('could not set property "pattern"', CameraError, r"correct \[camera\.options\]"),
    ],
)
def test_a_pipeline_that_cannot_be_built_says_what_to_do(words: str, kind: type[Exception], cure: str) -> None:
    error = gstreamer._not_understood(words)
    assert isinstance(error, kind)
    with pytest.raises(kind, match=cure):
        raise error
