"""Report: what a repository is like now, for people and machines: who signs, how long it is good, what is offered."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from edge_app.ota.catalogue import CHANNELS, Catalogue
from model_export.publishing.edition import DAYS, ROLES, Edition
from model_export.publishing.keys import ONLINE, KeyRing

SOON_DAYS = 10
_DAY_S = 86400


def status(repo: Path, edition: Edition, ring: KeyRing, now: datetime) -> dict[str, Any]:
    """Roles, channels, and what to do soon, as JSON values."""
    roles = [_role(edition, role, ring, now) for role in ROLES]
    return {
        "repository": str(repo),
        "roles": roles,
        "channels": {channel: _channel(edition.catalogues[channel]) for channel in CHANNELS},
        "next": [_advice(repo, role) for role in roles if role["days_left"] < min(SOON_DAYS, role["days"] / 2)],
    }


def _role(edition: Edition, role: str, ring: KeyRing, now: datetime) -> dict[str, Any]:
    signed = edition.signed(role)
    keys, threshold = edition.signers(role)
    files = {key.keyid: ring.file_of(key.keyid) for key in keys}
    return {
        "role": role,
        "version": signed.version,
        "expires": signed.expires.isoformat(),
        "days": signed.unrecognized_fields.get(DAYS, 0),
        "days_left": int((signed.expires - now).total_seconds() // _DAY_S),
        "threshold": threshold,
        "keys": [{"id": keyid, "file": None if path is None else str(path)} for keyid, path in files.items()],
    }


def _channel(catalogue: Catalogue) -> dict[str, Any]:
    return {"hold": catalogue.hold, "bundles": [entry.model_dump(mode="json") for entry in catalogue.bundles]}


def _advice(repo: Path, role: dict[str, Any]) -> str:
    name, left = role["role"], role["days_left"]
    when = f"is good for {left} more days" if left >= 0 else f"expired {-left} days ago, and boards take nothing"
    verb = f"refresh {repo}" if name in ONLINE else f"renew {repo} {name}"
    return f"{name} {when}: parfocal-model publish {verb} --keys KEYS"
