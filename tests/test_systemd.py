"""The units: systemd takes every word of them, they open little, and they ask for what the product has."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup

from edge_app import cli
from edge_app.access.addresses import is_here
from edge_app.config import Settings, read_settings, state_folder
from firmware.pulses import PRIORITY
from model_export import cli as model_cli

FOLDER = Path(__file__).parents[1] / "systemd"
UNITS = ("parfocal", "parfocal-engines", "parfocal-update")
TARGETS = sorted(path.stem for path in (FOLDER / "targets").glob("*.conf"))
UPDATE = "parfocal-update"
EXPOSURE = {"parfocal": 20, "parfocal-engines": 10, "parfocal-update": 17}
"""What `systemd-analyze security` may say at most, times ten."""

_NEWER = """
AssertCPUFeature AssertCPUPressure AssertCredential AssertIOPressure AssertMemoryPressure AssertOSRelease
BPFProgram BindLogSockets ConditionCPUFeature ConditionCPUPressure ConditionCredential ConditionFirmware
ConditionIOPressure ConditionMemoryPressure ConditionOSRelease CoredumpReceive DefaultStartupMemoryLow
DelegateSubgroup ExecPaths ExecSearchPath ExitType ExtensionDirectories ExtensionImagePolicy ExtensionImages
FileDescriptorStorePreserve IPCNamespacePath ImportCredential LoadCredentialEncrypted LogFilterPatterns
ManagedOOMMemoryPressureDurationSec ManagedOOMMemoryPressureLimit ManagedOOMPreference MemoryKSM
MemoryPressureThresholdSec MemoryPressureWatch MemoryZSwapMax MemoryZSwapWriteback MountImagePolicy NFTSet
NoExecPaths OnSuccess OnSuccessJobMode OpenFile PrivateIPC PrivatePIDs PropagatesStopTo ReloadSignal
RestartMaxDelaySec RestartMode RestartSteps RestrictFileSystems RestrictNetworkInterfaces RootEphemeral
RootImagePolicy RuntimeRandomizedExtraSec SetCredentialEncrypted SetLoginEnvironment SocketBindAllow SocketBindDeny
StartupAllowedCPUs StartupAllowedMemoryNodes StartupMemoryHigh StartupMemoryLow StartupMemoryMax
StartupMemorySwapMax StartupMemoryZSwapMax StopPropagatedFrom SurviveFinalKillSignal TTYColumns TTYRows Upholds
WantsMountsFor
"""
NEWER = frozenset(_NEWER.split())
"""What `systemd --dump-configuration-items` of 257 knows and that of 247 does not; JetPack 6 has 249."""

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed here")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make users and give files away")


def entries(path: Path) -> list[tuple[str, str]]:
    """The key=value lines of a unit or drop-in, in order."""
    lines = [line.strip() for line in path.read_text().splitlines()]
    pairs = [line.partition("=") for line in lines if line and line[0] not in "#["]
    return [(key, value) for key, _, value in pairs]


def values(unit: str, key: str) -> list[str]:
    return [value for name, value in entries(FOLDER / f"{unit}.service") if name == key]


def staged(folder: Path, target: str) -> list[Path]:
    """The units as a package for the target installs them, but with a program that every machine has."""
    paths = []
    for unit in UNITS:
        text = (FOLDER / f"{unit}.service").read_text()
        path = folder / f"{unit}.service"
        path.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", text, flags=re.MULTILINE))
        paths.append(path)
    paths.append(Path(shutil.copy(FOLDER / f"{UPDATE}.timer", folder)))
    drop_ins = folder / "parfocal.service.d"
    drop_ins.mkdir()
    shutil.copy(FOLDER / "targets" / f"{target}.conf", drop_ins)
    return paths


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def complaints(paths: list[Path], allowed: frozenset[str] = frozenset()) -> list[str]:
    """What systemd says of units, less what an older one than the target's cannot know."""
    said = run("systemd-analyze", "verify", "--man=no", *paths).stderr.splitlines()
    return [line for line in said if not any(f"Unknown key '{key}'" in line for key in allowed)]


def keys(target: str) -> set[str]:
    return {key for key, _ in entries(FOLDER / "targets" / f"{target}.conf")}


