"""The picamera driver on real picamera2 and libcamera, with a camera that libcamera draws by itself.

picamera.sh runs this in its chroot. What libcamera's virtual camera lacks is made up for here, not in the driver.
"""

from __future__ import annotations

import json
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import record_picamera2

# picamera2's preview windows import these; no window is opened.
sys.modules.update(pykms=MagicMock(), kms=MagicMock())

import picamera2  # noqa: E402
from picamera2.allocators import LibcameraAllocator  # noqa: E402

from firmware.camera import Exposure  # noqa: E402
from firmware.cameras import picamera  # noqa: E402
from firmware.clock import SystemClock  # noqa: E402
from firmware.errors import CameraError, CameraTimeout, FirmwareError  # noqa: E402
from firmware.frames import Frame, FrameOptics  # noqa: E402
from firmware.profile import BoardProfile  # noqa: E402

CLOCK = SystemClock()
RAW = {"kind": "raw", "pattern": "RGGB"}
BOARD: dict[str, Any] = {
    "name": "virtual",
    "description": "libcamera's virtual camera",
    "objective": [{"name": "none"}],
    "axis": {"driver": "simulated", "um_per_step": 1, "low_um": -1, "high_um": 1},
    "camera": {
        "driver": "picamera",
        "width_px": 640,
        "height_px": 480,
        "colour": False,
        "timeout_ms": 2000,
        # It draws some 350 frames a second but says that each may take 33 ms, so some dozen are too old.
        "flush_frames": 60,
        "options": {"camera": "parfocal virtual", "auto_exposure": True},
    },
}


class VirtualPicamera2(picamera2.Picamera2):  # type: ignore[misc]
    """Picamera2 for a camera that has no raw mode, and whose buffers only libcamera can make."""

    deaf = 0  # how often it must be stopped before frames come again, as where a cable is loose
    opened = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        type(self).opened += 1
        super().__init__(*args, **kwargs)
        self.allocator = LibcameraAllocator(self.camera)

    def _get_raw_modes(self) -> list[dict[str, Any]]:
        return [{"format": "SRGGB10", "size": (640, 480)}]

    def start_(self) -> None:
        """Let no frame in until picamera2 has noted that it runs; this camera's come within microseconds."""
        with self._cm._lock:
            super().start_()

    def capture_request_(self) -> tuple[bool, Any]:
        """While it is deaf no frame ends a job, and later jobs wait behind it, as they do in life."""
        found: tuple[bool, Any] = (False, None) if self.deaf else super().capture_request_()
        return found

    def stop_(self, request: Any = None) -> Any:
        """One stop nearer to hearing again."""
        type(self).deaf = max(self.deaf - 1, 0)
        return super().stop_(request)


def opened(**camera: Any) -> picamera.PicameraCamera:
    """The driver's camera, as open_camera gives it."""
    board = BoardProfile.model_validate({**BOARD, "camera": {**BOARD["camera"], **camera}})
    found = picamera.open_camera(board, CLOCK, None)
    assert isinstance(found, picamera.PicameraCamera)
    return found


def look(camera: picamera.PicameraCamera) -> Frame:
    """A frame from now on."""
    return camera.capture(CLOCK.now_s(), lambda _time_s: 0.0, FrameOptics())


def check_a_frame_is_as_promised() -> str:
    camera = opened()
    frame = look(camera)
    camera.close()
    assert frame.pixels.shape == (480, 640), frame.pixels.shape
    assert frame.pixels.dtype == np.uint8
    assert int(np.ptp(frame.pixels)) > 50, "the picture is flat"
    return f"{frame.pixels.shape[1]}x{frame.pixels.shape[0]} {frame.pixels.dtype}"


def check_frames_are_fresh_and_in_order() -> str:
    camera = opened()
    before_s = CLOCK.now_s()
    frames = [look(camera) for _ in range(20)]
    took_ms = (CLOCK.now_s() - before_s) / 20 * 1e3
    camera.close()
    times = [frame.captured_at_s for frame in frames]
    assert all(frame.fresh for frame in frames)
    assert times == sorted(set(times)), "frames out of order"
    assert before_s < times[0] < times[-1] < CLOCK.now_s(), "dates outside the time that it took"
    return f"{took_ms:.0f} ms a frame"


def check_old_frames_are_passed_over() -> str:
    camera = opened()
    taken: list[Exposure] = []
    take = camera._next

    def noting(timeout_s: float) -> Exposure:
        taken.append(take(timeout_s))
        return taken[-1]

    camera._next = noting  # type: ignore[method-assign]
    asked_s = CLOCK.now_s()
    frame = camera.capture(asked_s, lambda _time_s: 0.0, FrameOptics())
    camera.close()
    stale = [exposure.started_s < asked_s for exposure in taken]
    assert frame.fresh, "no frame was fresh"
    assert len(stale) > 1, "nothing was old"
    assert all(stale[:-1]), "a fresh frame was passed over"
    assert not stale[-1]
    return f"{len(stale) - 1} passed over"


