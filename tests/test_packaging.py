"""The Debian package as far as it can be tried without building one; `make test-package` builds and installs it."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import subprocess
import sys
import zipfile
from email.message import Message
from importlib import metadata
from pathlib import Path

import pytest

from edge_app import doctor, services

ROOT = Path(__file__).resolve().parent.parent
PACKAGING = ROOT / "packaging"
sys.path.append(str(PACKAGING))
build_deb = importlib.import_module("build_deb")
deb_files = importlib.import_module("deb_files")
deb_target = importlib.import_module("deb_target")
deb_wheels = importlib.import_module("deb_wheels")
sys.path.append(str(PACKAGING / "debian"))
trial = importlib.import_module("trial")

SCRIPTS = ["postinst", "prerm", "postrm"]
TARGETS = deb_target.names()


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_names_constraints_a_drop_in_and_extras_that_exist(name: str) -> None:
    target = deb_target.load(name)

    assert target.constraints.is_file()
    assert target.drop_in.is_file()
    assert set(target.extras) <= set(deb_wheels.project()["optional-dependencies"])
    assert all((PACKAGING / script).is_file() for script in target.made)


def test_every_drop_in_belongs_to_a_target() -> None:
    assert sorted(path.stem for path in (ROOT / "systemd/targets").glob("*.conf")) == TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_everything_that_a_target_requires_is_pinned(name: str) -> None:
    target = deb_target.load(name)
    pinned = deb_wheels.pins(target)

    required = [re.split(r"[<>=!~;\s\[]", line)[0].lower() for line in deb_wheels.requirements(target)]

    elsewhere = {"tomli"} if target.python != "3.10" else set()
    elsewhere |= {"lgpio"} if target.python == "3.13" else set()
    assert set(required) - set(pinned) == elsewhere


@pytest.mark.parametrize("name", TARGETS)
def test_the_python_of_a_target_is_one_that_we_support(name: str) -> None:
    target = deb_target.load(name)

    assert f"Programming Language :: Python :: {target.python}" in deb_wheels.project()["classifiers"]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('colour = "red"', "unknown key colour"),
        ("python = 3.11", "python is a string"),
        ('architecture = "arm65"', "architecture is one of"),
        ("extras = [1]", "extras is a list of strings"),
        ("", "missing"),
    ],
)
def test_a_target_with_a_fault_is_refused(tmp_path: Path, line: str, complaint: str) -> None:
    good = (PACKAGING / "targets/bookworm_arm64.toml").read_text().splitlines()
    key = line.partition(" = ")[0] if line else "suite"
    kept = [one for one in good if not one.startswith(f"{key} ")]
    path = tmp_path / "bent.toml"
    path.write_text("\n".join([line, *kept]))

    with pytest.raises(ValueError, match=complaint):
        deb_target.read("bent", path)


def test_a_target_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(ValueError, match=r"there is no target sid_riscv; there are bookworm_amd64"):
        deb_target.load("sid_riscv")


def test_wheels_are_for_the_targets_c_library_or_an_older_one() -> None:
    platforms = deb_target.load("jetpack6").platforms

    assert platforms[0] == "manylinux_2_35_aarch64"
    assert "manylinux2014_aarch64" in platforms


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        (("bookworm_arm64", "0.1.0"), ("bookworm_arm64", "0.1.1")),
        (("bookworm_arm64", "0.1.0"), ("trixie_arm64", "0.1.0")),
        (("bookworm_arm64", "0.2.0rc1"), ("bookworm_arm64", "0.2.0")),
        (("bookworm_arm64", "0.2.0.dev3"), ("bookworm_arm64", "0.2.0a1")),
        (("bookworm_arm64", "0.2.0a1"), ("bookworm_arm64", "0.2.0b1")),
        (("bookworm_arm64", "0.1.0"), ("bookworm_arm64", "0.1.0.post1")),
    ],
)
def test_debian_orders_versions_as_python_does(earlier: tuple[str, str], later: tuple[str, str]) -> None:
    if shutil.which("dpkg") is None:
        pytest.skip("dpkg is not installed")
    first, second = (deb_target.load(name).debian_version(version) for name, version in (earlier, later))

    assert subprocess.run(["dpkg", "--compare-versions", first, "lt", second], check=False).returncode == 0


@pytest.mark.parametrize("name", TARGETS)
def test_the_control_file_asks_for_the_targets_python_and_no_newer(name: str) -> None:
    target = deb_target.load(name)

    said = Message()
    for line in deb_files.control(target, "1", 7, "focus").splitlines():
        if not line.startswith(" "):
            key, value = line.split(": ", 1)
            said[key] = value

    depends = said["Depends"].split(", ")
    newer = f"3.{int(target.python.split('.')[1]) + 1}"
    assert {f"python3 (>= {target.python})", f"python3 (<< {newer})", "python3-venv", "systemd"} <= set(depends)
    assert set(target.depends) <= set(depends)
    assert said["Architecture"] == target.architecture
    assert said["Recommends"] == ", ".join(target.recommends)


def test_the_control_file_has_no_empty_field() -> None:
    lines = deb_files.control(deb_target.load("bookworm_amd64"), "1", 7, "focus").splitlines()

    assert [line for line in lines if not line.strip() or line.endswith(": ")] == []


def test_a_changelog_entry_carries_the_targets_version_and_the_day_of_the_release() -> None:
    text = deb_files.changelog(
        "# x\n\n## 0.2.0, 2027-01-31\n\nIt grew.\n\n- a\n  b\n", deb_target.load("trixie_arm64"), 0
    )

    assert text.startswith("parfocal (0.2.0+deb13) trixie; urgency=medium\n\n  * It grew.\n  * a b\n\n")
    assert text.endswith(f" -- {deb_files.MAINTAINER}  Sun, 31 Jan 2027 00:00:00 +0000\n")


def test_our_own_changelog_is_one_that_debian_reads() -> None:
    if shutil.which("dpkg-parsechangelog") is None:
        pytest.skip("dpkg-dev is not installed")
    text = deb_files.changelog((ROOT / "CHANGELOG.md").read_text(), deb_target.load("bookworm_arm64"), 1_800_000_000)

    done = subprocess.run(
        ["dpkg-parsechangelog", "-l", "-", "-S", "Version"], input=text, capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == deb_target.load("bookworm_arm64").debian_version(deb_wheels.project()["version"])
    assert done.stderr == ""


def test_checksums_are_sorted_and_dpkgs() -> None:
    assert deb_files.md5sums({"b": b"", "a": b"x"}) == (
        "9dd4e461268c8034f5c8564e155c67a6  a\nd41d8cd98f00b204e9800998ecf8427e  b\n"
    )


def test_a_name_that_nobody_fills_in_is_found() -> None:
    with pytest.raises(ValueError, match="@NEEDS_MB@"):
        deb_files.script("version=@VERSION@ needs=@NEEDS_MB@", {"VERSION": "1"})


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_maintainer_script_is_shell(name: str) -> None:
    script = PACKAGING / "debian" / name

    assert subprocess.run(["sh", "-n", str(script)], check=False).returncode == 0


@pytest.mark.parametrize(
    "script",
    [
        *(PACKAGING / "debian" / name for name in SCRIPTS),
        *sorted((PACKAGING / "rollout").glob("*.sh")),
        ROOT / "tests/package/systemctl",
    ],
    ids=lambda path: path.name,
)
def test_shellcheck_finds_nothing(script: Path) -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")

    assert subprocess.run(["shellcheck", str(script)], capture_output=True, text=True, check=False).stdout == ""


def test_an_upgrade_does_not_stop_the_service() -> None:
    cases = (PACKAGING / "debian/prerm").read_text()

    assert re.search(r"upgrade \| failed-upgrade\) ;;", cases)
    assert cases.index("systemctl stop") > cases.index("remove | deconfigure)")
    assert cases.rindex("systemctl stop") < cases.index("upgrade | failed-upgrade)")


def test_the_unit_starts_what_the_package_installs() -> None:
    unit = (ROOT / "systemd/parfocal.service").read_text()

    assert "ExecStart=/opt/parfocal/current/bin/parfocal serve" in unit
    assert f"--config /{build_deb.CONFIGURATION}" in unit
    assert set(build_deb.LINKS) == set(deb_wheels.project()["scripts"])


@pytest.mark.parametrize("name", TARGETS)
def test_a_package_holds_what_the_service_needs(tmp_path: Path, name: str) -> None:
    build_deb.stage_system(deb_target.load(name), tmp_path)

    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if not path.is_dir() or path.is_symlink()}

    assert found == {
        "etc/parfocal/parfocal.toml",
        "usr/bin/parfocal",
        "usr/bin/parfocal-model",
        "usr/lib/parfocal/mender_module.sh",
        "usr/lib/parfocal/rauc_handler.sh",
        "usr/lib/parfocal/take_models.sh",
        "usr/lib/parfocal/trial.py",
        "usr/lib/systemd/system/parfocal-engines.service",
        "usr/lib/systemd/system/parfocal-update.service",
        "usr/lib/systemd/system/parfocal-update.timer",
        f"usr/lib/systemd/system/parfocal.service.d/10-{name.replace('_', '-')}.conf",
        "usr/lib/systemd/system/parfocal.service",
        "usr/lib/sysusers.d/parfocal.conf",
        "usr/lib/tmpfiles.d/parfocal.conf",
        "usr/lib/udev/rules.d/60-parfocal.rules",
    }


def test_every_unit_is_packaged_and_each_that_is_enabled_is_purged() -> None:
    units = {path.name for pattern in ("*.service", "*.timer") for path in (ROOT / "systemd").glob(pattern)}
    installs = {name for name in units if "[Install]" in (ROOT / "systemd" / name).read_text()}
    enabled = re.search(r"for one in (.+); do", (PACKAGING / "debian/postinst").read_text())
    purged = re.search(r"for one in (.+); do", (PACKAGING / "debian/postrm").read_text())

    assert set(build_deb.UNIT_FILES) == units
    assert enabled is not None
    assert {word.replace('"$unit"', "parfocal.service") for word in enabled[1].split()} == installs
    assert purged is not None
    assert set(purged[1].split()) == installs


@pytest.mark.parametrize("script", ["postinst", "prerm"])
def test_an_update_that_runs_is_ended_before_its_files_go(script: str) -> None:
    stops = re.findall(r"systemctl stop .*parfocal-update\.service", (PACKAGING / "debian" / script).read_text())

    assert len(stops) == 1


def test_the_version_is_written_in_one_place() -> None:
    version = deb_wheels.project()["version"]

    assert metadata.version("parfocal") == version
    assert services.version() == version
    assert doctor.examine()["parfocal"] == version
    assert (ROOT / "CHANGELOG.md").read_text().split("\n## ")[1].startswith(f"{version},")
    places = ["pyproject.toml", "firmware", "edge_app", "model_export", "packaging", "systemd", "proto"]
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "grep", "--untracked", "-lF", f'"{version}"', "--", *places],
        capture_output=True, text=True, check=False,
    ).stdout.split()  # fmt: skip
    assert listed == ["pyproject.toml"]


def test_our_wheel_is_the_same_bytes_twice(tmp_path: Path) -> None:
    target = deb_target.load("bookworm_arm64")
    if not (deb_wheels.cache() / f"setuptools-{deb_wheels.pins(target)['setuptools']}").is_dir():
        pytest.skip("setuptools is not cached: make deb")

    first, second = (deb_wheels.build_ours(target, "7.7.7", 1_700_000_000, tmp_path / name) for name in ("a", "b"))

    assert first.read_bytes() == second.read_bytes()
    assert build_deb.read_wheel(first).version == "7.7.7"
    with zipfile.ZipFile(first) as archive:
        assert "edge_app/models/spectral_20x.parfocal" in archive.namelist()


def test_doctors_own_answer_passes_the_trial() -> None:
    said = doctor.examine()

    assert trial.verdict(json.dumps(said), "", said["parfocal"]) == ""


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"parfocal": "9"}, "it says that it is 9, not 1"),
        ({"simulated_board_works": False}, "the simulated board does not work: out of light"),
        ({"findings": [{"what": "runtime", "name": "onnx", "ok": False, "detail": "gone"}]}, "onnx: gone"),
    ],
)
def test_the_trial_refuses_an_environment_that_does_not_work(change: dict[str, object], complaint: str) -> None:
    findings = [{"what": "trial", "name": "tiny", "ok": True, "detail": "out of light"}]
    findings.append({"what": "runtime", "name": "onnx", "ok": True, "detail": ""})
    said = {"parfocal": "1", "simulated_board_works": True, "findings": findings} | change

    assert complaint in trial.verdict(json.dumps(said), "", "1")


def test_the_trial_hands_on_what_doctor_says_went_wrong() -> None:
    said = {"error": {"kind": "OSError", "message": "no disk"}}

    assert trial.verdict(json.dumps(said), "", "1") == "OSError: no disk"


def test_the_trial_hands_on_the_last_line_of_a_crash() -> None:
    assert trial.verdict("", "Traceback\n  ...\nImportError: no such thing\n", "1") == "ImportError: no such thing"


def test_the_trial_says_when_there_is_nothing_to_try(tmp_path: Path) -> None:
    assert "No such file" in trial.main(str(tmp_path), "1")
