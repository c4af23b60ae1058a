"""What the stand-in for TensorRT does inside: it tells of its phases, and executes networks by ONNX Runtime."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
import stand_in_gpu as machine

STEPS = 4
MEMORY_BYTES = 77 * 1024
"""What a context needs between layers."""

_MAGIC = b"plan"
_KINDS = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32}
Shape = tuple[int, ...]


@dataclass
class Faults:
    """What goes wrong: sentences of TensorRT's, steps of a build, how far answers are off."""

    parse: str = ""
    build: str = ""
    crash_at: int = -1
    hang_at: int = -1
    wrong_by: float = 0.0
    no_context: bool = False
    no_memory: bool = False
    no_timing: bool = False
    layers: str = ""
    enqueue: str = ""


def report_phases(monitor: Any, faults: Faults) -> bool:
    """Report phases as the builder does, from a thread of its own; False where the monitor ended it."""
    if monitor is None:
        return True
    going = [True]

    def report() -> None:
        monitor.phase_start("Building Engine", None, 2)
        monitor.phase_start("Tactic Selection", "Building Engine", STEPS)
        for step in range(STEPS):
            if faults.crash_at == step:
                os.kill(os.getpid(), 11)
            if faults.hang_at == step:
                threading.Event().wait()
            going[0] = going[0] and monitor.step_complete("Tactic Selection", step)
        monitor.phase_finish("Tactic Selection")
        for step in range(2):
            going[0] = going[0] and monitor.step_complete("Building Engine", step)
        monitor.phase_finish("Building Engine")

    thread = threading.Thread(target=report)
    thread.start()
    thread.join()
    return going[0]


def execute(session: Any, wrong_by: float, shapes: dict[str, Shape], addresses: dict[str, int]) -> None:
    """Read device memory, run the network, write device memory with answers that are wrong by so much."""
    gpu, names = machine.GPU, [entry.name for entry in session.get_outputs()]
    kinds = {entry.name: np.dtype(_KINDS[entry.type]) for entry in session.get_inputs()}
    feed = {}
    for name, shape in shapes.items():
        there = gpu.touch(addresses[name], int(np.prod(shape)) * kinds[name].itemsize)
        if there is None:
            return
        feed[name] = np.frombuffer(there, kinds[name]).reshape(shape)
    for name, answer in zip(names, session.run(names, feed), strict=True):
        there = gpu.touch(addresses[name], answer.nbytes)
        if there is None:
            return
        there[:] = (answer + np.asarray(wrong_by, answer.dtype)).tobytes()


def dims(shape: Sequence[Any]) -> Shape:
    """A shape of ONNX Runtime's with -1 for what may change."""
    return tuple(size if isinstance(size, int) else -1 for size in shape)


def open_session(onnx: bytes) -> Any:
    """A network in ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])


def write_plan(version: str, profile: Any, wrong_by: float, detailed: bool, onnx: bytes) -> bytes:
    """A serialised engine: a line that says for what, and the network."""
    header = {
        "version": version,
        "gpu": [machine.GPU.name, *machine.GPU.capability],
        "profile": profile,
        "wrong_by": wrong_by,
        "detailed": detailed,
        "sha256": hashlib.sha256(onnx).hexdigest(),
    }
    return _MAGIC + json.dumps(header).encode() + b"\n" + onnx


def timing_begun() -> bytes:
    """How the times of this GPU's kernels begin."""
    return f"timing of {machine.GPU.name}:".encode()


def read_plan(data: bytes, version: str) -> tuple[dict[str, Any], bytes] | str:
    """What it says and the network, or why it cannot be loaded here."""
    line, _, onnx = data.partition(b"\n")
    if not line.startswith(_MAGIC):
        return "[runtime.cpp::parsePlan] Magic tag does not match"
    header = json.loads(line[len(_MAGIC) :])
    if header["version"] != version:
        return "The engine plan file is not compatible with this version of TensorRT"
    if header["gpu"] != [machine.GPU.name, *machine.GPU.capability]:
        return "The engine plan file is generated on an incompatible device"
    if hashlib.sha256(onnx).hexdigest() != header["sha256"]:
        return "Serialization assertion failed: checksum mismatch"
    return header, onnx


def layers(outputs: list[str], detailed: bool) -> str:
    """What an inspector tells, as JSON."""
    if not detailed:
        return json.dumps({"Layers": ["the whole network"], "Bindings": []})
    told = [{"Name": name, "Format/Datatype": "Float"} for name in outputs]
    cast = {"Name": "cast", "LayerType": "Cast", "Outputs": told[:1]}
    whole = {"Name": "the whole network", "LayerType": "Myelin", "Outputs": told}
    return json.dumps({"Layers": [cast, whole], "Bindings": []})
