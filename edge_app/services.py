"""The gRPC services: a request becomes a call on the appliance, its value becomes the reply.

Nothing here touches hardware: movers go through `Appliance.run` and `focus`, looks through `measure`. A call
whose client vanished, cancelled or ran out of time ends only when its job has come to rest.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from importlib import metadata
from typing import Any

from edge_app import wire, wire_answers, wire_curves
from edge_app.answer import DEFOCUS
from edge_app.appliance import Appliance, Job
from edge_app.bridge import Say, relay, run, stop
from edge_app.controller import STRATEGIES, Controller
from edge_app.errors import BadRequest
from edge_app.focus_calibration import Slice, Wish
from edge_app.job import Look
from edge_app.pictures import png
from edge_app.strategy import Decision
from edge_app.stubs.parfocal.v1 import (
    focus_pb2,
    focus_pb2_grpc,
    microscope_pb2,
    microscope_pb2_grpc,
    simulation_pb2,
    simulation_pb2_grpc,
)
from firmware import plugins
from firmware.errors import FirmwareError
from firmware.frames import Frame
from firmware.simulation import World

MEASURE_PX = 1024
_NEAR_UM = 0.1
_NO_MODEL = "served without a model; start with --bundle factory to have one"
_TRIES = 3
TASKS = "edge_app.tasks"


def version() -> str:
    """The version of the parfocal that serves."""
    with suppress(metadata.PackageNotFoundError):
        return metadata.version("parfocal")
    return "not installed"


async def _stop(appliance: Appliance) -> focus_pb2.StopReply:
    was_running = await stop(appliance)
    return focus_pb2.StopReply(was_running=was_running, z_um=appliance.controller.microscope.axis.z_um)


async def _picture(turn: asyncio.Semaphore, frame: Frame, max_px: int) -> bytes:
    """A frame as PNG, when it is its turn: making one takes more memory than the frame itself."""
    async with turn:
        return await asyncio.to_thread(png, frame, max_px)


class FocusService(focus_pb2_grpc.FocusServiceServicer):
    """Measuring defocus and removing it."""

    def __init__(self, appliance: Appliance) -> None:
        self._appliance = appliance
        self._turn = asyncio.Semaphore()

    async def Measure(self, request: focus_pb2.MeasureRequest, context: Any) -> focus_pb2.MeasureReply:
        """One look, shared with whoever else asks; withdrawn if the client goes."""
        del context
        task = request.task or DEFOCUS
        if task not in plugins.names(TASKS):
            raise BadRequest(f"there is no task {task!r}; known: {', '.join(plugins.names(TASKS))}")
        look = await asyncio.wrap_future(self._appliance.measure(wire.region_from(request), task))
        picture = await _picture(self._turn, look.frame, MEASURE_PX) if request.with_image else None
        reply = focus_pb2.MeasureReply(sharpness=wire.mean_sharpness(look), image_png=picture)
        wire_answers.add(reply, look, request.with_map)
        return reply

    async def Focus(  # type: ignore[override] # writes its events, so that one coroutine owns the whole call
        self, request: focus_pb2.FocusRequest, context: Any
    ) -> None:
        """A focus job, look by look; its last event is the outcome."""
        strategy = request.strategy or self._appliance.controller.microscope.profile.focus.strategy
        last: focus_pb2.Estimate | None = None

        def start(say: Say) -> Job:
            def on_look(number: int, look: Look, decision: Decision) -> None:
                nonlocal last
                event = wire.look_to(number, look, decision)
                last = event.look.estimate if event.look.HasField("estimate") else None
                say(event)

            return self._appliance.focus(strategy, on_look, wire.region_from(request))

        await relay(context, self._appliance, start, lambda outcome: wire.outcome_to(outcome, last))

    async def Stop(self, request: focus_pb2.StopRequest, context: Any) -> focus_pb2.StopReply:
        """Stop whatever moves."""
        del request, context
        return await _stop(self._appliance)


class MicroscopeService(microscope_pb2_grpc.MicroscopeServiceServicer):
    """The board, its camera and its axis."""

    def __init__(self, appliance: Appliance) -> None:
        self._appliance = appliance
        self._microscope = appliance.controller.microscope
        self._turn = asyncio.Semaphore()

    async def Describe(self, request: microscope_pb2.DescribeRequest, context: Any) -> microscope_pb2.DescribeReply:
        """What this board is."""
        del request, context
        default = self._microscope.profile.focus.strategy
        others = [name for name in plugins.names(STRATEGIES) if name != default]
        reply = wire.describe_to(self._microscope, [default, *others], self._appliance.controller.memory.record)
        reply.serving_version = version()
        model = self._appliance.controller.model
        if model is not None:
            reply.runtime = model.runtime.name
            reply.runtime_note = model.note
        if self._appliance.condemned:
            reply.trouble = self._appliance.condemned
        self._name_model(reply)
        return reply

    async def Capture(self, request: microscope_pb2.CaptureRequest, context: Any) -> microscope_pb2.CaptureReply:
        """One frame, also while a job runs: then it is the job's newest."""
        del context
        look = await asyncio.wrap_future(self._appliance.measure(task=""))
        frame = look.frame
        return microscope_pb2.CaptureReply(
            image_png=await _picture(self._turn, frame, request.max_px),
            z_um=frame.z_um,
            captured_at_s=frame.captured_at_s,
            exposure_ms=frame.exposure_ms,
            width_px=frame.width_px,
            height_px=frame.height_px,
            channels=frame.channels,
        )

    async def GetPosition(
        self, request: microscope_pb2.GetPositionRequest, context: Any
    ) -> microscope_pb2.GetPositionReply:
        """Where the axis believes it is, now."""
        del request, context
        axis = self._microscope.axis
        return microscope_pb2.GetPositionReply(
            z_um=axis.z_um,
            trust=wire.TRUSTS[axis.trust],
            moving=axis.moving,
            busy_with=self._appliance.busy_with or None,
        )

    async def Move(self, request: microscope_pb2.MoveRequest, context: Any) -> microscope_pb2.MoveReply:
        """One move within the soft limits."""
        del context
        axis, target = self._microscope.axis, request.WhichOneof("target")
        if target is None:
            raise BadRequest("the move has no target; give to_um or by_um")
        go, value = (axis.move_to, request.to_um) if target == "to_um" else (axis.move_by, request.by_um)
        move = await run(self._appliance, "move", lambda _: go(value))
        return microscope_pb2.MoveReply(from_z_um=move.from_um, z_um=move.to_um, moves=move.legs)

    async def Home(self, request: microscope_pb2.HomeRequest, context: Any) -> microscope_pb2.HomeReply:
        """Find the limit switch."""
        del request, context
        axis = self._microscope.axis
        await run(self._appliance, "home", lambda _: axis.home())
        return microscope_pb2.HomeReply(z_um=axis.z_um, trust=wire.TRUSTS[axis.trust])

    async def SetZero(self, request: microscope_pb2.SetZeroRequest, context: Any) -> microscope_pb2.SetZeroReply:
        """Declare the present position to be zero."""
        del request, context
        axis, before_um = self._microscope.axis, self._microscope.axis.z_um
        await run(self._appliance, "set-zero", lambda _: axis.set_zero())
        return microscope_pb2.SetZeroReply(from_z_um=before_um, z_um=axis.z_um, trust=wire.TRUSTS[axis.trust])

    async def CalibrateMechanics(  # type: ignore[override] # writes its events, as Focus does
        self, request: microscope_pb2.CalibrateMechanicsRequest, context: Any
    ) -> None:
        """Measure the axis, look by look; the last event is the result."""

        def start(say: Say) -> Job:
            def on_reading(number: int, look: Look, steps: int, why: str) -> None:
                say(wire.calibration_look_to(number, look, steps, why))

            return self._appliance.calibrate_mechanics(not request.dry_run, on_reading)

        await relay(context, self._appliance, start, wire.calibrated_to)

    async def CalibrateFocus(  # type: ignore[override] # writes its events, as Focus does
        self, request: microscope_pb2.CalibrateFocusRequest, context: Any
    ) -> None:
        """Record a focus curve, look by look; the last event is the result."""

        def start(say: Say) -> Job:
            def on_slice(slice_: Slice, look: Look) -> None:
                say(wire_curves.slice_to(slice_, look))

            wish = Wish(request.range_um, request.step_um)
            return self._appliance.calibrate_focus(wish, not request.dry_run, on_slice)

        await relay(context, self._appliance, start, wire_curves.calibrated_to)

    async def SelectObjective(
        self, request: microscope_pb2.SelectObjectiveRequest, context: Any
    ) -> microscope_pb2.SelectObjectiveReply:
        """Note that another objective is in place."""
        del context
        await run(self._appliance, "objective", lambda c: c.select_objective(request.name))
        reply = microscope_pb2.SelectObjectiveReply(
            objective=wire.objective_to(self._microscope, self._microscope.objective),
            z_um=self._microscope.axis.z_um,
        )
        self._name_model(reply)
        return reply

    async def Stop(self, request: focus_pb2.StopRequest, context: Any) -> focus_pb2.StopReply:
        """Stop whatever moves."""
        del request, context
        return await _stop(self._appliance)

    def _name_model(self, reply: microscope_pb2.DescribeReply | microscope_pb2.SelectObjectiveReply) -> None:
        model = self._appliance.controller.model
        if model is None:
            reply.why_model = _NO_MODEL
            return
        refusal = model.bundle.manifest.passport.check(self._microscope.optics)
        if refusal is None:
            reply.model, reply.why_model = model.label, model.why
        else:
            reply.why_model = f"{model.label} refuses: {refusal[1]}"


