"""first_light: the first frame of a board, and what its model says of it."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import numpy as np

from edge_app.answer import DEFOCUS, Verdict
from edge_app.config import Settings
from edge_app.controller import STRATEGIES, Controller, task_of
from edge_app.doctor import Finding, why
from edge_app.errors import AppError
from edge_app.estimate import DefocusEstimate
from edge_app.model import Model, ModelSource
from edge_app.opening import folder_of
from edge_app.ota.depot import Depot
from edge_app.shelf import Shelf
from firmware import plugins
from firmware.errors import FirmwareError
from firmware.frames import Frame
from firmware.microscope import Microscope
from firmware.profile import BoardProfile

_DARK = 0.05
_FULL = 0.98
_MUCH = 0.5
_UNLIKE = 3.0
_VISIBLE = 0.02
_OF_THE_BOARD = frozenset({Verdict.TOO_DARK, Verdict.SATURATED, Verdict.STALE_FRAME})
_STALE = "; the camera only gave frames from before they were asked for: raise flush_frames in [camera]"


def findings(profile: BoardProfile, settings: Settings, microscope: Microscope | None) -> Iterator[Finding]:
    """One frame, the model for it, and one inference; without a microscope the model alone."""
    frame = None
    if microscope is not None:
        frame = yield from _frame(microscope)
    model = yield from _model(profile, settings)
    if model is not None and microscope is not None and frame is not None:
        yield _verdict(microscope, model, frame)


def _frame(microscope: Microscope) -> Generator[Finding, None, Frame | None]:
    driver, clock = microscope.profile.camera.driver, microscope.clock
    began_s = clock.now_s()
    try:
        frame = microscope.capture()
    except Exception as error:  # noqa: BLE001 - a driver may raise anything
        yield Finding("camera", driver, False, why(error))
        return None
    took_ms = (clock.now_s() - began_s) * 1e3
    kind = f"{frame.width_px}x{frame.height_px}, {frame.bits} bits, {frame.response.kind}"
    detail = f"took a frame in {took_ms:.0f} ms: {kind}, exposed for {frame.exposure_ms:.1f} ms"
    yield Finding("camera", driver, frame.fresh, detail + ("" if frame.fresh else _STALE))
    yield _light(frame)
    if frame.response.kind == "raw":
        wrong = _wrong_pattern(frame) or _wrong_black(frame)
        yield Finding("camera", "response", not wrong, wrong or "its pattern and black level agree with the frame")
    return frame


def _light(frame: Frame) -> Finding:
    """How bright it is, above the black level."""
    full = 2**frame.bits - 1
    black = frame.response.black_level
    # An odd stride meets every colour of a mosaic.
    counts = frame.pixels[::3, ::3].astype(np.float32)
    level = float((np.median(counts) - black) / (full - black))
    blown = float((counts >= _FULL * full).mean())
    detail = f"median {max(level, 0.0):.0%} of full scale, {blown:.0%} of the pixels saturated"
    if blown > _MUCH:
        return Finding("camera", "light", False, f"{detail}; dim the lamp, or lower exposure_ms in [camera]")
    if level < _DARK:
        cure = "switch the lamp on, take off the lens cap, or raise exposure_ms in [camera]"
        return Finding("camera", "light", False, f"nearly black: {detail}; {cure}")
    return Finding("camera", "light", True, detail)


def _wrong_pattern(frame: Frame) -> str:
    """What speaks against the declared mosaic: its two greens differ, and the other two colours do not."""
    pattern = str(frame.response.pattern)
    even = frame.pixels[: frame.height_px // 2 * 2, : frame.width_px // 2 * 2]
    a, b, c, d = (float(even[row::2, column::2].mean()) for row in (0, 1) for column in (0, 1))
    greens, others = (abs(b - c), abs(a - d)) if pattern[0] != "G" else (abs(a - d), abs(b - c))
    if greens < _VISIBLE * (2**frame.bits - 1) or greens < _UNLIKE * others:
        return ""
    choice = "GRBG or GBRG" if pattern[0] != "G" else "RGGB or BGGR"
    return f"the two greens of {pattern} are not alike in this frame; correct pattern in [camera.response]: {choice}"


def _wrong_black(frame: Frame) -> str:
    """What speaks against the declared black level: much of the frame is darker."""
    black, dark = frame.response.black_level, float(np.quantile(frame.pixels[::3, ::3], 0.01))
    if dark >= 0.75 * black:
        return ""
    return f"black_level is {black:g}, but the frame goes down to {dark:g}; correct it in [camera.response]"


def _model(profile: BoardProfile, settings: Settings) -> Generator[Finding, None, Model | None]:
    """The model that this board gets; where the board's strategy needs none, it may lack one."""
    strategy = profile.focus.strategy
    if strategy not in plugins.names(STRATEGIES):
        known = ", ".join(plugins.names(STRATEGIES))
        yield Finding("model", strategy, False, f"there is no such strategy; correct strategy in [focus]: {known}")
        return None
    task = task_of(strategy)
    needed = bool(task)
    without = (
        f'the strategy {strategy} needs a model: write strategy = "sweep" in [focus], which needs none'
        if needed
        else f"the strategy {strategy} needs none"
    )
    if settings.bundle == "none":
        yield Finding("model", "none", not needed, f"not asked for; {without}")
        return None
    objective = profile.objective[0]
    optics = profile.frame_optics(objective)
    try:
        folder = folder_of(settings, profile)
        shelf = Shelf() if folder is None else Depot(folder).shelf()
        model = ModelSource(settings.bundle, settings.runtime, settings.threads, shelf=shelf).model_for(
            optics, task=task or DEFOCUS
        )
    except AppError as error:
        yield Finding("model", settings.bundle, False, str(error))
        return None
    refusal = model.bundle.manifest.passport.check(optics)
    if refusal is not None:
        detail = f"refuses the objective {objective.name}: {refusal[1]}; {without}, or declare what is really there"
        yield Finding("model", model.label, not needed, detail)
        return None
    yield Finding("model", model.label, True, f"{model.why}; computed by {model.runtime.name}")
    return model


def _verdict(microscope: Microscope, model: Model, frame: Frame) -> Finding:
    """One look at the frame through the line that serves."""
    try:
        look = Controller(microscope, model).judge(frame, model.bundle.manifest.task)
    except (AppError, FirmwareError) as error:
        return Finding("model", "verdict", False, str(error))
    answer = look.seen.answer
    assert answer is not None
    said = answer.sentence
    if answer.verdict is Verdict.OK:
        said = ", ".join(f"{name} {figure:.3g}" for name, figure in answer.figures().items())
    if answer.verdict is Verdict.OK and isinstance(answer, DefocusEstimate):
        said = f"{answer.defocus_um:+.1f} um from focus, +-{answer.sigma_um:.1f} um"
    took_ms = sum(look.stage_ms.values())
    detail = f"{answer.verdict.value}: {said}; judged in {took_ms:.0f} ms"
    return Finding("model", "verdict", answer.verdict not in _OF_THE_BOARD, detail)
