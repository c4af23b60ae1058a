"""The wheels of a package: ours from the tree, the others from the index, for another machine than this one."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from deb_target import HERE, ROOT, Target, read_toml

PIP_FOR_ANOTHER_MACHINE = """
import json, sys
from pip._vendor.packaging import markers
from pip._internal.cli.main import main
environment = json.loads(sys.argv.pop(1))
markers.default_environment = lambda: dict(environment)
sys.exit(main(sys.argv[1:]))
"""
"""pip asks environment markers about the Python that runs it, whatever --python-version says: here they are told."""

SOURCE_ONLY = ("sdnotify",)
"""Pure Python that the index has no wheel of."""


class PackagingError(Exception):
    """Why there is no package; a sentence."""


def project(root: Path = ROOT) -> dict[str, Any]:
    """The table [project] of pyproject.toml."""
    table: dict[str, Any] = read_toml(root / "pyproject.toml")["project"]
    return table


def requirements(target: Target) -> list[str]:
    """What the target installs beside our own wheel, as requirements."""
    table = project()
    extras = [requirement for extra in target.extras for requirement in table["optional-dependencies"][extra]]
    return [*table["dependencies"], *extras]


def pins(target: Target) -> dict[str, str]:
    """Plain name to version: the target's own pins and those of constraints/."""
    lines = [*target.constraints.read_text(encoding="utf-8").splitlines(), *target.pins]
    pairs = [line.split("==") for line in lines if "==" in line and not line.startswith("#")]
    return {plain(name.strip()): version.strip() for name, version in pairs}


def plain(name: str) -> str:
    """A project's name as requirements, wheels' file names and their metadata all have it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def cache() -> Path:
    """Where wheels stay between builds."""
    return Path(os.environ.get("PARFOCAL_RIGS") or Path.home() / ".cache/parfocal-rigs") / "wheels"


def run(command: list[str], what: str, **environment: str) -> str:
    """What the command prints.

    Raises:
        PackagingError: it fails; with the end of what it said.
    """
    done = subprocess.run(  # noqa: S603
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        end = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        raise PackagingError(f"{what}: {command[0]} failed with {done.returncode}:\n{end}")
    return done.stdout


def pip(*arguments: str, what: str, target: Target | None = None, **environment: str) -> str:
    """Run pip, for the target's machine where one is given."""
    head = ["-m", "pip"] if target is None else ["-c", PIP_FOR_ANOTHER_MACHINE, json.dumps(target.markers)]
    return run([sys.executable, *head, *arguments], what, PIP_DISABLE_PIP_VERSION_CHECK="1", **environment)


def machine_flags(target: Target) -> list[str]:
    """What tells pip for which machine it looks."""
    platforms = [flag for platform in target.platforms for flag in ("--platform", platform)]
    return ["--only-binary=:all:", "--implementation", "cp", "--python-version", target.python, *platforms]


def fetch(target: Target) -> Path:
    """The folder with the target's wheels but ours; downloaded unless that was done before.

    Raises:
        PackagingError: a wheel cannot be had.
    """
    constraint_lines = [f"{name}=={version}" for name, version in sorted(pins(target).items())]
    sources = [(HERE / script).read_bytes() for script in target.made] + [Path(__file__).read_bytes()]
    recipe = hashlib.sha256(json.dumps([requirements(target), constraint_lines, target.platforms]).encode())
    for source in sources:
        recipe.update(source)
    folder = cache() / f"{target.name}-{recipe.hexdigest()[:12]}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        part = Path(scratch) / "wheels"
        part.mkdir()
        _download(target, part, constraint_lines)
        part.rename(folder)
    for stale in folder.parent.glob(f"{target.name}-*"):
        if stale != folder:
            shutil.rmtree(stale)
    return folder


def _download(target: Target, part: Path, constraint_lines: list[str]) -> None:
    pinned = pins(target)
    for name in SOURCE_ONLY:
        pip("wheel", "-q", "--no-deps", "-w", str(part), f"{name}=={pinned[name]}", what=f"{name} from source")
    for script in target.made:
        run(["bash", str(HERE / script), str(part)], f"the wheel of {script}")
    constraints = part.parent / "constraints.txt"
    constraints.write_text("\n".join(constraint_lines), encoding="utf-8")
    pip(
        *("download", "-q", "--dest", str(part), "--find-links", str(part), "-c", str(constraints)),
        *machine_flags(target),
        *requirements(target),
        what=f"the wheels for {target.name}",
        target=target,
    )


def fetch_setuptools(target: Target) -> Path:
    """The folder with the setuptools that our own wheel is built with."""
    requirement = f"setuptools=={pins(target)['setuptools']}"
    folder = cache() / requirement.replace("==", "-")
    if not folder.is_dir():
        flags = ("-q", "--no-deps", "--only-binary=:all:", "--dest", str(folder))
        pip("download", *flags, requirement, what="setuptools")
    return folder


def build_ours(target: Target, version: str, epoch: int, out: Path) -> Path:
    """Our own wheel, from the files that git knows; the same tree gives the same bytes.

    Args:
        target: whose pins name the setuptools to build with.
        version: pyproject.toml's, or another to test upgrades with.
        epoch: seconds since 1970 that files are dated with.
        out: where the wheel is put.
    """
    tools = fetch_setuptools(target)
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch) / "tree"
        copy_tree(tree)
        pyproject = (tree / "pyproject.toml").read_text(encoding="utf-8")
        own = f'version = "{project()["version"]}"'
        (tree / "pyproject.toml").write_text(pyproject.replace(own, f'version = "{version}"', 1), encoding="utf-8")
        pip(
            *("wheel", "-q", "--no-deps", "--no-index", "--find-links", str(tools), "-w", str(out), str(tree)),
            what="our own wheel",
            SOURCE_DATE_EPOCH=str(epoch),
        )
    return next(out.glob(f"parfocal-{version}-*.whl"))


def copy_tree(tree: Path) -> None:
    """Copy what a wheel is made of: files that git tracks, and new ones that it does not ignore."""
    wanted = ["pyproject.toml", "README.md", "LICENSE", "firmware", "edge_app", "model_export"]
    listed = run(["git", "-C", str(ROOT), "ls-files", "-coz", "--exclude-standard", "--", *wanted], "the tree's files")
    for name in filter(None, listed.split("\0")):
        source = ROOT / name
        if source.is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, tree / name)


def check_complete(target: Target, wheels: Path, version: str) -> list[str]:
    """What pip would install on the target from these wheels alone, as name==version lines.

    Raises:
        PackagingError: something is missing, or does not fit the target.
    """
    extras = f"[{','.join(target.extras)}]" if target.extras else ""
    with tempfile.TemporaryDirectory() as scratch:
        # Not "install --dry-run": that one holds Requires-Python against the Python that runs pip.
        pip(
            *("download", "-q", "--no-index", "--find-links", str(wheels), "--dest", scratch, *machine_flags(target)),
            f"parfocal{extras}=={version}",
            what=f"the wheels for {target.name} are not complete",
            target=target,
            PIP_NO_INDEX="1",
        )
        chosen = [path.name.split("-")[:2] for path in Path(scratch).glob("*.whl")]
    return sorted(f"{name}=={found}" for name, found in chosen)
