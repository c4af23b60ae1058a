"""The bundles that a board has: those that ship, overlaid by what updates brought."""

from __future__ import annotations

from pathlib import Path

import pytest
from updating import bundle

from edge_app import bundle as bundles
from edge_app.errors import BundleNotFound
from edge_app.shelf import Shelf

SHIPPED = "spectral_20x"


def installed(tmp_path: Path, version: str, name: str = SHIPPED) -> Path:
    path = tmp_path / f"{name}-{version}"
    path.write_bytes(bundle(version, name))
    return path


def labels(shelf: Shelf) -> list[str]:
    return [found.manifest.label for _, found in shelf.readable()]


def test_an_installed_bundle_takes_the_place_of_the_one_that_ships(tmp_path: Path) -> None:
    path = installed(tmp_path, "1.1.0")
    shelf = Shelf({SHIPPED: path})
    assert shelf.find(SHIPPED) == path
    assert "spectral_20x@1.1.0" in labels(shelf)
    assert len(labels(shelf)) == len(labels(Shelf()))


def test_an_installed_bundle_of_another_name_stands_beside_those_that_ship(tmp_path: Path) -> None:
    shelf = Shelf({"net": installed(tmp_path, "1.0.0", "net")})
    assert sorted({*labels(Shelf()), "net@1.0.0"}) == sorted(labels(shelf))
    assert shelf.find(SHIPPED) == bundles.find(SHIPPED)


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: bytes(len(data)), lambda _: b""])
def test_where_an_installed_bundle_is_damaged_the_one_that_ships_serves(tmp_path: Path, damage: object) -> None:
    path = installed(tmp_path, "1.1.0")
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    assert Shelf({SHIPPED: path}).find(SHIPPED) == bundles.find(SHIPPED)
    assert labels(Shelf({SHIPPED: path})) == labels(Shelf())


def test_a_newer_one_that_ships_takes_the_place_of_an_installed_one(tmp_path: Path) -> None:
    shelf = Shelf({SHIPPED: installed(tmp_path, "0.9.0")})
    assert shelf.find(SHIPPED) == bundles.find(SHIPPED)


def test_a_file_is_found_by_its_path_whatever_is_installed(tmp_path: Path) -> None:
    path = installed(tmp_path, "1.1.0")
    assert Shelf({str(path): tmp_path / "none"}).find(str(path)) == path


def test_what_is_nowhere_is_an_error_that_says_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(BundleNotFound, match="from updates: net"):
        Shelf({"net": installed(tmp_path, "1.0.0", "net")}).find("nett")