# What systemd says.


@needs_systemd
@pytest.mark.parametrize("target", TARGETS)
def test_systemd_finds_nothing_to_say_of_the_units(tmp_path: Path, target: str) -> None:
    newer = frozenset(keys(target) & NEWER) if target.startswith("trixie") else frozenset()
    assert complaints(staged(tmp_path, target), newer) == []


@needs_systemd
def test_a_misspelt_key_would_be_found(tmp_path: Path) -> None:
    paths = staged(tmp_path, TARGETS[0])
    paths[0].write_text(paths[0].read_text().replace("ProtectHome=", "ProtectHouse="))
    assert "ProtectHouse" in complaints(paths)[0]


@needs_systemd
@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("target", TARGETS)
def test_a_unit_is_hardly_exposed(tmp_path: Path, target: str, unit: str) -> None:
    staged(tmp_path, target)
    limit = f"--threshold={EXPOSURE[unit]}"
    judged = run("systemd-analyze", "security", "--offline=true", limit, tmp_path / f"{unit}.service")
    assert judged.returncode == 0, judged.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    "path", [*FOLDER.glob("*.service"), *FOLDER.glob("*.timer"), *FOLDER.glob("targets/*.conf")], ids=lambda p: p.name
)
def test_no_key_is_newer_than_the_oldest_systemd_that_reads_it(path: Path) -> None:
    used = {key for key, _ in entries(path)} & NEWER
    assert used == ({"RestartSteps", "RestartMaxDelaySec"} if path.stem == "trixie_arm64" else set())


# Users, folders, devices.


@needs_systemd
def test_the_user_and_the_groups_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    said = run("systemd-sysusers", "--dry-run", f"--root={tmp_path}", FOLDER / "parfocal.sysusers").stderr
    assert re.findall(r"Creating group '(\w+)'", said) == ["gpio", "video", "render", "parfocal"]
    assert re.findall(r"Creating user '(\w+)'", said) == ["parfocal"]
    assert "gnor" not in said, said


