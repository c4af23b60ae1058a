"""The board's keys: a folder with its own authority, its certificate, and the list of its clients.

authority.key signs: whoever has it makes clients; it belongs to the one who runs `parfocal trust`. authority.pem is
its certificate, which every client keeps. board.pem is the board's key and certificate, and belongs to the service.
clients.json is the list: names, roles, hashes of certificates and tokens, what was revoked.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from edge_app.access import clients, private
from edge_app.access.clients import Client
from edge_app.access.pair import Pair
from edge_app.access.roles import Role
from edge_app.errors import BadRequest, BadSettings, TrustUnusable

MACHINE = Path("/etc/parfocal")
MACHINE_SETTINGS = MACHINE / "parfocal.toml"
"""What the service reads (parfocal.service)."""
LONGEST_DAYS = 20 * 365
SERVICE_USER = "parfocal"
_NO_STAMP = (0, 0)
_BLOCK = re.compile(rb"-----BEGIN ([A-Z ]+)-----.*?-----END \1-----\n?", re.DOTALL)


@dataclass(frozen=True)
class Keys:
    """What a serving board needs: its own key and certificate, and its authority's certificate, PEM."""

    board: Pair
    authority: bytes


@dataclass(frozen=True)
class Kit:
    """What a client is given: the authority's certificate, and a pair or a token of its own."""

    client: Client
    authority: bytes
    pair: Pair | None = None
    token: str = field(default="", repr=False)


HandOver = Callable[[Kit], AbstractContextManager[object]]
"""Puts a kit where it goes, and takes it back where what is done inside it fails."""


def machine_settings() -> Path | None:
    """The file that the service reads, where there is one.

    Raises:
        BadSettings: There is, and this user may not read it.
    """
    try:
        with MACHINE_SETTINGS.open("rb"):
            return MACHINE_SETTINGS
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise BadSettings(
            f"cannot read {MACHINE_SETTINGS}, which says where the service's keys are: {error.strerror or error}; "
            "use sudo, or name the folder with --trust"
        ) from error


def default_folder(machine: Path = MACHINE) -> Path:
    """The machine's folder where parfocal is installed as a service, whoever asks; else the user's own."""
    given = os.environ.get("XDG_CONFIG_HOME")
    try:
        home = Path(given) if given else Path.home() / ".config"
    except RuntimeError:  # a user without a home
        return machine / "trust"
    return machine / "trust" if machine.is_dir() else home / "parfocal" / "trust"


def service_owner() -> private.Owner | None:
    """The service's user, where root makes keys for it."""
    if os.geteuid() != 0:
        return None
    try:
        user = pwd.getpwnam(SERVICE_USER)
    except KeyError:
        return None
    return user.pw_uid, user.pw_gid


