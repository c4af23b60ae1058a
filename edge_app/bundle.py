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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, PositiveFloat

from edge_app.errors import BundleCorrupt, BundleError, BundleNotFound
from edge_app.estimate import Calibration, Verdict
from edge_app.patches import MIN_CONTRAST
from firmware.frames import Contrast, FrameOptics
from firmware.response import Kind

SUFFIX = ".parfocal"
FACTORY = Path(__file__).parent / "models"
_MEMBERS = ("manifest.json", "manifest.sha256", "model.onnx", "golden.npz")
_EPOCH = (1980, 1, 1, 0, 0, 0)
Arrays = dict[str, NDArray[Any]]
Range = tuple[float, float]
Precision = Literal["fp32", "fp16", "int8"]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


class Passport(_Table):
    """The optics and cameras that a model may be asked about.

    `response` are the kinds of `firmware.response.Response` that it accepts. `spherical_waves` and
    `longitudinal_colour_um` (red, green, blue) are the ranges around which its sigma holds for an objective that
    was measured; None where its sigma covers objectives that were not. The same, `_accepted`, are the ranges that it
    accepts of an objective whose aberrations are declared; None accepts all.
    """

    numerical_aperture: tuple[PositiveFloat, PositiveFloat]
    pixel_um: tuple[PositiveFloat, PositiveFloat]
    immersion_index: float = 1.0
    colour: bool = True
    contrast: Contrast = "brightfield"
    response: tuple[Kind, ...] = ("linear",)
    spherical_waves: Range | None = None
    longitudinal_colour_um: tuple[Range, Range, Range] | None = None
    spherical_waves_accepted: Range | None = None
    longitudinal_colour_um_accepted: tuple[Range, Range, Range] | None = None
    range_um: float

    def check(self, optics: FrameOptics) -> tuple[Verdict, str] | None:
        """Why a frame through these optics must not be judged, or None."""
        return (
            self._check_light(optics)
            or self._check_camera(optics)
            or self._check_scale(optics)
            or self._check_aberrations(optics)
        )

    def knows(self, optics: FrameOptics) -> bool:
        """Whether the objective was measured, and its aberrations lie inside the ranges of this passport."""
        waves, colour_um = optics.spherical_waves, optics.longitudinal_colour_um
        if waves is None or colour_um is None or self.spherical_waves is None or self.longitudinal_colour_um is None:
            return False
        inside = map(_within, colour_um, self.longitudinal_colour_um)
        return _within(waves, self.spherical_waves) and all(inside)

    def _check_light(self, optics: FrameOptics) -> tuple[Verdict, str] | None:
        if optics.numerical_aperture is None or optics.pixel_um is None:
            missing = "numerical aperture" if optics.numerical_aperture is None else "pixel size in the specimen"
            return Verdict.OPTICS_UNKNOWN, f"the {missing} is not known; {self._fits}. State it, or use the sweep"
        if optics.contrast != self.contrast:
            seen = f"this model is for {self.contrast}, and the board shows {optics.contrast}"
            return Verdict.WRONG_OPTICS, f"{seen}. Install a bundle for {optics.contrast}, or use the sweep"
        return None

    def _check_camera(self, optics: FrameOptics) -> tuple[Verdict, str] | None:
        if self.colour and not optics.colour:
            needed = "this model reads the differences between colours, and the camera is monochrome"
            return Verdict.WRONG_OPTICS, f"{needed}. Use a colour camera, a bundle for grey frames, or the sweep"
        if optics.colour and not self.colour:
            needed = "this model reads grey frames, and the camera sees colours"
            return Verdict.WRONG_OPTICS, f"{needed}. Use a bundle for colour frames, or the sweep"
        if optics.response in self.response:
            return None
        reads = f"this model reads {' or '.join(self.response)} frames, and the camera's response is {optics.response}"
        if optics.response == "unknown":
            cure = "Declare [camera.response] in the board file, or use a bundle for unknown responses, or the sweep"
            return Verdict.OPTICS_UNKNOWN, f"{reads}. {cure}"
        return Verdict.WRONG_OPTICS, f"{reads}. Use a bundle for {optics.response} frames, or the sweep"

    def _check_scale(self, optics: FrameOptics) -> tuple[Verdict, str] | None:
        """Aperture, pixel and immersion; the first two are known here."""
        assert optics.numerical_aperture is not None
        assert optics.pixel_um is not None
        inside = (
            _within(optics.numerical_aperture, self.numerical_aperture)
            and _within(optics.pixel_um, self.pixel_um)
            and abs(optics.immersion_index - self.immersion_index) < 0.02
        )
        if inside:
            return None
        here = f"NA {optics.numerical_aperture:.3g} and {optics.pixel_um:.3g} um per pixel"
        return Verdict.WRONG_OPTICS, f"the frame has {here}; {self._fits}. Train or install a bundle that fits"

    def _check_aberrations(self, optics: FrameOptics) -> tuple[Verdict, str] | None:
        """Those that are declared; an objective that nobody measured may have any."""
        names = ["spherical_waves", *(f"longitudinal_colour_um of {c}" for c in ("red", "green", "blue"))]
        declared = [optics.spherical_waves, *(optics.longitudinal_colour_um or (None,) * 3)]
        accepted = [self.spherical_waves_accepted, *(self.longitudinal_colour_um_accepted or (None,) * 3)]
        for name, value, bounds in zip(names, declared, accepted, strict=True):
            if value is not None and bounds is not None and not _within(value, bounds):
                low, high = (f"{round(end, 3) + 0.0:g}" for end in bounds)  # adding zero takes the sign off -0
                here = f"the board declares {value:.3g} as {name}, and this model is for {low} to {high}"
                cure = "Correct the board file, train or install a bundle that fits, or use the sweep"
                return Verdict.WRONG_OPTICS, f"{here}. {cure}"
        return None

    @property
    def _fits(self) -> str:
        return (
            f"this model is for NA {self.numerical_aperture[0]:.3g} to {self.numerical_aperture[1]:.3g} and "
            f"{self.pixel_um[0]:.3g} to {self.pixel_um[1]:.3g} um per pixel in the specimen"
        )


