"""The front: one listening address, which answers for a board while there is one and says why while there is none."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc
from structlog.contextvars import bound_contextvars

from edge_app.appliance import Appliance
from edge_app.errors import AddressInUse
from edge_app.services import FocusService, MicroscopeService, ModelService, SimulationService
from edge_app.statuses import status_of
from edge_app.stubs.parfocal.v1 import (
    focus_pb2_grpc,
    microscope_pb2_grpc,
    models_pb2_grpc,
    simulation_pb2_grpc,
)
from edge_app.waiting import SERVICES, SIMULATION, Collector, Switch, WaitingRoom
from edge_app.wire import refuse_nonsense

MAX_MESSAGE_BYTES = 64 * 2**20
GRACE_S = 5.0
"""How long running calls may go on after the end was announced; their jobs are stopped at once."""
REFRESH_S = 0.5
_PACKAGE = "parfocal.v1"
_FOCUS = f"{_PACKAGE}.FocusService"
_OPTIONS = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.so_reuseport", 0),
    # A client whose cable was pulled says nothing: ask, so that its job is stopped.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
)
_Status = health_pb2.HealthCheckResponse


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
                with bound_contextvars(client=context.peer()):
                    return await inner(request, context)
            except Exception as error:  # noqa: BLE001 - this is where every error becomes a status
                await context.abort_with_status(status_of(error, method))

        wrap = grpc.unary_stream_rpc_method_handler if streams else grpc.unary_unary_rpc_method_handler
        return wrap(answer, handler.request_deserializer, handler.response_serializer)


class Front:
    """A gRPC server whose services come and go with the board; make it inside a running event loop.

    Health says SERVING for each service that works: none while there is no board or its hardware thread hangs, all but
    FocusService (and the whole, "") while the camera is lost or the model gave no answer when it was last asked.
    """

    def __init__(self) -> None:
        self.address = ""
        self._appliance: Appliance | None = None
        self._offered: list[str] = []
        self._said: dict[str, int] = {}
        self._switch = Switch()
        self._health = health.aio.HealthServicer()
        self._server = grpc.aio.server(interceptors=(Guard(),), options=_OPTIONS)
        self._server.add_generic_rpc_handlers((self._switch,))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._started = False

    def bind(self, listen: str) -> str:
        """Take an address, without answering yet; gives it with the port that was found.

        Raises:
            AddressInUse: It is taken, or no address of this machine.
        """
        try:
            port = self._server.add_insecure_port(listen)
        except RuntimeError as error:
            raise AddressInUse(
                f"cannot listen on {listen}: it is taken, or no address of this machine; stop the server "
                "that has it, or choose another with --listen"
            ) from error
        self.address = listen if listen.startswith("unix") else f"{listen.rpartition(':')[0]}:{port}"
        return self.address

    async def offer(self, appliance: Appliance) -> None:
        """Answer for this board from now on."""
        collector = Collector()
        names = _add_services(collector, appliance)
        self._appliance = appliance
        await self._show(names, collector.handlers)

    async def turn_away(self, trouble: str) -> None:
        """Answer that there is no board, and why, from now on; running calls go on to their end."""
        self._appliance = None
        await self._show([service.full_name for service in SERVICES], [WaitingRoom(trouble)])

    async def refresh(self) -> None:
        """Have health say what is so."""
        for name in {"", *self._offered}:
            status = _Status.SERVING if self._works(name) else _Status.NOT_SERVING
            if self._said.get(name) != status:
                self._said[name] = status
                await self._health.set(name, status)

    async def keep_fresh(self) -> None:
        """Refresh for as long as the event loop turns."""
        while True:
            await self.refresh()
            await asyncio.sleep(REFRESH_S)

    async def stop(self) -> None:
        """Stop the running job, let its callers hear the outcome, and give the address back."""
        await self._health.enter_graceful_shutdown()
        if self._appliance is not None:
            self._appliance.stop()
        await self._server.stop(GRACE_S)

    async def _show(self, names: list[str], handlers: list[grpc.GenericRpcHandler]) -> None:
        mirror = Collector()
        listed = (*names, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflection.aio.ReflectionServicer(listed), mirror)
        self._switch.show((*handlers, *mirror.handlers))
        for name in set(self._offered) - set(names):
            self._said.pop(name, None)
            await self._health.set(name, _Status.SERVICE_UNKNOWN)
        self._offered = names
        await self.refresh()
        if not self._started:
            self._started = True
            await self._server.start()

    def _works(self, name: str) -> bool:
        appliance = self._appliance
        if appliance is None or appliance.condemned:
            return False
        return not ((appliance.blind or appliance.ailing) and name in ("", _FOCUS))


def _add_services(server: Any, appliance: Appliance) -> list[str]:
    """Register what this board offers; gives the full names."""
    focus_pb2_grpc.add_FocusServiceServicer_to_server(FocusService(appliance), server)
    microscope_pb2_grpc.add_MicroscopeServiceServicer_to_server(MicroscopeService(appliance), server)
    models_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(appliance), server)
    names = [service.full_name for service in SERVICES]
    microscope = appliance.controller.microscope
    if microscope.world is not None and microscope.profile.camera.driver == "simulated":
        service = SimulationService(appliance, microscope.world)
        simulation_pb2_grpc.add_SimulationServiceServicer_to_server(service, server)
        names += [service.full_name for service in SIMULATION]
    return names
