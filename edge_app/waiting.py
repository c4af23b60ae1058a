"""The waiting room: what the service answers while it has no board, so that nobody has to guess why."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import grpc
from google.protobuf.message_factory import GetMessageClass

from edge_app.errors import NotReady
from edge_app.services import version
from edge_app.stubs.parfocal.v1 import focus_pb2, microscope_pb2, models_pb2, simulation_pb2

SERVICES = tuple(
    service
    for file in (focus_pb2, microscope_pb2, models_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
)
"""What every board offers."""
SIMULATION = tuple(simulation_pb2.DESCRIPTOR.services_by_name.values())
_DESCRIBE = f"/{microscope_pb2.DESCRIPTOR.package}.MicroscopeService/Describe"
_REQUESTS = {
    f"/{service.full_name}/{method.name}": GetMessageClass(method.input_type)
    for service in (*SERVICES, *SIMULATION)
    for method in service.methods
}


class WaitingRoom(grpc.GenericRpcHandler):
    """Answers Describe with the trouble, and refuses every other method of parfocal for the same reason."""

    def __init__(self, trouble: str) -> None:
        self.trouble = trouble

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """What answers a call; None if it is none of ours."""
        method = handler_call_details.method
        if method not in _REQUESTS:
            return None
        # A refusal has no message, so it looks the same on the wire for a stream.
        answer = self._describe if method == _DESCRIBE else self._refuse
        reply = microscope_pb2.DescribeReply.SerializeToString
        return grpc.unary_unary_rpc_method_handler(answer, _REQUESTS[method].FromString, reply)

    async def _describe(self, request: Any, context: Any) -> microscope_pb2.DescribeReply:
        del request, context
        return microscope_pb2.DescribeReply(trouble=self.trouble, serving_version=version())

    async def _refuse(self, request: Any, context: Any) -> None:
        del request, context
        raise NotReady(self.trouble)


class Switch(grpc.GenericRpcHandler):
    """Stands in a running gRPC server for handlers that may be exchanged; a server's own are fixed once it runs."""

    def __init__(self) -> None:
        self._handlers: tuple[grpc.GenericRpcHandler, ...] = ()

    def show(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Let these answer from the next call on."""
        self._handlers = tuple(handlers)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """What the first of the handlers that knows the method gives."""
        found = (handler.service(handler_call_details) for handler in self._handlers)
        return next((handler for handler in found if handler is not None), None)


class Collector:
    """Takes the place of a server when services are added, and keeps their handlers."""

    def __init__(self) -> None:
        self.handlers: list[grpc.GenericRpcHandler] = []

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Keep the handlers of a service."""
        self.handlers.extend(handlers)

    def add_registered_method_handlers(self, service_name: str, method_handlers: Any) -> None:
        """The same handlers once more, by method; a switch has no use for them."""
