"""The client: the board's verbs from another machine; faults come back as the server's own classes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import grpc

from edge_app.access.addresses import BOARD_NAME, TLS, is_address, is_here
from edge_app.access.kit import Identity, credentials, read, why_not
from edge_app.errors import BadRequest, NotIdentified, RemoteError, Unreachable
from edge_app.patches import RegionOfInterest
from edge_app.statuses import error_of
from edge_app.stubs.parfocal.v1 import focus_pb2 as looks
from edge_app.stubs.parfocal.v1 import microscope_pb2 as microscope
from edge_app.stubs.parfocal.v1 import models_pb2
from edge_app.stubs.parfocal.v1 import simulation_pb2 as simulation
from edge_app.stubs.parfocal.v1.focus_pb2_grpc import FocusServiceStub
from edge_app.stubs.parfocal.v1.microscope_pb2_grpc import MicroscopeServiceStub
from edge_app.stubs.parfocal.v1.models_pb2_grpc import ModelServiceStub
from edge_app.stubs.parfocal.v1.simulation_pb2_grpc import SimulationServiceStub

MAX_MESSAGE_BYTES = 64 * 2**20
_OPTIONS = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
)


_ANSWERS: dict[str, Literal["estimate", "quality", "scores"]] = {
    "defocus": "estimate",
    "quality": "quality",
    "sharpness": "scores",
}
"""Where a reply holds the answer of each task."""


class Client:
    """A connection to one appliance; close it, or use it in a with-block.

    Every verb gives the reply message. `timeout_s` bounds each call but `focus`, `calibrate_mechanics`,
    `calibrate_focus` and `apply`, which may be stopped instead.

    Other machines are asked over TLS, with the kit in the folder `identity`; programs on this one need none.

    Raises, from every verb:
        FirmwareError, AppError: What the server raised.
        NotIdentified: It turns this kit away, or is not the board that the kit is for.
        Unreachable: Nothing answers.
        RemoteError: Any other fault.
    """

    def __init__(self, address: str, timeout_s: float | None = 60.0, identity: Path | None = None) -> None:
        """Take an address; nothing is sent yet. `tls:HOST:PORT` is one that speaks TLS though it is this machine's.

        Raises:
            BadRequest: It is no address.
            NotIdentified: It is another machine's, and there is no kit, or the kit has expired.
            BadSettings: The folder is no kit.
            TrustUnusable: Others may read its key.
        """
        self.address = address
        self._timeout_s = timeout_s
        self._has_kit = identity is not None
        self._identity = _identity_for(address, identity)
        self._channel = _channel(address, self._identity)
        self._focus = FocusServiceStub(self._channel)
        self._microscope = MicroscopeServiceStub(self._channel)
        self._models = ModelServiceStub(self._channel)
        self._simulation = SimulationServiceStub(self._channel)

    def close(self) -> None:
        """Let go of the connection; a focus job that was started through it is stopped."""
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def measure(
        self, with_map: bool = False, with_image: bool = False, roi: RegionOfInterest | None = None, task: str = ""
    ) -> looks.MeasureReply:
        """Take one frame and say how far out of focus it is, or what the model of another task makes of it."""
        request = looks.MeasureRequest(with_map=with_map, with_image=with_image, roi=_roi(roi), task=task)
        with self._named():
            reply = self._focus.Measure(request, timeout=self._timeout_s)
        if task and not reply.HasField(_ANSWERS[task]):
            raise RemoteError(f"{self.address} does not know the task {task!r}; update parfocal there")
        return reply

    def focus(self, strategy: str = "", roi: RegionOfInterest | None = None) -> Iterator[looks.FocusEvent]:
        """Focus, and give each look as it is taken, then the outcome; leaving the loop stops the job."""
        with self._named():
            call = self._focus.Focus(looks.FocusRequest(strategy=strategy, roi=_roi(roi)))
            try:
                yield from call
            finally:
                call.cancel()

    def stop(self) -> looks.StopReply:
        """Stop whatever moves."""
        with self._named():
            return self._focus.Stop(looks.StopRequest(), timeout=self._timeout_s)

    def describe(self) -> microscope.DescribeReply:
        """Say what the board is."""
        with self._named():
            return self._microscope.Describe(microscope.DescribeRequest(), timeout=self._timeout_s)

    def capture(self, max_px: int = 0) -> microscope.CaptureReply:
        """Take one frame as PNG, its longer side at most `max_px` unless that is 0."""
        with self._named():
            return self._microscope.Capture(microscope.CaptureRequest(max_px=max_px), timeout=self._timeout_s)

    def position(self) -> microscope.GetPositionReply:
        """Say where the objective is."""
        with self._named():
            return self._microscope.GetPosition(microscope.GetPositionRequest(), timeout=self._timeout_s)

    def move_to(self, z_um: float) -> microscope.MoveReply:
        """Go to a position, um."""
        with self._named():
            return self._microscope.Move(microscope.MoveRequest(to_um=z_um), timeout=self._timeout_s)

    def move_by(self, dz_um: float) -> microscope.MoveReply:
        """Go a distance, um; positive is away from the specimen."""
        with self._named():
            return self._microscope.Move(microscope.MoveRequest(by_um=dz_um), timeout=self._timeout_s)

    def home(self) -> microscope.HomeReply:
        """Find the axis's home switch."""
        with self._named():
            return self._microscope.Home(microscope.HomeRequest(), timeout=self._timeout_s)

    def set_zero(self) -> microscope.SetZeroReply:
        """Declare the present position to be zero."""
        with self._named():
            return self._microscope.SetZero(microscope.SetZeroRequest(), timeout=self._timeout_s)

    def calibrate_mechanics(self, dry_run: bool = False) -> Iterator[microscope.CalibrateMechanicsEvent]:
        """Measure the axis, and give each look as it is taken, then the result; leaving the loop stops the job."""
        with self._named():
            call = self._microscope.CalibrateMechanics(microscope.CalibrateMechanicsRequest(dry_run=dry_run))
            try:
                yield from call
            finally:
                call.cancel()

    def calibrate_focus(
        self, range_um: float = 0.0, step_um: float = 0.0, dry_run: bool = False
    ) -> Iterator[microscope.CalibrateFocusEvent]:
        """Record a focus curve, and give each look as it is taken, then the result; leaving the loop stops the job.

        Range and step, um, are by the objective where they are zero.
        """
        request = microscope.CalibrateFocusRequest(range_um=range_um, step_um=step_um, dry_run=dry_run)
        with self._named():
            call = self._microscope.CalibrateFocus(request)
            try:
                yield from call
            finally:
                call.cancel()

    def select_objective(self, name: str) -> microscope.SelectObjectiveReply:
        """Say which objective is in the light path."""
        request = microscope.SelectObjectiveRequest(name=name)
        with self._named():
            return self._microscope.SelectObjective(request, timeout=self._timeout_s)

    def models(self) -> models_pb2.ListReply:
        """List the models on the board."""
        with self._named():
            return self._models.List(models_pb2.ListRequest(), timeout=self._timeout_s)

    def check(self) -> models_pb2.CheckReply:
        """Ask the board's repository whether it has something newer."""
        with self._named():
            return self._models.Check(models_pb2.CheckRequest(), timeout=self._timeout_s)

    def apply(self, name: str = "", stage_only: bool = False) -> Iterator[models_pb2.ApplyEvent]:
        """Update, and give each step, then where it ended; leaving the loop ends the update."""
        with self._named():
            call = self._models.Apply(models_pb2.ApplyRequest(name=name, stage_only=stage_only))
            try:
                yield from call
            finally:
                call.cancel()

    def activate(self, candidate: str = "") -> models_pb2.ActivateReply:
        """Switch to the candidate, if it is this one."""
        with self._named():
            return self._models.Activate(models_pb2.ActivateRequest(candidate=candidate), timeout=self._timeout_s)

    def roll_back(self, serving: str = "") -> models_pb2.RollbackReply:
        """Go back to what served before, if this is what serves."""
        with self._named():
            return self._models.Rollback(models_pb2.RollbackRequest(serving=serving), timeout=self._timeout_s)

    def load_field(self, field: int, kind: str = "", defocus_um: float | None = None) -> simulation.Truth:
        """Put another field under a simulated objective, `defocus_um` out of focus if given."""
        request = simulation.LoadFieldRequest(field=field, kind=kind, defocus_um=defocus_um)
        with self._named():
            return self._simulation.LoadField(request, timeout=self._timeout_s).truth

    def truth(self) -> simulation.Truth:
        """Say how far out of focus the simulated world really is."""
        with self._named():
            return self._simulation.Truth(simulation.TruthRequest(), timeout=self._timeout_s)

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Give a failed call the class of the error behind it."""
        try:
            yield
        except grpc.RpcError as fault:
            error = error_of(fault, self.address)
            if self._has_kit and self._identity is None and type(error) is Unreachable:
                raise Unreachable(f"{error}; if it speaks TLS, ask {TLS}{self.address}") from None
            if self._identity is not None and type(error) is Unreachable:
                why = why_not(self.address.removeprefix(TLS), self._identity)
                raise (NotIdentified(why) if why else error) from None
            raise error from None


def _identity_for(address: str, folder: Path | None) -> Identity | None:
    if not is_address(address):
        raise BadRequest(f"{address!r} is no address to ask; give HOST:PORT, tls:HOST:PORT or unix:PATH")
    if is_here(address):
        return None
    if folder is None:
        raise NotIdentified(
            f"{address} is another machine, or speaks TLS, and wants a kit: make one there with `parfocal trust add`, "
            "copy its folder to this machine, and name it with --identity or PARFOCAL_IDENTITY"
        )
    return read(folder)


def _channel(address: str, identity: Identity | None) -> grpc.Channel:
    if identity is None:
        return grpc.insecure_channel(address, options=_OPTIONS)
    address = address.removeprefix(TLS)
    name = (("grpc.ssl_target_name_override", BOARD_NAME),)
    return grpc.secure_channel(address, credentials(identity), options=(*_OPTIONS, *name))


def _roi(roi: RegionOfInterest | None) -> looks.RegionOfInterest | None:
    if roi is None:
        return None
    return looks.RegionOfInterest(x_px=roi.x_px, y_px=roi.y_px, width_px=roi.width_px, height_px=roi.height_px)
