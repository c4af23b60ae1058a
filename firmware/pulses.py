"""PulseThread: sends step trains from a thread of its own, and measures when the pulses really happened.

A pulse that comes late shifts all that follow it: no step is lost, doubled or hurried, the move takes longer. One
that comes so late that the motor has slowed down meanwhile begins a new ramp from rest for the steps that are left.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from firmware.clock import Clock
from firmware.errors import AxisError
from firmware.motion import Seconds

Plan = Callable[[int], Seconds]
"""Times of so many pulses, from rest to rest: (n,) s."""
Renew = Callable[[int], Seconds | None]
"""Times of all further pulses after so many, counted from the last of these: (n,) s; None to go on as planned."""

PRIORITY = 50
_LATE_S = 100e-6
_SLOWED_S = 1e-3
_HELD = 0.25
# Another thread that computes in Python gives way after this long, instead of 5 ms.
_SWITCH_S = 100e-6
_MARKS = 1 << 14


@dataclass
class Timing:
    """How well pulses were timed: `late` came more than 100 us after they were due, `ramped_again` were restarts."""

    pulses: int = 0
    late: int = 0
    worst_s: float = 0.0
    sum_s: float = 0.0
    ramped_again: int = 0
    realtime: bool = False

    @property
    def mean_s(self) -> float:
        """How late a pulse was on average."""
        return self.sum_s / max(self.pulses, 1)

    def note(self, late_s: float) -> None:
        """Count one pulse."""
        self.pulses += 1
        self.sum_s += late_s
        self.late += late_s > _LATE_S
        self.worst_s = max(self.worst_s, late_s)

    def since(self, before: Timing) -> Timing:
        """What has been counted since an earlier copy; the worst pulse is that of all."""
        return Timing(
            self.pulses - before.pulses,
            self.late - before.late,
            self.worst_s,
            self.sum_s - before.sum_s,
            self.ramped_again - before.ramped_again,
            self.realtime,
        )


@dataclass
class Order:
    """A train to send: how many pulses, what comes before them, when they come, what ends them early, both edges.

    `blocked` is asked before every pulse; any word from it ends the train before that pulse. A pulse counts as sent
    from its rising edge on. `renew` is asked after every pulse: where it plans anew, its times are those of all pulses
    that are left, and `count` changes with them. All are called from the thread that sends. `interval_s` is the
    planned distance of the pulse that was due last from the one before it, `slowed_at_s` the least at which a late one
    slowed the motor down. `marks` are the latest pulses: when, and how many were sent by then.
    """

    count: int
    prepare: Callable[[], None]
    plan: Plan
    blocked: Callable[[], str]
    rise: Callable[[], None]
    fall: Callable[[], None]
    renew: Renew = lambda _sent: None
    sent: int = 0
    why: str = ""
    interval_s: float = 0.0
    slowed_at_s: float = 0.0
    cancelled: bool = False
    failure: BaseException | None = None
    done: threading.Event = field(default_factory=threading.Event)
    marks: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=_MARKS))


class PulseThread:
    """One motor's thread. `timing` adds up over all trains; close it to end the thread.

    After `idle_s` without a train it calls `idle`, from this thread; in seconds of the machine, not of the clock.
    It asks for real-time priority unless told not to.
    """

    def __init__(
        self,
        clock: Clock,
        idle: Callable[[], None] = lambda: None,
        idle_s: float | None = None,
        realtime: bool = True,
    ) -> None:
        self.timing = Timing()
        self._clock = clock
        self._idle, self._idle_s, self._realtime = idle, idle_s, realtime
        self._wake = threading.Condition()
        self._order: Order | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="parfocal-pulses", daemon=True)
        self._thread.start()

    def send(self, order: Order) -> Order:
        """Send a train and wait for its end; `sent` says how many pulses there were, `why` what ended it early.

        Raises:
            AxisError: The thread has ended.
            Exception: Whatever the order's functions raised, or an idle call before it; `order.sent` is right
                nevertheless.
        """
        self.begin(order)
        return self.finish(order)

    def begin(self, order: Order) -> None:
        """Begin to send a train, which `finish` has to wait for; another one may begin only after that.

        Raises:
            AxisError: The thread has ended.
        """
        with self._wake:
            if self._closing or not self._thread.is_alive():
                raise AxisError("the axis is closed; open the microscope again")
            self._order = order
            self._wake.notify()

    def finish(self, order: Order) -> Order:
        """Wait for the end of a train that was begun. Raises as `send`."""
        try:
            order.done.wait()
        except BaseException:  # Ctrl-C: the motor is not to run on behind it
            order.cancelled = True
            order.done.wait()
            raise
        if order.failure is not None:
            raise order.failure
        return order

    def close(self) -> None:
        """End the thread; safe to call twice."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()

    def _work(self) -> None:
        self.timing.realtime = self._realtime and ask_for_realtime()
        while True:
            with self._wake:
                failure = None
                if not self._wake.wait_for(lambda: self._order or self._closing, self._idle_s):
                    failure = self._idled()
                    self._wake.wait_for(lambda: self._order or self._closing)
                order, self._order = self._order, None
            if order is None:
                return
            if failure is not None:
                order.failure = failure
                order.done.set()
                continue
            patience_s = sys.getswitchinterval()
            sys.setswitchinterval(_SWITCH_S)
            try:
                self._send(order)
            except BaseException as error:  # noqa: BLE001 - who waits must hear of it
                order.failure = error
            finally:
                sys.setswitchinterval(patience_s)
                order.done.set()

    def _idled(self) -> BaseException | None:
        """What the idle call raised, for whoever sends the next train."""
        try:
            self._idle()
        except BaseException as error:  # noqa: BLE001 - it has no other hearer
            return error
        return None

    def _send(self, order: Order) -> None:
        """Ramp, and ramp again after a pause that slowed the motor down, until all pulses are sent."""
        ramps = 0
        order.prepare()
        while order.sent < order.count and not order.why and not order.cancelled:
            self.timing.ramped_again += ramps > 0
            ramps += 1
            self._ramp(order, order.plan(order.count - order.sent))

    def _ramp(self, order: Order, times_s: Seconds) -> None:
        """One train from rest; returns early where it is blocked, or where a pulse came too late to go on at speed."""
        due_s, before_s = self._clock.now_s(), 0.0
        times = iter(times_s.tolist())
        while (time_s := next(times, None)) is not None:
            order.interval_s = time_s - before_s
            before_s = time_s
            due_s += order.interval_s
            self._clock.wake_at(due_s)
            order.why = order.blocked()
            if order.why or order.cancelled:
                return
            began_s = self._clock.now_s()
            late_s = max(began_s - due_s, 0.0)
            order.rise()
            order.sent += 1
            order.marks.append((began_s, order.sent))
            order.fall()
            # The pulse itself may have been held up, after the clock was read.
            held_s = self._clock.now_s() - began_s
            if held_s > _HELD * order.interval_s:
                late_s += held_s
            self.timing.note(late_s)
            due_s += late_s
            if late_s > max(_SLOWED_S, order.interval_s):
                order.slowed_at_s = min(order.slowed_at_s or order.interval_s, order.interval_s)
                return
            anew = order.renew(order.sent)
            if anew is not None:
                order.count, times, before_s = order.sent + len(anew), iter(anew.tolist()), 0.0


def ask_for_realtime() -> bool:
    """Ask for real-time priority for the calling thread; whether the system allows it."""
    with suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
        return True
    return False
