"""The front: the listening addresses, which answer for a board while there is one and say why while there is none."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from edge_app.access.addresses import answers, is_here, socket_file
from edge_app.access.announcing import Announcer, Notice, notice
from edge_app.access.callers import Callers
from edge_app.access.clients import Book
from edge_app.access.doors import Doors, Lock
from edge_app.access.guard import Guard
from edge_app.access.pace import Pace
from edge_app.access.roles import Role
from edge_app.appliance import Appliance
from edge_app.errors import AddressInUse
from edge_app.journal import log_of
from edge_app.model_service import ModelService
from edge_app.services import FocusService, MicroscopeService, SimulationService, version
from edge_app.stubs.parfocal.v1 import (
    focus_pb2_grpc,
    microscope_pb2_grpc,
    models_pb2_grpc,
    simulation_pb2_grpc,
)
from edge_app.waiting import SERVICES, SIMULATION, Collector, Switch, WaitingRoom

MAX_MESSAGE_BYTES = 64 * 2**20
"""The largest answer: a whole frame as PNG."""
MAX_REQUEST_BYTES = 64 * 2**10
"""The largest request; ours have some tens of bytes, reflection's some hundred."""
MAX_CONNECTIONS = 256
MAX_CALLS = 256
"""Calls under way at once at one address; one more is refused there, and the other addresses go on."""
MAX_CALLS_PER_CONNECTION = 100
HANDSHAKE_S = 10.0
"""How long a connection may take to say what it wants."""
IDLE_S = 900.0
"""When a connection without calls is let go of; a client that calls again connects again."""
SOCKET_MODE = 0o660
GRACE_S = 5.0
"""How long running calls may go on after the end was announced; their jobs are stopped at once."""
REFRESH_S = 0.5
_FOCUS = "parfocal.v1.FocusService"
_OPTIONS = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
    ("grpc.max_concurrent_streams", MAX_CALLS_PER_CONNECTION),
    ("grpc.max_allowed_incoming_connections", MAX_CONNECTIONS),
    ("grpc.server_handshake_timeout_ms", int(HANDSHAKE_S * 1000)),
    ("grpc.max_connection_idle_ms", int(IDLE_S * 1000)),
    # A request that is unpacked may grow a thousandfold past the largest; nobody needs to pack some tens of bytes.
    ("grpc.per_message_decompression", 0),
    ("grpc.so_reuseport", 0),
    # A client whose cable was pulled says nothing: ask, so that its job is stopped.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
)
_log = log_of(__name__)
_Status = health_pb2.HealthCheckResponse


class Front:
    """A gRPC server for each address, whose services come and go with the board; make it inside a running event loop.

    Health says SERVING for each service that works: none while there is no board or its hardware thread hangs, all but
    FocusService (and the whole, "") while the camera is lost or the model gave no answer when it was last asked.
    """

    def __init__(self, doors: Doors | None = None, pace: Pace | None = None) -> None:
        """Make a front with doors for other machines; without, with those of the default folder of keys."""
        self.address = ""
        self.tokens_address = ""
        self._doors = doors or Doors()
        self._callers = Callers(Book(self._doors.folder.list))
        self._guard = Guard(self._callers, pace or Pace())
        self._appliance: Appliance | None = None
        self._offered: list[str] = []
        self._said: dict[str, int] = {}
        self._switch = Switch()
        self._health = health.aio.HealthServicer()
        self._servers: list[grpc.aio.Server] = []
        self._locks: dict[str, Lock] = {}
        self._announcing: asyncio.Task[None] | None = None
        self._started = False

    def bind(self, listen: str) -> str:
        """Take an address, or several with commas between them, without answering yet; gives them with their ports.

        Those that other machines can reach are secured by TLS, and so is the one for tokens.

        Raises:
            AddressInUse: One is taken, or no address of this machine.
            TrustUnusable: Other machines can reach one, and the board's keys are missing or must not be used.
        """
        addresses, tokens, folder = listen.split(","), self._doors.tokens, self._doors.folder
        locks = {address: Lock(folder) for address in (*addresses, tokens) if address and not is_here(address)}
        if tokens:
            locks[tokens] = Lock(folder)
        self._locks = locks
        self.address = ",".join([self._take(address) for address in addresses])
        if tokens:
            self.tokens_address = self._take(tokens)
        return self.address

    def let_local(self, role: Role) -> None:
        """Say what programs on this machine may do from now on."""
        self._callers.local_role = role

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
        """Have health say what is so, end the calls of clients that were revoked, and look after the keys."""
        self._guard.expel()
        for lock in self._locks.values():
            lock.look()
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
        """Stop the running job, let its callers hear the outcome, and give the addresses back."""
        if self._announcing is not None:
            self._announcing.cancel()
            await asyncio.wait([self._announcing])
        await self._health.enter_graceful_shutdown()
        if self._appliance is not None:
            self._appliance.stop()
        if not self._started:
            # gRPC gives back the address of a server that was never started only when the process ends.
            await self._start()
        await asyncio.gather(*(server.stop(GRACE_S) for server in self._servers))

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
            await self._start()
            if self._doors.announce:
                self._announce()

    async def _start(self) -> None:
        self._started = True
        for server in self._servers:
            await server.start()

    def _take(self, address: str) -> str:
        """Bind one address, with a server of its own; gives it with the port that was found."""
        lock, file = self._locks.get(address), socket_file(address)
        taken = AddressInUse(
            f"cannot listen on {address}: it is taken, or no address of this machine; stop the server "
            "that has it, or choose another with --listen"
        )
        if file is not None and answers(file):
            raise taken  # gRPC would take its place without a word
        server = self._server()
        try:
            if lock is None:
                port = server.add_insecure_port(address)
            else:
                port = server.add_secure_port(address, lock.credentials(address != self._doors.tokens))
        except RuntimeError as error:
            raise taken from error
        self._servers.append(server)
        if file is None:
            return f"{address.rpartition(':')[0]}:{port}"
        file.chmod(SOCKET_MODE)
        return address

    def _server(self) -> grpc.aio.Server:
        """A server that answers as all the others do, and has limits of its own."""
        server = grpc.aio.server(interceptors=(self._guard,), options=_OPTIONS, maximum_concurrent_rpcs=MAX_CALLS)
        server.add_generic_rpc_handlers((self._switch,))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        return server

    def _announce(self) -> None:
        """Tell the network of the first address that it can reach."""
        reached = next((a for a in (*self.address.split(","), self.tokens_address) if a and not is_here(a)), "")
        if not reached:
            _log.warning("not announced", why="no other machine can reach this service; give it a listen address")
            return
        lock = next(iter(self._locks.values()))

        def now() -> Notice:
            lock.look()
            board = self._appliance.controller.microscope.profile.name if self._appliance is not None else ""
            return notice(board, version(), reached, lock.keys)

        self._announcing = asyncio.create_task(Announcer(now).keep())

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
