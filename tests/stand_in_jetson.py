"""A machine with a GPU, TensorRT and pycuda that are stand-ins; as a program, the process that builds there."""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import stand_in_gpu as machine
import stand_in_libcuda as libcuda
import stand_in_network as network
import stand_in_pycuda as pycuda
import stand_in_tensorrt as tensorrt

FAULTS_VARIABLE = "STAND_IN_TENSORRT"


@contextmanager
def installed(folder: Path) -> Iterator[machine.Gpu]:
    """A machine with a GPU, TensorRT and pycuda, that keeps its engines in a folder; all as before afterwards."""
    from edge_app.nvidia import background, driver, sdk

    tensorrt.FAULTS = network.Faults()
    modules = {"tensorrt": tensorrt, "pycuda.driver": pycuda}
    before = {name: sys.modules.get(name) for name in modules}
    known, opener, command = dict(os.environ), driver.open_library, background.COMMAND
    sys.modules.update(modules)
    driver.open_library = libcuda.open_library
    background.COMMAND = (sys.executable, str(Path(__file__)))
    os.environ["CACHE_DIRECTORY"] = str(folder)
    try:
        yield machine.reset()
    finally:
        background.stop_all()
        gc.collect()
        driver.open_library, background.COMMAND = opener, command
        os.environ.clear()
        os.environ.update(known)
        for name, module in before.items():
            del sys.modules[name]
            if module is not None:
                sys.modules[name] = module
        for made in (sdk._devices, sdk._loggers):
            made.clear()


def tell_builders() -> None:
    """From now on processes that build find the faults and the machine as they are here."""
    gpu = {"name": machine.GPU.name, "capability": machine.GPU.capability}
    os.environ[FAULTS_VARIABLE] = json.dumps(
        {"faults": asdict(tensorrt.FAULTS), "gpu": gpu, "version": tensorrt.__version__}
    )


def _main() -> int:
    """Build as `edge_app.nvidia.build` does, in the world that the environment describes."""
    from edge_app.nvidia import build, driver

    told = json.loads(os.environ[FAULTS_VARIABLE])
    tensorrt.FAULTS = network.Faults(**told["faults"])
    tensorrt.__version__ = told["version"]
    machine.GPU.name = told["gpu"]["name"]
    machine.GPU.capability = tuple(told["gpu"]["capability"])
    sys.modules["tensorrt"] = tensorrt
    sys.modules["pycuda.driver"] = pycuda
    driver.open_library = libcuda.open_library
    build.NICENESS = 0  # a test waits for it
    return build.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(_main())
