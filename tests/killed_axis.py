"""Kills a simulated axis again and again in mid-motion (SIGKILL), and tells what each restart believed.

`killed_axis.py FOLDER KILLS SEED` prints one word a restart: right, unknown, or WRONG with both positions. Where the
stage really is lies in a mapped file, which outlives the processes as a stage does.
"""

from __future__ import annotations

import mmap
import os
import random
import signal
import struct
import sys
import time
from pathlib import Path

from firmware.clock import SystemClock
from firmware.microscope import open_microscope
from firmware.profile import load_profile

SIZE = 8


def live(folder: Path, seed: int, say: int) -> None:
    """One life: restart, say what is believed, then move until killed."""
    profile = load_profile("simulated_tiny")
    changes = {"holds_without_power": True, "home_at_start": False, "settle_ms": 4.0}
    profile = profile.model_copy(update={"axis": profile.axis.model_copy(update=changes)})
    with (folder / "truth").open("r+b") as file, mmap.mmap(file.fileno(), SIZE) as truth:
        microscope = open_microscope(profile, SystemClock(), folder)
        stage, axis = microscope.world.stage, microscope.axis  # type: ignore[union-attr]
        (stage.motor_um,) = struct.unpack("d", truth[:])
        turn = stage.turn

        def turn_and_keep(distance_um: float, stops: bool = True) -> None:
            turn(distance_um, stops)
            truth[:] = struct.pack("d", stage.motor_um)

        stage.turn = turn_and_keep  # type: ignore[method-assign]
        os.write(say, f"{believed(axis.trusted, axis.z_um, stage.motor_um)}\n".encode())
        if not axis.trusted:
            axis.home()
        os.write(say, b"moving\n")
        rng = random.Random(seed)
        while True:
            axis.move_to(rng.uniform(-20, 20))


def believed(trusted: bool, said_um: float, is_um: float) -> str:
    if not trusted:
        return "unknown"
    return "right" if abs(said_um - is_um) < 1e-6 else f"WRONG: said {said_um}, is {is_um}"


def main() -> None:
    folder, kills, rng = Path(sys.argv[1]), int(sys.argv[2]), random.Random(int(sys.argv[3]))
    (folder / "truth").write_bytes(struct.pack("d", 0.0))
    for number in range(kills):
        heard, say = os.pipe()
        child = os.fork()
        if child == 0:
            live(folder, number, say)
        os.close(say)
        with os.fdopen(heard) as lines:
            sys.stdout.write(lines.readline())
            # Every third is killed while it homes.
            if number % 3:
                lines.readline()
            time.sleep(rng.uniform(0.0, 0.08))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


if __name__ == "__main__":
    main()
