"""Builds the Debian package of each target that is named: wheels, units, maintainer scripts, reproducibly.

python packaging/build_deb.py [--out dist] [--as-version X] [TARGET ... | all]; without a target it is this machine's.
"""

from __future__ import annotations

import argparse
import email
import gzip
import os
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

import deb_files
import deb_target
import deb_wheels
from deb_target import HERE, ROOT, Target
from deb_wheels import PackagingError

UNITS = "usr/lib/systemd/system"
UNIT_FILES = ("parfocal.service", "parfocal-engines.service", "parfocal-update.service", "parfocal-update.timer")
LINKS = ("parfocal", "parfocal-model")
SCRIPTS = ("postinst", "prerm", "postrm")
CONFIGURATION = "etc/parfocal/parfocal.toml"


def build(target: Target, version: str, epoch: int, out: Path) -> Path:
    """Make the target's package.

    Args:
        target: which machines it is for.
        version: Python's.
        epoch: seconds since 1970 that every file is dated with.
        out: the folder for parfocal_VERSION_ARCHITECTURE.deb.

    Raises:
        PackagingError: wheels are missing, or a tool is.
    """
    debian_version = target.debian_version(version)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "root"
        wheels = stage_wheels(target, version, epoch, root / "usr/lib/parfocal/wheels" / debian_version)
        stage_system(target, root)
        stage_documents(target, wheels, epoch, root)
        stage_control(target, version, wheels, root)
        settle(root, epoch)
        out.mkdir(parents=True, exist_ok=True)
        package = out / f"parfocal_{debian_version}_{target.architecture}.deb"
        # Wheels are compressed already; tighter than this takes long and saves a hundredth.
        deb_wheels.run(
            ["dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", str(root), str(package)],
            "the package",
            SOURCE_DATE_EPOCH=str(epoch),
        )
    return package


def stage_wheels(target: Target, version: str, epoch: int, folder: Path) -> list[deb_files.Wheel]:
    """Put all wheels and requirements.txt, which names them exactly, into the folder."""
    fetched = deb_wheels.fetch(target)
    folder.mkdir(parents=True)
    deb_wheels.build_ours(target, version, epoch, folder)
    for path in fetched.glob("*.whl"):
        shutil.copyfile(path, folder / path.name)
    lines = deb_wheels.check_complete(target, folder, version)
    (folder / "requirements.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    wheels = [read_wheel(path) for path in sorted(folder.glob("*.whl"))]
    needed = {deb_wheels.plain(line.split("==")[0]) for line in lines}
    if spare := [wheel.name for wheel in wheels if deb_wheels.plain(wheel.name) not in needed]:
        raise PackagingError(f"{target.name} would carry wheels that nothing needs: {', '.join(spare)}.")
    return wheels


def read_wheel(path: Path) -> deb_files.Wheel:
    """What a wheel says of itself."""
    with zipfile.ZipFile(path) as archive:
        entry = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(entry))
        unpacked_bytes = sum(info.file_size for info in archive.infolist())
    return deb_files.Wheel(metadata["Name"], metadata["Version"], deb_files.licence(metadata), unpacked_bytes)


def stage_system(target: Target, root: Path) -> None:
    """Units, users, folders, devices, the configuration, and the commands' links into the environment."""
    systemd = ROOT / "systemd"
    copies = {
        **{systemd / name: f"{UNITS}/{name}" for name in UNIT_FILES},
        target.drop_in: f"{UNITS}/parfocal.service.d/10-{target.name.replace('_', '-')}.conf",
        systemd / "parfocal.sysusers": "usr/lib/sysusers.d/parfocal.conf",
        systemd / "parfocal.tmpfiles": "usr/lib/tmpfiles.d/parfocal.conf",
        systemd / "60-parfocal.rules": "usr/lib/udev/rules.d/60-parfocal.rules",
        systemd / "parfocal.toml": CONFIGURATION,
        HERE / "debian/trial.py": "usr/lib/parfocal/trial.py",
        **{script: f"usr/lib/parfocal/{script.name}" for script in sorted((HERE / "rollout").glob("*.sh"))},
    }
    for source, place in copies.items():
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, root / place)
    (root / "usr/bin").mkdir()
    for name in LINKS:
        (root / "usr/bin" / name).symlink_to(f"/opt/parfocal/current/bin/{name}")


