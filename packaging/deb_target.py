"""Target: what one file of targets/ says of the machines that a Debian package is for."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
"""Debian's name of an architecture, and Python's."""


@dataclass(frozen=True)
class Target:
    """One kind of machine.

    Attributes:
        name: the file's name.
        suite: the distribution's code name.
        suffix: what tells this target's packages from others of the same version and architecture.
        python: the distribution's Python, "3.11".
        glibc: the distribution's C library, "2.36"; wheels may ask for no newer one.
        extras: of pyproject.toml.
        depends: Debian packages beyond Python's and systemd's.
        pins: what constraints/ does not pin.
        made: scripts of this folder that make wheels which no index has.
    """

    name: str
    description: str
    architecture: str
    suite: str
    suffix: str
    python: str
    glibc: str
    extras: tuple[str, ...]
    depends: tuple[str, ...]
    recommends: tuple[str, ...]
    pins: tuple[str, ...] = ()
    made: tuple[str, ...] = ()

    @property
    def machine(self) -> str:
        """Python's name of the architecture, "aarch64"."""
        return MACHINES[self.architecture]

    @property
    def abi(self) -> str:
        """CPython's tag, "cp311"."""
        return "cp" + self.python.replace(".", "")

    @property
    def constraints(self) -> Path:
        """The resolved set for this Python."""
        return ROOT / "constraints" / f"py{self.python.replace('.', '')}.txt"

    @property
    def drop_in(self) -> Path:
        """What the service's unit has beyond the others'."""
        return ROOT / "systemd" / "targets" / f"{self.name}.conf"

    @property
    def platforms(self) -> list[str]:
        """The platform tags of wheels that run there, newest first."""
        newest = int(self.glibc.split(".")[1])
        tags = [f"manylinux_2_{minor}_{self.machine}" for minor in range(newest, 16, -1)]
        return [*tags, f"manylinux2014_{self.machine}", f"linux_{self.machine}"]

    @property
    def markers(self) -> dict[str, str]:
        """What environment markers are asked about there (PEP 508)."""
        return {
            "implementation_name": "cpython",
            "implementation_version": f"{self.python}.0",
            "os_name": "posix",
            "platform_machine": self.machine,
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": "Linux",
            "platform_version": "",
            "python_full_version": f"{self.python}.0",
            "python_version": self.python,
            "sys_platform": "linux",
        }

    def debian_version(self, version: str) -> str:
        """Version of pyproject.toml as Debian compares it: 0.2.0rc1 comes before 0.2.0, bookworm's before trixie's.

        Not "~deb12", which is usual: then 0.2.0~rc1~deb12 would be newer than 0.2.0~deb12.
        """
        ahead = re.sub(r"(a|b|rc)(\d+)", r"~\1\2", version)
        return re.sub(r"\.dev(\d+)", r"~~dev\1", ahead) + f"+{self.suffix}"


def names() -> list[str]:
    """All targets, by file."""
    return sorted(path.stem for path in (HERE / "targets").glob("*.toml"))


def load(name: str) -> Target:
    """Read a target.

    Raises:
        ValueError: there is none of that name, or its file is not one.
    """
    path = HERE / "targets" / f"{name}.toml"
    if not path.is_file():
        raise ValueError(f"there is no target {name}; there are {', '.join(names())}.")
    return read(name, path)


def read(name: str, path: Path) -> Target:
    """Read the file of a target.

    Raises:
        ValueError: it has unknown keys, lacks one, or a value of the wrong kind.
    """
    said = read_toml(path)
    known = {field.name for field in fields(Target)} - {"name"}
    if unknown := set(said) - known:
        raise ValueError(f"{path.name} has the unknown key {', '.join(sorted(unknown))}.")
    try:
        target = Target(name=name, **{key: _value(key, value) for key, value in said.items()})
    except TypeError as error:
        raise ValueError(f"{path.name}: {error}.") from None
    if target.architecture not in MACHINES:
        raise ValueError(f"{path.name}: architecture is one of {', '.join(MACHINES)}.")
    return target


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file's table."""
    return tomllib.loads(path.read_text(encoding="utf-8"))


def _value(key: str, value: Any) -> Any:
    several = key in {"extras", "depends", "recommends", "pins", "made"}
    if several and isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    if not several and isinstance(value, str):
        return value
    raise TypeError(f"{key} is {'a list of strings' if several else 'a string'}")
