"""What NVIDIA's real bindings hold, and what our stand-ins and our code take from them."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
VERSIONS = ("10.3.0", "10.16.1.11", "11.4.0.106")
_RECIPE = ROOT / "tests" / "nvidia" / "rig.sh"
_PATIENCE_S = 60


def rig() -> Path:
    """The folder that rig.sh made for this Python; skips the test where it could not, and fails where it broke."""
    home = Path(os.environ.get("PARFOCAL_RIGS") or Path.home() / ".cache" / "parfocal-rigs") / "nvidia"
    tag = f"py{sys.version_info.major}{sys.version_info.minor}"
    place, reason = home / tag, home / f"{tag}.reason"
    wanted = hashlib.sha256(_RECIPE.read_bytes()).hexdigest()[:16]
    made = place / "recipe"
    if made.is_file() and made.read_text().strip() == wanted:
        return place
    told = reason.read_text().strip() if reason.is_file() else ""
    if told.startswith("broken"):
        pytest.fail(f"tests/nvidia/rig.sh is {told}")
    pytest.skip(f"NVIDIA's bindings are not prepared: {told or 'make nvidia-rig prepares them'}")


def run(folder: Path, *words: str) -> str:
    """What Python prints with one of the rig's folders in front of all others, and its stub libraries."""
    before = [str(folder), str(ROOT)]
    environment = {**os.environ, "LD_LIBRARY_PATH": str(folder / "lib"), "PYTHONPATH": os.pathsep.join(before)}
    command = [sys.executable, *words]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=_PATIENCE_S, check=False, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@lru_cache
def tensorrt(version: str) -> dict[str, Any]:
    """Classes, functions and values of TensorRT's bindings of one version."""
    folder = rig() / f"tensorrt-{version}"
    if not folder.is_dir():
        pytest.skip(f"TensorRT {version} has no bindings for Python {sys.version_info.major}.{sys.version_info.minor}")
    told: dict[str, Any] = json.loads(run(folder, str(ROOT / "tests" / "nvidia" / "dump_tensorrt.py")))
    return told


@lru_cache
def pycuda() -> dict[str, Any]:
    """Classes, functions and values of pycuda's driver, and how it refuses to begin without a GPU."""
    told: dict[str, Any] = json.loads(run(rig() / "pycuda", str(ROOT / "tests" / "nvidia" / "dump_pycuda.py")))
    return told


@lru_cache
def driver_functions() -> frozenset[str]:
    """What libcuda exports for today's callers: where the header renames a function, the old name is another one."""
    header = (rig() / "include" / "cuda.h").read_text()
    declared = set(re.findall(r"^CUresult CUDAAPI (cu\w+)\(", header, re.MULTILINE))
    renamed = re.findall(r"^\s*#\s*define (cu\w+)\s+(?:__CUDA_API_PT\w+\()?(cu\w+)\)?\s*$", header, re.MULTILINE)
    return frozenset((declared - {old for old, new in renamed if old != new}) | {new for _, new in renamed})


@dataclass(frozen=True)
class Stated:
    """One name that a stand-in has: `Class.method` or `function`, its parameters, and the versions that have it."""

    name: str
    parameters: tuple[tuple[str, bool], ...] | None
    since: str
    until: str

    def applies(self, version: str) -> bool:
        """Whether that version is said to have it."""
        return _number(self.since) <= _number(version) < _number(self.until)


def stated(source: str, own: frozenset[str] = frozenset()) -> Iterator[Stated]:
    """All public names of a stand-in's classes and functions, but for its `own`, such as `Faults` or `Stream.lane`.

    `SINCE = "11.0"` and `UNTIL = "11.0"` in a class, or `@since("11.0")` and `@until("11.0")`, say which versions
    have a name.
    """
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef) and not _private(node.name, own):
            yield from _of_class(node, node.name, own)
        elif isinstance(node, ast.FunctionDef) and not _private(node.name, own):
            yield Stated(node.name, _parameters(node), *_marks(node))


def faults(names: list[Stated], real: dict[str, Any], version: str) -> list[str]:
    """A sentence for each name of a stand-in that the real bindings do not have in that form."""
    return [fault for one in names if one.applies(version) for fault in _fault(one, real)]


def taken(source: str, roots: set[str]) -> Iterator[tuple[str, ast.Call | None]]:
    """Each dotted name that code takes from a module which it calls by one of `roots`, with the call if it is one."""
    tree = ast.parse(source)
    calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            path = _path(node, roots)
            if path:
                yield path, calls.get(id(node))


def unknown(path: str, call: ast.Call | None, real: dict[str, Any]) -> str:
    """What is wrong with a dotted name, or with how it is called; "" if nothing."""
    if not _has(path, real):
        return f"there is no {path}"
    if call is None or any(isinstance(argument, ast.Starred) for argument in call.args):
        return ""
    forms = _forms(path, real)
    told = [(f"#{index}", False) for index in range(len(call.args))]
    told += [(word.arg or "", False) for word in call.keywords]
    return "" if any(_called(told, form) for form in forms) else f"{path} is not called like that: {forms}"


