"""Publisher: what one can do to a repository; each verb reads it, drafts the next edition, publishes that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edge_app.ota.catalogue import CHANNELS
from edge_app.ota.disk import Disk
from model_export.errors import PublishError
from model_export.publishing import carrying, offers, report
from model_export.publishing.desk import Desk, Done
from model_export.publishing.edition import DAYS, ROLES, Edition
from model_export.publishing.keys import ONLINE, Passphrase, nobody, short
from model_export.publishing.staging import ROOT_SUFFIX

MOST_DAYS = 3650
_SHORTEST_ID = 8


class Publisher:
    """A repository, and the keys at hand for it; nothing of it is held between two verbs."""

    def __init__(
        self,
        repo: Path,
        keys: Path | Sequence[Path],
        now: datetime | None = None,
        passphrase: Passphrase = nobody,
        disk: Disk | None = None,
    ) -> None:
        """Name the folders.

        Args:
            repo: The repository.
            keys: One folder of keys or several; new keys lie beside those that they replace, or in the first.
            now: The time that all that is signed counts from; with a time zone.
            passphrase: Opens and locks the keys that are not online.
            disk: What writes.
        """
        assert now is None or now.tzinfo is not None
        folders = (keys,) if isinstance(keys, Path) else tuple(keys)
        self._desk = Desk(repo, folders, now or datetime.now(timezone.utc), passphrase, disk)

    def init(self, root_keys: int = 2, root_threshold: int = 1, days: Mapping[str, int] | None = None) -> Done:
        """Make the keys and an empty repository.

        Raises:
            PublishError: There is one, the folder of keys has those of another, or the numbers make no sense.
        """
        if not 1 <= root_threshold <= root_keys:
            raise PublishError(f"{root_threshold} of {root_keys} root keys cannot sign; ask for 1 to {root_keys}")
        _check_days(days or {})
        with self._desk.alone():
            draft = self._desk.begin(root_keys, root_threshold, days or {})
            for channel in CHANNELS:
                draft.offer(draft.next.catalogues[channel])
            draft.touch(*ROLES)
            after = "keep the root keys and the targets key away from this machine; give the boards the root: "
            after += f"parfocal-model publish root {self._desk.repo} --out root.json"
            return self._desk.publish(draft, f"made a repository in {self._desk.repo}", after)

    def add(self, bundles: Sequence[Path], channel: str = "candidate", share: float = 1.0) -> Done:
        """Offer bundles in a channel; what is there with the same bytes is passed over.

        Raises:
            PublishError: A bundle's version is taken by other bytes, older than the newest of its name, or unfit.
            AppError: A bundle is damaged or missing.
        """
        read = [offers.read(path, share) for path in bundles]
        with self._desk.changing() as draft:
            before = draft.next.catalogues[_channel(channel)]
            catalogue, new = offers.with_added(before, read)
            for entry in new:
                offers.check_taken(self._desk.repo, entry)
            if not new:
                named = ", ".join(entry.label for entry, _ in read)
                return Done(f"{named} is there already, nothing to do; `share` changes who takes it", {})
            draft.offer(catalogue, new)
            named = ", ".join(entry.label for entry in new)
            did = f"{channel} offers {named} to {share:.0%} of the boards"
            return self._desk.publish(draft, did, _hint(catalogue.hold, channel))

    def share(self, name: str, share: float, channel: str = "candidate", version: str | None = None) -> Done:
        """Set which part of the boards may take a bundle by themselves.

        Raises:
            PublishError: There is no such bundle, or the share is no part.
        """
        with self._desk.changing() as draft:
            catalogue = draft.next.catalogues[_channel(channel)]
            entry = offers.find(catalogue, name, version)
            draft.offer(offers.with_share(catalogue, entry, share))
            return self._desk.publish(
                draft, f"{channel} offers {entry.label} to {share:.0%} of the boards", _hint(catalogue.hold, channel)
            )

    def hold(self, channel: str) -> Done:
        """Have no board take anything of a channel by itself, until `release`.

        Raises:
            PublishError: There is no such channel, or its key is not at hand.
        """
        return self._set_hold(channel, True)

    def release(self, channel: str) -> Done:
        """Let boards take again what a channel offers.

        Raises:
            PublishError: There is no such channel, or its key is not at hand.
        """
        return self._set_hold(channel, False)

    def promote(self, name: str, version: str, share: float = 1.0) -> Done:
        """Offer a candidate, the same bytes, as stable too.

        Raises:
            PublishError: There is no such candidate, its file is damaged, or stable has a newer one.
        """
        with self._desk.changing() as draft:
            entry = offers.find(draft.next.catalogues["candidate"], name, version)
            data = offers.bytes_of(self._desk.repo, draft.next, "candidate", entry)
            held = [(offers.shared(entry, share), data)]
            catalogue, new = offers.with_added(draft.next.catalogues["stable"], held)
            if not new:
                return Done(f"{entry.label} is stable already, nothing to do", {})
            draft.offer(catalogue, new)
            return self._desk.publish(
                draft, f"stable offers {entry.label} to {share:.0%} of the boards", _hint(catalogue.hold, "stable")
            )

    def withdraw(self, name: str, version: str, channel: str = "candidate") -> Done:
        """Offer a bundle no longer; boards that took it keep it.

        Raises:
            PublishError: There is no such bundle.
        """
        with self._desk.changing() as draft:
            catalogue = draft.next.catalogues[_channel(channel)]
            entry = offers.find(catalogue, name, version)
            draft.offer(offers.without(catalogue, entry))
            after = f"{_BRING}; boards that took it keep it: `parfocal update rollback` there, or publish a better one"
            others = [other for other in offers.channels_of(draft.next.catalogues, entry) if other != channel]
            still = "".join(f"; {other} still offers it: withdraw it there with --channel {other}" for other in others)
            return self._desk.publish(draft, f"{channel} offers {entry.label} no longer{still}", after)

    def refresh(self, days: int | None = None) -> Done:
        """Sign snapshot and timestamp for another while; needs only their two keys.

        Raises:
            PublishError: One of them is not at hand.
        """
        return self._renew(ONLINE, days)

    def renew(self, roles: Sequence[str], days: int | None = None) -> Done:
        """Sign roles for another life of theirs, which `days` sets from now on.

        Raises:
            PublishError: There is no such role, or its key is not at hand.
        """
        return self._renew(tuple(map(_role, roles)), days)

    def rotate(self, role: str) -> Done:
        """Replace every key of a role by a new one.

        Raises:
            PublishError: There is no such role, or a key that must sign this is not at hand.
        """
        with self._desk.changing() as draft:
            keys, _ = draft.next.signers(_role(role))
            draft.replace(role, [key.keyid for key in keys], self._desk.ring)
            return self._desk.publish(
                draft, f"{role} has new keys", "when boards can fetch this, delete the files of the old keys"
            )

    def revoke(self, keyid: str) -> Done:
        """Take a key out of every role, with a new one in its place, and sign anew what it signed.

        Args:
            keyid: Its id, or how that begins.

        Raises:
            PublishError: No role or several have such a key, or too few of the others are at hand.
        """
        with self._desk.changing() as draft:
            roles = _roles_with(draft.next, keyid)
            for role, whole in roles:
                draft.replace(role, [whole], self._desk.ring)
            of = " and ".join(role for role, _ in roles)
            after = "look at `status`: withdraw what you did not publish; bring this to the boards' server at once"
            return self._desk.publish(draft, f"{short(roles[0][1])} signs no longer for {of}; a new key does", after)

    def prune(self) -> Done:
        """Remove the files that no board may ask for any more; roots stay, boards that were off go through them all.

        Raises:
            PublishError: A file cannot be removed.
        """
        with self._desk.alone():
            count, size_bytes = carrying.prune(self._desk.repo, self._desk.read(), self._desk.disk)
        return Done(f"removed {count} files, {size_bytes / 1e6:.1f} MB", {})

    def copy(self, into: Path) -> Done:
        """Copy what boards may ask for to a stick or a server's folder; when this returns the stick may be pulled.

        Raises:
            PublishError: A file is not what was signed, or the place does not take it.
        """
        with self._desk.alone():
            edition = self._desk.read()
            count = carrying.copy(self._desk.repo, edition, into, self._desk.disk)
        soon = report.status(self._desk.repo, edition, self._desk.ring, self._desk.now)["next"]
        return Done(f"{into} has what {self._desk.repo} offers; {count} files were new", {}, next="; ".join(soon))

    def root(self) -> bytes:
        """The newest root, which boards are given to trust.

        Raises:
            PublishError: There is no repository, or it is damaged.
        """
        version = self._desk.read().root.signed.version
        return (self._desk.repo / "metadata" / f"{version}{ROOT_SUFFIX}").read_bytes()

    def status(self) -> dict[str, Any]:
        """Roles, versions, days left, key files, and bundles by channel, as JSON values.

        Raises:
            PublishError: There is no repository, or it is damaged.
        """
        return report.status(self._desk.repo, self._desk.read(), self._desk.ring, self._desk.now)

    def _set_hold(self, channel: str, held: bool) -> Done:
        with self._desk.changing() as draft:
            catalogue = draft.next.catalogues[_channel(channel)]
            draft.offer(catalogue.model_copy(update={"hold": held}))
            did = "is held: no board takes anything of it by itself, once it hears of it" if held else "is released"
            return self._desk.publish(draft, f"{channel} {did}", _hint(held, channel))

    def _renew(self, roles: Sequence[str], days: int | None) -> Done:
        _check_days({} if days is None else dict.fromkeys(roles, days))
        with self._desk.changing() as draft:
            for role in roles:
                draft.touch(role) if days is None else draft.live(role, days)
            lives = [f"{role} for {draft.next.signed(role).unrecognized_fields[DAYS]} days" for role in roles]
            return self._desk.publish(draft, f"signed anew: {', '.join(lives)}", "")


def _role(role: str) -> str:
    if role not in ROLES:
        raise PublishError(f"there is no role {role!r}; there are {', '.join(ROLES)}")
    return role


def _channel(channel: str) -> str:
    if channel not in CHANNELS:
        raise PublishError(f"there is no channel {channel!r}; there are {', '.join(CHANNELS)}")
    return channel


def _roles_with(edition: Edition, keyid: str) -> list[tuple[str, str]]:
    """The roles that a key signs for, and its whole id.

    Raises:
        PublishError: None does, or it may be one of several keys.
    """
    if len(keyid) < _SHORTEST_ID:
        raise PublishError(f"{keyid!r} is too short to be sure; give {_SHORTEST_ID} characters of the id in `status`")
    found = [(role, key.keyid) for role in ROLES for key in edition.signers(role)[0] if key.keyid.startswith(keyid)]
    if not found:
        raise PublishError(f"no role has a key {keyid}; `status` lists them")
    if len({whole for _, whole in found}) > 1:
        raise PublishError(f"several keys begin with {keyid}; give more of the id")
    return found


_BRING = "bring it to where boards fetch it, if that is not this folder"


def _hint(held: bool, channel: str) -> str:
    return f"{_BRING}; {channel} is held: then boards take nothing of it until `release`" if held else _BRING


def _check_days(days: Mapping[str, int]) -> None:
    for role, count in days.items():
        if _role(role) and not 1 <= count <= MOST_DAYS:
            raise PublishError(f"{role} cannot be good for {count} days; ask for 1 to {MOST_DAYS}")
