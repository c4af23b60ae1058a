"""Model: a bundle loaded into a runtime, with the task that gives its numbers a meaning."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from edge_app import bundle as bundles
from edge_app import selection
from edge_app.bundle import ModelBundle
from edge_app.errors import BundleError, RuntimeFailed
from edge_app.estimate import DefocusEstimate, refuse
from edge_app.patches import PatchGrid
from edge_app.runtime import Runtime, open_runtime
from firmware import plugins
from firmware.errors import UnknownPlugin
from firmware.frames import FrameOptics


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

    def refuses(self, optics: FrameOptics, grid: PatchGrid) -> DefocusEstimate | None:
        """The refusal for a frame through these optics, or None if the passport accepts them."""
        reason = self.bundle.manifest.passport.check(optics)
        return None if reason is None else refuse(*reason, grid)

    def infer(self, counts: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """The network's raw outputs for patches (K, P, P, 3) uint8, in one batch.

        Raises:
            RuntimeFailed: The runtime refused the batch, or its answers are not numbers.
        """
        try:
            outputs = self.runtime.infer(counts)
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
        outputs: dict[str, NDArray[np.float32]],
        informative: NDArray[np.bool_],
        grid: PatchGrid,
        optics: FrameOptics,
    ) -> DefocusEstimate:
        """What the outputs for the asked patches of a frame through these optics mean, as one estimate."""
        estimate: DefocusEstimate = self.task.answer(outputs, informative, grid, self.bundle.manifest, optics)
        return estimate


@dataclass(frozen=True)
class ModelSource:
    """Where a board's model comes from: the bundle that was asked for, or `factory`; see `selection`.

    `builds` lets a runtime build in the background what it needs; for a server, not for one look.
    """

    name: str = selection.FACTORY
    runtime: str = ""
    threads: int = 0
    builds: bool = False

    def model_for(self, optics: FrameOptics, loaded: Model | None = None) -> Model:
        """The model for these optics: the loaded one if it is that, or if no other fits better.

        Raises:
            BundleError: It is missing or damaged.
            RuntimeFailed: No runtime can execute it as the golden outputs demand.
        """
        choice = selection.select(self.name, optics)
        stays = loaded is not None and (not choice.fits or loaded.bundle.sha256 == bundles.read(choice.path).sha256)
        model = loaded if loaded is not None and stays else self._open(choice.path)
        return replace(model, why=choice.why)

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
    return Model(checked, open_runtime(checked, runtime, threads, builds), task)