def check_a_flush_that_is_too_short_says_so() -> str:
    camera = opened(flush_frames=1)
    fresh = look(camera).fresh
    camera.close()
    assert not fresh
    return "fresh=False"


def check_buffers_go_back() -> str:
    camera = opened()
    for _ in range(200):
        camera._next(2.0)
    frame = look(camera)
    camera.close()
    assert frame.fresh
    return "200 frames passed over with 4 buffers"


def check_a_job_may_hold_the_camera() -> str:
    camera = opened()
    with camera.held():
        assert look(camera).fresh
    assert look(camera).fresh
    camera.close()
    return "held and freed"


def check_a_stall_times_out_and_is_recovered_from() -> str:
    VirtualPicamera2.opened = 0
    camera = opened(timeout_ms=1000)
    VirtualPicamera2.deaf = 1
    refused = _error(lambda: look(camera))
    assert isinstance(refused, CameraTimeout), refused
    camera.profile = camera.profile.model_copy(update={"timeout_ms": 2000})
    began_s = CLOCK.now_s()
    assert look(camera).fresh
    took_ms = (CLOCK.now_s() - began_s) * 1e3
    assert VirtualPicamera2.opened == 1, "it was reopened though a restart was enough"
    camera.close()
    return f"restarted in {took_ms:.0f} ms"


def check_a_second_stall_reopens() -> str:
    VirtualPicamera2.opened = 0
    camera = opened(timeout_ms=1000)
    VirtualPicamera2.deaf = 2
    assert isinstance(_error(lambda: look(camera)), CameraTimeout)
    assert isinstance(_error(lambda: look(camera)), CameraTimeout)
    camera.profile = camera.profile.model_copy(update={"timeout_ms": 2000})
    assert look(camera).fresh
    assert VirtualPicamera2.opened == 2, VirtualPicamera2.opened
    camera.close()
    return "closed and reopened"


def check_close_after_a_stall() -> str:
    camera = opened(timeout_ms=1000)
    VirtualPicamera2.deaf = 5
    assert isinstance(_error(lambda: look(camera)), CameraTimeout)
    began_s = CLOCK.now_s()
    camera.close()
    camera.close()
    assert CLOCK.now_s() - began_s < 3.0, "close took too long"
    assert isinstance(_error(lambda: look(camera)), CameraError)
    return "twice"


def check_close_leaves_nothing_and_the_camera_opens_again() -> str:
    opened().close()
    left = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
    assert not left, left
    assert picamera2.Picamera2._cm.cameras == {}
    return "no thread, no camera left"


def check_wrong_board_files_are_refused() -> str:
    assert "parfocal virtual" in str(_error(lambda: opened(options={"camera": "imx477"})))
    assert "auto_exposure" in str(_error(lambda: opened(options={})))
    assert "640x480" in str(_error(lambda: opened(width_px=320, height_px=240)))
    assert "NV12" in str(_error(lambda: opened(colour=True)))
    assert "no raw frames" in str(_error(lambda: opened(colour=True, bits=10, response=RAW)))
    return "model, exposure, size, colour, raw"


def _error(call: Callable[[], Any]) -> FirmwareError | None:
    try:
        call()
    except FirmwareError as error:
        return error
    return None


def check_the_recorded_signatures_are_the_real_ones() -> str:
    now, then = record_picamera2.recorded(), record_picamera2.committed()
    for key in set(now) - {"picamera2"}:
        assert now[key] == then[key], f"{key}: {then[key]} became {now[key]}; run record_picamera2.py again"
    return f"picamera2 {now['picamera2']}, recorded from {then['picamera2']}"


def main() -> int:
    """One line a check; 1 where any fails. With --record the signatures alone."""
    if "--record" in sys.argv:
        print(json.dumps(record_picamera2.recorded(), indent=1))  # noqa: T201
        return 0
    picamera._picamera2 = lambda: type("library", (), {"Picamera2": VirtualPicamera2})
    checks = [(name, call) for name, call in globals().items() if name.startswith("check_")]
    failed = 0
    for name, call in checks:
        what = name.removeprefix("check_").replace("_", " ")
        VirtualPicamera2.deaf = 0
        began_s = time.monotonic()
        try:
            print(f"ok {what}: {call()} ({time.monotonic() - began_s:.1f} s)", flush=True)  # noqa: T201
        except Exception as error:  # noqa: BLE001
            failed += 1
            print(f"FAIL {what}: {error}", flush=True)  # noqa: T201
            traceback.print_exc()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
