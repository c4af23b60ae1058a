"""History: how the jobs of each model on this board ended, kept so that a new one can be held against the old."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from edge_app.journal import log_of
from edge_app.ota.tally import Tally
from edge_app.whole import write_whole

_NAME = "record.json"
_MOST = 12
_EVERY = 16
_log = log_of(__name__)


class History:
    """The tallies of a board's models by their bundles' hashes; what cannot be read counts as not known.

    It is written after every `_EVERY` changes, and at once where that is asked for: a board that focuses all day must
    not wear out its card.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / _NAME
        self._tallies = self._read()
        self._unwritten = 0

    def of(self, sha256: str) -> Tally:
        """The tally of a model; empty if it never had a job here."""
        return self._tallies.get(sha256, Tally())

    def note(self, sha256: str, tally: Tally, at_once: bool = False) -> None:
        """Remember a model's tally."""
        self._tallies.pop(sha256, None)
        self._tallies[sha256] = tally
        self._unwritten += 1
        if at_once or self._unwritten >= _EVERY:
            self.write()

    def write(self) -> None:
        """Have it on the disk; that this fails is only logged, since a board must focus on a full disk too."""
        if not self._unwritten:
            return
        newest = {sha256: tally.as_counts() for sha256, tally in list(self._tallies.items())[-_MOST:]}
        try:
            write_whole(self._path, json.dumps(newest, indent=1))
            self._unwritten = 0
        except OSError as error:
            _log.warning("record of jobs not written", path=str(self._path), why=error.strerror or str(error))

    def _read(self) -> dict[str, Tally]:
        found: dict[str, Tally] = {}
        with suppress(OSError, ValueError, TypeError, AttributeError):
            for sha256, counts in json.loads(self._path.read_text(encoding="utf-8")).items():
                found[sha256] = Tally.from_counts(counts)
        return found