def stage_documents(target: Target, wheels: list[deb_files.Wheel], epoch: int, root: Path) -> None:
    """Licences, what changed, the README, docs/, and the files to be copied: boards, Grafana's and Prometheus's."""
    folder = root / "usr/share/doc/parfocal"
    (folder / "boards").mkdir(parents=True)
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        shutil.copyfile(page, folder / page.name)
    for board in sorted((ROOT / "firmware/boards").glob("*.toml")):
        shutil.copyfile(board, folder / "boards" / board.name)
    (folder / "grafana").mkdir()
    for panel in sorted((ROOT / "grafana").iterdir()):
        shutil.copyfile(panel, folder / "grafana" / panel.name)
    (folder / "copyright").write_text(deb_files.copyright_text(wheels), encoding="utf-8")
    changes = deb_files.changelog((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), target, epoch)
    # A package of which no other makes the source is native: its changelog is not called changelog.Debian.
    (folder / "changelog.gz").write_bytes(gzip.compress(changes.encode(), 9, mtime=0))


def stage_control(target: Target, version: str, wheels: list[deb_files.Wheel], root: Path) -> None:
    """DEBIAN/: control, scripts, checksums, and which file is the user's to change."""
    places = [path for path in sorted(root.rglob("*")) if path.is_file() and not path.is_symlink()]
    files = {str(path.relative_to(root)): path.read_bytes() for path in places}
    installed_kb = sum(-(-len(content) // 1024) for content in files.values())
    folder = root / "DEBIAN"
    folder.mkdir()
    values = {
        "VERSION": target.debian_version(version),
        "PYTHON_VERSION": version,
        "ARCHITECTURE": target.architecture,
        "NEEDS_MB": str(needs_mb(wheels)),
    }
    for name in SCRIPTS:
        template = (HERE / "debian" / name).read_text(encoding="utf-8")
        (folder / name).write_text(deb_files.script(template, values), encoding="utf-8")
    summary = deb_wheels.project()["description"].rstrip(".").replace("Autofocus", "autofocus", 1)
    control = deb_files.control(target, values["VERSION"], installed_kb, summary)
    (folder / "control").write_text(control, encoding="utf-8")
    (folder / "md5sums").write_text(deb_files.md5sums(files), encoding="utf-8")
    (folder / "conffiles").write_text(f"/{CONFIGURATION}\n", encoding="utf-8")


def needs_mb(wheels: list[deb_files.Wheel]) -> int:
    """What an environment of these wheels takes: a third more for compiled Python, pip itself, and blocks."""
    return round(sum(wheel.unpacked_bytes for wheel in wheels) / 2**20 * 1.33 + 40)


def settle(root: Path, epoch: int) -> None:
    """Give every file the same date, and modes that do not depend on who builds."""
    for path in [root, *root.rglob("*")]:
        if not path.is_symlink():
            script = path.parent.name == "DEBIAN" and path.name in SCRIPTS
            path.chmod(0o755 if path.is_dir() or script else 0o644)
        os.utime(path, (epoch, epoch), follow_symlinks=False)


def last_commit_s() -> int:
    """When the last commit was made, seconds since 1970; SOURCE_DATE_EPOCH goes first."""
    if said := os.environ.get("SOURCE_DATE_EPOCH"):
        return int(said)
    return int(deb_wheels.run(["git", "-C", str(ROOT), "log", "-1", "--format=%ct"], "the last commit's date"))


def here() -> str:
    """The target that this machine is.

    Raises:
        PackagingError: it is none of them.
    """
    lines = Path("/etc/os-release").read_text(encoding="utf-8").splitlines()
    said = dict(line.split("=", 1) for line in lines if "=" in line)
    suite = said.get("VERSION_CODENAME", "").strip('"')
    machine = os.uname().machine
    for target in map(deb_target.load, deb_target.names()):
        if (target.suite, target.machine) == (suite, machine):
            return target.name
    raise PackagingError(
        f"this machine ({suite or 'no code name'}, {machine}) is no target; "
        f"name one: make deb TARGET={'|'.join([*deb_target.names(), 'all'])}"
    )


def main(arguments: list[str]) -> int:
    """Build what the command line names; 1 with a sentence when that cannot be done."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"{', '.join(deb_target.names())}, or all")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="folder for the packages")
    parser.add_argument("--as-version", help="a version other than pyproject.toml's, to try upgrades with")
    parser.add_argument("--fetch", action="store_true", help="only download what is not there yet")
    asked = parser.parse_args(arguments)
    try:
        names = deb_target.names() if asked.targets == ["all"] else asked.targets or [here()]
        for target in [deb_target.load(name) for name in names]:
            if asked.fetch:
                deb_wheels.fetch(target)
                deb_wheels.fetch_setuptools(target)
                continue
            package = build(target, asked.as_version or deb_wheels.project()["version"], last_commit_s(), asked.out)
            sys.stdout.write(f"{package}: {package.stat().st_size / 2**20:.0f} MB, for {target.description}\n")
    except (PackagingError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
