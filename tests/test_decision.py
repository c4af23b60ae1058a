"""Which bundle of a catalogue a board takes, and whether one is for it."""

from __future__ import annotations

from typing import Any

import pytest
from oracle import manifest
from updating import NAME, OPTICS, bundle, entry_of, version_of

from edge_app.bundle import Manifest
from edge_app.ota.catalogue import Catalogue, Entry
from edge_app.ota.decision import CUT_OFF_AT_MOST, Facts, InUse, Nothing, Offer, choose, covers, cut_off, unfit
from edge_app.ota.state import State
from firmware.frames import FrameOptics

OTHER_OPTICS = FrameOptics(numerical_aperture=0.3, pixel_um=0.345, response="linear")


def use(version: str = "1.0.0", name: str = NAME, **changes: Any) -> InUse:
    return InUse(stated(version, name, **changes), "0" * 64)


def stated(version: str, name: str = NAME, **changes: Any) -> Manifest:
    return manifest().model_copy(update={"name": name, "version": version, **changes})


def board(*uses: InUse, **changes: Any) -> Facts:
    known = {one.manifest.name: one for one in uses or (use(),)}
    return Facts(**{"board_id": "here", "uses": known, "optics": (OPTICS,)} | changes)


def offers(*entries: Entry, **changes: Any) -> Catalogue:
    return Catalogue(channel="stable", bundles=entries, **changes)


def entry(version: str, name: str = NAME, **changes: Any) -> Entry:
    return entry_of(bundle(version, name), version, name, **changes)


def taken(found: Offer | Nothing) -> str:
    """The labels of what may be taken, or why nothing is."""
    return ", ".join(entry.label for entry in found.entries) if isinstance(found, Offer) else found.why


def test_the_newest_version_of_what_is_in_use_is_taken() -> None:
    catalogue = offers(entry("1.9.0"), entry("1.10.0"), entry("0.9.0"), entry("3.0.0", "other"))
    assert taken(choose(catalogue, board(), State())) == "net@1.10.0"


def test_nothing_is_taken_that_is_no_newer() -> None:
    assert "nothing newer" in taken(choose(offers(entry("1.0.0"), entry("0.9.0")), board(), State()))


def test_a_bundle_numbered_in_another_way_is_older_than_any() -> None:
    assert taken(choose(offers(entry("0.0.1")), board(use("of last year")), State())) == "net@0.0.1"


def test_defocus_comes_before_other_tasks_and_names_in_order() -> None:
    facts = board(use(name="b"), use(name="c"), use(name="a", task="quality"))
    first, second, third = entry("2.0.0", "b"), entry("2.0.0", "c"), entry("2.0.0", "a", task="quality")
    found = choose(offers(third, entry("1.5.0", "b"), second, first), facts, State())
    assert taken(found) == "b@2.0.0, c@2.0.0, a@2.0.0"


def test_a_name_that_is_not_in_use_is_taken_only_when_it_is_asked_for() -> None:
    catalogue = offers(entry("2.0.0", "other"))
    assert "nothing newer" in taken(choose(catalogue, board(), State()))
    assert taken(choose(catalogue, board(), State(), "other")) == "other@2.0.0"
    assert "it has other" in taken(choose(catalogue, board(), State(), "third"))


@pytest.mark.parametrize(
    ("catalogue", "facts", "why"),
    [
        (offers(entry("2.0.0"), hold=True), board(), "holds the channel stable"),
        (offers(entry("2.0.0")), board(hold=True), "held on this board"),
        (offers(entry("2.0.0", share=0.0)), board(), "goes to 0% of the boards first"),
    ],
)
def test_hold_and_share_bind_a_board_by_itself_and_not_who_asks_by_name(
    catalogue: Catalogue, facts: Facts, why: str
) -> None:
    assert why in taken(choose(catalogue, facts, State()))
    assert taken(choose(catalogue, facts, State(), NAME)) == "net@2.0.0"


def test_a_board_that_is_pinned_takes_nothing_at_all() -> None:
    assert taken(choose(offers(entry("2.0.0")), board(pinned="it is named"), State(), NAME)) == "it is named"


@pytest.mark.parametrize("name", ["", NAME])
def test_no_version_is_tried_twice(name: str) -> None:
    state = State().refused(version_of(bundle("2.0.0"), "2.0.0"), "it focused badly")
    found = choose(offers(entry("2.0.0")), board(), state, name)
    lifted = "`parfocal update forget net@2.0.0` lifts that"
    assert taken(found) == f"net@2.0.0 was tried and is not tried again: it focused badly; {lifted}"
    assert isinstance(found, Nothing)
    assert found.unmet is bool(name)


