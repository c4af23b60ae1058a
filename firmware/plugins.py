"""Drivers by file name: `cameras/replay.py` is the camera "replay"; adding a file edits nothing else."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from types import ModuleType

from firmware.errors import UnknownPlugin


def names(package: str) -> list[str]:
    """The plug-ins in a package's folder, sorted."""
    folder = Path(str(importlib.import_module(package).__file__)).parent
    return sorted(m.name for m in pkgutil.iter_modules([str(folder)]) if not m.name.startswith("_"))


def load(package: str, name: str) -> ModuleType:
    """Import one plug-in.

    Raises:
        UnknownPlugin: There is no such file in the folder.
    """
    known = names(package)
    if name not in known:
        folder = package.replace(".", "/")
        raise UnknownPlugin(f"there is no {name!r} in {folder}/; it has: {', '.join(known)}")
    return importlib.import_module(f"{package}.{name}")