def functions_named(source: str) -> set[str]:
    """The driver's functions that code names, as attributes or as text."""
    tree = ast.parse(source)
    words = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    words |= {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return {word for word in words if re.fullmatch(r"cu[A-Z]\w+", word)}


def _of_class(node: ast.ClassDef, path: str, own: frozenset[str]) -> Iterator[Stated]:
    since, until = _marks(node)
    yield Stated(path, None, since, until)
    seen = {"SINCE", "UNTIL"}
    for part in node.body:
        if isinstance(part, ast.ClassDef) and not _private(f"{path}.{part.name}", own):
            yield from _of_class(part, f"{path}.{part.name}", own)
        elif isinstance(part, ast.FunctionDef) and part.name not in seen and not _private(f"{path}.{part.name}", own):
            seen.add(part.name)
            decorators = {getattr(d, "id", getattr(d, "attr", "")) for d in part.decorator_list}
            attribute = decorators & {"property", "cached_property", "setter"}
            parameters = None if attribute else _parameters(part)
            yield Stated(f"{path}.{part.name}", parameters, *_marks(part, since, until))
    for name in sorted(_assigned(node) - seen):
        if not _private(f"{path}.{name}", own):
            yield Stated(f"{path}.{name}", None, since, until)


def _assigned(node: ast.ClassDef) -> set[str]:
    """Names that a class gives values to, in its body or on `self`."""
    found = set()
    for part in ast.walk(node):
        if (
            isinstance(part, ast.Attribute)
            and isinstance(part.ctx, ast.Store)
            and getattr(part.value, "id", "") == "self"
        ):
            found.add(part.attr)
    for part in node.body:
        targets = (
            part.targets if isinstance(part, ast.Assign) else [part.target] if isinstance(part, ast.AnnAssign) else []
        )
        found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


def _parameters(node: ast.FunctionDef) -> tuple[tuple[str, bool], ...]:
    positional = [*node.args.posonlyargs, *node.args.args]
    free = len(positional) - len(node.args.defaults)
    told = [(argument.arg, index >= free) for index, argument in enumerate(positional)]
    told += [(a.arg, d is not None) for a, d in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)]
    return tuple(told)


def _fault(one: Stated, real: dict[str, Any]) -> list[str]:
    if not _has(one.name, real):
        return [f"there is no {one.name}"]
    forms = _forms(one.name, real)
    constructor = one.name.endswith(".__init__")
    if one.parameters is None or (constructor and not forms):
        return []
    if any(_fits(one.parameters, form) for form in forms):
        return []
    return [f"{one.name}{tuple(name for name, _ in one.parameters)} is none of {forms}"]


def _has(path: str, real: dict[str, Any]) -> bool:
    holder, _, last = path.rpartition(".")
    if path in real["classes"] or path in real["functions"] or path in real["values"]:
        return True
    described = real["classes"].get(holder)
    return bool(described) and any(
        last in described[kind] for kind in ("methods", "properties", "constants", "members")
    )


def _forms(path: str, real: dict[str, Any]) -> list[list[list[Any]]]:
    if path in real["classes"]:
        return [form[1:] for form in _forms(f"{path}.__init__", real)]
    if path in real["functions"]:
        return list(real["functions"][path])
    holder, _, last = path.rpartition(".")
    return list(real["classes"].get(holder, {}).get("methods", {}).get(last, []))


def _fits(ours: tuple[tuple[str, bool], ...], theirs: list[list[Any]]) -> bool:
    """Whether a call that our function takes is one that theirs takes."""
    same = all(
        (name == real or re.fullmatch(r"arg\d+|self", real)) and (free or not may_lack)
        for (name, may_lack), (real, free) in zip(ours, theirs, strict=False)
    )
    return same and len(ours) <= len(theirs) and all(free for _, free in theirs[len(ours) :])


def _called(told: list[tuple[str, bool]], form: list[list[Any]]) -> bool:
    placed = [name for name, _ in told if name.startswith("#")]
    named = [name for name, _ in told if not name.startswith("#")]
    rest = form[len(placed) :]
    wanted = {name for name, _ in rest}
    given = set(named)
    return len(placed) <= len(form) and given <= wanted and all(free or name in given for name, free in rest)


def _path(node: ast.expr, roots: set[str]) -> str:
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        if node.attr in roots and parts:
            return ".".join(reversed(parts))
        parts.append(node.attr)
        node = node.value
    return ".".join(reversed(parts)) if isinstance(node, ast.Name) and node.id in roots else ""


def _marks(node: ast.ClassDef | ast.FunctionDef, since: str = "0", until: str = "9999") -> tuple[str, str]:
    marks = {"since": since, "until": until}
    for call in node.decorator_list:
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in marks:
            marks[call.func.id] = str(ast.literal_eval(call.args[0]))
    for part in node.body if isinstance(node, ast.ClassDef) else []:
        if isinstance(part, ast.Assign) and isinstance(part.targets[0], ast.Name):
            name = part.targets[0].id.lower()
            if part.targets[0].id.isupper() and name in marks:
                marks[name] = str(ast.literal_eval(part.value))
    return marks["since"], marks["until"]


def _private(path: str, own: frozenset[str]) -> bool:
    last = path.rpartition(".")[2]
    return path in own or (last.startswith("_") and last != "__init__")


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
