"""The gRPC service of the models on the board: what is there, and how newer ones come into service."""

from __future__ import annotations

import asyncio
from typing import Any

from edge_app import selection, wire
from edge_app.appliance import Appliance
from edge_app.errors import UpdateError
from edge_app.ota.desk import Desk
from edge_app.ota.state import Stage
from edge_app.shelf import Shelf
from edge_app.stubs.parfocal.v1 import models_pb2, models_pb2_grpc
from edge_app.updates import Status

STAGES = {stage.value: models_pb2.UpdateState.Value(f"UPDATE_STATE_{stage.name}") for stage in Stage}
_NO_DESK = "this board keeps no updates: a simulated one wants a folder for them, serve it with --state FOLDER"


class ModelService(models_pb2_grpc.ModelServiceServicer):
    """The models on the board."""

    def __init__(self, appliance: Appliance) -> None:
        self._appliance = appliance

    async def List(self, request: models_pb2.ListRequest, context: Any) -> models_pb2.ListReply:
        """The board's bundles that can be read, those in use, and where updating stands."""
        del request, context
        found = await asyncio.to_thread(self._models)
        desk = self._appliance.desk
        update = None if desk is None else status_to(await desk.status())
        depot = "" if desk is None else desk.updates.depot.mark()
        models = sorted(found, key=lambda m: (m.name, m.version))
        return models_pb2.ListReply(models=models, update=update, depot=depot)

    async def Check(self, request: models_pb2.CheckRequest, context: Any) -> models_pb2.CheckReply:
        """Whether the repository has something newer."""
        del request, context
        return models_pb2.CheckReply(status=status_to(await self._desk().check()))

    async def Apply(  # type: ignore[override] # writes its events, as Focus does
        self, request: models_pb2.ApplyRequest, context: Any
    ) -> None:
        """Stage an update and switch to it, step by step; the last event is where it ended."""
        desk, steps = self._desk(), asyncio.Queue[models_pb2.ApplyEvent | None]()

        def say(done: int, total: int, step: str) -> None:
            progress = models_pb2.UpdateProgress(step=step, done=max(done, 0), total=max(total, 0))
            steps.put_nowait(models_pb2.ApplyEvent(progress=progress))

        applying = asyncio.ensure_future(desk.apply(request.name, request.stage_only, say))
        applying.add_done_callback(lambda _: steps.put_nowait(None))
        try:
            while (event := await steps.get()) is not None:
                await context.write(event)
            await context.write(models_pb2.ApplyEvent(status=status_to(applying.result())))
        finally:
            if not applying.done():
                applying.cancel()
                await asyncio.wait([applying])

    async def Activate(self, request: models_pb2.ActivateRequest, context: Any) -> models_pb2.ActivateReply:
        """Switch to the candidate."""
        del context
        return models_pb2.ActivateReply(status=status_to(await self._desk().activate(request.candidate)))

    async def Rollback(self, request: models_pb2.RollbackRequest, context: Any) -> models_pb2.RollbackReply:
        """Go back to what served before."""
        del context
        return models_pb2.RollbackReply(status=status_to(await self._desk().roll_back(request.serving)))

    def _desk(self) -> Desk:
        if self._appliance.desk is None:
            raise UpdateError(_NO_DESK)
        return self._appliance.desk

    def _models(self) -> list[models_pb2.Model]:
        controller = self._appliance.controller
        optics, source = controller.microscope.optics, controller.models.source
        kept = [bundle for _, bundle in (Shelf() if source is None else source.shelf).readable()]
        best = selection.best_by_task([bundle.manifest for bundle in kept], optics)
        found = [wire.model_to(bundle, optics, index in best) for index, bundle in enumerate(kept)]
        known = {bundle.sha256 for bundle in kept}
        others = [model.bundle for model in controller.models.all() if model.bundle.sha256 not in known]
        return found + [wire.model_to(bundle, optics, preferred=False) for bundle in others]


def status_to(status: Status) -> models_pb2.UpdateStatus:
    """Where updating stands, for the wire."""
    return models_pb2.UpdateStatus(
        serving=status.serving,
        previous=status.previous,
        candidate=status.candidate,
        state=STAGES[status.state],
        reason=status.reason,
    )


def status_from(message: models_pb2.UpdateStatus) -> Status:
    """Where updating stands on another machine."""
    state = next((name for name, value in STAGES.items() if value == message.state), "")
    return Status(message.serving, message.previous, message.candidate, state, message.reason)
