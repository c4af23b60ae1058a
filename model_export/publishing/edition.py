"""Edition: what a repository says at one moment, every signature verified down from the root.

Who signs anew what another wrote signs for it. So nothing is read here that is not signed as the root says, and the
root is followed from the one that the publisher keeps beside the keys.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tuf.api.exceptions import LengthOrHashMismatchError, RepositoryError
from tuf.api.metadata import Key, Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization import DeserializationError

from edge_app.errors import RepositoryUntrusted
from edge_app.ota import catalogue as catalogues
from edge_app.ota.catalogue import CHANNELS, Catalogue, bundle_target, catalogue_target
from model_export.errors import PublishError
from model_export.publishing.staging import ROOT_SUFFIX, TIMESTAMP

ROLES = ("root", "targets", *CHANNELS, "snapshot", "timestamp")
DAYS = "x-parfocal-days"
"""How long each version of a role is good for: a field of its own in what is signed, so that every verb knows it."""
_S = TypeVar("_S", Root, Targets, Snapshot, Timestamp)
_Verify = Callable[[str, bytes, dict[str, Any]], None]


@dataclass(frozen=True)
class Edition:
    """Every role's metadata, and what each channel offers."""

    root: Metadata[Root]
    targets: Metadata[Targets]
    snapshot: Metadata[Snapshot]
    timestamp: Metadata[Timestamp]
    channels: dict[str, Metadata[Targets]]
    catalogues: dict[str, Catalogue]

    def signed(self, role: str) -> Root | Targets | Snapshot | Timestamp:
        """The signed part of a role."""
        top: dict[str, Root | Targets | Snapshot | Timestamp] = {
            "root": self.root.signed,
            "targets": self.targets.signed,
            "snapshot": self.snapshot.signed,
            "timestamp": self.timestamp.signed,
        }
        return top[role] if role in top else self.channels[role].signed

    def signers(self, role: str) -> tuple[list[Key], int]:
        """The keys of a role, and how many of them must sign."""
        delegator = self.targets.signed if role in self.channels else self.root.signed
        of = delegator.get_delegated_role(role)
        return [delegator.get_key(keyid) for keyid in of.keyids], of.threshold

    def current_files(self) -> list[str]:
        """What a board may ask for, relative to the repository, in an order in which a copy is whole at every moment.

        Bundles first, then what names them, the timestamp, and last the roots.
        """
        names = [f"targets/{path}" for of in self.channels.values() for path in prefixed(of.signed)]
        names += [f"metadata/{of.signed.version}.{role}.json" for role, of in self.channels.items()]
        names += [f"metadata/{self.targets.signed.version}.targets.json"]
        names += [f"metadata/{self.snapshot.signed.version}.snapshot.json", TIMESTAMP]
        return names + [f"metadata/{version}{ROOT_SUFFIX}" for version in range(1, self.root.signed.version + 1)]


def prefixed(targets: Targets) -> list[str]:
    """The files of a role's targets, relative to the folder of targets, as consistent snapshots name them."""
    return sorted(path for target in targets.targets.values() for path in target.get_prefixed_paths())


def targets_of(channel: str, catalogue: Catalogue) -> dict[str, TargetFile]:
    """The targets of a channel: its catalogue, and what that names."""
    files = [TargetFile.from_data(catalogue_target(channel), catalogues.write(catalogue))]
    files += [
        TargetFile(entry.size_bytes, {"sha256": entry.sha256}, bundle_target(channel, entry))
        for entry in catalogue.bundles
    ]
    return {file.path: file for file in files}


