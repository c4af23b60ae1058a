"""Model: a bundle loaded into a runtime, with the task that gives its numbers a meaning."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from edge_app import bundle as bundles
from edge_app import selection
from edge_app.answer import DEFOCUS, Answer, Refusal
from edge_app.bundle import Manifest, ModelBundle
from edge_app.errors import BundleError, RuntimeFailed
from edge_app.patches import PatchGrid
from edge_app.runtime import Runtime, open_runtime
from edge_app.shelf import Shelf
from firmware import plugins
from firmware.errors import UnknownPlugin
from firmware.frames import FrameOptics

Arrays = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Model:
    """What the controller asks; `why` says why it is this one where several ship."""

    bundle: ModelBundle
    runtime: Runtime
    task: ModuleType
    why: str = ""

    @property
    def label(self) -> str:
        """Name and version of the bundle."""
        return self.bundle.manifest.label

    @property
    def note(self) -> str:
        """What a person should know of the runtime, or ""."""
        return self.runtime.note

    @property
    def patch_px(self) -> int:
        """Side of the patches that it takes."""
        return self.bundle.manifest.input.patch_px

    @property
    def undoes_tone(self) -> bool:
        """Whether it reads counts in proportion to light, rather than frames as they come."""
        return "unknown" not in self.bundle.manifest.passport.response

    @property
    def min_contrast(self) -> float:
        """The contrast below which it counts a patch as blank."""
        return self.bundle.manifest.input.min_contrast

    @property
    def patches_at_most(self) -> int:
        """How many patches of a frame it is asked about; 0 for all."""
        return self.bundle.manifest.input.patches_at_most

    def refusal(self, optics: FrameOptics) -> Refusal | None:
        """Why it must not judge a frame through these optics, or None."""
        return self.bundle.manifest.passport.check(optics)

    def refuse(self, refusal: Refusal, grid: PatchGrid) -> Answer:
        """A refusal as an answer of its task, without numbers."""
        answer: Answer = self.task.refuse(*refusal, grid)
        return answer

    def also(self, rgb: NDArray[np.uint8]) -> Arrays:
        """What the network reads of a whole frame (H, W, 3) uint8 beside patches: (width,) float32 by name."""
        return {} if not self.bundle.manifest.input.also else self.task.also(rgb)

    def infer(self, counts: NDArray[np.uint8], also: Arrays | None = None) -> Arrays:
        """The network's raw outputs for patches (K, P, P, 3) uint8, in one batch.

        Args:
            counts: The patches.
            also: What it reads of the whole frame, as `also` gives it.

        Raises:
            RuntimeFailed: The runtime refused the batch, or its answers are not numbers.
        """
        further = {name: np.repeat(values[None], len(counts), axis=0) for name, values in (also or {}).items()}
        try:
            outputs = self.runtime.infer(counts, further)
        except RuntimeFailed:
            raise
        except Exception as error:
            raise RuntimeFailed(f"{self.runtime.name} failed on {self.label}: {error}; restart the server") from error
        if not all(np.isfinite(values).all() for values in outputs.values()):
            raise RuntimeFailed(
                f"{self.label} in {self.runtime.name} gave answers that are not numbers; use another bundle"
            )
        return outputs

    def answer(
        self,
        outputs: Arrays,
        informative: NDArray[np.bool_],
        grid: PatchGrid,
        optics: FrameOptics,
    ) -> Answer:
        """What the outputs for the asked patches of a frame through these optics mean, as one answer."""
        answer: Answer = self.task.answer(outputs, informative, grid, self.bundle.manifest, optics)
        return answer


@dataclass(frozen=True)
class ModelSource:
    """Where a board's models come from: the bundle that was asked for, or `factory`; see `selection`.

    A bundle that was asked for serves its own task; the models of other tasks come from the factory. `builds` lets a
    runtime build in the background what it needs; for a server, not for one look. `shelf` are the board's bundles.
    Each bundle is opened inside what `around` gives for its path.
    """

    name: str = selection.FACTORY
    runtime: str = ""
    threads: int = 0
    builds: bool = False
    shelf: Shelf = field(default_factory=Shelf)
    around: Callable[[Path], AbstractContextManager[object]] = nullcontext

    def model_for(self, optics: FrameOptics, loaded: Model | None = None, task: str = DEFOCUS) -> Model:
        """The model of a task for these optics: the loaded one if it is that, or if no other fits better.

        Raises:
            BundleError: It is missing or damaged.
            RuntimeFailed: No runtime can execute it as the golden outputs demand.
        """
        choice = selection.select(self.name, optics, task, self.shelf)
        stays = loaded is not None and (not choice.fits or loaded.bundle.sha256 == bundles.read(choice.path).sha256)
        if loaded is None or not stays:
            with self.around(choice.path):
                loaded = self._open(choice.path)
        return replace(loaded, why=choice.why)

    def _open(self, path: Path) -> Model:
        return open_model(path, self.runtime, self.threads, self.builds)


def open_model(path: Path, runtime: str = "", threads: int = 0, builds: bool = False) -> Model:
    """Read, check and load a bundle; the arguments are those of `open_runtime`.

    Raises:
        BundleError: It is missing or damaged.
        RuntimeFailed: No runtime can execute it as the golden outputs demand.
    """
    checked = bundles.read(path)
    try:
        task = plugins.load("edge_app.tasks", checked.manifest.task)
    except UnknownPlugin as error:
        raise BundleError(
            f"{checked.manifest.label} is for a task that this version does not know: {error}"
        ) from error
    _check(checked.manifest, task)
    return Model(checked, open_runtime(checked, runtime, threads, builds), task)


def _check(manifest: Manifest, task: ModuleType) -> None:
    """See that a bundle states what its task goes by, before it is asked anything.

    Raises:
        BundleError: An output, what is read beside patches, or a fact of its manifest is missing.
    """
    lacking = [f"the output {name}" for name in task.OUTPUTS if name not in manifest.outputs]
    if manifest.input.also and not hasattr(task, "also"):
        lacking.append("a task that reads more than patches")
    lacking += task.lacks(manifest)
    if lacking:
        needs = f"{manifest.label} lacks {', '.join(lacking)}, which the task {manifest.task} of this version needs"
        raise BundleError(f"{needs}; use another bundle")
