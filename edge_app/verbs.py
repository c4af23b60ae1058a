"""What the command line says and does with replies: a line for a look, an estimate, an outcome."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from rich.console import Console

from edge_app import bundle as bundles
from edge_app import curve_picture, pictures, wire_answers, wire_curves
from edge_app.client import Client
from edge_app.config import Settings, read_settings
from edge_app.console import Progress
from edge_app.controller import STRATEGIES, task_of
from edge_app.errors import BadRequest, RemoteError
from edge_app.opening import NO_MODEL, assemble
from edge_app.selection import FACTORY
from edge_app.server import serving
from edge_app.stubs.parfocal.v1 import focus_pb2, microscope_pb2, models_pb2
from firmware import plugins

Say = Callable[[str], None]
_PICTURES = ("image_png",)
_LOOKS_EXPECTED = 100
_TOTAL_BLUR = 4


@contextmanager
def local(config: Path | None, strategy: str, **flags: str | int | None) -> Iterator[Client]:
    """Open a board in this process and reach it as a server would be reached, through a private socket.

    A strategy that asks no model opens none. Raises as `read_settings` and `assemble`.
    """
    settings = read_settings(config, **flags)
    _note_other_task(settings.bundle, strategy)
    if flags.get("board") is None and settings.board == Settings.model_fields["board"].default:
        sys.stderr.write("note: this is the simulated microscope; name yours with --board, or a server with --at\n")
    if strategy in plugins.names(STRATEGIES) and not task_of(strategy):
        settings = settings.model_copy(update={"bundle": NO_MODEL})
    with (
        tempfile.TemporaryDirectory(prefix="parfocal-") as folder,
        assemble(settings) as appliance,
        serving(appliance, f"unix:{folder}/socket") as address,
        Client(address, timeout_s=None) as client,
    ):
        yield client


def _note_other_task(bundle: str, strategy: str) -> None:
    """Say it if a bundle was named that the strategy does not ask: its model then comes from the factory.

    Raises:
        BundleError: There is no such bundle, or it is damaged.
    """
    asked = task_of(strategy)
    if not asked or bundle in (NO_MODEL, FACTORY):
        return
    task = bundles.read(bundles.find(bundle)).manifest.task
    if task != asked:
        sys.stderr.write(f"note: {bundle} is for {task}; {strategy} asks for {asked}, which the factory answers\n")


def focus(client: Client, strategy: str, say: Say) -> tuple[list[dict[str, Any]], focus_pb2.Outcome]:
    """Focus and say a line for each look; gives the looks and the outcome.

    Raises:
        RemoteError: The server ended the job without an outcome.
    """
    looks: list[dict[str, Any]] = []
    for event in client.focus(strategy):
        if event.HasField("outcome"):
            return looks, event.outcome
        looks.append(fields(event.look))
        say(look_line(event.look))
    raise RemoteError(f"{client.address} ended the job without an outcome; look at its log")


def calibrate(client: Client, dry_run: bool, progress: Progress) -> microscope_pb2.CalibrationResult:
    """Measure the axis, with progress; gives the result.

    Raises:
        RemoteError: The server ended the job without a result.
    """
    for event in client.calibrate_mechanics(dry_run):
        if event.HasField("result"):
            return event.result
        look = event.look
        progress(look.index + 1, _LOOKS_EXPECTED, f"{look.why}: {estimate_line(look.estimate)}")
    raise RemoteError(f"{client.address} ended the calibration without a result; look at its log")


def calibrate_focus(
    client: Client, objective: str, range_and_step_um: tuple[float, float], dry_run: bool, progress: Progress
) -> microscope_pb2.FocusCalibrationResult:
    """Record a focus curve under an objective, with progress; gives the result.

    Raises:
        RemoteError: The server ended the job without a result.
    """
    if objective:
        client.select_objective(objective)
    for event in client.calibrate_focus(*range_and_step_um, dry_run=dry_run):
        if event.HasField("result"):
            return event.result
        look = event.look
        score = f"score {look.score:.3f}" if look.HasField("score") else "nothing to read"
        progress(look.index + 1, look.expected, f"{look.why} at {look.z_um:+.2f} um: {score}")
    raise RemoteError(f"{client.address} ended the calibration without a result; look at its log")


def curve_lines(result: microscope_pb2.FocusCalibrationResult) -> str:
    """A focus calibration in words."""
    if not result.HasField("curve"):
        return f"no curve: {result.sentence}"
    curve = result.curve
    return (
        f"{curve.objective} with {curve.model}: {len(curve.points)} slices, a Moffat fit explains "
        f"{curve.explained:.1%} (alpha {curve.alpha_um:.2f} um, beta {curve.beta:.2f})\n{result.sentence}"
    )


def draw_curve(result: microscope_pb2.FocusCalibrationResult, path: Path | None) -> None:
    """Draw the curve of a calibration, if there is one and a picture is wanted. Raises as `draw_map`."""
    check_picture(path)
    if path is not None and result.HasField("curve"):
        curve_picture.draw(wire_curves.curve_from(result.curve), path)


def mechanics_fields(result: microscope_pb2.CalibrationResult) -> dict[str, Any]:
    """A calibration as plain values; those of an inconclusive one are None."""
    found, known = result.mechanics, result.HasField("mechanics")
    return {
        "direction": found.direction if known else None,
        "backlash_um": found.backlash_um if known else None,
        "backlash_ci_um": [found.backlash_low_um, found.backlash_high_um] if known else None,
        "um_per_step": found.um_per_step if known else None,
        "um_per_step_ci": [found.um_per_step_low, found.um_per_step_high] if known else None,
        "scans": found.scans if known else 0,
        "readings": found.readings if known else 0,
        "model": found.model,
        "adopted": result.adopted,
        "kept_in": result.kept_in,
        "rehome": result.rehome,
        "sentence": result.sentence,
    }


def mechanics_lines(result: microscope_pb2.CalibrationResult) -> str:
    """A calibration in words."""
    if not result.HasField("mechanics"):
        return f"inconclusive: {result.sentence}"
    found = result.mechanics
    way = "away from" if found.direction > 0 else "towards"
    return (
        f"direction   {found.direction:+d} (positive motor steps move the objective {way} the specimen)\n"
        f"backlash    {found.backlash_um:.2f} um (95 %: {found.backlash_low_um:.2f} to {found.backlash_high_um:.2f})\n"
        f"um per step {found.um_per_step:.5f} (95 %: {found.um_per_step_low:.5f} to {found.um_per_step_high:.5f})\n"
        f"{found.scans} scans, {found.readings} looks with {found.model}\n{result.sentence}"
    )


def in_focus(outcome: focus_pb2.Outcome) -> bool:
    """Whether the job ended in focus: moved there, or nothing sharper was found than where it began."""
    if outcome.kind in (focus_pb2.OUTCOME_KIND_STAYED, focus_pb2.OUTCOME_KIND_RETURNED):
        return outcome.verdict == focus_pb2.VERDICT_OK
    return outcome.kind == focus_pb2.OUTCOME_KIND_FOCUSED


def look_line(look: focus_pb2.Look) -> str:
    """One look of a job."""
    seen = estimate_line(look.estimate) if look.HasField("estimate") else f"sharpness {look.sharpness:.3g}"
    if look.HasField("quality"):
        seen = quality_line(look.quality)
    if look.HasField("scores"):
        score = look.scores
        seen = f"blur score {score.score:.3f}" if score.HasField("score") else score.sentence
    decision = "" if seen.endswith(look.decision) else f"; {look.decision}"
    return f"look {look.index} at {look.z_um:+.2f} um: {seen}{decision}"


def estimate_line(estimate: focus_pb2.Estimate) -> str:
    """An estimate and what it is worth."""
    verdict = _words(focus_pb2.Verdict.Name(estimate.verdict), "VERDICT_")
    if estimate.verdict == focus_pb2.VERDICT_OK:
        patches = f"{estimate.patches_used} of {estimate.patches_total} patches"
        return f"defocus {estimate.defocus_um:+.2f} +- {estimate.sigma_um:.2f} um from {patches}"
    return f"{verdict}: {estimate.sentence}"


def quality_line(quality: focus_pb2.Quality) -> str:
    """A grade and what it is worth."""
    if not quality.HasField("distance_index"):
        return f"{_words(focus_pb2.Verdict.Name(quality.verdict), 'VERDICT_')}: {quality.sentence}"
    patches = f"{quality.patches_used} of {quality.patches_total} patches"
    told = f"{quality.name} (class {quality.distance_index}), certainty {quality.certainty:.2f} from {patches}"
    if quality.HasField("spacing_um") and quality.distance_index != _TOTAL_BLUR:
        told += f"; about {quality.mean_index * quality.spacing_um:+.1f} um from focus"
    if quality.verdict != focus_pb2.VERDICT_OK:
        told = f"{_words(focus_pb2.Verdict.Name(quality.verdict), 'VERDICT_')}; {told}"
    return f"{told}. {quality.sentence}" if quality.sentence else told


def outcome_line(outcome: focus_pb2.Outcome) -> str:
    """How a job ended."""
    kind = _words(focus_pb2.OutcomeKind.Name(outcome.kind), "OUTCOME_KIND_")
    path = f"{outcome.start_z_um:+.2f} to {outcome.end_z_um:+.2f} um"
    cost = f"{outcome.frames} frames, {outcome.moves} moves, {outcome.duration_s:.2f} s"
    faults = "".join(f"\nmotion: {fault.sentence}" for fault in outcome.motion_faults)
    return f"{kind}: {outcome.sentence} ({path}; {cost}; {outcome.strategy}){faults}"


def status_lines(reply: microscope_pb2.DescribeReply) -> str:
    """What a server serves, and what troubles it."""
    if reply.HasField("trouble"):
        return f"parfocal {reply.serving_version} serves no board: {reply.trouble}"
    trust = _words(microscope_pb2.AxisTrust.Name(reply.axis.trust), "AXIS_TRUST_")
    model = f"{reply.model} in {reply.runtime}" if reply.HasField("model") else "none"
    note = f"\n{reply.runtime_note}" if reply.runtime_note else ""
    return (
        f"parfocal {reply.serving_version} serves {reply.board}: {reply.description}\n"
        f"camera {reply.camera.driver}, axis {reply.axis.driver} ({trust})\n"
        f"model {model}: {reply.why_model}{note}"
    )


def position_line(reply: microscope_pb2.GetPositionReply) -> str:
    """Where the objective is, and what it is doing."""
    trust = _words(microscope_pb2.AxisTrust.Name(reply.trust), "AXIS_TRUST_")
    doing = f", busy with {reply.busy_with}" if reply.HasField("busy_with") else ""
    return f"{reply.z_um:+.2f} um ({trust}){', moving' if reply.moving else ''}{doing}"


def fields(message: Message) -> dict[str, Any]:
    """A reply as plain values, without its pictures; enums by name, absent values left out."""
    plain = MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    return {name: value for name, value in plain.items() if name not in _PICTURES}


def print_models(reply: models_pb2.ListReply, out: Console) -> None:
    """Two or three lines a model: its name, what it is for, whether it fits; a sentence if there is none."""
    if not reply.models:
        out.print("no model is installed; the strategy sweep works without one")
        return
    for model in reply.models:
        optics = model.optics
        fits = f"fits this board{', and is its choice' if model.preferred else ''}"
        if not model.fits_this_board:
            fits = f"does not fit: {model.why_not}"
        reach = f", +-{optics.range_um:.0f} um" if optics.range_um else ""
        out.print(
            f"{model.name}@{model.version}\n"
            f"  {model.task}{reach}, {_reads(optics)}; {model.size_bytes / 1e3:.0f} KB\n"
            f"  {_scale(optics)}\n"
            f"  {fits}",
        )


def _reads(optics: models_pb2.OpticsPassport) -> str:
    """The frames that a model reads; servers from before `grey` say only whether it reads colour."""
    kinds = [kind for kind, wanted in (("colour", optics.colour), ("grey", optics.grey)) if wanted] or ["grey"]
    return f"{' or '.join(optics.responses)} {optics.contrast or 'frames of any contrast'} in {' or '.join(kinds)}"


def _scale(optics: models_pb2.OpticsPassport) -> str:
    parts = []
    if optics.numerical_aperture_high:
        parts.append(f"NA {optics.numerical_aperture_low:.3g} to {optics.numerical_aperture_high:.3g}")
    if optics.pixel_high_um:
        parts.append(f"{optics.pixel_low_um:.3g} to {optics.pixel_high_um:.3g} um per pixel in the specimen")
    return ", ".join(parts) or "any aperture, any pixel"


def draw_map(reply: focus_pb2.MeasureReply, full_width_px: int, path: Path) -> None:
    """Write a measured frame with its map.

    Raises:
        BadRequest: No picture can be written under this name.
    """
    check_picture(path)
    patches = wire_answers.patch_map_from(reply.estimate)
    assert patches is not None
    rgb = pictures.from_png(reply.image_png)
    pictures.defocus_map(rgb, patches, full_width_px, estimate_line(reply.estimate), path)


def check_picture(path: Path | None) -> None:
    """Refuse a name that no picture can be written under, before somebody records for it.

    Raises:
        BadRequest: It has another ending, or lies in a folder that is not there.
    """
    if path is not None and path.suffix.lower() not in {".png", ".pdf", ".svg"}:
        raise BadRequest(f"cannot draw into {path}; give a name that ends in .png, .pdf or .svg")
    if path is not None and not path.parent.is_dir():
        raise BadRequest(f"cannot draw into {path}, for its folder is not there; make it, or give another name")


def _words(name: str, prefix: str) -> str:
    return name.removeprefix(prefix).replace("_", " ").lower()
