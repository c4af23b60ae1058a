"""The server: opens board and model, offers the services, and leaves the hardware at rest when it ends."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from edge_app.appliance import Appliance
from edge_app.config import Settings, state_folder
from edge_app.controller import STRATEGIES, Controller
from edge_app.errors import AddressInUse, BadSettings
from edge_app.measured import Memory
from edge_app.model import ModelSource
from edge_app.services import FocusService, MicroscopeService, ModelService, SimulationService
from edge_app.statuses import status_of
from edge_app.stubs.parfocal.v1 import (
    focus_pb2_grpc,
    microscope_pb2_grpc,
    models_pb2_grpc,
    simulation_pb2_grpc,
)
from edge_app.wire import refuse_nonsense
from firmware import plugins
from firmware.clock import Clock
from firmware.microscope import open_microscope, with_simulation
from firmware.profile import BoardProfile, load_profile

MAX_MESSAGE_BYTES = 64 * 2**20
NO_MODEL = "none"
_PACKAGE = "parfocal.v1"
_GRACE_S = 5.0
_OPTIONS = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.so_reuseport", 0),
    # A client whose cable was pulled says nothing: ask, so that its job is stopped.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
)
Ready = Callable[[str], None]


def assemble(settings: Settings, clock: Clock | None = None) -> Appliance:
    """Open the model and the board that the settings name.

    Raises:
        AppError: The strategy, the bundle or the runtime cannot be had, or the board's memory cannot be read.
        FirmwareError: The board file is wrong or a device does not answer.
    """
    memory = _memory(_profile(settings), settings)
    profile = memory.profile
    # A simulated stage begins anew with every process, so nothing is to be remembered of where it was.
    state = memory.folder if profile.simulation is None else None
    if settings.bundle == NO_MODEL:
        return Appliance(Controller(open_microscope(profile, clock, state), None, None, memory))
    source = ModelSource(settings.bundle, settings.runtime, settings.threads)
    model = source.model_for(profile.frame_optics(profile.objective[0]))
    return Appliance(Controller(open_microscope(profile, clock, state), model, source, memory))


def serve(settings: Settings, ready: Ready) -> None:
    """Serve until SIGTERM, SIGINT or SIGHUP, from the main thread; `ready` is told the address once it answers.

    Raises:
        AddressInUse: The address cannot be bound.
        AppError, FirmwareError: As `assemble`.
    """

    async def until_signalled(appliance: Appliance) -> None:
        ended = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, ended.set)
        await _serve(appliance, settings.listen, ready, ended)

    with assemble(settings) as appliance:
        asyncio.run(until_signalled(appliance))


@contextmanager
def serving(appliance: Appliance, listen: str) -> Iterator[str]:
    """Serve from a thread of this process while the block runs; gives the address. Raises as `serve`."""
    started: Future[tuple[str, Callable[[], None]]] = Future()

    async def until_told() -> None:
        loop, ended = asyncio.get_running_loop(), asyncio.Event()

        def end() -> None:
            loop.call_soon_threadsafe(ended.set)

        await _serve(appliance, listen, lambda address: started.set_result((address, end)), ended)

    def work() -> None:
        try:
            asyncio.run(until_told())
        except Exception as error:
            if started.done():
                raise
            started.set_exception(error)

    thread = threading.Thread(target=work, name="parfocal-server")
    thread.start()
    try:
        address, end = started.result()
    except BaseException:
        thread.join()
        raise
    try:
        yield address
    finally:
        end()
        thread.join()


class Guard(grpc.aio.ServerInterceptor):
    """Stands before every parfocal method: refuses numbers that are none, and turns errors into statuses."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Wrap the method that a call is for."""
        handler = await continuation(handler_call_details)
        method = str(handler_call_details.method)
        if handler is None or not method.startswith(f"/{_PACKAGE}."):
            return handler
        streams = handler.unary_stream is not None
        inner = handler.unary_stream if streams else handler.unary_unary

        async def answer(request: Any, context: Any) -> Any:
            try:
                refuse_nonsense(request)
                return await inner(request, context)
            except Exception as error:  # noqa: BLE001 - this is where every error becomes a status
                await context.abort_with_status(status_of(error, method))

        wrap = grpc.unary_stream_rpc_method_handler if streams else grpc.unary_unary_rpc_method_handler
        return wrap(answer, handler.request_deserializer, handler.response_serializer)


async def _serve(appliance: Appliance, listen: str, ready: Ready, ended: asyncio.Event) -> None:
    """Answer calls until `ended`; then stop the running job and let its callers hear the outcome."""
    server = grpc.aio.server(interceptors=(Guard(),), options=_OPTIONS)
    names = _add_services(server, appliance)
    condition = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(condition, server)
    reflection.enable_server_reflection((*names, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    address = _bind(server, listen)
    await server.start()
    for name in ("", *names):
        await condition.set(name, health_pb2.HealthCheckResponse.SERVING)
    try:
        ready(address)
        await ended.wait()
    finally:
        await condition.enter_graceful_shutdown()
        appliance.stop()
        await server.stop(_GRACE_S)


def _add_services(server: grpc.aio.Server, appliance: Appliance) -> list[str]:
    """Register what this board offers; gives the full names."""
    focus_pb2_grpc.add_FocusServiceServicer_to_server(FocusService(appliance), server)
    microscope_pb2_grpc.add_MicroscopeServiceServicer_to_server(MicroscopeService(appliance), server)
    models_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(appliance), server)
    names = ["FocusService", "MicroscopeService", "ModelService"]
    microscope = appliance.controller.microscope
    if microscope.world is not None and microscope.profile.camera.driver == "simulated":
        service = SimulationService(appliance, microscope.world)
        simulation_pb2_grpc.add_SimulationServiceServicer_to_server(service, server)
        names.append("SimulationService")
    return [f"{_PACKAGE}.{name}" for name in names]


def _bind(server: grpc.aio.Server, listen: str) -> str:
    try:
        port = server.add_insecure_port(listen)
    except RuntimeError as error:
        raise AddressInUse(
            f"cannot listen on {listen}: it is taken, or no address of this machine; stop the server "
            "that has it, or choose another with --listen"
        ) from error
    return listen if listen.startswith("unix") else f"{listen.rpartition(':')[0]}:{port}"


def _memory(profile: BoardProfile, settings: Settings) -> Memory:
    folder = settings.state
    if folder is None and profile.simulation is None:
        folder = state_folder()
    return Memory(profile, folder)


def _profile(settings: Settings) -> BoardProfile:
    profile = load_profile(settings.board)
    if settings.seed is not None:
        profile = with_simulation(profile, seed=settings.seed)
    if settings.strategy:
        known = plugins.names(STRATEGIES)
        if settings.strategy not in known:
            raise BadSettings(f"there is no strategy {settings.strategy!r}; known: {', '.join(known)}")
        focus = profile.focus.model_copy(update={"strategy": settings.strategy})
        profile = profile.model_copy(update={"focus": focus})
    return profile
