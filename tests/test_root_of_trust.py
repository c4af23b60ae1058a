"""The root of trust: from where a board has it, and what is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from repository_simulator import Simulator
from tuf.api.metadata import Metadata, Root

from edge_app.errors import TrustUnusable
from edge_app.ota.repository import root_of_trust


@pytest.fixture
def simulator() -> Simulator:
    return Simulator()


def test_the_root_of_trust_is_the_given_file_else_the_machines_else_the_packages(
    tmp_path: Path, simulator: Simulator
) -> None:
    machine, packaged, given = tmp_path / "machine.json", tmp_path / "packaged.json", tmp_path / "given.json"
    packaged.write_bytes(simulator.bootstrap())
    assert root_of_trust(None, machine, packaged) == simulator.bootstrap()
    machine.write_bytes(Simulator().bootstrap())
    assert root_of_trust(None, machine, packaged) == machine.read_bytes()
    given.write_bytes(Simulator().bootstrap())
    assert root_of_trust(given, machine, packaged) == given.read_bytes()


def test_without_a_root_of_trust_it_is_said_where_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(TrustUnusable, match=r"put it at .*machine.json, or name it with --root: the publisher makes"):
        root_of_trust(None, tmp_path / "machine.json", tmp_path / "packaged.json")
    with pytest.raises(TrustUnusable, match="cannot be read"):
        root_of_trust(tmp_path / "given.json", tmp_path / "machine.json", tmp_path / "packaged.json")


def unsigned(root: bytes) -> bytes:
    metadata = Metadata[Root].from_bytes(root)
    metadata.signatures.clear()
    return metadata.to_bytes()


@pytest.mark.parametrize(
    "spoil",
    [lambda _: b"", lambda _: b"[]", lambda _: b"null", lambda root: root[:200], unsigned],
    ids=["empty", "a list", "null", "half", "unsigned"],
)
def test_a_damaged_root_of_trust_is_said(
    tmp_path: Path, simulator: Simulator, spoil: Callable[[bytes], bytes]
) -> None:
    given = tmp_path / "root.json"
    given.write_bytes(spoil(simulator.bootstrap()))
    with pytest.raises(TrustUnusable, match="is damaged, or no root of trust"):
        root_of_trust(given)


def test_metadata_of_another_kind_is_no_root_of_trust(tmp_path: Path, simulator: Simulator) -> None:
    given = tmp_path / "root.json"
    given.write_bytes(simulator.files["metadata/timestamp.json"])
    with pytest.raises(TrustUnusable, match="is damaged, or no root of trust"):
        root_of_trust(given)