class Input(_Table):
    """What goes in: (N, patch, patch, 3) counts; N is at most `patches_at_most` a frame (0: no limit).

    `min_contrast` is the contrast of `patches.content` below which a patch counts as blank.
    """

    name: str
    patch_px: int
    dtype: Literal["uint8"] = "uint8"
    patches_at_most: int = 0
    min_contrast: float = MIN_CONTRAST


class Training(_Table):
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


class CalibrationTable(_Table):
    """The numbers of `estimate.Calibration` that belong to one kind of optics."""

    patch_scale: float
    floor_um: float
    patch_share: float
    spread_share: float
    thick_share: float = 0.0


class Calibrations(_Table):
    """How sigma is made, behind objectives whose aberrations the board declares, and behind others."""

    known: CalibrationTable
    unknown: CalibrationTable

    def which(self, known: bool, range_um: float) -> Calibration:
        """The calibration for one or the other."""
        table = self.known if known else self.unknown
        return Calibration(range_um, **table.model_dump())


class Manifest(_Table):
    """The passport page: what the model is, what it is for, how well it did, and the hashes of its files.

    `precision` is the lowest type that the graph itself states; a manifest that says nothing of it is of fp32.
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
    calibration: Calibrations
    metrics: dict[str, Any]
    training: Training
    sha256: dict[str, str]

    @property
    def label(self) -> str:
        """Name and version."""
        return f"{self.name}@{self.version}"

    def calibration_for(self, optics: FrameOptics) -> Calibration:
        """What fusing needs to know of a frame through these optics."""
        return self.calibration.which(self.passport.knows(optics), self.passport.range_um)


@dataclass(frozen=True)
class ModelBundle:
    """A bundle in memory, checked.

    `golden_in` is (N, P, P, 3) uint8; `golden_out` maps each output's name to (N,) float32.
    """

    manifest: Manifest
    onnx: bytes
    golden_in: NDArray[np.uint8]
    golden_out: Arrays
    sha256: str
    size_bytes: int


def pack(manifest: Manifest, onnx: bytes, golden: bytes) -> bytes:
    """The one encoding of a bundle; the manifest's hashes are filled in here."""
    hashes = {"model.onnx": _sha256(onnx), "golden.npz": _sha256(golden)}
    complete = manifest.model_copy(update={"sha256": hashes})
    silent = {"precision"} if manifest.precision == "fp32" else set()  # appliances before it refuse the key
    text = json.dumps(complete.model_dump(mode="json", exclude=silent), indent=1, sort_keys=True).encode()
    return _zip(
        {
            "manifest.json": text,
            "manifest.sha256": _sha256(text).encode(),
            "model.onnx": onnx,
            "golden.npz": golden,
        }
    )


def golden_bytes(counts: NDArray[np.uint8], outputs: Arrays) -> bytes:
    """Golden inputs and outputs as reproducible npz bytes."""
    buffers = {}
    for name, array in {"input": counts, **outputs}.items():
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
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        manifest = _checked(members, data)
        with np.load(io.BytesIO(members["golden.npz"]), allow_pickle=False) as golden:
            arrays: Arrays = {name: golden[name] for name in golden.files}
        counts = arrays.pop("input")
        if set(arrays) != set(manifest.outputs) or manifest.input.patch_px != counts.shape[1]:
            raise ValueError("its golden outputs are not those that its manifest names")  # noqa: TRY301
    except Exception as error:  # parsers that meet damaged bytes may raise anything
        found = str(error).partition("\n")[0] or type(error).__name__
        raise BundleCorrupt(_corrupt(path, found)) from error
    return ModelBundle(manifest, members["model.onnx"], counts, arrays, _sha256(data), len(data))


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


def _within(value: float, bounds: tuple[float, float]) -> bool:
    return bounds[0] <= value <= bounds[1]


def _corrupt(path: Path, what: str) -> str:
    return f"the bundle {path.name} is damaged: {what}; fetch it again"
