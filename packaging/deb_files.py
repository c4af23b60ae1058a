"""The texts of a Debian package: control, changelog, copyright and checksums. Nothing here writes a file."""

from __future__ import annotations

import hashlib
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from email.message import Message
from email.utils import format_datetime

from deb_target import Target

MAINTAINER = "parfocal maintainers <maintainers@parfocal.invalid>"
SECTION = re.compile(r"^## (?P<version>\S+), (?P<date>.+)$")
NEWEST_PYTHON = {"3.10": "3.11", "3.11": "3.12", "3.12": "3.13", "3.13": "3.14"}


@dataclass(frozen=True)
class Wheel:
    """What a package says of a wheel that it carries."""

    name: str
    version: str
    licence: str
    unpacked_bytes: int


def control(target: Target, version: str, installed_kb: int, summary: str) -> str:
    """The package's control file.

    Args:
        target: the machines it is for.
        version: Debian's.
        installed_kb: what its own files take.
        summary: one line without a full stop.
    """
    python = [f"python3 (>= {target.python})", f"python3 (<< {NEWEST_PYTHON[target.python]})", "python3-venv"]
    depends = [*python, "systemd", "udev", "passwd", "init-system-helpers (>= 1.54)", *target.depends]
    about = (
        f"This package is for {target.description}, with Python {target.python}. Its Python libraries come with it, "
        "into an environment of their own below /opt/parfocal; installing it needs no network."
    )
    return "\n".join(
        [
            "Package: parfocal",
            f"Version: {version}",
            f"Architecture: {target.architecture}",
            f"Maintainer: {MAINTAINER}",
            f"Installed-Size: {installed_kb}",
            f"Depends: {', '.join(depends)}",
            f"Recommends: {', '.join(target.recommends)}",
            "Section: science",
            "Priority: optional",
            f"Description: {summary}",
            " A microscope with a small board bolted to it focuses by itself: one look,",
            " one move, one check. parfocal takes a frame, lets a small network say how",
            " far out of focus it is and on which side, moves the Z axis and checks that",
            " the move helped. It is served over gRPC by the unit parfocal.service.",
            " .",
            textwrap.fill(about, 78, initial_indent=" ", subsequent_indent=" "),
            "",
        ]
    )


def changelog(markdown: str, target: Target, epoch: int) -> str:
    """CHANGELOG.md in Debian's form.

    Args:
        markdown: sections "## VERSION, DATE" with lists; DATE is an ISO date, or anything while it is not released.
        target: whose suffix and suite the entries carry.
        epoch: seconds since 1970, the date of an entry that has none.
    """
    entries: list[list[str]] = []
    for line in markdown.splitlines():
        if head := SECTION.match(line):
            entries.append([head["version"], head["date"]])
        elif entries:
            entries[-1].append(line)
    return "\n".join(_entry(entry[0], entry[1], entry[2:], target, epoch) for entry in entries)


def _entry(version: str, date: str, lines: Sequence[str], target: Target, epoch: int) -> str:
    items: list[str] = []
    for line in filter(None, map(str.strip, lines)):
        if line.startswith("- ") or not items:
            items.append(line.removeprefix("- "))
        else:
            items[-1] += " " + line
    body = [textwrap.fill(item, 76, initial_indent="  * ", subsequent_indent="    ") for item in items]
    try:
        when = datetime.fromisoformat(date).replace(tzinfo=timezone.utc)
    except ValueError:
        when = datetime.fromtimestamp(epoch, timezone.utc)
    head = f"parfocal ({target.debian_version(version)}) {target.suite}; urgency=medium"
    return "\n".join([head, "", *body, "", f" -- {MAINTAINER}  {format_datetime(when)}", ""])


def copyright_text(wheels: Sequence[Wheel]) -> str:
    """Our licence, and those of the wheels, whose texts lie in the wheels."""
    others = "\n".join(
        f"  {wheel.name} {wheel.version}: {wheel.licence}" for wheel in wheels if wheel.name != "parfocal"
    )
    return f"""Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: parfocal
Comment:
 The wheels below /usr/lib/parfocal/wheels are their authors', unchanged, as the
 Python Package Index has them; each holds its own licence and names its source:
 .
{others}

Files: *
Copyright: 2026 the parfocal authors
License: Apache-2.0
 On Debian systems the full text of the Apache License, version 2.0, is in
 /usr/share/common-licenses/Apache-2.0.
"""


def licence(metadata: Message) -> str:
    """A wheel's licence in a few words, from its METADATA."""
    if expression := metadata.get("License-Expression"):
        return str(expression)
    prefix = "License :: OSI Approved :: "
    classifiers = [str(line) for line in metadata.get_all("Classifier", [])]
    if named := [line[len(prefix) :] for line in classifiers if line.startswith(prefix)]:
        return ", ".join(named)
    said = str(metadata.get("License") or "").strip().splitlines()
    return said[0][:60] if said else "see the wheel"


def md5sums(files: Mapping[str, bytes]) -> str:
    """DEBIAN/md5sums: a line a file, sorted by path.

    Args:
        files: path below the root, without a leading slash, to content.
    """
    lines = (f"{hashlib.md5(content, usedforsecurity=False).hexdigest()}  {path}" for path, content in files.items())
    return "".join(line + "\n" for line in sorted(lines, key=lambda line: line.split("  ", 1)[1]))


def script(template: str, values: Mapping[str, str]) -> str:
    """A maintainer script with its @NAMES@ filled in.

    Raises:
        ValueError: a name is left that has no value.
    """
    for name, value in values.items():
        template = template.replace(f"@{name}@", value)
    if left := re.search(r"@[A-Z_]+@", template):
        raise ValueError(f"a maintainer script has {left.group()}, which nobody fills in.")
    return template
