"""Metrics: what a board tells Prometheus follows what it does, and the address tells nobody more than it should."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import grpc
import pytest
from conftest import PATIENCE_S, Bench
from living import TINY, TROUBLE, WAIT_S, Reader, alive, describe, until
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from edge_app.errors import StateUnusable
from edge_app.gauges import UPDATE_STATES
from edge_app.job import Look, Outcome
from edge_app.metrics import Metrics
from firmware.errors import CameraError, OutOfLimits


@dataclass(frozen=True)
class Standing:
    """Where updating stands, as a test wants it."""

    serving: str = "spectral_20x@1.0.0"
    previous: str = ""
    candidate: str = ""
    state: str = "idle"
    watched_jobs: int = 0
    bad_versions: int = 0


@dataclass
class Told:
    """The values of an exposition, by sample name and labels."""

    text: str

    def __call__(self, name: str, /, **labels: str) -> float | None:
        for family in text_string_to_metric_families(self.text):
            for sample in family.samples:
                if sample.name == name and sample.labels == labels:
                    return sample.value
        return None

    def labels(self, name: str) -> list[dict[str, str]]:
        families = text_string_to_metric_families(self.text)
        return [sample.labels for family in families for sample in family.samples if sample.name == name]


def told(metrics: Metrics) -> Told:
    return Told(generate_latest(metrics.registry).decode())


@pytest.fixture
def thermal(tmp_path: Path) -> Path:
    """A machine with one zone that can be read and one that is off."""
    for number, (name, temp) in enumerate([("cpu-thermal", "48312\n"), ("gpu-thermal", "")]):
        zone = tmp_path / f"thermal_zone{number}"
        zone.mkdir()
        (zone / "type").write_text(f"{name}\n")
        (zone / "temp").write_text(temp)
    return tmp_path


@pytest.fixture
def metrics(thermal: Path) -> Metrics:
    return Metrics(thermal=thermal)


def focus(bench: Bench, strategy: str = "single_shot") -> Outcome:
    outcome = bench.appliance.focus(strategy, lambda *_: None).result.result(PATIENCE_S)
    assert isinstance(outcome, Outcome)
    return outcome


# Jobs and looks.


def test_a_focus_job_is_counted_with_what_it_took(bench: Bench, metrics: Metrics) -> None:
    metrics.offer(bench.appliance)
    outcome = focus(bench)
    said = told(metrics)
    assert said("parfocal_jobs_total", verb="focus", strategy="single_shot", ending="focused", verdict="ok") == 1
    assert said("parfocal_corrections_total", strategy="single_shot") == outcome.moves > 0
    assert said("parfocal_job_frames_sum", strategy="single_shot") == outcome.frames
    assert said("parfocal_time_to_focus_seconds_sum", strategy="single_shot") == outcome.duration_s
    assert said("parfocal_correction_um_sum", strategy="single_shot") == abs(outcome.end_um - outcome.start_um)


def test_each_judged_frame_is_counted_by_its_verdict(bench: Bench, metrics: Metrics) -> None:
    metrics.offer(bench.appliance)
    for _ in range(2):
        bench.appliance.measure().result(PATIENCE_S)
    bench.world.load_field(3, "blank")
    bench.appliance.measure().result(PATIENCE_S)
    bench.appliance.measure(task="").result(PATIENCE_S)
    said = told(metrics)
    assert said("parfocal_estimates_total", task="defocus", verdict="ok") == 2
    assert said("parfocal_estimates_total", task="defocus", verdict="no_content") == 1
    assert len(said.labels("parfocal_estimates_total")) == 2
    assert said("parfocal_inference_seconds_count", task="defocus") == 2


def test_a_job_that_only_ended_counts_no_time_to_focus(bench: Bench, metrics: Metrics) -> None:
    metrics.offer(bench.appliance)
    bench.world.load_field(3, "blank")
    focus(bench)
    said = told(metrics)
    assert (
        said("parfocal_jobs_total", verb="focus", strategy="single_shot", ending="stayed", verdict="no_content") == 1
    )
    assert said.labels("parfocal_time_to_focus_seconds_count") == []


def test_a_refused_move_is_counted_by_its_error(bench: Bench, metrics: Metrics) -> None:
    metrics.offer(bench.appliance)
    job = bench.appliance.run("move", lambda c: c.microscope.axis.move_to(1e6))
    assert isinstance(job.result.exception(PATIENCE_S), OutOfLimits)
    bench.appliance.run("move", lambda c: c.microscope.axis.move_to(1.0)).result.result(PATIENCE_S)
    said = told(metrics)
    assert said("parfocal_jobs_total", verb="move", strategy="", ending="OutOfLimits", verdict="") == 1
    assert said("parfocal_jobs_total", verb="move", strategy="", ending="done", verdict="") == 1


class Broken:
    """A listener that cannot cope with what it hears."""

    def looked(self, look: Look) -> None:
        raise ValueError("broken")

    def ended(self, name: str, end: object) -> None:
        raise ValueError("broken")


def test_a_listener_that_fails_ends_no_job_and_keeps_nothing_from_the_next(bench: Bench, metrics: Metrics) -> None:
    bench.appliance.tell(Broken())
    metrics.offer(bench.appliance)
    assert focus(bench).moves > 0
    assert told(metrics)("parfocal_job_frames_count", strategy="single_shot") == 1


# What is so now.


def test_a_board_says_what_it_is_and_which_models_are_open(bench: Bench, metrics: Metrics) -> None:
    metrics.offer(bench.appliance)
    said = told(metrics)
    assert said.labels("parfocal_board_info") == [
        {"board": "simulated_tiny", "camera": "simulated", "axis": "simulated", "objective": "20x"}
    ]
    assert said.labels("parfocal_model_info") == [
        {"task": "defocus", "model": "oracle", "version": "1", "runtime": "oracle"}
    ]
    assert said("parfocal_info", version=metadata.version("parfocal")) == 1
    assert said("parfocal_board_open") == 1
    assert said.labels("parfocal_trouble_info") == []


def test_the_way_to_the_limits_follows_the_axis(bench: Bench, metrics: Metrics) -> None:
    metrics.offer(bench.appliance)
    low_um, high_um = bench.microscope.axis.limits_um
    bench.appliance.run("move", lambda c: c.microscope.axis.move_to(5.0)).result.result(PATIENCE_S)
    said = told(metrics)
    assert said("parfocal_axis_z_um") == pytest.approx(5.0)
    assert said("parfocal_axis_to_lower_limit_um") == pytest.approx(5.0 - low_um)
    assert said("parfocal_axis_to_upper_limit_um") == pytest.approx(high_um - 5.0)


def test_an_axis_that_lost_its_position_says_so(bench: Bench, metrics: Metrics) -> None:
    metrics.offer(bench.appliance)
    bench.appliance.run("slip", lambda c: c.microscope.axis.distrust()).result.result(PATIENCE_S)
    said = told(metrics)
    assert said("parfocal_axis_trust", trust="lost") == 1
    assert said("parfocal_axis_trust", trust="homed") == 0
    assert said("parfocal_axis_losses_total") == 1


def test_troubles_of_an_open_board_are_gauges(bench: Bench, metrics: Metrics) -> None:
    metrics.offer(bench.appliance)
    names = ("parfocal_busy", "parfocal_camera_lost", "parfocal_hardware_hangs", "parfocal_model_failing")
    assert [told(metrics)(name) for name in names] == [0, 0, 0, 0]
    end = bench.block()
    bench.microscope.lost = "no frame came"
    bench.appliance.condemn("not heard of")
    said = [told(metrics)(name) for name in names]
    end()
    assert said == [1, 1, 1, 0]


def test_without_a_board_it_says_which_error_there_is_and_keeps_its_counts(bench: Bench, metrics: Metrics) -> None:
    metrics.offer(bench.appliance)
    focus(bench)
    metrics.turn_away(CameraError.__name__)
    said = told(metrics)
    assert said("parfocal_board_open") == 0
    assert said("parfocal_trouble_info", kind="CameraError") == 1
    assert said("parfocal_axis_z_um") is None
    assert said("parfocal_job_frames_count", strategy="single_shot") == 1


def test_temperatures_are_those_of_zones_that_can_be_read(metrics: Metrics) -> None:
    said = told(metrics)
    assert said("parfocal_temperature_celsius", zone="0", name="cpu-thermal") == 48.312
    assert len(said.labels("parfocal_temperature_celsius")) == 1


def test_a_machine_without_zones_has_no_temperature(tmp_path: Path) -> None:
    assert told(Metrics(thermal=tmp_path / "none")).labels("parfocal_temperature_celsius") == []


def test_uptime_is_by_a_clock_that_nobody_sets(thermal: Path) -> None:
    now = iter([100.0, 172.5])
    assert told(Metrics(thermal=thermal, now_s=lambda: next(now)))("parfocal_uptime_seconds") == 72.5


@pytest.mark.parametrize("state", UPDATE_STATES)
def test_the_state_of_updates_is_one_of_all_that_there_are(metrics: Metrics, state: str) -> None:
    metrics.update_from(lambda: Standing(previous="spectral_20x@0.9.0", state=state, watched_jobs=7, bad_versions=2))
    said = told(metrics)
    states = [labels["state"] for labels in said.labels("parfocal_update_state")]
    assert [one for one in states if said("parfocal_update_state", state=one)] == [state]
    assert said.labels("parfocal_update_info") == [
        {"serving": "spectral_20x@1.0.0", "previous": "spectral_20x@0.9.0", "candidate": ""}
    ]
    assert (said("parfocal_update_watched_jobs"), said("parfocal_update_bad_versions")) == (7, 2)


def test_a_record_of_updates_that_cannot_be_read_is_a_state_of_its_own(metrics: Metrics) -> None:
    def unreadable() -> None:
        raise StateUnusable("the disk is gone")

    metrics.update_from(unreadable)
    said = told(metrics)
    assert said("parfocal_update_state", state="unreadable") == 1
    assert said.labels("parfocal_update_info") == []


def test_a_board_without_updates_has_no_state_of_them(metrics: Metrics) -> None:
    assert told(metrics).labels("parfocal_update_state") == []


# Beside a service.


@pytest.fixture
def free_port() -> int:
    """One that nobody has at the moment: a service tells nobody which one it found."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


