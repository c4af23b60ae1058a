"""ModelBundle: a network with its passport, in one file whose every byte is accounted for.

A bundle is a zip without compression that holds `manifest.json`, `manifest.sha256`, `model.onnx` and
`golden.npz`. There is exactly one way to pack given contents, and a file that is not packed that way is
refused; so a flipped byte anywhere, even in the zip's own headers, is found before anything is parsed further.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt

from edge_app.errors import BundleCorrupt, BundleError, BundleNotFound
from edge_app.estimate import Calibration
from edge_app.passport import Passport, Strict
from edge_app.patches import MIN_CONTRAST
from firmware.frames import FrameOptics

SUFFIX = ".parfocal"
FACTORY = Path(__file__).parent / "models"
_MEMBERS = ("manifest.json", "manifest.sha256", "model.onnx", "golden.npz")
_EPOCH = (1980, 1, 1, 0, 0, 0)
_ALSO = "also."
Arrays = dict[str, NDArray[Any]]
Precision = Literal["fp32", "fp16", "int8"]


class Also(Strict):
    """A further input, (N, width) float32: what the task's `also` says of the whole frame, once for every patch."""

    name: str
    width: PositiveInt


class Input(Strict):
    """What goes in: (N, patch, patch, 3) counts; N is at most `patches_at_most` a frame (0: no limit).

    `min_contrast` is the contrast of `patches.content` below which a patch counts as blank; `also` are the inputs
    beside the counts.
    """

    name: str
    patch_px: int
    dtype: Literal["uint8"] = "uint8"
    patches_at_most: int = 0
    min_contrast: float = MIN_CONTRAST
    also: tuple[Also, ...] = ()


class Training(Strict):
    """Where the model comes from; `stage` is the board whose own z labelled its frames, empty for simulated light."""

    recipe: str
    recipe_sha256: str
    seed: int
    commit: str
    steps: int
    duration_s: float
    data_duration_s: float = 0.0
    device: str
    versions: dict[str, str]
    stage: str = ""


class CalibrationTable(Strict):
    """The numbers of `estimate.Calibration` that belong to one kind of optics."""

    patch_scale: float
    floor_um: float
    patch_share: float
    spread_share: float
    thick_share: float = 0.0


class Calibrations(Strict):
    """How sigma is made, behind objectives whose aberrations the board declares, and behind others."""

    known: CalibrationTable
    unknown: CalibrationTable

    def which(self, known: bool, range_um: float) -> Calibration:
        """The calibration for one or the other."""
        table = self.known if known else self.unknown
        return Calibration(range_um, **table.model_dump())


class Manifest(Strict):
    """The passport page: what the model is, what it is for, how well it did, and the hashes of its files.

    `precision` is the lowest type that the graph itself states; a manifest that says nothing of it is of fp32.
    `calibration` is there for tasks that give a sigma; `facts` are what a task must know of its model besides.
    """

    format: Literal[1] = 1
    name: str
    version: str
    description: str
    task: str
    family: str
    parameters: int
    flop_per_patch: float
    precision: Precision = "fp32"
    input: Input
    outputs: tuple[str, ...]
    passport: Passport
    calibration: Calibrations | None = None
    facts: dict[str, float] = Field(default_factory=dict)
    metrics: dict[str, Any]
    training: Training
    sha256: dict[str, str]

    @property
    def label(self) -> str:
        """Name and version."""
        return f"{self.name}@{self.version}"

    def calibration_for(self, optics: FrameOptics) -> Calibration:
        """What fusing needs to know of a frame through these optics.

        Raises:
            BundleCorrupt: The manifest of a model of defocus has no calibration, or no range.
        """
        if self.calibration is None or self.passport.range_um is None:
            raise BundleCorrupt(f"{self.label} states no calibration of its sigma, or no range; use another bundle")
        return self.calibration.which(self.passport.knows(optics), self.passport.range_um)


@dataclass(frozen=True)
class ModelBundle:
    """A bundle in memory, checked.

    `golden_in` is (N, P, P, 3) uint8; `golden_out` maps each output's name to (N,) or (N, W) float32, `golden_also`
    each further input's to (N, width) float32.
    """

    manifest: Manifest
    onnx: bytes
    golden_in: NDArray[np.uint8]
    golden_out: Arrays
    sha256: str
    size_bytes: int
    golden_also: Arrays = field(default_factory=dict)


def pack(manifest: Manifest, onnx: bytes, golden: bytes) -> bytes:
    """The one encoding of a bundle; the manifest's hashes are filled in here."""
    hashes = {"model.onnx": _sha256(onnx), "golden.npz": _sha256(golden)}
    complete = manifest.model_copy(update={"sha256": hashes})
    text = json.dumps(_stated(complete), indent=1, sort_keys=True).encode()
    return _zip(
        {
            "manifest.json": text,
            "manifest.sha256": _sha256(text).encode(),
            "model.onnx": onnx,
            "golden.npz": golden,
        }
    )


