"""The host's side: a stage outside the guest that counts the step line's edges as QEMU saw them, and closes switches.

It reads QEMU's trace from a pipe while the guest runs, and sets the guest's input lines through QEMU's test socket.
At the end it compares its count with what the guest said on its serial line.
"""

from __future__ import annotations

import argparse
import json
import re
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpio_bench import BENCHES, BOTTOM_STEPS, FAULT_AFTER, PHASES, PULSE_US, TOP_STEPS, TURN_US, Bench

_WHEN = re.compile(r"\d+@(\d+\.\d+):")
_PATIENCE_S = 20.0
_HURRIED_MS = 1.8
_HOMES_ALIKE_STEPS = 5
_GPSET0, _GPCLR0 = 0x3F20001C, 0x3F200028


class Chip(ABC):
    """An emulated GPIO chip from outside: which lines a trace event changes, and how an input is driven."""

    reset: Sequence[int] = ()
    """Lines whose level is low, and known to be, before the guest makes them outputs."""

    def __init__(self) -> None:
        self._qtest: Any = None
        self._levels: dict[int, bool] = dict.fromkeys(self.reset, False)

    def connect(self, path: Path) -> None:
        """To QEMU's test socket."""
        plug = socket.socket(socket.AF_UNIX)
        ends_s = time.monotonic() + _PATIENCE_S
        while True:
            try:
                plug.connect(str(path))
                break
            except OSError:
                if time.monotonic() > ends_s:
                    raise
                time.sleep(0.05)
        self._qtest = plug.makefile("rw")

    def ask(self, command: str) -> None:
        """One command of QEMU's test protocol."""
        self._qtest.write(command + "\n")
        self._qtest.flush()
        answer = self._qtest.readline()
        if not answer.startswith("OK"):
            raise RuntimeError(f"QEMU answers {answer!r} to {command!r}")

    def changes(self, event: str) -> Iterator[tuple[int, bool]]:
        """Lines that this event really changes, and their new levels."""
        for line, level in self._sets(event):
            if self._levels.get(line) != level:
                self._levels[line] = level
                yield line, level

    @abstractmethod
    def _sets(self, event: str) -> Iterator[tuple[int, bool]]:
        """Lines that the guest sets in this event."""

    @abstractmethod
    def drive(self, line: int, level: bool) -> None:
        """What the guest sees on an input."""


class PL061(Chip):
    """The chip of `-M virt`: QEMU tells every change of an output."""

    _event = re.compile(r":pl061_set_output (\S+) setting output (\d+) to (\d)")
    _path = ""
    reset = range(8)

    def _sets(self, event: str) -> Iterator[tuple[int, bool]]:
        if found := self._event.search(event):
            self._path = found[1]
            yield int(found[2]), found[3] == "1"

    def drive(self, line: int, level: bool) -> None:
        self.ask(f"set_irq_in {self._path} unnamed-gpio-in {line} {level:d}")


class BCM2835(Chip):
    """The chip of `-M raspi3b`: QEMU tells writes to its registers; those of cpu -1 are our own.

    In QEMU the registers that set and clear outputs set what an input shows as well.
    """

    _event = re.compile(r"ops_write cpu \d+ .* addr 0x(\w+) value 0x(\w+) size 4 name 'bcm2835_gpio'")

    def _sets(self, event: str) -> Iterator[tuple[int, bool]]:
        found = self._event.search(event)
        if found and (register := int(found[1], 16)) in (_GPSET0, _GPCLR0):
            bits = int(found[2], 16)
            yield from ((line, register == _GPSET0) for line in range(32) if bits >> line & 1)

    def drive(self, line: int, level: bool) -> None:
        self.ask(f"writel {_GPSET0 if level else _GPCLR0:#x} {1 << line:#x}")


@dataclass
class Count:
    """What happened in one phase."""

    edges: int = 0
    net: int = 0
    unpowered: int = 0
    awake: int = 0
    position: int = 0
    gap_s: float = 9.9