class SimulationService(simulation_pb2_grpc.SimulationServiceServicer):
    """The simulated world's own handle; only boards whose camera looks at one have it."""

    def __init__(self, appliance: Appliance, world: World) -> None:
        self._appliance = appliance
        self._world = world

    async def LoadField(self, request: simulation_pb2.LoadFieldRequest, context: Any) -> simulation_pb2.FieldReply:
        """Another field, and the objective where the request wants it."""
        del context
        if request.field < 0:
            raise BadRequest(f"field is {request.field}; give zero or more")
        wanted_um = request.defocus_um if request.HasField("defocus_um") else None

        def load(controller: Controller) -> None:
            self._load(controller, request.field, request.kind, wanted_um)

        await run(self._appliance, "load field", load)
        return simulation_pb2.FieldReply(truth=await asyncio.to_thread(wire.truth_to, self._world))

    async def Truth(self, request: simulation_pb2.TruthRequest, context: Any) -> simulation_pb2.Truth:
        """How far out of focus the world really is."""
        del request, context
        return await asyncio.to_thread(wire.truth_to, self._world)

    def _load(self, controller: Controller, field: int, kind: str, wanted_um: float | None) -> None:
        """Load a field and go there by the board's own mechanics; play and drift take a second try."""
        world, axis = self._world, controller.microscope.axis
        before = world.field, world.kind_of(field)
        world.load_field(field, kind)
        if wanted_um is None:
            return
        for _ in range(_TRIES):
            missing_um = wanted_um - world.truth_um()
            if abs(missing_um) <= _NEAR_UM:
                return
            try:
                axis.move_by(missing_um)
            except FirmwareError:
                world.load_field(field, before[1])
                world.load_field(before[0])
                raise