def test_an_older_one_that_is_newer_than_the_one_in_use_is_taken_where_the_newest_is_bad() -> None:
    state = State().refused(version_of(bundle("2.0.0"), "2.0.0"), "it focused badly")
    assert taken(choose(offers(entry("2.0.0"), entry("1.5.0")), board(), state)) == "net@1.5.0"


def test_nothing_is_taken_by_itself_while_a_model_is_watched() -> None:
    state = State().ready(version_of(bundle("1.0.0"), "1.0.0"), "fine").activated("serves", "")
    assert "first jobs are watched" in taken(choose(offers(entry("2.0.0")), board(), state))


def test_a_watched_model_does_not_hold_up_the_others() -> None:
    state = State().ready(version_of(bundle("1.0.0", "other"), "1.0.0", "other"), "fine").activated("serves", "")
    assert taken(choose(offers(entry("2.0.0")), board(), state)) == "net@2.0.0"


def test_no_newer_version_of_a_watched_model_is_taken_by_name_either() -> None:
    state = State().ready(version_of(bundle("1.0.0"), "1.0.0"), "fine").activated("serves", "")
    found = choose(offers(entry("2.0.0")), board(), state, NAME)
    assert found == Nothing(
        "net@1.0.0 is still being watched (its first 64 jobs); roll it back first, or wait", unmet=True
    )
    assert taken(choose(offers(entry("2.0.0")), board(), state.settled("well"), NAME)) == "net@2.0.0"
    assert "nothing newer" in taken(choose(offers(entry("1.0.0")), board(), state, NAME))


def test_a_version_is_given_up_after_so_many_tries_without_an_end() -> None:
    version, state = version_of(bundle("2.0.0"), "2.0.0"), State()
    for _ in range(CUT_OFF_AT_MOST):
        assert not cut_off(version, state)
        state = state.tried(version)
    assert "net@2.0.0 was opened and rehearsed 3 times on this board" in cut_off(version, state)
    assert not cut_off(version_of(bundle("2.0.1"), "2.0.1"), state)


def test_a_share_covers_its_part_of_the_boards_and_all_that_a_smaller_one_covers() -> None:
    boards = [f"board {number}" for number in range(2000)]
    some = {one for one in boards if covers(0.2, one, "net@2.0.0")}
    more = {one for one in boards if covers(0.5, one, "net@2.0.0")}
    assert 320 < len(some) < 480
    assert some < more
    assert all(covers(1.0, one, "net@2.0.0") for one in boards)
    assert {one for one in boards if covers(0.2, one, "net@2.1.0")} != some


def passport(**changes: Any) -> dict[str, Any]:
    return {"passport": manifest().passport.model_copy(update=changes)}


WIDE = {"numerical_aperture": (0.2, 0.8), "pixel_um": (0.1, 0.5)}


@pytest.mark.parametrize(
    ("new", "facts", "why"),
    [
        (stated("2.0.0"), board(), ""),
        (stated("2.0.0", **passport(numerical_aperture=(1.2, 1.4))), board(), "for other optics than this board's"),
        (stated("2.0.0", **passport(range_um=20.0)), board(), "it can tell +-20 um of defocus, and net@1.0.0 +-30 um"),
        (stated("2.0.0", **passport(range_um=29.0)), board(), ""),
        (stated("2.0.1"), board(), "the catalogue calls it net@2.0.0 for defocus"),
        (stated("2.0.0", "other"), board(), "the catalogue calls it net@2.0.0 for defocus"),
        (stated("2.0.0"), board(use(**passport(**WIDE)), optics=(OPTICS, OTHER_OPTICS)), "it is not for"),
        (stated("2.0.0"), board(optics=(OPTICS, OTHER_OPTICS)), ""),
        (stated("2.0.0"), board(optics=()), "it has none"),
        (stated("2.0.0"), board(use(task="quality")), "for defocus, and net@1.0.0 for quality"),
    ],
)
def test_a_bundle_is_for_a_board_or_there_is_a_reason_why_not(new: Manifest, facts: Facts, why: str) -> None:
    said = unfit(new, entry("2.0.0"), facts)
    assert (why in said) if why else not said


def test_a_new_model_of_sharpness_waits_for_curves_to_be_removed() -> None:
    old, catalogue = use(task="sharpness"), offers(entry("2.0.0", task="sharpness"))
    for name in ("", NAME):
        found = choose(catalogue, board(old, has_curves=True), State(), name)
        assert "net@2.0.0 waits: focus curves were recorded" in taken(found)
        assert taken(choose(catalogue, board(old), State(), name)) == "net@2.0.0"


def test_what_waits_for_curves_to_be_removed_keeps_nothing_else_waiting() -> None:
    facts = board(use(name="a", task="sharpness"), use(name="b", task="quality"), has_curves=True)
    catalogue = offers(entry("2.0.0", "a", task="sharpness"), entry("2.0.0", "b", task="quality"))
    assert taken(choose(catalogue, facts, State())) == "b@2.0.0"
