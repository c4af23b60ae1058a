"""pycuda on a real GPU does what our execution builds on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from edge_app.nvidia import driver, sdk

GPU = driver.probe()
pytestmark = pytest.mark.skipif(isinstance(GPU, str), reason=str(GPU))


@pytest.fixture
def cuda() -> Iterator[Any]:
    """pycuda's driver, with the primary context current."""
    pytest.importorskip("pycuda.driver", reason="pycuda is not installed", exc_type=ImportError)
    with sdk.device().current():
        yield sdk.cuda()


def test_bytes_go_to_the_gpu_and_come_back(cuda: Any) -> None:
    stream, there = cuda.Stream(), cuda.mem_alloc(1 << 20)
    sent = cuda.pagelocked_empty(1 << 20, np.uint8)
    back = cuda.pagelocked_empty(1 << 20, np.uint8)
    sent[:] = np.random.default_rng(1).integers(0, 256, 1 << 20)
    back[:] = 0
    cuda.memcpy_htod_async(int(there), sent, stream)
    cuda.memcpy_dtoh_async(back, int(there), stream)
    stream.synchronize()
    assert np.array_equal(back, sent)
    there.free()


def test_a_stream_waits_for_an_event_of_another(cuda: Any) -> None:
    first, second = cuda.Stream(), cuda.Stream()
    arrived = cuda.Event(cuda.event_flags.DISABLE_TIMING)
    size = 64 << 20
    there = cuda.mem_alloc(size)
    sent, back = cuda.pagelocked_empty(size, np.uint8), cuda.pagelocked_empty(size, np.uint8)
    for value in range(1, 9):
        sent[:], back[:] = value, 0
        cuda.memcpy_htod_async(int(there), sent, first)
        arrived.record(first)
        second.wait_for_event(arrived)
        cuda.memcpy_dtoh_async(back, int(there), second)
        second.synchronize()
        assert (back == value).all()
    there.free()


def test_memory_is_given_back(cuda: Any) -> None:
    before, _ = cuda.mem_get_info()
    there = cuda.mem_alloc(256 << 20)
    assert cuda.mem_get_info()[0] <= before - (256 << 20)
    there.free()
    assert cuda.mem_get_info()[0] >= before - (2 << 20)


def test_too_much_memory_is_refused_by_an_error_that_we_catch(cuda: Any) -> None:
    with pytest.raises(cuda.Error):
        cuda.mem_alloc(1 << 50)
    assert issubclass(cuda.MemoryError, cuda.Error)


def test_memory_of_the_host_can_be_freed_by_hand(cuda: Any) -> None:
    cuda.pagelocked_empty((4, 4), np.float32).base.free()
