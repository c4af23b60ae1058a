"""Prints what NVIDIA's TensorRT bindings hold, as JSON: run with PYTHONPATH and LD_LIBRARY_PATH set to the rig's."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import sys
from typing import Any

# There is no such module outside the rig.
trt = importlib.import_module("tensorrt_bindings")

OVERLOAD = re.compile(r"^\s*(?:\d+\. )?(\w+)\((.*)\)(?: -> .*)?$")


def split(parameters: str) -> list[str]:
    """Parameters apart, at commas outside of every bracket."""
    parts, depth = [""], 0
    for letter in parameters:
        depth += (letter in "([{<") - (letter in ")]}>")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


def overloads(name: str, documentation: str) -> list[list[list[Any]]]:
    """Each overload's parameters as [name, may be left out], from what pybind11 writes into docstrings."""
    found = []
    for line in documentation.splitlines():
        match = OVERLOAD.match(line)
        if match and match[1] == name and "*args, **kwargs" not in line:
            parts = split(re.sub(r"<[^<>]*>", "_", match[2]))
            found.append([[re.split(r"[:=]", part)[0].strip(), "=" in part] for part in parts])
    return found


def signature(name: str, function: Any) -> list[list[list[Any]]]:
    """Overloads of one function, native or Python's."""
    if inspect.isfunction(function):
        parameters = inspect.signature(function).parameters.values()
        return [[[p.name, p.default is not p.empty] for p in parameters]]
    return overloads(name, function.__doc__ or "")


def describe(kind: type) -> dict[str, Any]:
    """Methods with overloads, properties, constants and enum members of one class, inherited ones included."""
    members = sorted(getattr(kind, "__members__", {}))
    methods, properties, constants = {}, [], []
    for name in dir(kind):
        if name in members or (name.startswith("_") and name != "__init__"):
            continue
        value = inspect.getattr_static(kind, name)
        value = getattr(value, "__func__", value)
        if isinstance(value, property):
            properties.append(name)
        elif callable(value) or type(value).__name__ in {"instancemethod", "builtin_function_or_method"}:
            methods[name] = signature(name, getattr(kind, name))
        else:
            constants.append(name)
    return {"methods": methods, "properties": properties, "constants": constants, "members": members}


names = [name for name in dir(trt) if not name.startswith("_")]
kinds = {name: getattr(trt, name) for name in names if isinstance(getattr(trt, name), type)}
inner = {
    f"{outer}.{name}": part
    for outer, kind in kinds.items()
    for name, part in vars(kind).items()
    if isinstance(part, type)
}
classes = {name: describe(kind) for name, kind in {**kinds, **inner}.items()}
functions = {
    name: signature(name, getattr(trt, name)) for name in names if name not in classes and callable(getattr(trt, name))
}
values = [name for name in names if name not in classes and name not in functions]
json.dump({"classes": classes, "functions": functions, "values": [*values, "__version__"]}, sys.stdout)
