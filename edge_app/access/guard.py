"""The guard: every call passes it once, whatever it is for and however it came."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from structlog.contextvars import bound_contextvars

from edge_app.access.callers import Caller, Callers
from edge_app.access.pace import Pace
from edge_app.access.roles import MOVERS, STOPS, check
from edge_app.errors import BadRequest, NotAllowed, NotIdentified, TooMany
from edge_app.journal import log_of
from edge_app.statuses import status_of
from edge_app.wire import refuse_nonsense

REQUEST_S = 10.0
"""How long a call may take to bring its request."""
STOP_REQUEST_S = 1.0
MAX_CALLS = 32
"""Calls of one client under way at once, besides those that stop."""
MAX_CALLS_IN_ALL = 200
"""Those of all clients together, and those of all programs on this machine: less than an address takes, for a stop."""
MAX_STOPS = 40
"""Those of one client that stop; one counts when its request has come, so that silent ones are in nobody's way."""
_REVOKED = "your certificate or token is no longer good: this call was ended; ask for a new kit (parfocal trust add)"
_REFUSALS_AT_ONCE, _REFUSALS_PER_S = 20, 0.2
"""What the log takes of refusals: strangers must not be able to fill the disk."""
_log = log_of(__name__)


class Guard(grpc.aio.ServerInterceptor):
    """Says who calls, whether they may, and how often; refuses requests without sense; turns errors into statuses.

    A call's sender is known before its request is read, so that strangers cannot hold calls that bring none.
    """

    def __init__(self, callers: Callers, pace: Pace) -> None:
        self._callers, self._pace = callers, pace
        self._refusals = Pace(_REFUSALS_AT_ONCE, _REFUSALS_PER_S)
        self._running: dict[asyncio.Task[Any], tuple[Caller, bool]] = {}
        self._expelled: set[asyncio.Task[Any]] = set()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Wrap the method that a call is for; one that nobody serves goes on to gRPC's own refusal."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = str(handler_call_details.method)
        reply = handler.response_serializer
        if handler.stream_stream is not None:
            return grpc.stream_stream_rpc_method_handler(self._many(handler, method), None, reply)
        # To gRPC these are streams of requests too: it tells of a method that takes one only when that has come.
        if handler.unary_stream is not None:
            return grpc.stream_stream_rpc_method_handler(self._one(handler, handler.unary_stream, method), None, reply)
        return grpc.stream_unary_rpc_method_handler(self._one(handler, handler.unary_unary, method), None, reply)

    def expel(self) -> None:
        """End the running calls of everybody whose certificate or token is no longer good."""
        for task, (caller, _) in list(self._running.items()):
            # A second time would end it before its job has come to rest.
            if task not in self._expelled and not self._callers.still_knows(caller):
                self._expelled.add(task)
                task.cancel()

    def _one(self, handler: Any, inner: Any, method: str) -> Any:
        """A method that takes one request."""

        async def answer(incoming: AsyncIterator[bytes], context: Any) -> Any:
            with self._refusing(method) as refused:
                caller = self._admit(method, context)
                stops = method in STOPS
                raw = await _only(incoming, method, STOP_REQUEST_S) if stops else b""
                with bound_contextvars(client=caller.name), self._present(caller, stops):
                    if not stops:
                        raw = await _only(incoming, method, REQUEST_S)
                    request = _parsed(handler, raw, method)
                    refuse_nonsense(request)
                    return await inner(request, context)
            return await _refuse(context, refused[0], method)

        return answer

    def _many(self, handler: Any, method: str) -> Any:
        """A method that takes requests for as long as they come; it gives an answer to each."""

        async def answer(incoming: AsyncIterator[bytes], context: Any) -> AsyncIterator[Any]:
            with self._refusing(method) as refused:
                caller = self._admit(method, context)
                with self._present(caller, stops=False):
                    requests = (_parsed(handler, raw, method) async for raw in incoming)
                    async for reply in handler.stream_stream(requests, context):
                        yield reply
            if refused:
                await _refuse(context, refused[0], method)

        return answer

    def _admit(self, method: str, context: Any) -> Caller:
        """Who calls, if they may call this now."""
        metadata = context.invocation_metadata() or ()
        caller = self._callers.identify(context.auth_context(), context.peer(), metadata)
        check(method, caller.name, caller.role)
        if method in MOVERS:
            self._pace.spend(caller.account)
        return caller

    @contextmanager
    def _present(self, caller: Caller, stops: bool) -> Iterator[None]:
        """Have the call of a client from elsewhere ended should it be revoked meanwhile.

        Raises:
            NotIdentified: It was.
            TooMany: So many calls are under way already.
        """
        task = asyncio.current_task()
        assert task is not None
        self._count(caller, stops)
        self._running[task] = caller, stops
        try:
            yield
        except asyncio.CancelledError:
            if task not in self._expelled:
                raise
            raise NotIdentified(_REVOKED) from None
        finally:
            self._expelled.discard(task)
            del self._running[task]

    def _count(self, caller: Caller, stops: bool) -> None:
        """Refuse a call beside too many of its client's, or of all clients'. Raises as `_present`."""
        alike = [one for one, to_stop in self._running.values() if to_stop is stops and one.is_here is caller.is_here]
        own = sum(one.account == caller.account for one in alike)
        most = MAX_STOPS if stops else MAX_CALLS_IN_ALL if caller.is_here else MAX_CALLS
        if own >= most:
            whose = caller.account
        elif not stops and len(alike) >= MAX_CALLS_IN_ALL:
            whose, most = "other machines", MAX_CALLS_IN_ALL
        else:
            return
        raise TooMany(f"{most} calls of {whose} are under way, as many as may be; ask again when some have ended")

    @contextmanager
    def _refusing(self, method: str) -> Iterator[list[Exception]]:
        """Catch what becomes a status, and note it where somebody was turned away."""
        refused: list[Exception] = []
        try:
            yield refused
        except grpc.aio.AbortError:
            raise
        except Exception as error:  # noqa: BLE001 - this is where every error becomes a status
            refused.append(error)
            if isinstance(error, NotIdentified | NotAllowed) and self._refusals.allows(""):
                _log.warning("refused", method=method, why=str(error))


async def _refuse(context: Any, error: Exception, method: str) -> None:
    if isinstance(error, NotImplementedError):  # what stubs of a service raise for a method that it leaves out
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"{method} is not offered here")
    await context.abort_with_status(status_of(error, method))


async def _only(incoming: AsyncIterator[bytes], method: str, limit_s: float) -> bytes:
    """The request of a call that brings one.

    Raises:
        BadRequest: It does not come.
    """
    # Not wait_for: before Python 3.12 that forgets a cancellation which comes together with the request.
    coming: asyncio.Future[bytes | None] = asyncio.ensure_future(anext(aiter(incoming), None))
    try:
        await asyncio.wait([coming], timeout=limit_s)
    finally:
        came = not coming.cancel()
    if not came:
        raise BadRequest(f"{method} was called, and no request came in {limit_s:g} s; send it at once")
    raw = coming.result()
    if raw is None:
        raise BadRequest(f"{method} was called without a request; send one, be it empty")
    return raw


def _parsed(handler: Any, raw: bytes, method: str) -> Any:
    """A request as its message.

    Raises:
        BadRequest: It is not one.
    """
    try:
        return handler.request_deserializer(raw)
    except DecodeError as error:
        raise BadRequest(f"the request of {len(raw)} bytes is not one of {method}; use its proto file") from error
