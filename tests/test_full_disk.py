"""A disk that is full, at each step of an update: the old model goes on, and the next try succeeds."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from attacked_board import NEW, OLD, Board, board_with_old, quiet
from full_disk import full_disk
from repository_simulator import Simulator
from tiny_bundle import NAME

from edge_app.errors import StateUnusable, UpdateError
from edge_app.ota.disk import RealDisk


@pytest.fixture
def board(tmp_path: Path) -> Board:
    """Version 1.0.0 serves, and 1.1.0 is on offer."""
    simulator = Simulator()
    board = board_with_old(tmp_path / "state", simulator)
    simulator.offer(NEW, NAME, "1.1.0")
    simulator.publish()
    return board


def test_a_disk_that_is_full_before_it_begins(board: Board) -> None:
    class Small(RealDisk):
        def free_bytes(self, folder: Path) -> int:
            return 1_000_000

    with pytest.raises(StateUnusable, match=r"is full: 1 MB are free and 8 MB are needed; free some space"):
        board.updates(Small()).stage("", quiet)
    assert board.served() == OLD
    assert board.take().serving == "tiny@1.1.0"


def test_a_disk_that_is_full_at_each_step(board: Board, tmp_path: Path) -> None:
    before, steps = board.folder, 0
    while True:
        steps += 1
        board.folder = tmp_path / f"full at {steps}"
        shutil.copytree(before, board.folder, symlinks=True)
        with full_disk(board.folder, steps) as disk:
            said = stage_and_say(board)
        if disk.steps < steps:
            break
        assert board.served() == OLD, (steps, said)
        assert "\n" not in said
        # A step that fails and is not needed, such as making a folder that is there, stops nothing.
        assert "No space left" in said or board.updates().status().state == "ready", (steps, said)
        assert board.take().serving == "tiny@1.1.0", (steps, said)
        assert board.served() == NEW
        shutil.rmtree(board.folder)
    assert steps > 20


def stage_and_say(board: Board) -> str:
    """The sentence with which staging ends."""
    try:
        return board.stage().reason
    except (UpdateError, StateUnusable) as error:
        return str(error)


def test_a_disk_that_is_full_at_each_step_of_the_switch(board: Board, tmp_path: Path) -> None:
    board.stage()
    before, steps = board.folder, 0
    while True:
        steps += 1
        board.folder = tmp_path / f"full at {steps}"
        shutil.copytree(before, board.folder, symlinks=True)
        with full_disk(board.folder, steps) as disk:
            said = activate_and_say(board)
        assert board.served() == (OLD if "No space left" in said else NEW)
        if disk.steps < steps:
            break
    assert steps > 2


def activate_and_say(board: Board) -> str:
    """The sentence with which the switch ends."""
    try:
        return board.updates().activate().reason
    except StateUnusable as error:
        return str(error)
