"""Patience: a vendor's call that may never return, made from a thread of its own and waited for so long."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTime  # Python 3.10: not yet the built-in one
from threading import Thread

from firmware.errors import CameraError


def within(limit_s: float, failed: str, call: Callable[[], object]) -> None:
    """Make a call; `failed` says what did not happen if it does not return, such as "picamera2 did not stop".

    Raises:
        CameraError: It did not return in time; its thread is left behind, since nothing can end it.
        Exception: Whatever it raised.
    """
    outcome: Future[object] = Future()

    def run() -> None:
        try:
            outcome.set_result(call())
        except Exception as error:  # noqa: BLE001 - handed to whoever waits
            outcome.set_exception(error)

    Thread(target=run, name=failed, daemon=True).start()
    try:
        outcome.result(limit_s)
    except NotInTime:
        raise CameraError(f"{failed} within {limit_s:g} s; switch the board off and on") from None
