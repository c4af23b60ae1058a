"""Desk: a repository with the keys at hand for it; how every change of it begins, and how it ends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from edge_app.ota.disk import Disk, RealDisk, put
from model_export.errors import PublishError
from model_export.publishing.draft import LIVES_DAYS, Draft, blank
from model_export.publishing.edition import DAYS, Edition, load
from model_export.publishing.keys import KeyRing, Passphrase
from model_export.publishing.staging import ROOT_SUFFIX, Staging

_ANCHOR = "root.json"
_CLOCKS_DIFFER = timedelta(days=1)


@dataclass(frozen=True)
class Done:
    """What a verb did: a sentence, the roles it signed and as which version, new key files, and what to do next."""

    did: str
    signed: Mapping[str, int]
    new_keys: tuple[Path, ...] = ()
    next: str = ""


class Desk:
    """One repository; nothing of it is held between two changes."""

    def __init__(
        self, repo: Path, folders: Sequence[Path], now: datetime, passphrase: Passphrase, disk: Disk | None
    ) -> None:
        self.repo = repo
        self.now = now
        self.disk: Disk = disk or RealDisk()
        self._folders = tuple(folders)
        self._passphrase = passphrase
        self._staging = Staging(repo, self.disk)
        self.ring = self._fresh_ring()

    def begin(self, root_keys: int, root_threshold: int, days: Mapping[str, int]) -> Draft:
        """What becomes the first edition.

        Raises:
            PublishError: There is a repository, or the folder of keys has those of another.
        """
        if (self.repo / "metadata").exists():
            raise PublishError(f"there is a repository in {self.repo}; name another folder, or see its `status`")
        if self._anchor() is not None:
            raise PublishError(f"{self.ring.where} has the keys of another repository; name another folder")
        self.ring = self._fresh_ring()
        return Draft(blank(self.ring, root_keys, root_threshold, days), self.now)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other publishers out.

        Raises:
            PublishError: Another is at work, or the folder cannot be written to.
        """
        with self._staging.alone():
            yield

    @contextmanager
    def changing(self) -> Iterator[Draft]:
        """The next edition, to be changed while nobody else is at it.

        Raises:
            PublishError: There is no repository, it is damaged, or this machine's clock lies behind it.
        """
        with self._staging.alone():
            base = load(self.repo, self._anchor())
            stamp = base.timestamp.signed
            signed_at = stamp.expires - timedelta(days=stamp.unrecognized_fields.get(DAYS, LIVES_DAYS["timestamp"]))
            if self.now < signed_at - _CLOCKS_DIFFER:
                raise PublishError(
                    f"it is {self.now:%Y-%m-%d} here, and the last timestamp was signed on {signed_at:%Y-%m-%d}; set "
                    f"the clock of this machine"
                )
            self.ring = self._fresh_ring()
            yield Draft(base, self.now)

    def publish(self, draft: Draft, did: str, after: str) -> Done:
        """Sign a draft, write its new keys, and put it in place.

        Raises:
            PublishError: A key is missing, or a disk does not take it.
        """
        files = draft.seal(self.ring)
        new_keys = self.ring.save()
        self._staging.publish(files)
        self._keep_anchor(files)
        return Done(did, draft.versions(), new_keys, after)

    def read(self) -> Edition:
        """What the repository says now, after what an earlier publisher began has been ended.

        Raises:
            PublishError: There is none, or it is damaged.
        """
        if self._staging.interrupted:
            with self._staging.alone():
                pass
        return load(self.repo, self._anchor())

    def _fresh_ring(self) -> KeyRing:
        return KeyRing(self._folders, self._passphrase, self.disk)

    def _anchor(self) -> bytes | None:
        """The root that lies beside the keys: what this publisher trusts."""
        for folder in self._folders:
            with suppress(FileNotFoundError):
                return (folder / _ANCHOR).read_bytes()
        return None

    def _keep_anchor(self, files: Mapping[str, bytes]) -> None:
        roots = [data for name, data in files.items() if name.endswith(ROOT_SUFFIX)]
        kept = [folder for folder in self._folders if (folder / _ANCHOR).exists()] or self._folders[:1]
        for folder in kept if roots else ():
            # A folder that cannot be written to keeps an older root, which leads to this one all the same.
            with suppress(OSError):
                put(self.disk, folder / _ANCHOR, roots[-1])
