"""Draft: the next edition of a repository, changed in memory, then signed as a list of files.

What a role says is a function of the edition before, the change, the keys and the time; the same give the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from datetime import datetime, timedelta
from typing import Any

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Key,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    Targets,
    Timestamp,
)

from edge_app.ota import catalogue as catalogues
from edge_app.ota.catalogue import CHANNELS, Catalogue, Entry, bundle_target, catalogue_target
from model_export.errors import PublishError
from model_export.publishing.edition import DAYS, ROLES, Edition, targets_of
from model_export.publishing.keys import KeyRing, short
from model_export.publishing.staging import TIMESTAMP

LIVES_DAYS = {"root": 365, "targets": 365, **dict.fromkeys(CHANNELS, 90), "snapshot": 30, "timestamp": 30}
"""How long each role is good for unless said otherwise; docs/publishing.md says why."""


def blank(ring: KeyRing, root_keys: int, root_threshold: int, days: Mapping[str, int]) -> Edition:
    """What comes before the first edition: new keys, no versions, nothing on offer.

    Args:
        ring: Makes the keys.
        root_keys: How many the root has; every other role has one.
        root_threshold: How many of them must sign a root.
        days: Lives that are not those of `LIVES_DAYS`, by role.
    """
    root, channels = Root(), {channel: Targets() for channel in CHANNELS}
    snapshot, timestamp = Snapshot(), Timestamp()
    delegated = {channel: DelegatedRole(channel, [], 1, True, paths=[f"{channel}/*"]) for channel in CHANNELS}
    targets = Targets(delegations=Delegations({}, delegated))
    for role in ROLES:
        delegator = targets if role in CHANNELS else root
        for _ in range(root_keys if role == "root" else 1):
            delegator.add_key(ring.create(role).public_key, role)
    root.roles["root"].threshold = root_threshold
    signed = {"root": root, "targets": targets, **channels, "snapshot": snapshot, "timestamp": timestamp}
    for role, of in signed.items():
        of.version = 0
        of.unrecognized_fields[DAYS] = {**LIVES_DAYS, **days}[role]
    named = {channel: Metadata(of) for channel, of in channels.items()}
    empty = {channel: Catalogue(channel=channel) for channel in CHANNELS}
    return Edition(Metadata(root), Metadata(targets), Metadata(snapshot), Metadata(timestamp), named, empty)


class Draft:
    """An edition in the making."""

    def __init__(self, base: Edition, now: datetime) -> None:
        self.next = deepcopy(base)
        self._base = base
        self._now = now.replace(microsecond=0)
        self._touched: set[str] = set()
        self._leaving: dict[str, list[Key]] = {}
        self._targets: dict[str, bytes] = {}

    def touch(self, *roles: str) -> None:
        """Have roles signed anew, for another life of theirs."""
        self._touched |= set(roles)

    def live(self, role: str, days: int) -> None:
        """Set how long each version of a role is good for, this one included."""
        self.next.signed(role).unrecognized_fields[DAYS] = days
        self.touch(role)

    def offer(self, catalogue: Catalogue, bundles: Mapping[Entry, bytes] | None = None) -> None:
        """Have a channel offer this; `bundles` are those that do not lie there yet."""
        channel = catalogue.channel
        in_order = sorted(catalogue.bundles, key=lambda entry: (entry.name, catalogues.order_of(entry.version)))
        complete = catalogue.model_copy(update={"bundles": tuple(in_order)})
        self.next.catalogues[channel] = complete
        targets = targets_of(channel, complete)
        self.next.channels[channel].signed.targets = targets
        held = {bundle_target(channel, entry): data for entry, data in (bundles or {}).items()}
        for path, data in {**held, catalogue_target(channel): catalogues.write(complete)}.items():
            self._targets[f"targets/{targets[path].get_prefixed_paths()[0]}"] = data
        self.touch(channel)

    def replace(self, role: str, keyids: Sequence[str], ring: KeyRing) -> None:
        """Take keys out of a role, and put new ones in."""
        delegator = self.next.targets.signed if role in CHANNELS else self.next.root.signed
        for keyid in keyids:
            self._leaving.setdefault(role, []).append(delegator.get_key(keyid))
            delegator.add_key(ring.create(role, keyid).public_key, role)
            delegator.revoke_key(keyid, role)
        self.touch(role, "targets" if role in CHANNELS else "root")

    def seal(self, ring: KeyRing) -> dict[str, bytes]:
        """Sign what changed: files by name, in an order in which every state on the way is one that boards accept.

        Boards find roots by counting up, so the root comes last; until then they verify the rest with the keys of the
        root before it, and so keys that leave sign once more, where they are at hand.

        Raises:
            PublishError: A role cannot be signed; the sentence names the keys.
        """
        files = dict(self._targets)
        for role in (*CHANNELS, "targets"):
            if role in self._touched:
                name, data, version = self._sign(role, ring)
                files[name] = data
                self.next.snapshot.signed.meta[f"{role}.json"] = MetaFile.from_data(version, data, ["sha256"])
                self.touch("snapshot")
        if "snapshot" in self._touched:
            name, data, version = self._sign("snapshot", ring)
            files[name] = data
            self.next.timestamp.signed.snapshot_meta = MetaFile.from_data(version, data, ["sha256"])
            self.touch("timestamp")
        for role in ("timestamp", "root"):
            if role in self._touched:
                name, data, _ = self._sign(role, ring)
                files[name] = data
        return files

    def versions(self) -> dict[str, int]:
        """The roles that were signed anew, and as which version."""
        return {role: self.next.signed(role).version for role in ROLES if role in self._touched}

    def _sign(self, role: str, ring: KeyRing) -> tuple[str, bytes, int]:
        signed = self.next.signed(role)
        signed.version += 1
        signed.expires = self._now + timedelta(days=signed.unrecognized_fields[DAYS])
        made = Metadata[Any](signed)
        for signer in self._signers(role, ring):
            made.sign(signer, append=True)
        name = TIMESTAMP if role == "timestamp" else f"metadata/{signed.version}.{role}.json"
        return name, made.to_bytes(), signed.version

    def _signers(self, role: str, ring: KeyRing) -> list[CryptoSigner]:
        keys, threshold = self.next.signers(role)
        signers = _enough(role, keys, threshold, ring)
        if role == "root":
            before, wanted = self._base.signers("root")
            signers += _enough(role, before, wanted, ring)
        else:
            signers += ring.signers(self._leaving.get(role, []))
        return list({signer.public_key.keyid: signer for signer in signers}.values())


def _enough(role: str, keys: Sequence[Key], threshold: int, ring: KeyRing) -> list[CryptoSigner]:
    """The keys at hand of those that may sign.

    Raises:
        PublishError: There are too few; the sentence says which are missing.
    """
    signers = ring.signers(keys)
    if len(signers) >= threshold:
        return signers
    there = {signer.public_key.keyid for signer in signers}
    missing = ", ".join(f"{role}-{short(key.keyid)}.pem" for key in keys if key.keyid not in there)
    what = (
        f"its key {missing}, which is not in {ring.where}"
        if len(keys) == 1
        else f"{threshold} of its {len(keys)} keys, and {ring.where} has {len(signers)}; missing: {missing}"
    )
    raise PublishError(f"signing {role} needs {what}; nothing was published. {_cure(role)}")


def _cure(role: str) -> str:
    bring = "Name the folder where it lies by --keys as well"
    if role == "root":
        return (
            f"{bring}; if it is lost for good, nobody can change this root: make a new repository by `init`, and give "
            f"the boards its root by hand"
        )
    return f"{bring}; if it is lost for good, `revoke` puts a new one in its place"
