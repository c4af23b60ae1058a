"""The error trees: one root each, and no dead wood."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

MODULES = {
    "firmware.errors": "FirmwareError",
    "edge_app.errors": "AppError",
    "model_export.errors": "ExportError",
}
SOURCES = [
    path.read_text(encoding="utf-8")
    for package in ("firmware", "edge_app", "model_export")
    for path in (Path(__file__).parent.parent / package).rglob("*.py")
    if "stubs" not in path.parts and path.name != "errors.py"
]


def errors_of(module: str) -> dict[str, type[Exception]]:
    found = vars(importlib.import_module(module)).items()
    return {name: kind for name, kind in found if isinstance(kind, type) and issubclass(kind, Exception)}


@pytest.mark.parametrize(("module", "root"), MODULES.items())
def test_the_errors_of_a_package_are_one_tree(module: str, root: str) -> None:
    errors = errors_of(module)
    assert all(issubclass(kind, errors[root]) for kind in errors.values())
    assert errors[root].__bases__ == (Exception,)
    assert all(kind.__module__ == module and kind.__doc__ for kind in errors.values())


LEAVES = [name for module in MODULES for name, kind in errors_of(module).items() if not kind.__subclasses__()]


@pytest.mark.parametrize("name", LEAVES)
def test_every_error_is_raised_somewhere(name: str) -> None:
    assert any(re.search(rf"\b{name}\(|raise {name}\b", text) for text in SOURCES)
