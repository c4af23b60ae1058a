"""The NVIDIA driver: whether there is one and what it drives, asked before any SDK of NVIDIA's is imported.

`tensorrt.Runtime()` ends the process where there is no driver, so that this is asked by ctypes first.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

LIBRARY = "libcuda.so.1"
open_library: Callable[[str], Any] = ctypes.CDLL
"""How the driver's library is opened."""

_MULTIPROCESSORS, _MAJOR, _MINOR = 16, 75, 76
_NAME_BYTES = 256
_CURES = {
    3: "restart the machine",
    34: "what was found is the stub for linking; take it off LD_LIBRARY_PATH, and install the driver",
    46: "another process holds it alone; end that one, or set its compute mode to default",
    100: "look for it with lspci or tegrastats; the user must be in the groups video and render",
    101: "look for it with lspci or tegrastats",
    304: "the user must be in the groups video and render, and the service may need DeviceAllow for /dev/nv*",
    802: "a service that it needs has not started yet; try again, or restart the machine",
    803: "its kernel module and its library are of different versions; restart the machine",
    804: "the library is of a newer CUDA than the hardware allows; install the driver of this machine",
    999: "look into the kernel's log (dmesg) for NVRM or nvgpu, and restart the machine",
}


@dataclass(frozen=True)
class Gpu:
    """The first device of the driver."""

    name: str
    capability: tuple[int, int]
    memory_bytes: int
    cuda: str
    multiprocessors: int

    @property
    def architecture(self) -> str:
        """Compute capability, such as 8.7."""
        return f"{self.capability[0]}.{self.capability[1]}"


class _Refused(Exception):
    """A call that did not answer with success."""


def probe(open_with: Callable[[str], Any] | None = None) -> Gpu | str:
    """The GPU, or why there is none in a sentence.

    Args:
        open_with: Opens a shared library by its name; `open_library` if not given.
    """
    try:
        library = (open_with or open_library)(LIBRARY)
    except OSError:
        return (
            f"the NVIDIA driver is not installed ({LIBRARY} was not found); on a Jetson it comes with JetPack "
            "(apt install nvidia-jetpack), elsewhere with NVIDIA's driver package"
        )
    try:
        return _first(library)
    except _Refused as error:
        return str(error)
    except AttributeError as error:
        return f"{LIBRARY} is not a CUDA driver ({error}); install NVIDIA's driver package"


def explain(library: Any, code: int) -> str:
    """An error of the driver by its number and name."""
    text = ctypes.c_char_p()
    try:
        known = library.cuGetErrorName(code, ctypes.byref(text)) == 0
    except AttributeError:
        known = False
    name = text.value.decode() if known and text.value else "unknown"
    return f"error {code} ({name})"


def _first(library: Any) -> Gpu:
    _call(library, "cuInit", 0)
    version, count, device = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    _call(library, "cuDriverGetVersion", ctypes.byref(version))
    _call(library, "cuDeviceGetCount", ctypes.byref(count))
    if count.value == 0:
        raise _Refused(f"the NVIDIA driver knows no GPU; {_CURES[100]}")
    _call(library, "cuDeviceGet", ctypes.byref(device), 0)
    name = ctypes.create_string_buffer(_NAME_BYTES)
    _call(library, "cuDeviceGetName", name, _NAME_BYTES, device)
    major, minor, size, memory = ctypes.c_int(), ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t()
    for value, attribute in ((major, _MAJOR), (minor, _MINOR), (size, _MULTIPROCESSORS)):
        _call(library, "cuDeviceGetAttribute", ctypes.byref(value), attribute, device)
    _call(library, "cuDeviceTotalMem_v2", ctypes.byref(memory), device)
    cuda = f"{version.value // 1000}.{version.value % 1000 // 10}"
    capability = (major.value, minor.value)
    return Gpu(name.value.decode(errors="replace"), capability, memory.value, cuda, size.value)


def _call(library: Any, name: str, *arguments: Any) -> None:
    code = int(getattr(library, name)(*arguments))
    if code != 0:
        cure = _CURES.get(code, "restart the machine, or install the driver anew")
        raise _Refused(f"the NVIDIA driver answers {explain(library, code)} to {name}; {cure}")
