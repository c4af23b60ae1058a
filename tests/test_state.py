"""The steps by which what a board remembers of its updates changes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from updating import NAME, bundle, version_of

from edge_app.ota.state import Slot, Stage, State, Version

OLD, NEW = version_of(bundle("1.0.0"), "1.0.0"), version_of(bundle("1.1.0"), "1.1.0")
OTHER = version_of(bundle("2.0.0", "other"), "2.0.0", "other")
SERVED = State(slots={NAME: Slot(serving=OLD, previous=None)}, about=NAME)


def watched() -> State:
    """The new one serves in place of the old one."""
    return SERVED.ready(NEW, "it focuses as well").activated("it serves", OLD.sha256)


def serving(state: State, name: str = NAME) -> Version | None:
    slot = state.slots.get(name)
    return slot.serving if slot else None


def test_a_candidate_serves_only_once_it_is_activated() -> None:
    for state in (SERVED.staging(NEW), SERVED.ready(NEW, "fine"), SERVED.refused(NEW, "bad"), SERVED.failed("cut")):
        assert serving(state) == OLD
    assert serving(watched()) == NEW


def test_an_activated_candidate_is_watched_and_remembers_what_it_replaced() -> None:
    state = watched()
    assert (state.stage, state.watched, state.candidate) == (Stage.WATCHED, NEW, None)
    assert (state.slots[NAME].previous, state.replaced) == (OLD, OLD.sha256)


def test_a_settled_model_is_no_longer_watched() -> None:
    state = watched().begun().settled("64 jobs went well")
    assert (state.stage, state.watched, state.starts, serving(state)) == (Stage.SETTLED, None, 0, NEW)


def test_going_back_has_the_old_one_serve_and_remembers_the_new_one_as_bad() -> None:
    state = watched().rolled_back(NAME, "it was worse")
    assert (serving(state), state.stage, state.watched) == (OLD, Stage.ROLLED_BACK, None)
    assert state.is_bad(NEW.label, "") == "it was worse"
    assert state.is_bad("net@9.9.9", NEW.sha256) == "it was worse"
    assert not state.is_bad(OLD.label, OLD.sha256)


def test_going_back_twice_leaves_the_bundle_that_ships() -> None:
    state = watched().rolled_back(NAME, "worse").rolled_back(NAME, "worse too")
    assert state.slots == {}
    assert not state.can_roll_back(NAME)


def test_going_back_under_one_name_leaves_another_that_is_watched() -> None:
    state = SERVED.ready(OTHER, "fine").activated("serves", "").begun()
    left = state.rolled_back(NAME, "somebody asked for it")
    assert (left.watched, left.starts, serving(left, "other")) == (OTHER, 1, OTHER)


def test_a_version_is_remembered_as_bad_once() -> None:
    state = SERVED.refused(NEW, "once").refused(NEW, "twice")
    assert [bad.why for bad in state.bad] == ["twice"]


def test_a_failure_drops_the_candidate_and_may_be_tried_again() -> None:
    state = SERVED.staging(NEW).failed("the stick was pulled out")
    assert (state.stage, state.candidate, state.bad) == (Stage.FAILED, None, ())


@pytest.mark.parametrize(
    ("way", "bad"),
    [
        (lambda state: state.failed("no stack"), []),
        (lambda state: state.unfit(OTHER, "no stack"), []),
        (lambda state: state.refused(OTHER, "no stack"), [OTHER.label]),
    ],
)
def test_what_becomes_of_a_candidate_beside_a_watched_model_goes_back_to_watching_it(
    way: Callable[[State], State], bad: list[str]
) -> None:
    state = way(watched().staging(OTHER))
    assert (state.stage, state.about, state.watched, state.candidate) == (Stage.WATCHED, NAME, NEW, None)
    assert (state.reason, [one.label for one in state.bad]) == ("no stack", bad)


@pytest.mark.parametrize("way", [lambda state: state.failed("no stack"), lambda state: state.unfit(NEW, "no stack")])
def test_the_bytes_of_what_was_put_off_stay_until_it_is_no_longer_offered(way: Callable[[State], State]) -> None:
    state = way(SERVED.staging(NEW))
    assert NEW.sha256 in state.looked([NEW.sha256, OTHER.sha256]).kept()
    assert NEW.sha256 not in state.looked([OTHER.sha256]).kept()


def test_the_bytes_of_what_was_put_off_stay_for_each_name_and_only_of_its_latest() -> None:
    newer = version_of(bundle("1.2.0"), "1.2.0")
    state = SERVED.staging(NEW).unfit(NEW, "no").staging(OTHER).unfit(OTHER, "no").staging(newer).unfit(newer, "no")
    assert state.kept() == {OLD.sha256, OTHER.sha256, newer.sha256}


@pytest.mark.parametrize(
    "way",
    [
        lambda state: state.refused(NEW, "worse"),
        lambda state: state.ready(NEW, "fine").activated("it serves", "").rolled_back(NAME, "worse"),
    ],
)
def test_the_bytes_of_what_was_put_off_and_turned_out_to_be_bad_go(way: Callable[[State], State]) -> None:
    state = way(SERVED.staging(NEW).failed("no stack").staging(NEW))
    assert state.kept() == {OLD.sha256}


@pytest.mark.parametrize("way", [State.staging, lambda state, version: state.ready(version, "it focuses as well")])
def test_a_candidate_on_its_way_stays_whatever_becomes_of_the_watched_one(
    way: Callable[[State, Version], State],
) -> None:
    before = way(watched(), OTHER)
    for after in (before.settled("well"), before.rolled_back(NAME, "worse"), before.forgiven("x@1.0.0")):
        assert (after.stage, after.candidate, after.about) == (before.stage, OTHER, "other")
    assert before.settled("well").watched is None
    assert before.rolled_back(NAME, "worse").is_bad(NEW.label, "") == "worse"


def test_what_was_left_beside_a_candidate_is_told_before_what_is_told_of_that() -> None:
    left = watched().staging(OTHER).rolled_back(NAME, "it was worse")
    assert left.reason == "it was worse; other@2.0.0 is being verified"
    assert left.ready(OTHER, "it is as good").reason == "it was worse; it is as good"
    later = watched().staging(OTHER).ready(OTHER, "it is as good").rolled_back(NAME, "it was worse")
    assert (later.stage, later.reason) == (Stage.READY, "it was worse; it is as good")


def test_tries_without_an_end_are_counted_by_version_until_one_has_an_end() -> None:
    state = SERVED.staging(NEW).tried(NEW).failed("the network is down").staging(OTHER).tried(OTHER).tried(OTHER)
    assert state.tries == {NEW.sha256: 1, OTHER.sha256: 2}
    for over in (state.ready(OTHER, "fine"), state.refused(OTHER, "bad"), state.unfit(OTHER, "curves")):
        assert over.tries == {NEW.sha256: 1}


def test_jobs_of_a_version_that_serves_once_more_are_counted_anew() -> None:
    again = watched().counting().rolled_back(NAME, "worse").forgiven(NEW.label).ready(NEW, "fine")
    assert watched().counting().counted
    assert not again.activated("it serves", "").counted


def test_starts_count_until_a_job_ended() -> None:
    assert watched().begun().begun().starts == 2
    assert watched().begun().proved().starts == 0


@pytest.mark.parametrize("state", [watched(), SERVED.ready(OTHER, "fine"), watched().refused(OTHER, "bad")])
def test_every_bundle_that_may_still_serve_is_kept(state: State) -> None:
    versions = [state.candidate, state.watched, *(slot.serving for slot in state.slots.values())]
    versions += [slot.previous for slot in state.slots.values()]
    assert state.kept() == {version.sha256 for version in versions if version is not None}


def test_a_state_is_read_as_it_was_written() -> None:
    state = watched().refused(OTHER, "bad").model_copy(update={"seen": {"root": 3}, "latest": "2027-03-01"})
    assert State.model_validate_json(state.model_dump_json()) == state
