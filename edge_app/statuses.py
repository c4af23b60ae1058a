"""The one table between errors and gRPC statuses: the server reads it one way, the client the other."""

from __future__ import annotations

import logging

import grpc
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from edge_app import errors as app
from edge_app.access.addresses import TLS
from firmware import errors as board

DOMAIN = "parfocal"
_RETRY_S = 1
_FULL = "Concurrent RPC limit exceeded"
"""How gRPC says that there is no room for a call."""
_log = logging.getLogger(__name__)
_Code = grpc.StatusCode

STATUS: dict[type[Exception], grpc.StatusCode] = {
    board.FirmwareError: _Code.INTERNAL,
    board.ProfileError: _Code.INVALID_ARGUMENT,
    board.UnknownPlugin: _Code.INVALID_ARGUMENT,
    board.MissingDriver: _Code.FAILED_PRECONDITION,
    board.StackError: _Code.DATA_LOSS,
    # A camera may answer the next call. DEADLINE_EXCEEDED is left to gRPC: it means the client's deadline.
    board.CameraError: _Code.UNAVAILABLE,
    board.CameraTimeout: _Code.UNAVAILABLE,
    # Nothing helps until somebody homes the axis or mends it: a client must not simply try again.
    board.AxisError: _Code.FAILED_PRECONDITION,
    board.OutOfLimits: _Code.OUT_OF_RANGE,
    board.NotTrusted: _Code.FAILED_PRECONDITION,
    board.TravelSpent: _Code.OUT_OF_RANGE,
    board.LimitReached: _Code.FAILED_PRECONDITION,
    board.MotorFault: _Code.FAILED_PRECONDITION,
    board.DiskFull: _Code.FAILED_PRECONDITION,
    board.MotionStopped: _Code.ABORTED,
    app.AppError: _Code.INTERNAL,
    app.GridTooLarge: _Code.INVALID_ARGUMENT,
    app.BadSettings: _Code.FAILED_PRECONDITION,
    app.BadRequest: _Code.INVALID_ARGUMENT,
    app.UnknownStrategy: _Code.INVALID_ARGUMENT,
    app.BundleError: _Code.FAILED_PRECONDITION,
    app.BundleCorrupt: _Code.DATA_LOSS,
    app.BundleNotFound: _Code.NOT_FOUND,
    app.UnfitRuler: _Code.FAILED_PRECONDITION,
    app.StateUnusable: _Code.FAILED_PRECONDITION,
    app.RuntimeFailed: _Code.FAILED_PRECONDITION,
    # Not UNAVAILABLE: that is what an absent server looks like, and proxies repeat such calls unasked.
    app.Busy: _Code.RESOURCE_EXHAUSTED,
    app.TooOften: _Code.RESOURCE_EXHAUSTED,
    app.TooMany: _Code.RESOURCE_EXHAUSTED,
    app.JobStopped: _Code.ABORTED,
    app.NotIdentified: _Code.UNAUTHENTICATED,
    app.NotAllowed: _Code.PERMISSION_DENIED,
    app.TrustUnusable: _Code.FAILED_PRECONDITION,
    app.UpdateError: _Code.FAILED_PRECONDITION,
    # Not UNAVAILABLE: it is the repository that is absent, not this board.
    app.RepositoryUnreachable: _Code.FAILED_PRECONDITION,
    app.RepositoryUntrusted: _Code.FAILED_PRECONDITION,
    app.UpdateRefused: _Code.FAILED_PRECONDITION,
    app.UpdateUnfit: _Code.FAILED_PRECONDITION,
    app.NotReady: _Code.FAILED_PRECONDITION,
    app.AddressInUse: _Code.UNAVAILABLE,
    app.RemoteError: _Code.UNKNOWN,
    app.Unreachable: _Code.UNAVAILABLE,
}
_BY_NAME = {kind.__name__: kind for kind in STATUS}


def code_of(error: BaseException) -> grpc.StatusCode:
    """The status code for an error: that of its own class, or INTERNAL for a class of neither tree."""
    return STATUS.get(type(error), _Code.INTERNAL)  # type: ignore[arg-type]


def status_of(error: BaseException, method: str) -> grpc.Status:
    """An error as a status with details: its class as ErrorInfo.reason, and when to come back if Busy.

    An error of neither tree is a defect of ours: it is logged with its traceback, and the client is told
    plainly.
    """
    code, message = code_of(error), str(error)
    if type(error) not in STATUS:
        _log.error("%s failed unexpectedly", method, exc_info=error)
        message = "the server failed in a way that it did not foresee; its log has the traceback"
    rich = status_pb2.Status(code=code.value[0], message=message)
    rich.details.add().Pack(error_details_pb2.ErrorInfo(reason=type(error).__name__, domain=DOMAIN))
    if isinstance(error, app.Busy):
        pause = duration_pb2.Duration(seconds=_RETRY_S)
        rich.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=pause))
    status: grpc.Status = rpc_status.to_status(rich)
    return status


def error_named(kind: str, message: str) -> Exception:
    """An error by the name of its class, from another process of ours; a RemoteError for a name that is not known."""
    return _BY_NAME.get(kind, app.RemoteError)(message)


def error_of(fault: grpc.RpcError, address: str) -> Exception:
    """The error behind a failed call: the class that the server raised, or a RemoteError."""
    code, message = fault.code(), fault.details() or ""
    status = rpc_status.from_call(fault)
    info = error_details_pb2.ErrorInfo()
    for detail in status.details if status is not None else ():
        if detail.Unpack(info) and info.domain == DOMAIN:
            return error_named(info.reason, message)
    if code is _Code.UNAVAILABLE:
        where = address.removeprefix(TLS)
        if where != address:
            return app.Unreachable(f"nothing answers at {where}; check the address, and the tunnel if it is one")
        return app.Unreachable(
            f"nothing answers at {address}; start it with `parfocal serve --listen {address}`, or check the address"
        )
    if code is _Code.RESOURCE_EXHAUSTED and message.startswith(_FULL):
        return app.Busy(f"{address} has as many calls under way as it takes; ask again in a moment")
    if code is _Code.DEADLINE_EXCEEDED:
        return app.RemoteError(f"{address} gave no answer in time; allow more time, or stop what it is doing")
    if code is _Code.UNIMPLEMENTED:
        return app.RemoteError(f"{address} does not offer this; only simulated boards load fields and tell the truth")
    return app.RemoteError(f"{address} answered {code.name}: {message}")
