"""AnswerPool: page-locked host memory that outputs are downloaded into and handed out in, without a copy."""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_app.nvidia.sdk import Device

_IDLE = 8


class _Lease:
    """What keeps a block with those who hold an array in it: the arrays' base, seen by numpy as plain memory."""

    def __init__(self, block: NDArray[np.float32]) -> None:
        self.__array_interface__ = block.__array_interface__


class AnswerPool:
    """Blocks for the answers to batches; one comes back when the last array in it is gone, whoever held it.

    After `close` the blocks that somebody still holds are freed as they come back.

    Args:
        device: Whose they are.
        tails: The shape of a patch's answer, output by output.
        columns: How many patches a block is for, or a multiple of that.
    """

    def __init__(self, device: Device, tails: Iterable[tuple[int, ...]], columns: int) -> None:
        self._device = device
        self._tails, self._columns = tuple(tails), columns
        self._rows = sum(map(math.prod, self._tails))
        # The garbage collector may give a block back in the middle of any of these methods.
        self._lock = threading.RLock()
        self._idle: list[NDArray[np.float32]] = []
        self._closed = False

    def take(self, count: int) -> list[NDArray[np.float32]]:
        """Room for so many patches, (count, *tail) by output, undefined, nobody else's; the context is current."""
        block = self._spare(count)
        if block is None:
            whole = -(-count // self._columns) * self._columns
            block = self._device.cuda.pagelocked_empty((self._rows, whole), np.float32)
        lease = _Lease(block)
        weakref.finalize(lease, self._back, block).atexit = False
        held, found, row = np.asarray(lease), [], 0
        for tail in self._tails:
            floats = math.prod(tail)
            found.append(held[row : row + floats].reshape(-1)[: count * floats].reshape(count, *tail))
            row += floats
        return found

    def close(self) -> None:
        """Free what nobody holds; the context is current."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for block in idle:
            _free(block)

    def _spare(self, columns: int) -> NDArray[np.float32] | None:
        with self._lock:
            for index, block in enumerate(self._idle):
                if block.shape[1] >= columns:
                    return self._idle.pop(index)
        return None

    def _back(self, block: NDArray[np.float32]) -> None:
        with self._lock:
            if not self._closed and len(self._idle) < _IDLE:
                self._idle.append(block)
                return
        with self._device.current():
            _free(block)


def _free(block: NDArray[Any]) -> None:
    """Free page-locked memory whose arrays are gone."""
    block.base.free()  # type: ignore[union-attr]