class Trust:
    """The folder of one board's keys."""

    def __init__(self, folder: Path, service: private.Owner | None = None) -> None:
        self.folder = folder
        self.list = folder / "clients.json"
        self._authority_key, self._authority = folder / "authority.key", folder / "authority.pem"
        self._board = folder / "board.pem"
        self._service = service

    def init(self, label: str, names: Sequence[str], now: datetime) -> Keys:
        """Make the board's authority and its certificate.

        Args:
            label: The board's name, for people.
            names: Host names and addresses at which it is reached.
            now: What the clock says.

        Raises:
            BadRequest: One of the names is neither a host name nor an address.
            TrustUnusable: There are keys already, or the folder cannot be written.
        """
        from edge_app.access import certificates

        signs = certificates.authority(label, now)
        board = certificates.board(signs, names, now)
        self._make_folder()
        with self._locked():
            if self.list.exists():  # written last: without it an earlier try was cut short, and nobody relies on it
                raise TrustUnusable(
                    f"{self.folder} has keys already; `parfocal trust renew` makes a new certificate for the board; "
                    "to begin again, and turn every client away, move that folder elsewhere"
                )
            private.put(self._authority_key, signs.key, private.SECRET)
            private.put(self._authority, signs.certificate, private.PUBLIC)
            self._put_board(board)
            private.put(self.list, clients.text_of(()).encode(), private.PUBLIC)
        return self.keys()

    def renew(self, names: Sequence[str], now: datetime) -> Keys:
        """Make a new key and certificate for the board; its clients go on as they are.

        Raises:
            BadRequest: One of the names is neither a host name nor an address.
            TrustUnusable: There is no authority that can sign, or the folder cannot be written.
        """
        from edge_app.access import certificates

        with self._locked():
            self._put_board(certificates.board(self._signs(now), names, now))
        return self.keys()

    def add(
        self, name: str, role: Role, days: float, by_token: bool, now: datetime, hand_over: HandOver = nullcontext
    ) -> Kit:
        """Let a client in.

        Args:
            name: What it is called.
            role: What it may do.
            days: How long it may.
            by_token: Whether it gets a token in place of a certificate.
            now: What the clock says.
            hand_over: Holds its kit while it is listed: nobody is listed whose kit could not be written.

        Raises:
            BadRequest: The name cannot be one or is taken, or the days are none.
            TrustUnusable: There is no authority that can sign, or the folder or the kit cannot be written.
        """
        if not re.fullmatch(clients.NAME, name):
            raise BadRequest(f"{name!r} cannot be a client's name; use up to 63 letters, digits, dots, _ and -")
        if not 0 < days <= LONGEST_DAYS:
            raise BadRequest(f"--days is {days:g}; give more than 0 and at most {LONGEST_DAYS}")
        with self._locked():
            known = self.check_free(name, now)
            kit = _kit(self._signs(now), name, role, days, by_token, now)
            with hand_over(kit):
                self._put_list((*known, kit.client))
        return kit

    def check_free(self, name: str, now: datetime) -> Sequence[Client]:
        """See that a client may be called this; gives those that are known.

        Raises:
            BadRequest: One that is let in is called so.
            TrustUnusable: The list cannot be read.
        """
        known = clients.read(self.list)
        if any(client.name == name and not client.trouble(now) for client in known):
            raise BadRequest(f"there is a client {name} already; revoke it first, or choose another name")
        return known

    def revoke(self, name: str, now: datetime) -> list[Client]:
        """Turn a client away from now on; gives what was revoked.

        Raises:
            BadRequest: There is no such client, or it was revoked before.
            TrustUnusable: The list cannot be read or written.
        """
        with self._locked():
            known = clients.read(self.list)
            gone = [client for client in known if client.name == name and client.revoked is None]
            if not gone:
                names = ", ".join(sorted({client.name for client in known if client.revoked is None})) or "none"
                raise BadRequest(f"there is no client {name} to revoke; there are: {names}")
            self._put_list([c.model_copy(update={"revoked": now}) if c in gone else c for c in known])
        return gone

    def clients(self) -> tuple[Client, ...]:
        """The list, revoked ones included.

        Raises:
            TrustUnusable: It cannot be read.
        """
        return clients.read(self.list)

    def keys(self) -> Keys:
        """What a serving board needs.

        Raises:
            TrustUnusable: A file is missing or damaged, or others may read the key.
        """
        from edge_app.access import certificates

        if self.stamp() == _NO_STAMP:
            raise TrustUnusable(
                f"there are no keys in {self.folder}, or this user may not see them; make them with "
                "`parfocal trust init`"
            )
        blocks = [(match[1], match[0]) for match in _BLOCK.finditer(private.secret(self._board))]
        try:
            key = next(block for label, block in blocks if label.endswith(b"PRIVATE KEY"))
            pair = Pair(key, next(block for label, block in blocks if label == b"CERTIFICATE"))
            whole = certificates.belong_together(pair)
        except (StopIteration, TrustUnusable):
            whole = False
        if not whole:
            raise TrustUnusable(f"{self._board} is damaged; make it anew with `parfocal trust renew`")
        clients.read(self.list)
        return Keys(pair, _public(self._authority))

    def stamp(self) -> tuple[int, int]:
        """What changes when the board's certificate does."""
        try:
            stat = self._board.stat()
        except OSError:
            return _NO_STAMP
        return stat.st_ino, stat.st_ctime_ns

    def _signs(self, now: datetime) -> Pair:
        """The authority, if it can sign.

        Raises:
            TrustUnusable: A file of it is missing, damaged or another's, or it has ended.
        """
        from edge_app.access import certificates

        signs = Pair(private.secret(self._authority_key), _public(self._authority))
        begin = f"begin again, which turns every client away: move {self.folder} elsewhere, then `parfocal trust init`"
        if not certificates.belong_together(signs):
            raise TrustUnusable(
                f"{self._authority_key} is damaged, or not the key of {self._authority}, so nothing was signed; put "
                f"copies of both back, or {begin}"
            )
        end = certificates.ends(signs.certificate)
        if end <= now:
            raise TrustUnusable(
                f"by this machine's clock the board's authority ended on {end:%Y-%m-%d}, and with it all that it "
                f"signs; set the clock if it is wrong, or {begin}"
            )
        return signs

    def _put_board(self, pair: Pair) -> None:
        private.put(self._board, pair.key + pair.certificate, private.SECRET, self._service)

    def _put_list(self, known: Sequence[Client]) -> None:
        private.put(self.list, clients.text_of(known).encode(), private.PUBLIC)

    def _make_folder(self) -> None:
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._service is not None:
                # Root keeps the authority and the list; the service reads its key and the list, and writes nothing.
                os.chown(self.folder, -1, self._service[1])
                self.folder.chmod(0o750)
        except OSError as error:
            raise TrustUnusable(
                f"cannot make {self.folder}: {error.strerror or error}; run it with sudo, or name another folder"
            ) from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One at a time changes the folder, and clears away what was left by one that was killed."""
        with private.alone(self.folder):
            for path in (self._authority_key, self._authority, self._board, self.list):
                private.sweep(path)
            yield


def _kit(signs: Pair, name: str, role: Role, days: float, by_token: bool, now: datetime) -> Kit:
    from edge_app.access import certificates

    token = secrets.token_urlsafe(32) if by_token else ""
    pair = None if by_token else certificates.client(signs, name, days, now)
    client = Client.model_validate(
        {
            "name": name,
            "role": role.label,
            "kind": "token" if by_token else "certificate",
            "sha256": pair.sha256 if pair is not None else hashlib.sha256(token.encode()).hexdigest(),
            "made": now,
            "ends": certificates.ends(pair.certificate) if pair is not None else certificates.expiry(days, now),
        }
    )
    return Kit(client, signs.certificate, pair, token)


def _public(path: Path) -> bytes:
    from edge_app.access import certificates

    try:
        certificate = path.read_bytes()
        certificates.ends(certificate)
    except OSError as error:
        raise TrustUnusable(f"cannot read {path}: {error.strerror or error}; put a copy of it back") from error
    except TrustUnusable as error:
        raise TrustUnusable(f"{path} is damaged: it is no certificate in PEM; put a copy of it back") from error
    return certificate
