"""Roster: at most one open model for each task, and where the others come from."""

from __future__ import annotations

from collections.abc import Sequence

from edge_app.errors import RuntimeFailed
from edge_app.model import Model, ModelSource
from firmware.camera import Expect
from firmware.frames import FrameOptics

LOADING_S = 180.0
"""What opening one model may take."""
_NO_MODEL = "start with --bundle factory, or use --strategy sweep"


class Roster:
    """The models that are open, by task; the others are opened by the `source`, if there is one, when first asked.

    `expect` is told before each opening how long it may take at most. Models are replaced, never changed, so that any
    thread may read.
    """

    def __init__(self, first: Model | None, source: ModelSource | None, expect: Expect) -> None:
        self._open: dict[str, Model] = {}
        self._source, self._expect = source, expect
        if first is not None:
            self.put(first)

    def put(self, model: Model) -> None:
        """Let this model answer for its task from now on."""
        self._open = {**self._open, model.bundle.manifest.task: model}

    def loaded(self, task: str) -> Model | None:
        """The model of a task, if it is open."""
        return self._open.get(task)

    def all(self) -> tuple[Model, ...]:
        """All that are open."""
        return tuple(self._open.values())

    def of(self, task: str, optics: FrameOptics) -> Model:
        """The model of a task, opened for these optics if it is the first time.

        Raises:
            RuntimeFailed: There is none and nowhere to take it from, or no runtime can execute it.
            BundleError: It is missing or damaged.
        """
        known = self.loaded(task)
        if known is not None:
            return known
        if self._source is None:
            raise RuntimeFailed(f"no model is loaded for {task}; {_NO_MODEL}")
        self._expect(LOADING_S)
        opened = self._source.model_for(optics, task=task)
        self.put(opened)
        return opened

    def fitting(self, task: str, optics: FrameOptics) -> Model | None:
        """The model of a task, if there is one and these optics suit it; None for the task "".

        Raises as `of`.
        """
        if not task or (self._source is None and self.loaded(task) is None):
            return None
        model = self.of(task, optics)
        return model if model.refusal(optics) is None else None

    @property
    def source(self) -> ModelSource | None:
        """Where models come from, if from anywhere."""
        return self._source

    def resupply(self, source: ModelSource, models: Sequence[Model]) -> None:
        """Take models from this source from now on; these take the place of what is open, task by task."""
        self._source = source
        self._open = {**self._open, **{model.bundle.manifest.task: model for model in models}}

    def change(self, optics: FrameOptics) -> None:
        """Have the models for other optics: all that are open, or, where one cannot be had, none of them.

        Raises:
            BundleError: One is missing or damaged.
            RuntimeFailed: No runtime can execute one.
        """
        if self._source is None:
            return
        changed = {}
        for task, model in self._open.items():
            self._expect(LOADING_S)
            changed[task] = self._source.model_for(optics, model, task)
        self._open = changed
