"""A board's update, step by step: what happens in which order, what each error leaves, and what is remembered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from oracle import manifest
from updating import (
    NAME,
    NOW,
    Offering,
    badly,
    bring,
    bundle,
    facts_of,
    install,
    means,
    opened,
    rehearsed,
    serving,
    silent,
    updates,
    version_of,
)

from edge_app.errors import (
    Busy,
    RepositoryUnreachable,
    RepositoryUntrusted,
    RuntimeFailed,
    StateUnusable,
    UpdateError,
    UpdateRefused,
    UpdateUnfit,
)
from edge_app.model import Model
from edge_app.ota.candidate import Progress
from edge_app.ota.clock import Reference
from edge_app.ota.depot import Depot
from edge_app.ota.state import Stage, State
from edge_app.updates import Updates
from firmware.errors import ProfileError

OLD, NEW = "1.0.0", "1.1.0"


def begin(tmp_path: Path, **changes: Any) -> tuple[Offering, Updates]:
    """A board with an old model, and a newer one on offer."""
    offering = Offering()
    board = updates(tmp_path, offering, **changes)
    install(board.depot, bundle(OLD), OLD)
    offering.offer(NEW)
    return offering, board


class Crash(BaseException):
    """The process ended."""


def crash(*_: object) -> Model:
    raise Crash


def fails(*_: object) -> Model:
    raise RuntimeFailed("the accelerator is out of memory")


def fails_on_the_new(path: Path, progress: Progress) -> Model:
    model = opened(path, progress)
    if model.bundle.manifest.version == NEW:
        raise RuntimeFailed("answers differ from the golden ones")
    return model


def test_an_update_goes_step_by_step_and_the_old_one_serves_until_the_switch(tmp_path: Path) -> None:
    _, board = begin(tmp_path)
    steps: list[str] = []

    def noted(_done: int, _total: int, step: str) -> None:
        assert serving(board.depot) == bundle(OLD)
        steps.append(step)

    staged = board.stage("", noted)
    assert (staged.state, staged.serving, staged.candidate) == ("ready", "net@1.0.0", "net@1.1.0")
    assert serving(board.depot) == bundle(OLD)
    activated = board.activate()
    assert (activated.state, activated.serving, activated.previous) == ("watched", "net@1.1.0", "net@1.0.0")
    assert serving(board.depot) == bundle(NEW)
    asked = ["asking the repository", "fetching net@1.1.0", "opening net@1.1.0", "opening", "opening", "rehearsing"]
    assert steps == asked


def test_check_says_what_there_is_and_fetches_nothing(tmp_path: Path) -> None:
    offering, board = begin(tmp_path)
    found = board.check()
    assert (found.state, found.candidate, found.serving) == ("available", "net@1.1.0", "net@1.0.0")
    assert "`parfocal update apply` takes it" in found.reason
    assert (offering.fetched, board.status().state) == (0, "idle")


def test_where_there_is_nothing_to_take_the_reason_says_why(tmp_path: Path) -> None:
    offering, board = begin(tmp_path)
    offering.entries = ()
    for status in (board.check(), board.stage("", silent)):
        assert (status.state, status.candidate) == ("idle", "")
        assert "nothing newer" in status.reason


def test_the_clocks_warning_goes_with_the_reason_and_its_time_is_remembered(tmp_path: Path) -> None:
    offering, board = begin(tmp_path)

    def repository(_: State) -> tuple[Offering, Reference]:
        return offering, Reference(NOW, "this board has no clock", NOW.isoformat())

    told = Updates(board.depot, means(offering, repository=repository)).check()
    assert told.reason.endswith("; this board has no clock")
    assert board.depot.state().latest == NOW.isoformat()


def test_what_the_repository_showed_is_on_the_disk_before_it_is_remembered(tmp_path: Path) -> None:
    offering, board = begin(tmp_path)
    board.check()
    assert (offering.settled, board.depot.state().seen) == (1, {"timestamp": 1})
    offering.trouble = RepositoryUntrusted("an older state")
    with pytest.raises(RepositoryUntrusted):
        board.check()
    assert board.depot.state().seen == {"timestamp": 1}


def pad(text: str) -> dict[str, Any]:
    """The rehearsal or the opening says this."""

    def rehearse(old: Model | None, new: Model, progress: Progress) -> Any:
        raise UpdateError(text)

    return {"rehearse": rehearse}


TROUBLES: list[tuple[dict[str, Any], type[Exception], str, bool]] = [
    ({"rehearse": badly}, UpdateRefused, "was rehearsed on this board and refused: net@1.1.0 focuses worse", True),
    ({"open_model": fails_on_the_new}, UpdateRefused, "does not work on this board: answers differ", True),
    ({"open_model": fails}, RuntimeFailed, "the accelerator is out of memory", False),
    (pad("no stack is recorded yet"), UpdateError, "no stack is recorded yet", False),
]


@pytest.mark.parametrize(("changes", "kind", "said", "remembered"), TROUBLES)
def test_a_candidate_that_does_not_pass_leaves_the_old_one_and_a_sentence(
    tmp_path: Path, changes: dict[str, Any], kind: type[Exception], said: str, remembered: bool
) -> None:
    offering, board = begin(tmp_path, **changes)
    with pytest.raises(kind, match=said):
        board.stage("", silent)
    status = board.status()
    assert (status.serving, status.candidate) == ("net@1.0.0", "")
    assert (status.state, said in status.reason) == ("refused" if remembered else "failed", True)
    again = updates(tmp_path, offering)
    if remembered:
        assert "was tried and is not tried again" in again.stage("", silent).reason
        assert serving(board.depot) == bundle(OLD)
    else:
        bring(again)
        assert serving(board.depot) == bundle(NEW)


@pytest.mark.parametrize("where", ["trouble", "cut"])
@pytest.mark.parametrize("kind", [RepositoryUnreachable, RepositoryUntrusted, StateUnusable, UpdateError])
def test_a_repository_that_fails_leaves_the_old_one_and_may_be_asked_again(
    tmp_path: Path, where: str, kind: type[Exception]
) -> None:
    offering, board = begin(tmp_path)
    setattr(offering, where, kind("it is away"))
    with pytest.raises(kind):
        board.stage("", silent)
    assert (serving(board.depot), board.depot.state().bad) == (bundle(OLD), ())
    if kind is not StateUnusable:
        assert (board.status().state, board.status().reason) == ("failed", "it is away")
    setattr(offering, where, None)
    bring(board)
    assert serving(board.depot) == bundle(NEW)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"no bundle at all", "is what was signed, and still no sound bundle"),
        (bundle("1.1.0", passport=manifest().passport.model_copy(update={"range_um": 3.0})), "is not for this board"),
        (bundle("1.1.1"), "the catalogue calls it net@1.1.0"),
        (
            bundle("1.1.0", passport=manifest().passport.model_copy(update={"numerical_aperture": (1.2, 1.4)})),
            "for other optics than this board's",
        ),
    ],
)
def test_a_signed_bundle_that_is_wrong_is_refused_and_not_fetched_again(
    tmp_path: Path, data: bytes, said: str
) -> None:
    offering, board = begin(tmp_path)
    offering.entries, offering.files = (), {}
    offering.offer(NEW, data=data)
    with pytest.raises(UpdateRefused, match=said):
        board.stage("", silent)
    assert "is not tried again" in board.stage("", silent).reason
    assert (offering.fetched, serving(board.depot)) == (1, bundle(OLD))
    assert list(board.depot.incoming.iterdir()) == []


def test_bytes_that_are_not_those_of_the_catalogue_are_not_kept(tmp_path: Path) -> None:
    offering, board = begin(tmp_path)
    (sha256,) = offering.files
    offering.files[sha256] = bundle("6.6.6")
    with pytest.raises(RepositoryUntrusted, match="is not the file that was signed"):
        board.stage("", silent)
    assert serving(board.depot) == bundle(OLD)


def test_a_disk_without_room_is_found_out_before_anything_is_fetched(tmp_path: Path) -> None:
    offering, board = begin(tmp_path)

    offering.entries = tuple(one.model_copy(update={"size_bytes": 10**15}) for one in offering.entries)
    with pytest.raises(StateUnusable, match="is full"):
        board.stage("", silent)
    assert offering.fetched == 0


def test_a_candidate_that_is_ready_is_taken_up_again_without_a_repository(tmp_path: Path) -> None:
    offering, board = begin(tmp_path)
    board.stage("", silent)
    offering.trouble = RepositoryUnreachable("the stick was pulled out")
    again = updates(tmp_path, offering)
    assert again.stage("", silent).state == "ready"
    again.activate()
    assert serving(board.depot) == bundle(NEW)


def test_a_look_that_succeeds_ends_a_failure(tmp_path: Path) -> None:
    offering, board = begin(tmp_path)
    offering.trouble = RepositoryUnreachable("the network is down")
    with pytest.raises(RepositoryUnreachable):
        board.stage("", silent)
    assert board.status().state == "failed"
    offering.trouble, offering.entries = None, ()
    board.check()
    assert (board.status().state, board.status().reason) == ("idle", "")


def test_a_candidate_that_was_ready_and_is_withdrawn_is_dropped(tmp_path: Path) -> None:
    offering, board = begin(tmp_path)
    board.stage("", silent)
    offering.entries = ()
    told = board.stage("", silent)
    assert (told.state, told.candidate) == ("failed", "")
    with pytest.raises(UpdateRefused, match="no candidate that is ready"):
        board.activate()


def test_a_repository_that_lost_its_trust_keeps_a_candidate_from_being_activated(tmp_path: Path) -> None:
    offering, board = begin(tmp_path)
    board.stage("", silent)
    offering.trouble = RepositoryUntrusted("signed by a revoked key")
    with pytest.raises(RepositoryUntrusted):
        board.stage("", silent)
    with pytest.raises(UpdateRefused, match="no candidate that is ready"):
        board.activate()


def test_a_newer_candidate_takes_the_place_of_one_that_waits(tmp_path: Path) -> None:
    offering, board = begin(tmp_path)
    board.stage("", silent)
    offering.offer("1.2.0")
    assert board.stage("", silent).candidate == "net@1.2.0"


def test_a_model_in_service_that_cannot_be_opened_does_not_stop_the_one_that_cures_it(tmp_path: Path) -> None:
    compared: list[Model | None] = []

    def open_model(path: Path, progress: Progress) -> Model:
        model = opened(path, progress)
        if model.bundle.manifest.version == OLD:
            raise RuntimeFailed("its graph is of an older kind")
        return model

    def rehearse(old: Model | None, new: Model, progress: Progress) -> Any:
        compared.append(old)
        return rehearsed(old, new, progress)

    _, board = begin(tmp_path, open_model=open_model, rehearse=rehearse)
    assert board.stage("", silent).state == "ready"
    assert compared == [None]


def test_a_version_that_was_refused_may_be_tried_again_once_somebody_says_so(tmp_path: Path) -> None:
    offering, board = begin(tmp_path, rehearse=badly)
    with pytest.raises(UpdateRefused):
        board.stage("", silent)
    board.forgive("net@1.1.0")
    assert updates(tmp_path, offering).stage("", silent).state == "ready"
    with pytest.raises(UpdateError, match=r"net@9.9.9 was never refused or left.*: none"):
        board.forgive("net@9.9.9")


def test_what_must_wait_for_somebody_is_refused_and_not_remembered(tmp_path: Path) -> None:
    offering, board = begin(tmp_path, facts=lambda shelf: facts_of(shelf, pinned="", uses={}))
    with pytest.raises(UpdateUnfit, match="would not be asked on this board"):
        board.stage("net", silent)
    assert board.status().state == "refused"
    assert updates(tmp_path, offering).stage("", silent).state == "ready"


def test_a_fault_of_the_boards_own_ends_the_staging_and_is_told(tmp_path: Path) -> None:
    def rehearse(old: Model | None, new: Model, progress: Progress) -> Any:
        raise ProfileError("board 'x': the objective needs an aperture")

    _, board = begin(tmp_path, rehearse=rehearse)
    with pytest.raises(ProfileError):
        board.stage("", silent)
    assert (board.status().state, "aperture" in board.status().reason) == ("failed", True)


def test_a_candidate_that_was_ready_and_is_gone_is_fetched_again(tmp_path: Path) -> None:
    offering, board = begin(tmp_path)
    board.stage("", silent)
    candidate = board.ready()
    board.depot.path_of(candidate).unlink()
    with pytest.raises(UpdateRefused, match="no candidate that is ready"):
        board.activate()
    assert board.stage("", silent).state == "ready"
    assert offering.fetched == 2


def test_a_bundle_that_was_fetched_before_a_crash_is_not_fetched_again(tmp_path: Path) -> None:
    offering, board = begin(tmp_path, open_model=crash)
    with pytest.raises(Crash):
        board.stage("", silent)
    assert board.status().state == "failed"
    assert "was cut off before it was done" in board.status().reason
    bring(updates(tmp_path, offering))
    assert offering.fetched == 1


def test_a_candidate_that_ends_the_updater_again_and_again_is_given_up(tmp_path: Path) -> None:
    offering, board = begin(tmp_path, open_model=crash)
    for _ in range(3):
        with pytest.raises(Crash):
            updates(tmp_path, offering, open_model=crash).stage("", silent)
        offering.trouble = RepositoryUnreachable("the network is down")
        with pytest.raises(RepositoryUnreachable):
            board.stage("", silent)
        offering.trouble = None
    with pytest.raises(UpdateRefused, match="opened and rehearsed 3 times on this board and never to an end"):
        board.stage("", silent)
    assert "was tried and is not tried again" in board.stage("", silent).reason
    board.forgive("net@1.1.0")
    bring(updates(tmp_path, offering))
    assert serving(board.depot) == bundle(NEW)


@pytest.mark.parametrize("end", [UpdateError("no stack is recorded yet"), KeyboardInterrupt()])
def test_a_look_that_failed_or_that_a_person_stopped_does_not_count_as_cut_off(
    tmp_path: Path, end: BaseException
) -> None:
    def rehearse(*_: object) -> Any:
        raise end

    offering, board = begin(tmp_path, rehearse=rehearse)
    for _ in range(4):
        with pytest.raises(type(end)):
            board.stage("", silent)
        assert board.depot.state().tries == {}
    assert updates(tmp_path, offering).stage("", silent).state == "ready"


def test_a_person_who_stops_a_look_takes_no_crash_back(tmp_path: Path) -> None:
    def stopped(*_: object) -> Any:
        raise KeyboardInterrupt

    offering, board = begin(tmp_path, rehearse=stopped)
    for _ in range(2):
        with pytest.raises(Crash):
            updates(tmp_path, offering, open_model=crash).stage("", silent)
        with pytest.raises(KeyboardInterrupt):
            board.stage("", silent)
    assert list(board.depot.state().tries.values()) == [2]


def test_a_fetch_that_was_cut_off_does_not_count_against_the_candidate(tmp_path: Path) -> None:
    offering, board = begin(tmp_path)
    offering.cut = Crash()
    for _ in range(4):
        with pytest.raises(Crash):
            board.stage("", silent)
    offering.cut = None
    assert board.stage("", silent).state == "ready"


@pytest.mark.parametrize("look", ["check", "stage"])
@pytest.mark.parametrize("why", ["withdrawn", "held"])
def test_what_was_cut_off_and_is_no_longer_offered_is_left(tmp_path: Path, look: str, why: str) -> None:
    offering, board = begin(tmp_path, open_model=crash)
    with pytest.raises(Crash):
        board.stage("", silent)
    if why == "withdrawn":
        offering.entries = ()
    again = updates(tmp_path, offering, facts=lambda shelf: facts_of(shelf, hold=why == "held"))
    told = again.check() if look == "check" else again.stage("", silent)
    assert (told.state, told.candidate) == ("failed", "")
    assert "net@1.1.0 was cut off before it was done and is no longer offered" in told.reason
    assert (again.check().state, again.check().candidate) == ("idle", "")


def test_what_was_cut_off_stays_where_somebody_asks_for_another_by_name(tmp_path: Path) -> None:
    _, board = begin(tmp_path, open_model=crash)
    with pytest.raises(Crash):
        board.stage("", silent)
    with pytest.raises(UpdateError, match="has no bundle 'other'"):
        board.stage("other", silent)
    assert board.depot.state().stage is Stage.STAGING


def offer_both(tmp_path: Path, **changes: Any) -> tuple[Offering, Updates]:
    """A board that uses two models, and newer ones of both."""
    offering, board = begin(tmp_path, **changes)
    install(board.depot, bundle(OLD, "other"), OLD, "other")
    offering.offer(NEW, "other")
    return offering, board


@pytest.mark.parametrize("name", ["other", "ohter"])
def test_a_candidate_that_is_ready_stays_so_where_another_name_is_asked_for_that_is_not_to_be_had(
    tmp_path: Path, name: str
) -> None:
    offering, board = offer_both(tmp_path)
    board.stage(NAME, silent)
    offering.entries = tuple(entry for entry in offering.entries if entry.name == NAME)
    with pytest.raises(UpdateError, match=f"has no bundle '{name}'"):
        board.stage(name, silent)
    assert (board.status().state, board.status().candidate) == ("ready", "net@1.1.0")


def test_whoever_asks_for_a_name_without_anything_newer_is_given_no_other_candidate_to_switch_to(
    tmp_path: Path,
) -> None:
    offering, board = begin(tmp_path)
    install(board.depot, bundle(NEW, "other"), NEW, "other")
    offering.offer(NEW, "other")
    board.stage(NAME, silent)
    told = board.stage("other", silent)
    assert (told.state, told.candidate) == ("idle", "")
    assert told.reason.endswith("has nothing newer; net@1.1.0 is ready, and stays so")
    assert (board.status().state, board.status().candidate) == ("ready", "net@1.1.0")


def test_a_candidate_of_another_name_takes_the_place_of_one_that_waits_and_says_so(tmp_path: Path) -> None:
    offering, board = offer_both(tmp_path)
    board.stage(NAME, silent)
    steps: list[str] = []
    told = board.stage("other", lambda _done, _total, step: steps.append(step))
    said = "other was asked for by name and takes the place of net@1.1.0, which was ready"
    assert (told.state, told.candidate, told.reason.endswith(f"; {said}")) == ("ready", "other@1.1.0", True)
    assert said in steps
    assert board.stage(NAME, silent).candidate == "net@1.1.0"
    assert offering.fetched == 2


@pytest.mark.parametrize("kind", [UpdateUnfit, UpdateError, RuntimeFailed])
def test_what_has_to_wait_is_fetched_once_and_kept_until_it_is_no_longer_offered(
    tmp_path: Path, kind: type[Exception]
) -> None:
    def rehearse(*_: object) -> Any:
        raise kind("no stack is recorded yet")

    offering, board = begin(tmp_path, rehearse=rehearse)
    path = board.depot.path_of(version_of(bundle(NEW), NEW))
    for _ in range(3):
        with pytest.raises(kind):
            board.stage("", silent)
        assert path.exists()
    assert offering.fetched == 1
    offering.entries = ()
    board.check()
    assert not path.exists()


@pytest.mark.parametrize("kind", [UpdateUnfit, UpdateError])
def test_a_candidate_that_must_wait_keeps_none_of_another_name_waiting(
    tmp_path: Path, kind: type[UpdateError]
) -> None:
    def rehearse(old: Model | None, new: Model, progress: Progress) -> Any:
        if new.bundle.manifest.name == NAME:
            raise kind("no stack is recorded yet")
        return rehearsed(old, new, progress)

    offering, board = offer_both(tmp_path, rehearse=rehearse)
    assert board.stage("", silent).candidate == "other@1.1.0"
    assert board.stage("", silent).candidate == "other@1.1.0"
    assert offering.fetched == 2
    board.activate()
    with pytest.raises(kind, match="no stack is recorded yet"):
        board.stage("", silent)


@pytest.mark.parametrize("kind", [UpdateRefused, RepositoryUntrusted, RepositoryUnreachable])
def test_a_candidate_that_is_refused_or_cannot_be_had_is_told_before_any_other_is_tried(
    tmp_path: Path, kind: type[UpdateError]
) -> None:
    def rehearse(*_: object) -> Any:
        raise kind("it is what it is")

    offering, board = offer_both(tmp_path, rehearse=rehearse)
    with pytest.raises(kind):
        board.stage("", silent)
    assert offering.fetched == 1


def test_an_update_that_is_under_way_is_told_as_such(tmp_path: Path) -> None:
    seen: list[str] = []

    def open_model(path: Path, progress: Progress) -> Model:
        seen.append(updates(tmp_path, Offering()).status().state)
        with pytest.raises(Busy):
            updates(tmp_path, Offering()).stage("", silent)
        return opened(path, progress)

    _, board = begin(tmp_path, open_model=open_model)
    board.stage("", silent)
    assert set(seen) == {"staging"}


def test_going_back_needs_something_to_go_back_to(tmp_path: Path) -> None:
    board = updates(tmp_path, Offering())
    with pytest.raises(UpdateRefused, match="nothing to go back to"):
        board.roll_back()


def test_going_back_is_remembered_against_the_version_that_was_left(tmp_path: Path) -> None:
    _, board = begin(tmp_path)
    bring(board)
    status = board.roll_back()
    assert (status.serving, status.state) == ("net@1.0.0", "rolled_back")
    assert status.reason == "net@1.1.0 was left because somebody asked for it"
    assert "is not tried again" in board.stage("", silent).reason


def test_going_back_without_a_name_leaves_the_only_model_that_came_by_an_update(tmp_path: Path) -> None:
    _, board = begin(tmp_path)
    bring(board)
    board.depot.change(lambda state: state.settled("it did well").told(Stage.REFUSED, "it is worse", "spectral_20x"))
    assert board.status().serving == "spectral_20x@1.0.0"
    board.roll_back()
    assert serving(board.depot) == bundle(OLD)


def test_going_back_without_a_name_asks_which_where_several_came_by_updates(tmp_path: Path) -> None:
    _, board = offer_both(tmp_path)
    board.depot.change(lambda state: state.told(Stage.REFUSED, "it is worse", "spectral_20x"))
    with pytest.raises(UpdateRefused, match=r"net@1\.0\.0, other@1\.0\.0 into service; say which is to be left"):
        board.roll_back()
    board.depot.change(lambda state: state.told(Stage.REFUSED, "it is worse", NAME))
    board.roll_back()
    assert set(board.depot.state().slots) == {"other"}


def test_going_back_under_a_name_that_updates_did_not_bring_tells_those_that_they_did(tmp_path: Path) -> None:
    _, board = offer_both(tmp_path)
    said = r"spectral_20x is not in service by an update; those that are: net@1\.0\.0, other@1\.0\.0"
    with pytest.raises(UpdateRefused, match=said):
        board.roll_back("spectral_20x")


def test_a_status_tells_of_the_model_that_is_watched_whatever_was_refused_since(tmp_path: Path) -> None:
    offering, board = offer_both(tmp_path)
    bring(board, "other")
    before = board.status()
    with pytest.raises(UpdateRefused):
        updates(tmp_path, offering, rehearse=badly).stage(NAME, silent)
    after = board.status()
    assert (after.serving, after.previous, after.state) == ("other@1.1.0", "other@1.0.0", "watched")
    assert "net@1.1.0 was rehearsed on this board and refused" in after.reason
    assert (before.bad_versions, after.bad_versions) == (0, 1)
    board.roll_back()
    assert serving(board.depot, "other") == bundle(OLD, "other")


def test_a_name_that_was_not_in_use_is_rehearsed_against_the_model_of_its_task(tmp_path: Path) -> None:
    labels: list[str] = []
    offering = Offering()
    offering.offer("1.0.0", "other")

    def open_model(path: Path, progress: Progress) -> Model:
        labels.append(opened(path, progress).label)
        return opened(path, progress)

    status = updates(tmp_path, offering, open_model=open_model).stage("other", silent)
    assert status.state == "ready"
    assert labels == ["spectral_20x@1.0.0", "other@1.0.0"]


def test_the_update_of_a_factory_bundle_goes_back_to_the_one_that_ships(tmp_path: Path) -> None:
    offering = Offering()
    offering.offer("9.0.0", "spectral_20x")
    board = updates(tmp_path, offering)
    bring(board, "")
    assert (board.status().serving, board.status().previous) == ("spectral_20x@9.0.0", "spectral_20x@1.0.0")
    assert board.roll_back().serving == "spectral_20x@1.0.0"
    assert Depot(tmp_path).state().slots == {}
    assert Depot(tmp_path).state().stage is Stage.ROLLED_BACK
    assert board.depot.shelf().find("spectral_20x").parent.name == "models"
    assert NAME not in board.depot.state().slots
