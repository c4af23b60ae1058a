"""EngineCache: the engines that were built on this machine, each in one file that says what it is and its hash."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from edge_app.errors import StateUnusable
from edge_app.nvidia.engine import Layer
from edge_app.nvidia.order import Order

SHARED = Path("/var/cache/parfocal/engines")
SUFFIX = ".engine"
KEPT = 2
_KEY_CHARS = 16
_LOCK = "build.lock"
_log = logging.getLogger(__name__)


class _Layer(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    kind: str
    formats: str


class _Header(BaseModel):
    """The first line of an engine's file; what follows is the plan."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    key: str
    model: str
    label: str
    precision: str
    tensorrt: str
    gpu: str
    architecture: str
    usual: int
    build_s: float
    plan_bytes: int
    plan_sha256: str
    layers: tuple[_Layer, ...]


@dataclass(frozen=True)
class KeptEngine:
    """A plan as it was built, and what is known of it; `path` is None where it could not be kept."""

    plan: bytes
    build_s: float
    layers: tuple[Layer, ...]
    path: Path | None


def cache_folder(environ: Mapping[str, str] = os.environ, shared: Path = SHARED) -> Path:
    """Where engines are kept: systemd's cache folder, else the machine's if it may be written, else the user's."""
    given = environ.get("CACHE_DIRECTORY", "").partition(":")[0]
    if given:
        return Path(given) / "engines"
    if os.access(shared, os.W_OK | os.X_OK):
        return shared
    home = environ.get("XDG_CACHE_HOME") or Path(environ.get("HOME", "~")).expanduser() / ".cache"
    return Path(home) / "parfocal" / "engines"


class EngineCache:
    """A folder of engines; reading it never fails, a file that is not as it was written counts as none.

    Args:
        folder: Where engines are found and kept.
        shared: Where they are found too, but not kept: a person's `parfocal measure` uses those of the service.
    """

    def __init__(self, folder: Path, shared: Path | None = None) -> None:
        self.folder = folder
        self._shared = shared

    def path(self, order: Order) -> Path:
        """The file of an engine."""
        return self.folder / f"{_plain(order.model)}-{order.key[:_KEY_CHARS]}{SUFFIX}"

    def find(self, order: Order) -> KeptEngine | None:
        """The engine of this key; one whose bytes are not those that were built is discarded."""
        path = self.path(order)
        try:
            data = path.read_bytes()
        except OSError:
            return self._find_shared(order)
        try:
            found = _unpacked(data, order.key, path)
        except ValueError as error:
            self.discard(order, str(error))
            return None
        with suppress(OSError):
            os.utime(path)
        return found

    def _find_shared(self, order: Order) -> KeptEngine | None:
        if self._shared is not None:
            path = self._shared / self.path(order).name
            with suppress(OSError, ValueError):
                return _unpacked(path.read_bytes(), order.key, path)
        return None

    def keep(self, order: Order, plan: bytes, build_s: float, layers: tuple[Layer, ...]) -> Path:
        """Write an engine so that it is there whole or not at all, and remove the model's oldest.

        Raises:
            StateUnusable: The folder cannot be written, or the disk is full.
        """
        path = self.path(order)
        header = _Header(
            key=order.key,
            model=order.model,
            label=order.label,
            precision=order.precision,
            tensorrt=order.tensorrt,
            gpu=order.gpu,
            architecture=order.architecture,
            usual=order.usual,
            build_s=build_s,
            plan_bytes=len(plan),
            plan_sha256=hashlib.sha256(plan).hexdigest(),
            layers=tuple(_Layer(**asdict(layer)) for layer in layers),
        )
        self._write(path, header.model_dump_json().encode() + b"\n" + plan)
        self._prune(order.model, path)
        return path

    def discard(self, order: Order, why: str) -> None:
        """Remove an engine that cannot be used."""
        _log.warning("the engine %s is discarded and has to be built anew: %s", self.path(order), why)
        with suppress(OSError):
            self.path(order).unlink()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Only one process builds in this folder, for each takes a lot of memory; others wait here."""
        path = self.folder / _LOCK
        try:
            self._make_folder()
            descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666)
        except OSError as error:
            told = f"{path} cannot be opened ({error.strerror or error})"
            _log.warning("%s: nothing keeps another process from building an engine at the same time", told)
            yield
            return
        with suppress(OSError):  # only its owner may, and has
            os.fchmod(descriptor, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def timing(self, order: Order) -> bytes:
        """How long kernels took when an engine was built before, or nothing; TensorRT checks whether it fits."""
        try:
            return self._timing_path(order).read_bytes()
        except OSError:
            return b""

    def keep_timing(self, order: Order, timing: bytes) -> None:
        """Write it for the next build. Raises as `keep`."""
        self._write(self._timing_path(order), timing)

    def _timing_path(self, order: Order) -> Path:
        return self.folder / f"timing-{_plain(order.tensorrt)}-{_plain(order.architecture)}.cache"

    def _make_folder(self) -> None:
        """The folder, which others than its owner may read whatever the umask says."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with suppress(OSError):
            self.folder.chmod(self.folder.stat().st_mode | 0o755)

    def _write(self, path: Path, data: bytes) -> None:
        unfinished = path.with_name(f".{path.name}.part")
        try:
            self._make_folder()
            with unfinished.open("wb") as file:
                os.fchmod(file.fileno(), 0o644)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
            _sync(self.folder)
        except OSError as error:
            with suppress(OSError):
                unfinished.unlink()
            raise StateUnusable(_why(self.folder, error)) from error

    def _prune(self, model: str, newest: Path) -> None:
        """Keep the engine that was just written and the one of this model that was used last."""
        name = re.compile(rf"{re.escape(_plain(model))}-[0-9a-f]{{{_KEY_CHARS}}}{re.escape(SUFFIX)}")
        with suppress(OSError):
            others = [path for path in self.folder.iterdir() if name.fullmatch(path.name) and path != newest]
            others.sort(key=lambda path: path.stat().st_mtime, reverse=True)
            for path in others[KEPT - 1 :]:
                _log.info("the engine %s is removed: newer ones of %s are kept", path, model)
                path.unlink()


def _unpacked(data: bytes, key: str, path: Path) -> KeptEngine:
    line, _, plan = data.partition(b"\n")
    try:
        header = _Header.model_validate_json(line)
    except ValidationError as error:
        raise ValueError("its first line does not say what it is") from error
    if header.key != key:
        raise ValueError("it was built for something else")
    if hashlib.sha256(plan).hexdigest() != header.plan_sha256:
        raise ValueError(f"its {len(plan)} bytes are not the {header.plan_bytes} that were built")
    layers = tuple(Layer(layer.name, layer.kind, layer.formats) for layer in header.layers)
    return KeptEngine(plan, header.build_s, layers, path)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.]", "_", name)


def _why(folder: Path, error: OSError) -> str:
    return (
        f"engines cannot be kept in {folder}: {error.strerror or error}; make room, or let this user write there, "
        "or the engine is built again at every start"
    )
