"""Shelf: the bundles that a board has, by name: those that ship, and what updates put in place of them or beside."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from edge_app import bundle as bundles
from edge_app.bundle import SUFFIX, ModelBundle
from edge_app.errors import BundleError, BundleNotFound
from edge_app.ota.catalogue import order_of


@dataclass(frozen=True)
class Shelf:
    """`installed` are files by the bundle's own name; where one cannot be read, or is older, the factory's serves."""

    installed: Mapping[str, Path] = field(default_factory=dict)

    def readable(self) -> list[tuple[Path, ModelBundle]]:
        """The bundles that can be read, one for each name, in order of name; the others serve where one is damaged."""
        found = {path.name[: -len(SUFFIX)]: (path, bundle) for path, bundle in bundles.shipped()}
        for name in self.installed:
            sound = self._installed(name)
            if sound is not None:
                found[name] = sound
        return [found[name] for name in sorted(found)]

    def served(self) -> set[Path]:
        """The files that updates brought and that serve: sound, and no older than what ships."""
        found = (self._installed(name) for name in self.installed)
        return {sound[0] for sound in found if sound is not None}

    def find(self, name: str) -> Path:
        """A bundle by path, or by its own name.

        Raises:
            BundleNotFound: Neither.
        """
        if not Path(name).is_file():
            sound = self._installed(name)
            if sound is not None:
                return sound[0]
        try:
            return bundles.find(name)
        except BundleNotFound as error:
            if not self.installed:
                raise
            raise BundleNotFound(f"{error}; from updates: {', '.join(sorted(self.installed))}") from None

    def with_installed(self, name: str, path: Path) -> Shelf:
        """The same, with another file under a name."""
        return Shelf({**self.installed, name: path})

    def _installed(self, name: str) -> tuple[Path, ModelBundle] | None:
        """What updates put under a name, if it can be read and nothing newer shipped since."""
        path, ships = self.installed.get(name), bundles.FACTORY / f"{name}{SUFFIX}"
        if path is None:
            return None
        try:
            found = bundles.read(path)
        except BundleError:
            return None
        with suppress(BundleError, ValueError):
            if order_of(bundles.read(ships).manifest.version) > order_of(found.manifest.version):
                return None
        return path, found
