"""A whole update repository in memory, as a source: signed as a publisher signs, with a handle for each attack."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterator
from datetime import datetime, timedelta

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    T,
    TargetFile,
    Targets,
    Timestamp,
)

from edge_app.ota.catalogue import CHANNELS, Catalogue, Entry, bundle_target, catalogue_target, write
from edge_app.ota.clock import MADE
from edge_app.ota.source import Cut, NotThere
from firmware.clock import ManualClock

NOW = MADE + timedelta(days=100)
Behaviour = Callable[[bytes, int], Iterator[bytes]]
"""From a file's bytes and the offset that was asked for to what comes down the line."""


class Simulator:
    """A publisher and a server in one.

    Attributes:
        files: What is served, by path; change it to serve something else.
        behaviours: How a path is served, where it is not plainly.
        asked: Every (path, offset) that was asked for, in order.
        signers: The private key of each role; put a foreign one in to sign with it.
        days: How long what is signed from now on is valid, by role.
    """

    label = "the simulated repository"

    def __init__(self, now: datetime = NOW) -> None:
        self.now = now
        self.files: dict[str, bytes] = {}
        self.behaviours: dict[str, Behaviour] = {}
        self.asked: list[tuple[str, int]] = []
        self.days = {"root": 365, "targets": 365, "stable": 90, "candidate": 90, "snapshot": 30, "timestamp": 30}
        self.signers = {role: CryptoSigner.generate_ed25519() for role in self.days}
        self.root = Root(consistent_snapshot=True)
        roles = {name: DelegatedRole(name, [], 1, terminating=True, paths=[f"{name}/*"]) for name in CHANNELS}
        self.targets = Targets(delegations=Delegations({}, roles))
        self.channels = {name: Targets() for name in CHANNELS}
        self.catalogues = {name: Catalogue(channel=name) for name in CHANNELS}
        self.snapshot, self.timestamp = Snapshot(), Timestamp()
        for role, signer in self.signers.items():
            self._delegator(role).add_key(signer.public_key, role)
        for signed in (self.root, self.targets, *self.channels.values(), self.snapshot, self.timestamp):
            signed.version = 0
        self.renew_root()
        self.publish()

    def open(self, path: str, offset: int, left_s: float) -> Generator[bytes, None, None]:
        """As a source: the file, by its behaviour."""
        del left_s
        self.asked.append((path, offset))
        if path not in self.files:
            raise NotThere(path)
        yield from self.behaviours.get(path, plainly)(self.files[path], offset)

    def offer(
        self, data: bytes, name: str = "ldse", version: str = "1.0.0", channel: str = "stable", **entry: object
    ) -> Entry:
        """Offer a bundle (any bytes) from the next `publish` on."""
        sha256 = hashlib.sha256(data).hexdigest()
        values = {"name": name, "version": version, "task": "defocus", "sha256": sha256, "size_bytes": len(data)}
        made = Entry.model_validate(values | entry)
        old = self.catalogues[channel]
        self.catalogues[channel] = old.model_copy(update={"bundles": (*old.bundles, made)})
        self.list_target(channel, bundle_target(channel, made), data)
        return made

    def list_target(self, channel: str, path: str, data: bytes) -> str:
        """Sign for any path in a channel; gives where its bytes are served."""
        target = TargetFile.from_data(path, data, ["sha256"])
        self.channels[channel].targets[path] = target
        served = f"targets/{target.get_prefixed_paths()[0]}"
        self.files[served] = data
        return served

    def served(self, path: str) -> str:
        """Where the bytes of a target are served."""
        channel = path.partition("/")[0]
        return f"targets/{self.channels[channel].targets[path].get_prefixed_paths()[0]}"

    def publish(self) -> None:
        """Sign everything but the root anew, a version higher."""
        for channel in CHANNELS:
            self.list_target(channel, catalogue_target(channel), write(self.catalogues[channel]))
            self._write_listed(channel, self.channels[channel])
        self._write_listed("targets", self.targets)
        self.refresh()

    def refresh(self) -> None:
        """Sign snapshot and timestamp anew."""
        data = self._sign("snapshot", self.snapshot)
        self.files[f"metadata/{self.snapshot.version}.snapshot.json"] = data
        self.timestamp.snapshot_meta = MetaFile.from_data(self.snapshot.version, data, ["sha256"])
        self.files["metadata/timestamp.json"] = self._sign("timestamp", self.timestamp)

    def renew_root(self, *also_by: CryptoSigner) -> None:
        """Sign a new version of the root, by its own key and others'."""
        data = self._sign("root", self.root, *also_by)
        self.files[f"metadata/{self.root.version}.root.json"] = data

    def rotate(self, role: str) -> CryptoSigner:
        """Give a role a new key, and publish; gives the old one, which is revoked."""
        old, new = self.signers[role], CryptoSigner.generate_ed25519()
        delegator = self._delegator(role)
        delegator.revoke_key(old.public_key.keyid, role)
        delegator.add_key(new.public_key, role)
        self.signers[role] = new
        if role not in CHANNELS:
            self.renew_root(*([old] if role == "root" else []))
        self.publish()
        return old

    def bootstrap(self) -> bytes:
        """The first root: what boards were given."""
        return self.files["metadata/1.root.json"]

    def state(self) -> dict[str, bytes]:
        """All that is served now, to put back later."""
        return dict(self.files)

    def _delegator(self, role: str) -> Root | Targets:
        return self.targets if role in CHANNELS else self.root

    def _write_listed(self, role: str, signed: Targets) -> None:
        data = self._sign(role, signed)
        self.files[f"metadata/{signed.version}.{role}.json"] = data
        self.snapshot.meta[f"{role}.json"] = MetaFile.from_data(signed.version, data, ["sha256"])

    def _sign(self, role: str, signed: T, *also_by: CryptoSigner) -> bytes:
        signed.version += 1
        signed.expires = self.now + timedelta(days=self.days[role])
        metadata = Metadata(signed)
        for signer in (self.signers[role], *also_by):
            metadata.sign(signer, append=True)
        return metadata.to_bytes()


def plainly(data: bytes, offset: int) -> Iterator[bytes]:
    """In pieces, to the end."""
    for begin in range(offset, len(data), 4096):
        yield data[begin : begin + 4096]


def endless(data: bytes, offset: int) -> Iterator[bytes]:
    """The file, and then more of the same for ever."""
    yield data[offset:]
    while True:
        yield b"\0" * 65_536


def dripping(clock: ManualClock, each_s: float = 1.0) -> Behaviour:
    """A byte at a time; each takes a while on this clock."""

    def serve(data: bytes, offset: int) -> Iterator[bytes]:
        for begin in range(offset, len(data)):
            clock.sleep(each_s)
            yield data[begin : begin + 1]

    return serve


def cut_every(count_bytes: int, times: int = 1_000_000) -> Behaviour:
    """The connection is cut after so many bytes, so many times; then it holds."""
    left = [times]

    def serve(data: bytes, offset: int) -> Iterator[bytes]:
        if left[0] <= 0:
            yield from plainly(data, offset)
            return
        left[0] -= 1
        yield data[offset : offset + count_bytes]
        if offset + count_bytes >= len(data):
            return
        raise Cut("the connection was cut")

    return serve


def ending_after(count_bytes: int) -> Behaviour:
    """A file that ends too soon, as if there were no more."""

    def serve(data: bytes, offset: int) -> Iterator[bytes]:
        yield data[offset:count_bytes]

    return serve