@needs_systemd
@needs_root
def test_the_folders_are_made_and_belong_to_the_user(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    made = run("systemd-sysusers", f"--root={tmp_path}", FOLDER / "parfocal.sysusers")
    assert made.returncode == 0, made.stderr
    strange = tmp_path / "var/lib/parfocal/made_by_root"
    strange.parent.mkdir(parents=True)
    strange.touch()
    made = run("systemd-tmpfiles", "--create", f"--root={tmp_path}", FOLDER / "parfocal.tmpfiles")
    assert (made.returncode, made.stderr) == (0, "")
    row = (tmp_path / "etc/passwd").read_text().splitlines()[-1].split(":")
    assert row[0] == "parfocal"
    for path in (strange, tmp_path / "var/lib/parfocal/models", tmp_path / "var/cache/parfocal"):
        assert path.stat().st_uid == int(row[2]), path
    trust = (tmp_path / "etc/parfocal/trust").stat()
    assert (trust.st_uid, trust.st_gid, trust.st_mode & 0o7777) == (0, int(row[3]), 0o750)


def test_nobody_gives_the_key_that_signs_to_the_service() -> None:
    lines = (FOLDER / "parfocal.tmpfiles").read_text().splitlines()
    assert [line.split()[0] for line in lines if "/etc/parfocal" in line] == ["d"]


def test_the_units_run_as_the_user_that_is_made() -> None:
    made = re.findall(r"^u (\S+)", (FOLDER / "parfocal.sysusers").read_text(), re.MULTILINE)
    for unit in UNITS:
        assert values(unit, "User") == values(unit, "Group") == made


def test_the_state_folder_is_the_one_that_the_product_takes(clean_environment: pytest.MonkeyPatch) -> None:
    clean_environment.setenv("STATE_DIRECTORY", "")
    (name,) = values("parfocal", "StateDirectory")
    assert state_folder(Path("/var/lib") / name).name == name
    assert f"/var/lib/{name} " in (FOLDER / "parfocal.tmpfiles").read_text()
    assert values("parfocal", "WorkingDirectory") == [f"/var/lib/{name}"]


def test_the_rules_can_be_read_and_give_gpio_chips_to_their_group() -> None:
    rules = FOLDER / "60-parfocal.rules"
    lines = [line for line in rules.read_text().splitlines() if line and not line.startswith("#")]
    for line in lines:
        assert re.fullmatch(r'([A-Z]+(\{\w+\})?(==|!=|=|\+=|:=)"[^"]*"(, |$))+', line), line
    assert 'SUBSYSTEM=="gpio", KERNEL=="gpiochip*", GROUP="gpio", MODE="0660"' in lines
    if shutil.which("udevadm") and "verify" in run("udevadm", "--help").stdout:
        checked = run("udevadm", "verify", rules)
        assert checked.returncode == 0, checked.stderr


# What the product has.


def test_pulses_get_the_priority_that_they_ask_for() -> None:
    assert values("parfocal", "LimitRTPRIO") == [str(PRIORITY)]
    assert values("parfocal", "RestrictRealtime") in ([], ["no"])


@pytest.mark.parametrize(
    ("unit", "name", "app"),
    [
        ("parfocal", "parfocal", cli.app),
        ("parfocal-engines", "parfocal-model", model_cli.app),
        (UPDATE, "parfocal", cli.app),
    ],
)
def test_a_unit_starts_a_verb_with_flags_that_it_has(unit: str, name: str, app: typer.Typer) -> None:
    program, *words = shlex.split(values(unit, "ExecStart")[0])
    verb = typer.main.get_command(app)
    while isinstance(verb, TyperGroup):
        verb = verb.commands[words.pop(0)]
    assert Path(program).name == name
    known = {flag for option in verb.params for flag in option.opts}
    assert {word for word in words if word.startswith("--")} <= known


def test_the_service_never_gives_up() -> None:
    assert values("parfocal", "Restart") == ["always"]
    assert values("parfocal", "StartLimitIntervalSec") == ["0"]


def test_building_engines_keeps_nobody_waiting() -> None:
    assert values("parfocal-engines", "Type") == ["exec"]
    assert "parfocal.service" in values("parfocal-engines", "After")[0]
    assert not values("parfocal", "Requires")


def test_an_update_never_takes_the_folder_of_the_socket_away() -> None:
    assert values(UPDATE, "RuntimeDirectory") == []
    assert values(UPDATE, "StateDirectory") == values("parfocal", "StateDirectory")


def test_an_update_gives_way_to_the_service() -> None:
    assert values(UPDATE, "Type") == ["oneshot"]
    assert "parfocal.service" in values(UPDATE, "After")[0]
    assert int(values(UPDATE, "Nice")[0]) > 0
    assert int(values(UPDATE, "OOMScoreAdjust")[0]) > 0 > int(values("parfocal", "OOMScoreAdjust")[0])


def test_boards_ask_daily_and_not_all_at_once() -> None:
    said = dict(entries(FOLDER / f"{UPDATE}.timer"))
    assert said["OnCalendar"] == "daily"
    assert said["RandomizedDelaySec"] == "6h"
    assert (said["FixedRandomDelay"], said["Persistent"]) == ("yes", "yes")
    assert said["WantedBy"] == "timers.target"


def test_the_configuration_that_ships_is_valid_and_says_the_defaults(clean_environment: pytest.MonkeyPatch) -> None:
    path = FOLDER / "parfocal.toml"
    beyond = {"listen": "127.0.0.1:50051,unix:/run/parfocal/socket", "metrics": "127.0.0.1:9464"}
    assert read_settings(path) == read_settings().model_copy(update=beyond)
    assert all(is_here(address) for listen in beyond.values() for address in listen.split(","))


def test_the_configuration_names_every_setting_that_a_service_has() -> None:
    named = re.findall(r"^(?:# )?(\w+) = ", (FOLDER / "parfocal.toml").read_text(), re.MULTILINE)
    assert set(named) == set(Settings.model_fields) - {"state", "seed", "identity"}


@pytest.mark.parametrize("unit", UNITS)
def test_the_units_name_the_configuration_that_ships(unit: str) -> None:
    words = shlex.split(values(unit, "ExecStart")[0])
    assert words[words.index("--config") + 1] == f"/etc/parfocal/{(FOLDER / 'parfocal.toml').name}"
