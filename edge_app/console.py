"""What the terminal shows: the result on stdout, as text or one JSON document; all else on stderr."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from edge_app.errors import AppError
from firmware.errors import FirmwareError

if TYPE_CHECKING:
    from rich.console import Console

Progress = Callable[[int, int, str], None]


def show(result: dict[str, Any], as_json: bool, lines: Callable[[Console], None]) -> None:
    """Put a result on stdout: as one JSON document, or by the function that prints it for a person."""
    from rich.console import Console

    if as_json:
        typer.echo(json.dumps(_plain(result), indent=2, allow_nan=False))
    else:
        lines(Console(soft_wrap=True, markup=False, highlight=False))


@contextmanager
def progress() -> Iterator[Progress]:
    """A progress bar on stderr; gives the function that moves it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _done, _total, _text: None
        return
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total, text: bar.update(task, completed=done, total=total, description=text)


def run(
    app: typer.Typer,
    arguments: list[str],
    program: str = "parfocal",
    faults: tuple[type[Exception], ...] = (FirmwareError, AppError),
) -> int:
    """Run a command line: 0 if it did what was asked, 1 for a fault, 2 for wrong usage, 130 if interrupted.

    `faults` are the errors whose message is all that a user needs.

    A fault is one line on stderr, or {"error": {"kind", "message"}} on stdout with --json; PARFOCAL_DEBUG=1
    shows the traceback instead.
    """
    as_json = "--json" in arguments
    # gRPC's own C++ log lines say nothing that the errors here do not say.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        return int(app(arguments or ["--help"], standalone_mode=False, prog_name=program) or 0)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        usage = hasattr(error, "format_message")
        if os.environ.get("PARFOCAL_DEBUG") == "1" and not usage:
            raise
        kind, message = _told(error, program, faults)
        _fail(kind, message, as_json)
        return 2 if usage else 1


def _told(error: Exception, program: str, faults: tuple[type[Exception], ...]) -> tuple[str, str]:
    kind = type(error).__name__
    if isinstance(error, faults):
        return kind, str(error)
    format_message = getattr(error, "format_message", None)
    if format_message is not None:
        return "Usage", f"{format_message()} `{program} COMMAND --help` lists what there is"
    if isinstance(error, OSError):
        return kind, f"{error.filename or 'the system'}: {error.strerror or error}"
    return kind, f"unforeseen: {error}; run it again with PARFOCAL_DEBUG=1 and report the traceback"


def _fail(kind: str, message: str, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"error": {"kind": kind, "message": message}}))
    else:
        sys.stderr.write(f"error: {' '.join(message.split())}\n")


def _plain(value: Any) -> Any:
    """The same without numbers that JSON does not have."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