@dataclass
class Stage:
    """Motor and switches: `position` in steps upwards from where the stage was found."""

    bench: Bench
    chip: Chip
    counts: list[Count] = field(default_factory=lambda: [Count()])
    position: int = 0
    pulse_s: float = 9.9
    turn_s: float = 9.9
    _levels: dict[int, bool] = field(default_factory=dict)
    _inputs: dict[int, bool] = field(default_factory=dict)
    _rose_s: float = 0.0
    _turned_s: float = 0.0

    def change(self, line: int, level: bool, at_s: float) -> None:
        """An output of the guest has a new level."""
        self._levels[line] = level
        if line == self.bench.step and level:
            self._step(at_s)
        elif line == self.bench.step and self._rose_s:
            self.pulse_s = min(self.pulse_s, at_s - self._rose_s)
        elif line == self.bench.turn:
            self._turned_s = at_s
        elif line == self.bench.enable:
            self.counts[-1].awake += not level
        elif line == self.bench.marker and (level or len(self.counts) > 1):
            self.counts[-1].position = self.position
            self.counts.append(Count())

    def show(self) -> None:
        """Put the inputs, all active low, as they are now."""
        bench = self.bench
        phase = min(len(self.counts), len(PHASES)) - 1
        closed = {
            bench.upper_switch: self.position >= TOP_STEPS,
            bench.lower_switch: self.position <= BOTTOM_STEPS,
            bench.fault: PHASES[phase] == "fault" and self.counts[-1].edges >= FAULT_AFTER,
        }
        for line, active in closed.items():
            if self._inputs.get(line) != active:
                self.chip.drive(line, not active)
                self._inputs[line] = active

    @property
    def powered(self) -> bool:
        """Whether the enable line, active low, is active."""
        return not self._levels.get(self.bench.enable, True)

    def _step(self, at_s: float) -> None:
        count = self.counts[-1]
        sign = 1 if self._levels.get(self.bench.turn) else -1
        count.edges += 1
        count.net += sign
        count.unpowered += not self.powered
        count.gap_s = min(count.gap_s, at_s - self._rose_s)
        self.turn_s = min(self.turn_s, at_s - self._turned_s)
        self._rose_s = at_s
        self.position += self.bench.direction * sign


def watch(stage: Stage, trace: Path, socket_path: Path) -> None:
    """Follow the guest until QEMU ends."""
    with trace.open() as events:
        timed = ((float(when[1]), event) for event in events if (when := _WHEN.match(event)))
        for number, (at_s, event) in enumerate(timed):
            if number == 0:
                stage.chip.connect(socket_path)
            for line, level in stage.chip.changes(event):
                stage.change(line, level, at_s)
            stage.show()


def judge(stage: Stage, serial: str) -> Iterator[tuple[bool, str]]:
    """The guest's own checks, and its counts against ours."""
    told = re.findall(r"^(ok|FAIL) (.*)$", serial, re.MULTILINE)
    yield from ((word == "ok", f"inside: {text}") for word, text in told)
    notes = [json.loads(text) for text in re.findall(r"^PHASE (.*)$", serial, re.MULTILINE)]
    names = [note["phase"] for note in notes]
    yield names == list(PHASES) and len(stage.counts) == len(PHASES) + 1, f"{len(names)} phases of {len(PHASES)} ended"
    homes = []
    for note, count in zip(notes, stage.counts, strict=False):
        same = note["sent"] == count.edges
        yield same, f"{note['phase']}: {note['sent']} pulses sent, {count.edges} seen{_timing(note, count)}"
        if note["phase"].startswith("homing"):
            homes.append(count.position - note["steps"])
        elif "change" in note:
            change = stage.bench.direction * count.net
            yield change == note["change"], f"{note['phase']}: z went {note['change']} steps, the stage {change}"
    spread = max(homes, default=0) - min(homes, default=0)
    yield len(homes) == 2 and spread <= _HOMES_ALIKE_STEPS, f"{len(homes)} homings differ by {spread} steps"
    unpowered = sum(count.unpowered for count in stage.counts)
    yield (
        unpowered == 0 and not stage.powered,
        f"{unpowered} pulses without power; none is left on the motor at the end",
    )
    awake = [name for name, count in zip(PHASES, stage.counts, strict=False) if count.awake]
    yield awake == ["homing"], f"the motor gets power when it is to move, not before: {', '.join(awake)}"
    soonest_ms = 1e3 * min((count.gap_s for count in stage.counts), default=0.0)
    yield soonest_ms > _HURRIED_MS, f"no pulse is hurried: never less than {soonest_ms:.2f} ms apart of 2.5"
    wide, early = stage.pulse_s * 1e6, stage.turn_s * 1e6
    yield wide >= PULSE_US, f"the shortest pulse took {wide:.0f} us, asked for {PULSE_US:.0f}"
    yield early >= TURN_US, f"direction is set {early:.0f} us or more before a step, asked for {TURN_US:.0f}"


def _timing(note: dict[str, Any], count: Count) -> str:
    if not count.edges:
        return ""
    return (
        f" ({note['late']} late, {note['ramps']} ramped again, late by {note['mean_ms']} ms in the mean, "
        f"never less than {1e3 * count.gap_s:.2f} ms apart)"
    )


def main() -> None:
    """Watch one guest and print a line for every check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bench", choices=BENCHES)
    parser.add_argument("trace", type=Path, help="the pipe that QEMU writes its trace to")
    parser.add_argument("socket", type=Path, help="QEMU's test socket")
    parser.add_argument("serial", type=Path, help="the file with what the guest said")
    asked = parser.parse_args()
    bench = BENCHES[asked.bench]
    stage = Stage(bench, PL061() if bench.chip.endswith("pl061") else BCM2835())
    watch(stage, asked.trace, asked.socket)
    said = asked.serial.read_text(errors="replace").replace("\r", "")
    for passed, what in judge(stage, said):
        print("ok" if passed else "FAIL", f"{asked.bench}: {what}")  # noqa: T201


if __name__ == "__main__":
    main()