async def scraped(port: int) -> Told:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: board\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(), WAIT_S)
    writer.close()
    return Told(answer.partition(b"\r\n\r\n")[2].decode())


async def test_a_service_answers_with_a_board_and_without_one(signals: None, free_port: int) -> None:
    read = Reader()
    read.settings = TINY.model_copy(update={"metrics": f"127.0.0.1:{free_port}", "board": "sumilated"})
    async with alive(read):
        said = await scraped(free_port)
        assert said("parfocal_board_open") == 0
        assert said("parfocal_trouble_info", kind="ProfileError") == 1
        read.settings = read.settings.model_copy(update={"board": "simulated_tiny"})
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: opened(free_port))
        read.broken = TROUBLE
        os.kill(os.getpid(), signal.SIGHUP)
        assert (await scraped(free_port))("parfocal_board_open") == 1


async def opened(port: int) -> bool:
    return (await scraped(port))("parfocal_board_open") == 1


async def test_a_service_without_the_setting_opens_no_port(signals: None, free_port: int) -> None:
    async with alive(Reader()):
        with pytest.raises(OSError, match="Connect call failed"):
            await asyncio.open_connection("127.0.0.1", free_port)


async def test_a_service_whose_metrics_have_no_address_serves_its_board(signals: None) -> None:
    read = Reader()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        read.settings = TINY.model_copy(update={"metrics": f"127.0.0.1:{taken.getsockname()[1]}"})
        async with alive(read) as address, grpc.aio.insecure_channel(address) as channel:
            assert (await describe(channel)).board == "simulated_tiny"
