"""Engine: a network that TensorRT compiled for this GPU, out of a bundle's ONNX.

The network is strongly typed: every tensor has the type that the ONNX graph gives it (fp32, fp16, or int8 between
QuantizeLinear and DequantizeLinear), and the builder chooses among kernels of that type only. TF32 is cleared: it
rounds the factors of every fp32 product to 10 bits of mantissa, and emulated it took more than half of what the golden
outputs allow (`docs/precision.md`).
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

from edge_app.errors import RuntimeFailed
from edge_app.nvidia import sdk
from edge_app.nvidia.layout import equal_pieces
from edge_app.nvidia.order import MOST, Order
from edge_app.nvidia.progress import Progress, monitor

WORKSPACE_BYTES = 2**30


class PlanRefused(Exception):
    """A serialised engine cannot be loaded by this TensorRT on this GPU."""


@dataclass(frozen=True)
class Layer:
    """One step of an engine, as TensorRT names it; `formats` are those of its outputs."""

    name: str
    kind: str
    formats: str


@dataclass(frozen=True)
class Built:
    """A serialised engine; `timing` are the kernels' times, which speed up the next build, or nothing."""

    plan: bytes
    build_s: float
    timing: bytes


def build(order: Order, progress: Progress, timing: bytes = b"") -> Built:
    """Compile a network; minutes on a board. The context must be current.

    Args:
        order: The network and its batches.
        progress: Told how far it is, 0 to 1; it returns False to end the build.
        timing: What an earlier build measured, or nothing.

    Raises:
        RuntimeFailed: TensorRT refuses the network, cannot build it, or `progress` ended it.
    """
    trt, log = sdk.tensorrt(), sdk.logger()
    log.forget()
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    _parse(trt, network, order)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    config.clear_flag(trt.BuilderFlag.TF32)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    _profile(builder, config, order)
    _use(timing, config)
    watch = monitor(trt, progress)
    config.progress_monitor = watch
    began_s = time.monotonic()
    plan = builder.build_serialized_network(network, config)
    watch.told()
    if plan is None:
        why = log.last_error or "it gave no reason"
        raise RuntimeFailed(f"TensorRT cannot build an engine for {order.label}: {why}; ONNX Runtime serves it")
    kept = config.get_timing_cache()
    return Built(bytes(plan), time.monotonic() - began_s, b"" if kept is None else bytes(kept.serialize()))


def open_engine(plan: bytes, label: str) -> tuple[Any, Any]:
    """A runtime and the engine that it loads from a plan; the context must be current.

    Raises:
        PlanRefused: The plan is not for this TensorRT or GPU, or memory is short.
    """
    trt, log = sdk.tensorrt(), sdk.logger()
    log.forget()
    runtime = trt.Runtime(log)
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        why = log.last_error or "it gave no reason"
        raise PlanRefused(f"TensorRT cannot load the engine of {label}: {why}")
    return runtime, engine


def layers(engine: Any) -> tuple[Layer, ...]:
    """What an engine consists of; nothing where the inspector tells it in a form that is not JSON."""
    trt = sdk.tensorrt()
    told = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    try:
        found = json.loads(told)
    except (TypeError, ValueError):
        return ()
    entries = found.get("Layers") if isinstance(found, dict) else None
    return tuple(_layer(entry) for entry in entries) if isinstance(entries, list) else ()


def _layer(entry: Any) -> Layer:
    if not isinstance(entry, dict):
        return Layer(str(entry), "", "")
    formats = {str(out.get("Format/Datatype", "")) for out in entry.get("Outputs", []) if isinstance(out, dict)}
    return Layer(str(entry.get("Name", "")), str(entry.get("LayerType", "")), ", ".join(sorted(formats - {""})))


def _use(timing: bytes, config: Any) -> None:
    """Let a build use what an earlier one measured; TensorRT refuses what is damaged or of another device."""
    cache = config.create_timing_cache(timing) if timing else None
    if cache is None or not config.set_timing_cache(cache, False):
        config.set_timing_cache(config.create_timing_cache(b""), False)


def _parse(trt: Any, network: Any, order: Order) -> None:
    parser = trt.OnnxParser(network, sdk.logger())
    if not parser.parse(order.onnx):
        found = [parser.get_error(index) for index in range(parser.num_errors)]
        told = "; ".join(f"{error.desc()} (in {error.node_operator() or 'the graph'})" for error in found[:3])
        raise RuntimeFailed(f"TensorRT refused the network of {order.label}: {told or 'it gave no reason'}")
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    takes = {tensor.name: tuple(tensor.shape) for tensor in inputs}
    wanted = {name: (-1, *shape) for name, shape in order.shapes.items()}
    if takes != wanted:
        told, named = (", ".join(f"{name} {shape}" for name, shape in each.items()) for each in (takes, wanted))
        raise RuntimeFailed(f"the network of {order.label} takes {told}, not {named}")


def _profile(builder: Any, config: Any, order: Order) -> None:
    profile = builder.create_optimization_profile()
    # Tuned for the pieces in which the usual batch is computed.
    tuned = equal_pieces(order.usual)[0].size
    for name, shape in order.shapes.items():
        profile.set_shape(name, (1, *shape), (tuned, *shape), (MOST, *shape))
    if config.add_optimization_profile(profile) < 0:
        raise RuntimeFailed(f"TensorRT refuses batches of 1 to {MOST} for {order.label}: {sdk.logger().last_error}")