def _stated(manifest: Manifest) -> dict[str, Any]:
    """A manifest as JSON values, without keys that say nothing new: appliances from before them refuse them."""
    values: dict[str, Any] = manifest.model_dump(mode="json")
    for name, silent in (("precision", "fp32"), ("calibration", None), ("facts", {})):
        if values[name] == silent:
            del values[name]
    if not manifest.input.also:
        del values["input"]["also"]
    return values


def golden_bytes(counts: NDArray[np.uint8], outputs: Arrays, also: Arrays | None = None) -> bytes:
    """Golden inputs, further inputs and outputs as reproducible npz bytes."""
    buffers = {}
    further = {f"{_ALSO}{name}": array for name, array in (also or {}).items()}
    for name, array in {"input": counts, **further, **outputs}.items():
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        buffers[f"{name}.npy"] = buffer.getvalue()
    return _zip(buffers)


def read(path: Path) -> ModelBundle:
    """Open a bundle and check every byte.

    Raises:
        BundleNotFound: There is no such file.
        BundleCorrupt: It is not a bundle, or a byte is not as it was packed.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BundleNotFound(f"cannot read the bundle {path}: {error.strerror}") from error
    try:
        with _opened(data) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        manifest = _checked(members, data)
        _opened(members["golden.npz"]).close()
        with np.load(io.BytesIO(members["golden.npz"]), allow_pickle=False) as golden:
            arrays: Arrays = {name: golden[name] for name in golden.files}
        counts = arrays.pop("input")
        also = {name.removeprefix(_ALSO): arrays.pop(name) for name in list(arrays) if name.startswith(_ALSO)}
        if set(arrays) != set(manifest.outputs) or manifest.input.patch_px != counts.shape[1]:
            raise ValueError("its golden outputs are not those that its manifest names")  # noqa: TRY301
        wanted = {further.name: (len(counts), further.width) for further in manifest.input.also}
        if {name: array.shape for name, array in also.items()} != wanted:
            raise ValueError("its golden inputs are not those that its manifest names")  # noqa: TRY301
    except Exception as error:  # parsers that meet damaged bytes may raise anything
        found = str(error).partition("\n")[0] or type(error).__name__
        raise BundleCorrupt(_corrupt(path, found)) from error
    return ModelBundle(manifest, members["model.onnx"], counts, arrays, _sha256(data), len(data), also)


def find(name: str) -> Path:
    """A bundle by path, or a factory bundle by its own name; `selection` is what chooses among these.

    Raises:
        BundleNotFound: Neither.
    """
    for path in (Path(name), FACTORY / f"{name}{SUFFIX}"):
        if path.is_file():
            return path
    known = ", ".join(p.name[: -len(SUFFIX)] for p in factory_bundles()) or "none"
    raise BundleNotFound(f"there is no bundle {name!r}; give a {SUFFIX} file or a factory bundle: {known}")


def factory_bundles() -> list[Path]:
    """The bundles that ship, in order of name."""
    return sorted(FACTORY.glob(f"*{SUFFIX}"))


def shipped() -> list[tuple[Path, ModelBundle]]:
    """The factory bundles that can be read, in order of name; where one is damaged the others still serve."""
    found = []
    for path in factory_bundles():
        with suppress(BundleError):
            found.append((path, read(path)))
    return found


def _opened(data: bytes) -> zipfile.ZipFile:
    """A zip whose members need no more memory than its bytes do, whoever made it.

    Raises:
        ValueError: One is packed, or they are larger together.
    """
    archive = zipfile.ZipFile(io.BytesIO(data))
    infos = archive.infolist()
    packed = any(info.compress_type != zipfile.ZIP_STORED for info in infos)
    if packed or sum(info.file_size for info in infos) > len(data):
        raise ValueError("it is not packed as a bundle is")
    return archive


def _checked(members: dict[str, bytes], data: bytes) -> Manifest:
    """The manifest, if the members and the file are exactly what was packed."""
    if tuple(members) != _MEMBERS or _zip(members) != data:
        raise ValueError("it is not packed as a bundle is")
    if _sha256(members["manifest.json"]).encode() != members["manifest.sha256"]:
        raise ValueError("the manifest is not the one that was packed")
    manifest = Manifest.model_validate_json(members["manifest.json"])
    for name in ("model.onnx", "golden.npz"):
        if manifest.sha256.get(name) != _sha256(members[name]):
            raise ValueError(f"{name} is not the one that was packed")
    return manifest


def _zip(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            info = zipfile.ZipInfo(name, _EPOCH)
            info.create_system, info.external_attr = 3, 0o644 << 16
            archive.writestr(info, data)
    return buffer.getvalue()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _corrupt(path: Path, what: str) -> str:
    return f"the bundle {path.name} is damaged: {what}; fetch it again"
