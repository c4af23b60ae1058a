"""Runtime: whatever executes a bundle's ONNX; one file each in runtimes/, chosen by name or by what is here."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_app.bundle import Manifest, ModelBundle
from edge_app.errors import RuntimeFailed
from edge_app.feed import NOTHING, Beside
from firmware import plugins

PACKAGE = "edge_app.runtimes"
PREFERENCE = ("tensorrt", "openvino", "onnxruntime")
MEANWHILE = "onnxruntime"
"""What serves while another runtime is being prepared, and where that fails."""

PREPARE_S = 5400.0
"""How long a bundle that is staged waits for a build; parfocal-update.service gives two hours in all."""
_ASK_S = 0.5
_TOLERANCE = {"fp32": 0.02, "fp16": 0.05, "int8": 0.1}
"""How far answers may lie from the golden ones: runtimes differ more where numbers are coarser; docs/precision.md."""

_log = logging.getLogger(__name__)


class Runtime(Protocol):
    """A loaded network."""

    @property
    def name(self) -> str:
        """Of the file in runtimes/."""
        ...

    @property
    def note(self) -> str:
        """What a person should know of it in a sentence, or ""."""
        ...

    def infer(self, counts: NDArray[np.uint8], also: Beside = NOTHING) -> dict[str, NDArray[np.float32]]:
        """Answers to patches, a row for each; N may change from call to call.

        Args:
            counts: (N, P, P, 3) uint8.
            also: What the network takes beside patches, (N, width) float32 by input.

        Returns:
            Each output by name, (N,) or (N, W) float32.

        Raises:
            RuntimeFailed: The runtime refused the batch.
        """
        ...


class Build(Protocol):
    """Something that is being built, by a process or thread of its own."""

    progress: float
    error: str

    def then(self, call: Callable[[], None]) -> None:
        """Call this when it has ended, well or not (`error`), or at once if it has; from any thread."""
        ...


class Preparation(Protocol):
    """What a runtime has to build on this machine before it can load a bundle; `what` names it, with its article."""

    what: str

    def start(self) -> Any:
        """Begin to build, or join the build that was begun."""
        ...

    def load(self, build: Any) -> Runtime:
        """The runtime, once it is built."""
        ...


class Meanwhile:
    """Serves by one runtime until another is built, loaded, and right on the golden inputs; swaps between two calls.

    Where that fails it goes on as it is, and `note` says so. A runtime that fails later is given up for `spare`.
    """

    def __init__(self, ready: Runtime, chosen: str, bundle: ModelBundle, spare: Callable[[], Runtime]) -> None:
        self._now = ready
        self._next: Runtime | None = None
        self._spare = spare
        self._chosen, self._bundle = chosen, bundle
        self._build: Build | None = None
        self._what = self._said = ""

    def begin(self, preparation: Preparation) -> None:
        """Start to build."""
        build = preparation.start()
        self._build, self._what = build, preparation.what
        # A build outlives a model that another took the place of; what it built is then loaded by nobody.
        alive = weakref.ref(self)

        def adopt() -> None:
            here = alive()
            if here is not None:
                here._adopt(preparation, build)  # noqa: SLF001 - its own

        build.then(adopt)

    def stay(self, why: str) -> None:
        """Go on with what serves, and say why."""
        self._said, self._build = f"{why}; {self._now.name} serves", None
        _log.warning("%s: %s", self._bundle.manifest.label, self._said)

    @property
    def name(self) -> str:
        """Of the runtime that serves."""
        return self._now.name

    @property
    def note(self) -> str:
        """What is being built or has failed, or ""."""
        build = self._build
        if self._next is not None:
            return f"{self._what} is built and takes over at the next look"
        if build is None:
            return self._said
        return f"{self._what} is being built, {build.progress:.0%}; {self._now.name} serves meanwhile"

    def infer(self, counts: NDArray[np.uint8], also: Beside = NOTHING) -> dict[str, NDArray[np.float32]]:
        """As `Runtime.infer`; the one thread that calls it is the one that swaps."""
        waiting = self._next
        if waiting is not None:
            _log.info("%s: %s serves from now on, %s did before", self._bundle.manifest.label, waiting.name, self.name)
            self._now, self._next, self._build = waiting, None, None
        try:
            return self._now.infer(counts, also)
        except RuntimeFailed as error:
            if self.name != self._chosen:
                raise
            self._now = self._spare()
            self.stay(f"{error}; {self._chosen} is given up until the next start")
            return self._now.infer(counts, also)

    def _adopt(self, preparation: Preparation, build: Any) -> None:
        if build.error:
            self.stay(f"{preparation.what} could not be built: {build.error}")
            return
        try:
            self._next = checked(self._chosen, self._bundle, lambda: preparation.load(build), usual=True)
        except RuntimeFailed as error:
            self.stay(str(error))


def available() -> dict[str, str]:
    """Every runtime in the folder, with "" if it can be used here or what is missing."""
    return {name: plugins.load(PACKAGE, name).missing() for name in plugins.names(PACKAGE)}


def open_runtime(bundle: ModelBundle, name: str = "", threads: int = 0, builds: bool = False) -> Runtime:
    """Load a bundle and hold its answers against the golden ones before it may serve.

    A runtime that builds something on the machine first (`preparation` in its file) never keeps a bundle from being
    served: until that is built, and where it fails, ONNX Runtime serves. Who neither names it nor builds gets the
    fastest that can serve now.

    Args:
        bundle: The model.
        name: A runtime, or "" for the fastest that is installed and answers as it should.
        threads: 0 for as many as there are cores.
        builds: Build in the background what the runtime has to have built, and change over to it; for who stays.

    Raises:
        RuntimeFailed: The runtime is missing, refuses the model, or answers differently from the golden outputs.
    """
    *faster, last = [name] if name else _by_preference()
    for chosen in faster:
        try:
            return _open(chosen, bundle, threads, builds, waits=builds)
        except RuntimeFailed as error:  # noqa: PERF203 - a handful of runtimes
            _log.warning("%s", error)
    return _open(last, bundle, threads, builds, waits=True)


def prepare(bundle: ModelBundle, name: str, say: Callable[[str, float], None]) -> None:
    """Build on this machine what the runtime that will serve a bundle wants built, and wait; for who stages a bundle.

    Where that fails `open_runtime` serves by another, and says why.

    Args:
        bundle: The model.
        name: As for `open_runtime`.
        say: Told what is built, and the share that is done.

    Raises:
        RuntimeFailed: There is no runtime of that name, or none at all.
    """
    for chosen in [name] if name else _by_preference():
        module = _module(chosen)
        if not hasattr(module, "preparation"):
            return
        try:
            preparation: Preparation | None = module.preparation(bundle)
        except RuntimeFailed as error:
            _log.warning("%s", error)
            continue
        if preparation is None:
            return
        build = preparation.start()
        if not _ended(build, preparation.what, say):
            _log.warning("%s is not built after %.0f minutes; it is left", preparation.what, PREPARE_S / 60.0)
        elif build.error:
            _log.warning("%s could not be built: %s", preparation.what, build.error)
        else:
            return


def _ended(build: Build, what: str, say: Callable[[str, float], None]) -> bool:
    """Wait for a build, and tell of it meanwhile; False where it takes too long."""
    built, until_s = threading.Event(), time.monotonic() + PREPARE_S
    build.then(built.set)
    while not built.wait(_ASK_S):
        if time.monotonic() >= until_s:
            return False
        say(what, build.progress)
    return True


def _open(chosen: str, bundle: ModelBundle, threads: int, builds: bool, waits: bool) -> Runtime:
    """A runtime; with `waits` another serves for one that cannot be loaded yet, without it that is an error."""
    module = _module(chosen)
    if not hasattr(module, "preparation"):
        return checked(chosen, bundle, lambda: module.load(bundle, threads))
    ready = _prepared(chosen, module, bundle, threads)
    if isinstance(ready, _Unprepared) and not waits:
        raise RuntimeFailed(ready.why)

    def spare() -> Runtime:
        fallback = _module(MEANWHILE)
        return checked(MEANWHILE, bundle, lambda: fallback.load(bundle, threads))

    if not isinstance(ready, _Unprepared):
        return Meanwhile(ready, chosen, bundle, spare)
    served = Meanwhile(spare(), chosen, bundle, spare)
    if ready.preparation is not None and builds:
        served.begin(ready.preparation)
    else:
        served.stay(ready.why)
    return served


def checked(name: str, bundle: ModelBundle, load: Callable[[], Runtime], usual: bool = False) -> Runtime:
    """Load, and hold the answers to the golden inputs against the golden outputs.

    Args:
        name: The runtime's.
        bundle: The model.
        load: Gives the runtime.
        usual: Ask for the golden inputs once more, repeated to the usual number of patches of a frame.

    Raises:
        RuntimeFailed: It refuses the model, or answers differently.
    """
    label, once = bundle.manifest.label, np.arange(len(bundle.golden_in))
    asked = [once, np.resize(once, bundle.manifest.input.patches_at_most or len(once))] if usual else [once]
    try:
        runtime = load()
        answers = [runtime.infer(*golden_rows(bundle, rows)) for rows in asked]
    except RuntimeFailed:
        raise
    except Exception as error:
        raise RuntimeFailed(f"{name} refused {label}: {error}") from error
    for rows, given in zip(asked, answers, strict=True):
        _compare(name, bundle.manifest, {output: golden[rows] for output, golden in bundle.golden_out.items()}, given)
    return runtime


def golden_rows(bundle: ModelBundle, rows: NDArray[np.intp]) -> tuple[NDArray[np.uint8], Beside]:
    """The golden inputs of these rows (N,): patches (N, P, P, 3), and what goes with them."""
    return bundle.golden_in[rows], {name: values[rows] for name, values in bundle.golden_also.items()}


@dataclass(frozen=True)
class _Unprepared:
    """A runtime that cannot be loaded now, and what would change that."""

    why: str
    preparation: Preparation | None = None


def _prepared(chosen: str, module: ModuleType, bundle: ModelBundle, threads: int) -> Runtime | _Unprepared:
    """The runtime if what it needs is built and right."""
    try:
        preparation = module.preparation(bundle)
    except RuntimeFailed as error:
        return _Unprepared(str(error))
    if preparation is not None:
        why = f"{chosen} has not been prepared for this model: `parfocal serve` does that, or parfocal-model engine"
        return _Unprepared(why, preparation)
    try:
        return checked(chosen, bundle, lambda: module.load(bundle, threads), usual=True)
    except RuntimeFailed as error:
        return _Unprepared(str(error), module.again(bundle, error))


def check_name(name: str) -> None:
    """See whether there is such a runtime; whether it can be used here `missing` says.

    Raises:
        RuntimeFailed: There is none.
    """
    known = plugins.names(PACKAGE)
    if name not in known:
        raise RuntimeFailed(f"there is no runtime {name!r}; known: {', '.join(known)}")


def _module(name: str) -> ModuleType:
    check_name(name)
    module = plugins.load(PACKAGE, name)
    missing: str = module.missing()
    if missing:
        raise RuntimeFailed(f"the runtime {name!r} cannot be used here: {missing}")
    return module


def _by_preference() -> list[str]:
    usable = {name for name, missing in available().items() if not missing}
    if not usable:
        raise RuntimeFailed("no inference runtime is installed; pip install 'parfocal[openvino]' or onnxruntime")
    known = [name for name in PREFERENCE if name in usable]
    return known + sorted(usable - set(known))


def _compare(name: str, manifest: Manifest, golden: dict[str, NDArray[Any]], answers: dict[str, NDArray[Any]]) -> None:
    for output, wanted in golden.items():
        if output not in answers or answers[output].shape != wanted.shape:
            raise RuntimeFailed(f"{name} does not give {output!r} of {manifest.label}")
        worst = float(np.abs(answers[output] - wanted).max())
        if not worst <= _TOLERANCE[manifest.precision]:
            raise RuntimeFailed(
                f"{name} answers {manifest.label} wrongly: {output} is off by {worst:.3g} on the golden "
                "inputs; do not use it, and report this with `parfocal doctor`"
            )
