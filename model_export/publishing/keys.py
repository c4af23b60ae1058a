"""KeyRing: the private halves that sign a repository, each in a file of its own that nobody else can read."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from securesystemslib.exceptions import KeyMismatchError
from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api.metadata import Key

from edge_app.ota.disk import Disk, RealDisk
from model_export.errors import PublishError

ONLINE = ("snapshot", "timestamp")
"""Roles that a machine signs by itself; whoever could read a passphrase beside their files could read the files."""
ENCRYPTED = b"BEGIN ENCRYPTED"
_SHOWN = 12
_OTHERS = 0o077

Passphrase = Callable[[str, bool], "str | None"]
"""Asked with what it is for, and whether it is new; None or nothing for none."""


def nobody(_what: str, _new: bool) -> str | None:
    """A passphrase where nobody can be asked."""
    return None


def short(keyid: str) -> str:
    """As much of a key's id as names its file."""
    return keyid[:_SHOWN]


def locked(path: Path) -> bool:
    """Whether a key's file may lie about without a passphrase: it has one, or is of a role that cannot use one."""
    return path.name.startswith(ONLINE) or ENCRYPTED in path.read_bytes()


class KeyRing:
    """The keys in some folders, looked for by id; new ones are written only when `save` is called."""

    def __init__(self, folders: Sequence[Path], passphrase: Passphrase = nobody, disk: Disk | None = None) -> None:
        self.folders = tuple(folders)
        self._passphrase = passphrase
        self._disk: Disk = disk or RealDisk()
        self._fresh: dict[Path, tuple[str, CryptoSigner]] = {}

    @property
    def where(self) -> str:
        """The folders, for a sentence."""
        return ", ".join(map(str, self.folders)) or "no folder (name it by --keys)"

    def file_of(self, keyid: str) -> Path | None:
        """The file of a key that is at hand."""
        for folder in self.folders:
            for path in sorted(folder.glob(f"*-{short(keyid)}.pem")):
                return path
        return None

    def signers(self, keys: Sequence[Key]) -> list[CryptoSigner]:
        """Those of some keys that are at hand, new ones included.

        Raises:
            PublishError: A file can be read by others, is damaged, or its passphrase is wrong.
        """
        fresh = {signer.public_key.keyid: signer for _, signer in self._fresh.values()}
        found = []
        for key in keys:
            path = self.file_of(key.keyid)
            if key.keyid in fresh:
                found.append(fresh[key.keyid])
            elif path is not None:
                found.append(self._load(path, key))
        return found

    def create(self, role: str, instead_of: str | None = None) -> CryptoSigner:
        """A new key for a role; its file will lie beside that of the key that it replaces, if that is at hand."""
        signer = CryptoSigner.generate_ed25519()
        beside = None if instead_of is None else self.file_of(instead_of)
        folder = self.folders[0] if beside is None else beside.parent
        self._fresh[folder / f"{role}-{short(signer.public_key.keyid)}.pem"] = (role, signer)
        return signer

    def save(self) -> tuple[Path, ...]:
        """Write the new keys, and return their files once they are on the disk.

        Raises:
            PublishError: A folder or the disk does not take them.
        """
        offline = any(role not in ONLINE for role, _ in self._fresh.values())
        secret = self._passphrase("for the new keys", True) if offline else None
        try:
            for path, (role, signer) in self._fresh.items():
                self._write(path, _pem(signer, None if role in ONLINE else secret))
        except OSError as error:
            raise PublishError(
                f"cannot write the new keys to {self.where}: {error.strerror}; nothing was published"
            ) from error
        written = tuple(self._fresh)
        self._fresh.clear()
        return written

    def _write(self, path: Path, pem: bytes) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(pem)
        self._disk.sync(path)
        self._disk.sync_folder(path.parent)

    def _load(self, path: Path, key: Key) -> CryptoSigner:
        try:
            mode = path.stat().st_mode & 0o777
            data = path.read_bytes()
        except OSError as error:
            raise PublishError(f"cannot read the key {path}: {error.strerror}") from error
        if mode & _OTHERS:
            raise PublishError(
                f"the key {path} can be read by others (mode {mode:04o}), so it may be theirs already; if nobody did, "
                f"run `chmod 600 {path}`, otherwise revoke it"
            )
        secret = None
        if ENCRYPTED in data:
            secret = self._passphrase(f"of {path}", False)
            if not secret:
                raise PublishError(
                    f"the key {path} is encrypted; set PARFOCAL_KEY_PASSPHRASE, or run this at a terminal"
                )
        try:
            return _open(data, secret, key)
        except (ValueError, TypeError, KeyMismatchError, UnsupportedAlgorithm) as error:
            cause = "the passphrase is wrong" if secret else "the file is damaged"
            raise PublishError(
                f"the key {path} does not open: {cause}, or it is another key; nothing was signed"
            ) from error


def _open(data: bytes, secret: str | None, key: Key) -> CryptoSigner:
    private = load_pem_private_key(data, secret.encode() if secret else None)
    if not isinstance(private, Ed25519PrivateKey) or not isinstance(key, SSlibKey):
        raise TypeError("it is no Ed25519 key")
    return CryptoSigner(private, key)


def _pem(signer: CryptoSigner, secret: str | None) -> bytes:
    lock: KeySerializationEncryption = BestAvailableEncryption(secret.encode()) if secret else NoEncryption()
    private = load_pem_private_key(signer.private_bytes, None)
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock)
