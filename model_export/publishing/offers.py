"""Offers: what becomes of a catalogue when a bundle is added, shared out, promoted or withdrawn."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from edge_app import bundle as bundles
from edge_app.ota.catalogue import MAX_BUNDLE_BYTES, Catalogue, Entry, bundle_target, order_of
from firmware.table import explain
from model_export.errors import PublishError
from model_export.publishing.edition import Edition, target_bytes

Held = tuple[Entry, bytes]


def read(path: Path, share: float) -> Held:
    """A bundle, every byte checked, as an entry and its bytes.

    Raises:
        AppError: It is missing or damaged.
        PublishError: Its name, version or size is none that a catalogue takes, or the share is no part.
    """
    found = bundles.read(path)
    data = path.read_bytes()
    if len(data) > MAX_BUNDLE_BYTES:
        raise PublishError(f"{path} has {len(data)} bytes, and boards take {MAX_BUNDLE_BYTES} at most")
    if hashlib.sha256(data).hexdigest() != found.sha256:
        raise PublishError(f"{path} changed while it was read; run it again when nobody writes to it")
    manifest = found.manifest
    try:
        entry = Entry(
            name=manifest.name,
            version=manifest.version,
            task=manifest.task,
            sha256=found.sha256,
            size_bytes=found.size_bytes,
            share=_part(share),
        )
    except ValidationError as error:
        raise PublishError(
            f"{path} cannot be offered as {manifest.label}: {explain(error)}; export it with a name of small letters, "
            f"digits and _, and a version such as 1.2.0"
        ) from error
    return entry, data


def with_added(catalogue: Catalogue, held: Sequence[Held]) -> tuple[Catalogue, dict[Entry, bytes]]:
    """A catalogue that offers these too, and those that it did not offer yet.

    Raises:
        PublishError: A version is there with other bytes, or older than the newest of its name.
    """
    new: dict[Entry, bytes] = {}
    for entry, data in held:
        same_name = [other for other in (*catalogue.bundles, *new) if other.name == entry.name]
        same = [other for other in same_name if other.version == entry.version]
        if any(other.sha256 != entry.sha256 for other in same):
            raise PublishError(_taken(entry, catalogue.channel))
        newest = max((other.version for other in same_name), key=order_of, default=entry.version)
        if not same and order_of(newest) > order_of(entry.version):
            raise PublishError(
                f"{entry.label} is older than {newest}, which {catalogue.channel} offers, and boards do not go back "
                f"by themselves; withdraw that, or export this with a higher version"
            )
        if not same:
            new[entry] = data
    return catalogue.model_copy(update={"bundles": (*catalogue.bundles, *new)}), new


def check_taken(repo: Path, entry: Entry) -> None:
    """Refuse a version that was ever published as other bytes, in any channel, as far as files tell.

    Raises:
        PublishError: It was.
    """
    for path in (repo / "targets").glob(f"*/*.{Path(bundle_target('', entry)).name}"):
        if not path.name.startswith(f"{entry.sha256}."):
            raise PublishError(_taken(entry, path.parent.name))


def find(catalogue: Catalogue, name: str, version: str | None) -> Entry:
    """What a channel offers by a name: one version, or the newest.

    Raises:
        PublishError: Nothing.
    """
    named = [entry for entry in catalogue.bundles if entry.name == name and version in (None, entry.version)]
    if not named:
        wanted = name if version is None else f"{name}@{version}"
        offered = ", ".join(entry.label for entry in catalogue.bundles) or "nothing"
        raise PublishError(f"{catalogue.channel} does not offer {wanted}; it offers {offered}")
    return max(named, key=lambda entry: order_of(entry.version))


def shared(entry: Entry, share: float) -> Entry:
    """The same bundle for another part of the boards.

    Raises:
        PublishError: It is no part.
    """
    return entry.model_copy(update={"share": _part(share)})


def with_share(catalogue: Catalogue, entry: Entry, share: float) -> Catalogue:
    """A catalogue that offers one of its bundles to another part of the boards.

    Raises:
        PublishError: It is no part.
    """
    changed = shared(entry, share)
    return catalogue.model_copy(
        update={"bundles": tuple(changed if other == entry else other for other in catalogue.bundles)}
    )


def without(catalogue: Catalogue, entry: Entry) -> Catalogue:
    """A catalogue that does not offer one of its bundles."""
    return catalogue.model_copy(update={"bundles": tuple(other for other in catalogue.bundles if other != entry)})


def bytes_of(repo: Path, edition: Edition, channel: str, entry: Entry) -> bytes:
    """A bundle that a channel offers, checked.

    Raises:
        PublishError: Its file is missing or not what was signed.
    """
    return target_bytes(repo, edition.channels[channel].signed.targets[bundle_target(channel, entry)])


def channels_of(catalogues: Mapping[str, Catalogue], entry: Entry) -> list[str]:
    """The channels that offer a bundle."""
    return [name for name, catalogue in catalogues.items() if any(e.sha256 == entry.sha256 for e in catalogue.bundles)]


def _part(share: float) -> float:
    if not 0.0 <= share <= 1.0:
        raise PublishError(f"a share is a part of the boards, 0 to 1, not {share:g}; 0.1 is every tenth")
    return share


def _taken(entry: Entry, channel: str) -> str:
    return (
        f"{entry.label} was published in {channel} with other bytes, and a version means the same bytes for ever; "
        f"export this one with a higher version"
    )
