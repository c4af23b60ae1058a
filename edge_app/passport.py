"""Passport: the optics and cameras that a model may be asked about, and what it says to others."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, PositiveFloat

from edge_app.answer import Refusal, Verdict
from firmware.frames import Contrast, FrameOptics
from firmware.response import Kind

Range = tuple[float, float]


class Strict(BaseModel):
    """A table of a manifest: no key too many, no number that is none."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


class Passport(Strict):
    """The optics and cameras that a model may be asked about.

    `response` are the kinds of `firmware.response.Response` that it accepts. `spherical_waves` and
    `longitudinal_colour_um` (red, green, blue) are the ranges around which its sigma holds for an objective that
    was measured; None where its sigma covers objectives that were not. The same, `_accepted`, are the ranges that it
    accepts of an objective whose aberrations are declared; None accepts all. Aperture, pixel, immersion, colour and
    contrast may be None too: then the model takes any, even one that nobody knows, and `range_um` if it has none.
    """

    numerical_aperture: tuple[PositiveFloat, PositiveFloat] | None
    pixel_um: tuple[PositiveFloat, PositiveFloat] | None
    immersion_index: float | None = 1.0
    colour: bool | None = True
    contrast: Contrast | None = "brightfield"
    response: tuple[Kind, ...] = ("linear",)
    spherical_waves: Range | None = None
    longitudinal_colour_um: tuple[Range, Range, Range] | None = None
    spherical_waves_accepted: Range | None = None
    longitudinal_colour_um_accepted: tuple[Range, Range, Range] | None = None
    range_um: float | None

    def check(self, optics: FrameOptics) -> Refusal | None:
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

    def _check_light(self, optics: FrameOptics) -> Refusal | None:
        needed = (
            ("numerical aperture", self.numerical_aperture, optics.numerical_aperture),
            ("pixel size in the specimen", self.pixel_um, optics.pixel_um),
        )
        for what, bounds, known in needed:
            if bounds is not None and known is None:
                return Verdict.OPTICS_UNKNOWN, f"the {what} is not known; {self._fits}. State it, or use the sweep"
        if self.contrast is not None and optics.contrast != self.contrast:
            seen = f"this model is for {self.contrast}, and the board shows {optics.contrast}"
            return Verdict.WRONG_OPTICS, f"{seen}. Install a bundle for {optics.contrast}, or use the sweep"
        return None

    def _check_camera(self, optics: FrameOptics) -> Refusal | None:
        if self.colour and not optics.colour:
            needed = "this model reads the differences between colours, and the camera is monochrome"
            return Verdict.WRONG_OPTICS, f"{needed}. Use a colour camera, a bundle for grey frames, or the sweep"
        if optics.colour and self.colour is False:
            needed = "this model reads grey frames, and the camera sees colours"
            return Verdict.WRONG_OPTICS, f"{needed}. Use a bundle for colour frames, or the sweep"
        if optics.response in self.response:
            return None
        reads = f"this model reads {' or '.join(self.response)} frames, and the camera's response is {optics.response}"
        if optics.response == "unknown":
            cure = "Declare [camera.response] in the board file, or use a bundle for unknown responses, or the sweep"
            return Verdict.OPTICS_UNKNOWN, f"{reads}. {cure}"
        return Verdict.WRONG_OPTICS, f"{reads}. Use a bundle for {optics.response} frames, or the sweep"

    def _check_scale(self, optics: FrameOptics) -> Refusal | None:
        """Aperture, pixel and immersion; what the model minds of the first two is known here."""
        immersion = self.immersion_index
        inside = (
            _accepts(self.numerical_aperture, optics.numerical_aperture)
            and _accepts(self.pixel_um, optics.pixel_um)
            and (immersion is None or abs(optics.immersion_index - immersion) < 0.02)
        )
        if inside:
            return None
        known = (
            (optics.numerical_aperture, "NA {:.3g}"),
            (optics.pixel_um, "{:.3g} um per pixel"),
            (optics.immersion_index if immersion is not None else None, "immersion {:g}"),
        )
        here = ", ".join(words.format(value) for value, words in known if value is not None)
        return Verdict.WRONG_OPTICS, f"the frame has {here}; {self._fits}. Train or install a bundle that fits"

    def _check_aberrations(self, optics: FrameOptics) -> Refusal | None:
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
        parts = []
        if self.numerical_aperture is not None:
            parts.append(f"NA {self.numerical_aperture[0]:.3g} to {self.numerical_aperture[1]:.3g}")
        if self.pixel_um is not None:
            parts.append(f"{self.pixel_um[0]:.3g} to {self.pixel_um[1]:.3g} um per pixel in the specimen")
        if self.immersion_index is not None:
            parts.append(f"immersion {self.immersion_index:g}")
        return f"this model is for {', '.join(parts) or 'any optics'}"


def _within(value: float, bounds: tuple[float, float]) -> bool:
    return bounds[0] <= value <= bounds[1]


def _accepts(bounds: tuple[float, float] | None, value: float | None) -> bool:
    return bounds is None or (value is not None and _within(value, bounds))
