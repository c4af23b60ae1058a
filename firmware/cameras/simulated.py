"""The simulated camera: exposes the World, with a pipeline that holds frames back as real ones do."""

from __future__ import annotations

from collections import deque

from firmware.camera import Camera, Exposure
from firmware.clock import Clock
from firmware.errors import ProfileError
from firmware.profile import BoardProfile
from firmware.simulation import World

# A stage that moves is looked at so often during an exposure: an odd number, so that one is the middle.
_PARTS = 9


class SimulatedCamera(Camera):
    """Hands out frames `stale_frames` late, in order; each is rendered only when it is developed."""

    def __init__(self, profile: BoardProfile, clock: Clock, world: World) -> None:
        super().__init__(profile.camera, clock, profile.name)
        self._world = world
        self._pipeline: deque[Exposure] = deque()

    def _next(self, timeout_s: float) -> Exposure:
        del timeout_s
        while len(self._pipeline) <= self._world.table.stale_frames:
            self._pipeline.append(self._expose())
        return self._pipeline.popleft()

    def _expose(self) -> Exposure:
        started_s = self._clock.now_s()
        parts = _PARTS if self._world.stage.moving else 1
        half_s = self.profile.exposure_ms / 2e3 / parts
        way_um = []
        for _ in range(parts):
            self._clock.sleep(half_s)
            way_um.append(self._world.defocus_um())
            self._clock.sleep(half_s)
        scene = self._world.catch(way_um)
        return Exposure(started_s, self._clock.now_s(), lambda: self._world.develop(scene))


def open_camera(profile: BoardProfile, clock: Clock, world: World | None) -> Camera:
    """Open the camera of a simulated board."""
    if world is None:
        raise ProfileError(f"board {profile.name!r}: the simulated camera needs a [simulation] table")
    return SimulatedCamera(profile, clock, world)
