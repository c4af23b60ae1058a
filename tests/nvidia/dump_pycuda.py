"""Prints what pycuda's built driver holds, as JSON: run with PYTHONPATH and LD_LIBRARY_PATH set to the rig's."""

from __future__ import annotations

import inspect
import json
import re
import sys
from typing import Any

from pycuda import driver

SIGNATURE = re.compile(r"^(\w+)\((.*)\) -> .* :$")


def overloads(name: str, documentation: str) -> list[list[list[Any]]]:
    """Each overload's parameters as [name, may be left out], from what Boost.Python writes into docstrings."""
    found = []
    for line in documentation.splitlines():
        match = SIGNATURE.match(line)
        if match and match[1] == name:
            needed, _, optional = match[2].partition("[")
            parts = [(part, False) for part in needed.split(",")] + [(part, True) for part in optional.split(",")]
            told = [(re.sub(r"\(\w+\)|[\[\]]|=.*", "", part).strip(), free) for part, free in parts]
            found.append([[word, free] for word, free in told if word])
    return found


def signature(name: str, function: Any) -> list[list[list[Any]]]:
    """Overloads of one function, native or Python's."""
    if inspect.isfunction(function):
        parameters = inspect.signature(function).parameters.values()
        return [[[p.name, p.default is not p.empty or p.kind is p.VAR_KEYWORD] for p in parameters]]
    return overloads(name, getattr(function, "__doc__", None) or "")


def describe(kind: type) -> dict[str, Any]:
    """Methods with overloads, properties and constants of one class, inherited ones included."""
    methods, properties, members = {}, [], []
    for name in dir(kind):
        if name.startswith("_") and name != "__init__":
            continue
        value = inspect.getattr_static(kind, name)
        if isinstance(value, property):
            properties.append(name)
        elif callable(value) or isinstance(value, staticmethod):
            methods[name] = signature(name, getattr(kind, name))
        else:
            members.append(name)
    bases = [base.__name__ for base in kind.__mro__[1:-1]]
    return {"methods": methods, "properties": properties, "constants": [], "members": members, "bases": bases}


names = [name for name in dir(driver) if not name.startswith("_")]
classes = {name: describe(getattr(driver, name)) for name in names if isinstance(getattr(driver, name), type)}
functions = {
    name: signature(name, getattr(driver, name))
    for name in names
    if name not in classes and callable(getattr(driver, name))
}
values = [name for name in names if name not in classes and name not in functions]
try:
    driver.init()
except driver.RuntimeError as error:
    refusal = str(error)
json.dump({"classes": classes, "functions": functions, "values": values, "refusal": refusal}, sys.stdout)