def load(repo: Path, anchor: bytes | None) -> Edition:
    """Read what a repository says now.

    Args:
        repo: Its folder.
        anchor: The root that the publisher trusts; without one the first root that lies there is trusted.

    Raises:
        PublishError: There is no repository, a file is missing or damaged, or not signed as the root says.
    """
    metadata = repo / "metadata"
    if not (metadata / f"1{ROOT_SUFFIX}").exists():
        raise PublishError(f"there is no repository in {repo}; make one with `parfocal-model publish init`")
    root = _root(metadata, anchor)
    of_root: _Verify = root.signed.verify_delegate
    timestamp = _verified(metadata / "timestamp.json", Timestamp, "timestamp", of_root)
    meta = timestamp.signed.snapshot_meta
    snapshot = _verified(metadata / f"{meta.version}.snapshot.json", Snapshot, "snapshot", of_root, meta)
    named = snapshot.signed.meta
    meta = named["targets.json"]
    targets = _verified(metadata / f"{meta.version}.targets.json", Targets, "targets", of_root, meta)
    channels = {}
    for channel in CHANNELS:
        meta = named[f"{channel}.json"]
        path = metadata / f"{meta.version}.{channel}.json"
        channels[channel] = _verified(path, Targets, channel, targets.signed.verify_delegate, meta)
    offers = {channel: _catalogue(repo, channel, of.signed) for channel, of in channels.items()}
    return Edition(root, targets, snapshot, timestamp, channels, offers)


def target_bytes(repo: Path, target: TargetFile) -> bytes:
    """A target that lies in a repository, checked.

    Raises:
        PublishError: It is missing, or not what was signed.
    """
    path = repo / "targets" / target.get_prefixed_paths()[0]
    data = _read(path)
    try:
        target.verify_length_and_hashes(data)
    except LengthOrHashMismatchError as error:
        raise PublishError(f"{path} is not what was signed; restore it from a copy, or withdraw it") from error
    return data


def _root(metadata: Path, anchor: bytes | None) -> Metadata[Root]:
    first = metadata / f"1{ROOT_SUFFIX}"
    root = _parsed(anchor or _read(first), Root, "the publisher's own root" if anchor else str(first))
    _check(root, "root", root.signed.verify_delegate, str(first))
    here = metadata / f"{root.signed.version}{ROOT_SUFFIX}"
    if anchor is not None and _read(here) != anchor:
        raise PublishError(f"{here} is not the root that lies beside the keys; these keys are for another repository")
    while (path := metadata / f"{root.signed.version + 1}{ROOT_SUFFIX}").exists():
        after = _parsed(_read(path), Root, str(path))
        _check(after, "root", root.signed.verify_delegate, str(path))
        _check(after, "root", after.signed.verify_delegate, str(path))
        if after.signed.version != root.signed.version + 1:
            raise PublishError(f"{path} says that it is version {after.signed.version}; restore it from a copy")
        root = after
    return root


def _verified(path: Path, kind: type[_S], role: str, verify: _Verify, meta: MetaFile | None = None) -> Metadata[_S]:
    data = _read(path)
    try:
        if meta is not None:
            meta.verify_length_and_hashes(data)
    except LengthOrHashMismatchError as error:
        raise PublishError(f"{path} is not what was signed; restore it from a copy of the repository") from error
    found = _parsed(data, kind, str(path))
    _check(found, role, verify, str(path))
    return found


def _check(found: Metadata[_S], role: str, verify: _Verify, where: str) -> None:
    try:
        verify(role, found.signed_bytes, found.signatures)
    except (RepositoryError, ValueError) as error:
        raise PublishError(
            f"{where} is not signed by the keys of {role}, so somebody else wrote it; restore it from a copy"
        ) from error


def _parsed(data: bytes, kind: type[_S], where: str) -> Metadata[_S]:
    try:
        found: Metadata[_S] = Metadata.from_bytes(data)
    except DeserializationError as error:
        raise PublishError(f"{where} is damaged; restore the repository from a copy") from error
    if not isinstance(found.signed, kind):
        raise PublishError(f"{where} is no metadata of this kind; restore the repository from a copy")
    return found


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise PublishError(f"cannot read {path}: {error.strerror}; restore the repository from a copy") from error


def _catalogue(repo: Path, channel: str, targets: Targets) -> Catalogue:
    target = targets.targets.get(catalogue_target(channel))
    if target is None:
        raise PublishError(f"the channel {channel} names no catalogue; restore the repository from a copy")
    try:
        return catalogues.read(target_bytes(repo, target), channel)
    except RepositoryUntrusted as error:
        raise PublishError(str(error)) from error
