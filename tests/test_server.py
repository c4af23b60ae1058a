"""The server over a real socket: the closed loop, and all that a client can do wrong or leave undone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from edge_app import bundle as bundles
from edge_app.client import Client
from edge_app.config import Settings
from edge_app.errors import AddressInUse, BadSettings, Busy, RemoteError
from edge_app.opening import assemble
from edge_app.pictures import from_png
from edge_app.server import serving
from edge_app.stubs.parfocal.v1 import focus_pb2, microscope_pb2
from edge_app.stubs.parfocal.v1.focus_pb2_grpc import FocusServiceStub
from edge_app.stubs.parfocal.v1.microscope_pb2_grpc import MicroscopeServiceStub
from firmware.clock import ManualClock
from firmware.errors import CameraError, MotionStopped, OutOfLimits
from firmware.microscope import with_simulation
from firmware.travel import Trust

if TYPE_CHECKING:
    from conftest import Bench

WAIT_S = 20.0
CHUNK_UM = 1.6
SERVICES = ("FocusService", "MicroscopeService", "ModelService", "SimulationService")


# The closed loop.


@pytest.mark.parametrize("defocus_um", [8.0, -7.0])
def test_a_focus_call_ends_at_the_true_focal_plane(client: Client, defocus_um: float) -> None:
    client.load_field(4, "tissue", defocus_um)
    *looks, last = client.focus()
    assert last.outcome.kind == focus_pb2.OUTCOME_KIND_FOCUSED, last.outcome.sentence
    assert abs(client.truth().defocus_um) < 0.5 * client.truth().depth_of_field_um
    assert [event.look.index for event in looks] == list(range(last.outcome.frames))


def test_each_look_says_what_move_follows(client: Client) -> None:
    client.load_field(4, "tissue", 8.0)
    *looks, _ = client.focus()
    first, last = looks[0].look, looks[-1].look
    assert first.planned_move_um == pytest.approx(-first.estimate.defocus_um, abs=0.06)
    assert not last.HasField("planned_move_um")


def test_a_measurement_is_signed_mapped_and_pictured(client: Client) -> None:
    client.load_field(4, "tissue", 5.0)
    reply = client.measure(with_map=True, with_image=True)
    assert reply.estimate.defocus_um == pytest.approx(client.truth().defocus_um, abs=0.3)
    assert len(reply.estimate.patches) == reply.estimate.patches_total == 1
    assert from_png(reply.image_png).shape == (224, 224, 3)


def test_a_blank_field_is_an_outcome_and_not_a_fault(client: Client) -> None:
    truth = client.load_field(9, "blank")
    *_, last = client.focus()
    assert not truth.has_content
    assert last.outcome.kind == focus_pb2.OUTCOME_KIND_STAYED
    assert last.outcome.verdict == focus_pb2.VERDICT_NO_CONTENT


def test_a_loaded_field_is_as_far_out_of_focus_as_asked(client: Client) -> None:
    truth = client.load_field(12, "smear", -6.0)
    assert truth.defocus_um == pytest.approx(-6.0, abs=0.1)
    assert truth.kind == "smear"


def test_a_field_that_cannot_be_reached_is_not_loaded(client: Client, bench: Bench) -> None:
    with pytest.raises(OutOfLimits):
        client.load_field(12, "smear", 90.0)
    assert bench.z_um == 0.0
    assert client.truth().field == 3


def test_describe_tells_board_strategies_model_and_world(client: Client, bench: Bench) -> None:
    reply = client.describe()
    assert reply.board == "simulated_tiny"
    assert reply.strategies[0] == bench.microscope.profile.focus.strategy
    assert {"single_shot", "sweep"} <= set(reply.strategies)
    assert (reply.model, reply.runtime) == ("oracle@1", "oracle")
    assert (reply.camera.response, reply.contrast) == ("linear", "brightfield")
    assert reply.world["backlash_um"] == bench.world.table.backlash_um


def test_an_objective_that_the_model_does_not_know_leaves_no_model(client: Client) -> None:
    reply = client.select_objective("10x")
    assert reply.objective.selected
    assert not reply.HasField("model")
    assert reply.why_model.startswith("oracle@1 refuses: the frame has NA 0.3")
    assert client.measure().estimate.verdict == focus_pb2.VERDICT_WRONG_OPTICS
    assert [m.fits_this_board for m in client.models().models if m.name == "oracle"] == [False]


def test_a_model_says_what_it_reads_and_which_one_the_board_prefers(client: Client) -> None:
    models = {model.name: model for model in client.models().models}
    shipped = [model for model in models.values() if model.name != "oracle"]
    assert sorted(model.task for model in shipped if model.preferred) == ["defocus", "quality", "sharpness"]
    assert all(model.fits_this_board for model in shipped if model.preferred)
    assert not models["oracle"].preferred
    optics = models["oracle"].optics
    assert (list(optics.responses), optics.contrast, optics.colour) == (["linear"], "brightfield", True)


def test_a_damaged_bundle_leaves_the_list_of_models_whole(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = bundles.find("ldse_net_20x")
    (tmp_path / whole.name).write_bytes(whole.read_bytes())
    (tmp_path / "a_damaged.parfocal").write_bytes(whole.read_bytes()[:-1])
    (tmp_path / "b_folder.parfocal").mkdir()
    monkeypatch.setattr(bundles, "FACTORY", tmp_path)
    assert {model.name for model in client.models().models} == {whole.stem, "oracle"}


def test_a_board_served_without_a_model_says_so(bare_bench: Bench) -> None:
    with serving(bare_bench.appliance, "127.0.0.1:0") as where, Client(where) as client:
        reply = client.describe()
    assert not reply.HasField("model")
    assert "without a model" in reply.why_model


def test_capture_gives_the_frame_at_the_asked_size(client: Client) -> None:
    reply = client.capture(max_px=100)
    assert (reply.width_px, reply.height_px, reply.channels) == (224, 224, 3)
    assert from_png(reply.image_png).shape == (100, 100, 3)


def test_moves_homing_and_position_agree(client: Client) -> None:
    moved = client.move_to(7.0)
    assert (moved.from_z_um, moved.moves) == (0.0, 2)
    assert moved.z_um == pytest.approx(7.0)
    assert client.move_by(-2.0).z_um == pytest.approx(5.0) == client.position().z_um
    assert client.home().z_um == client.position().z_um == 0.0
    assert client.position().trust == microscope_pb2.AXIS_TRUST_HOMED


# Stops, and clients that go.


def test_stop_over_the_wire_answers_when_the_axis_rests(bench: Bench, channel: grpc.Channel) -> None:
    bench.clock.hold(3)
    moving = MicroscopeServiceStub(channel).Move.future(microscope_pb2.MoveRequest(to_um=40.0))
    assert bench.clock.reached.wait(WAIT_S)
    stopping = FocusServiceStub(channel).Stop.future(focus_pb2.StopRequest())
    assert bench.halted.wait(WAIT_S)
    bench.clock.release()
    assert stopping.result(WAIT_S).was_running
    assert stopping.result(WAIT_S).z_um == pytest.approx(3 * CHUNK_UM) == bench.z_um
    assert moving.code() is grpc.StatusCode.ABORTED


def _move(channel: grpc.Channel, timeout: float | None = None) -> Any:
    return MicroscopeServiceStub(channel).Move.future(microscope_pb2.MoveRequest(to_um=40.0), timeout=timeout)


def _home(channel: grpc.Channel, timeout: float | None = None) -> Any:
    return MicroscopeServiceStub(channel).Home.future(microscope_pb2.HomeRequest(), timeout=timeout)


def _focus(channel: grpc.Channel, timeout: float | None = None) -> Any:
    return FocusServiceStub(channel).Focus(focus_pb2.FocusRequest(strategy="sweep"), timeout=timeout)


@pytest.mark.parametrize("begin", [_move, _home, _focus])
def test_a_client_that_cancels_leaves_the_hardware_at_rest(
    bench: Bench, channel: grpc.Channel, begin: Callable[..., Any]
) -> None:
    bench.clock.hold(2)
    call = begin(channel)
    assert bench.clock.reached.wait(WAIT_S)
    job = bench.appliance._job
    assert job is not None
    call.cancel()
    assert bench.halted.wait(WAIT_S)
    bench.clock.release()
    job.result.exception(WAIT_S)
    assert not bench.microscope.axis.moving
    known = bench.microscope.axis.trust is not Trust.LOST
    assert known is (begin is not _home)
    assert not known or bench.world.stage.motor_um == pytest.approx(bench.z_um)


def test_a_client_that_vanishes_leaves_the_hardware_at_rest(bench: Bench, address: str) -> None:
    bench.clock.hold(3)
    with grpc.insecure_channel(address) as gone:
        call = _move(gone)
        assert bench.clock.reached.wait(WAIT_S)
        job = bench.appliance._job
    assert job is not None
    assert bench.halted.wait(WAIT_S)
    bench.clock.release()
    assert isinstance(job.result.exception(WAIT_S), MotionStopped)
    assert bench.z_um == pytest.approx(3 * CHUNK_UM)
    assert call.code() is grpc.StatusCode.CANCELLED


def test_a_deadline_that_passes_stops_the_move(bench: Bench, channel: grpc.Channel) -> None:
    bench.clock.hold(3)
    call = _move(channel, timeout=0.5)
    assert bench.clock.reached.wait(WAIT_S)
    assert call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert bench.halted.wait(WAIT_S)
    bench.clock.release()


def test_leaving_the_loop_over_a_focus_job_stops_it(bench: Bench, client: Client) -> None:
    client.load_field(4, "tissue", 12.0)
    events = client.focus("sweep")
    next(events)
    job = bench.appliance._job
    assert job is not None
    events.close()  # type: ignore[attr-defined]
    assert job.result.result(WAIT_S).ending.name == "STOPPED"
    assert client.position().busy_with == ""


def test_a_withdrawn_measurement_gives_its_place_back(bench: Bench, channel: grpc.Channel) -> None:
    end = bench.block()
    call = FocusServiceStub(channel).Measure.future(focus_pb2.MeasureRequest())
    bench.settle_waiting(1)
    asked = bench.appliance._waiting[0].result
    call.cancel()
    with pytest.raises(CancelledError):
        asked.result(WAIT_S)
    end()


# Crowds.


def test_a_second_mover_is_told_busy_at_once_and_when_to_come_back(bench: Bench, client: Client) -> None:
    end = bench.block()
    with pytest.raises(Busy, match="block is running"):
        client.move_to(3.0)
    assert client.position().busy_with == "block"
    end()
    assert bench.z_um == 0.0


def test_sixteen_clients_measure_at_once_and_share_a_look(bench: Bench, client: Client) -> None:
    end = bench.block()
    with ThreadPoolExecutor(16) as crowd:
        asked = [crowd.submit(client.measure) for _ in range(16)]
        bench.settle_waiting(16)
        end()
        replies = [future.result(WAIT_S) for future in asked]
    assert len({reply.estimate.captured_at_s for reply in replies}) == 1


def test_the_sixty_fifth_measurer_is_told_busy(bench: Bench, client: Client) -> None:
    end = bench.block()
    asked = [bench.appliance.measure() for _ in range(64)]
    with pytest.raises(Busy, match="ask less often"):
        client.measure()
    end()
    assert all(future.result(WAIT_S) for future in asked)


# Serving.


def test_health_answers_for_every_service(channel: grpc.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    for name in ("", *(f"parfocal.v1.{service}" for service in SERVICES)):
        reply = health.Check(health_pb2.HealthCheckRequest(service=name))
        assert reply.status == health_pb2.HealthCheckResponse.SERVING


def test_health_follows_the_camera_and_only_what_needs_it_stops_serving(bench: Bench, channel: grpc.Channel) -> None:
    watch = health_pb2_grpc.HealthStub(channel).Watch(
        health_pb2.HealthCheckRequest(service="parfocal.v1.FocusService")
    )
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    bench.appliance.run("fail", camera_fails).result.exception(WAIT_S)
    assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
    check = health_pb2_grpc.HealthStub(channel).Check
    moving = health_pb2.HealthCheckRequest(service="parfocal.v1.MicroscopeService")
    assert check(moving).status == health_pb2.HealthCheckResponse.SERVING
    assert check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.NOT_SERVING
    bench.appliance.measure(task="").result(WAIT_S)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    watch.cancel()


def camera_fails(_: object) -> None:
    raise CameraError("unplugged")


def test_describe_says_what_there_is_to_know_of_the_runtime(bench: Bench, client: Client) -> None:
    model = bench.appliance.controller.model
    assert model is not None
    assert client.describe().runtime_note == ""
    vars(model.runtime)["note"] = "an engine is being built, 40 %"
    assert client.describe().runtime_note == "an engine is being built, 40 %"


def test_reflection_lists_every_service(channel: grpc.Channel) -> None:
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    (reply,) = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([asked]))
    listed = {service.name for service in reply.list_services_response.service}
    assert {f"parfocal.v1.{service}" for service in SERVICES} <= listed


def test_a_board_without_a_simulated_camera_has_no_simulation_service(bench: Bench) -> None:
    camera = bench.microscope.profile.camera.model_copy(update={"driver": "replay"})
    bench.microscope.profile = bench.microscope.profile.model_copy(update={"camera": camera})
    with serving(bench.appliance, "127.0.0.1:0") as address, Client(address) as client:
        assert client.position().z_um == 0.0
        with pytest.raises(RemoteError, match="only simulated boards"):
            client.truth()


def test_a_taken_address_is_one_clear_error(bench: Bench, address: str) -> None:
    with pytest.raises(AddressInUse, match=address), serving(bench.appliance, address):
        pass


def test_a_server_that_shuts_down_stops_its_job_and_tells_the_client(bench: Bench) -> None:
    with ThreadPoolExecutor(1) as later, serving(bench.appliance, "127.0.0.1:0") as address:
        channel = grpc.insecure_channel(address)
        bench.clock.hold(3)
        call = _move(channel)
        assert bench.clock.reached.wait(WAIT_S)
        later.submit(bench.release_when_halted)
    assert call.code() is grpc.StatusCode.ABORTED
    assert bench.z_um == pytest.approx(3 * CHUNK_UM)
    channel.close()


def test_settings_choose_board_seed_and_strategy() -> None:
    settings = Settings(board="simulated_tiny", bundle="none", seed=5, strategy="sweep")
    with assemble(settings, ManualClock()) as appliance:
        profile = appliance.controller.microscope.profile
    assert profile.focus.strategy == "sweep"
    assert profile == with_simulation(profile, seed=5)


def test_an_unknown_strategy_in_the_settings_is_refused_before_anything_opens() -> None:
    with pytest.raises(BadSettings, match="sweep"):
        assemble(Settings(board="simulated_tiny", bundle="none", strategy="guess"))


def test_sigterm_ends_a_served_board_cleanly() -> None:
    command = "from edge_app.cli import main; main()"
    flags = ["serve", "--board", "simulated_tiny", "--bundle", "none", "--listen", "127.0.0.1:0"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PARFOCAL_")}
    with subprocess.Popen(
        [sys.executable, "-c", command, *flags], stdout=subprocess.PIPE, text=True, env=environment
    ) as server:
        assert server.stdout is not None
        address = server.stdout.readline().split()[-1]
        with Client(address) as client:
            assert client.position().z_um == 0.0
        server.send_signal(signal.SIGTERM)
        assert server.wait(WAIT_S) == 0
