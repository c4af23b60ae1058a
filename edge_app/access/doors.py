"""The doors of a service: what it listens on besides programs of this machine, and with which keys."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import grpc

from edge_app.access.roles import Role
from edge_app.access.trust import Keys, Trust, default_folder
from edge_app.config import Settings
from edge_app.errors import TrustUnusable
from edge_app.journal import log_of

LOOK_S = 60.0
_SOON, _DAY_S = timedelta(days=60), 86_400.0
_log = log_of(__name__)


@dataclass(frozen=True)
class Doors:
    """How other machines come in: with keys of the folder `trust`, the default one if None.

    `tokens` is the address for clients without a certificate, empty for none; `announce` is whether mDNS tells of it.
    """

    trust: Path | None = None
    tokens: str = ""
    announce: bool = False

    @property
    def folder(self) -> Trust:
        """The folder of the board's keys."""
        return Trust(self.trust or default_folder())


def doors_of(settings: Settings) -> Doors:
    """The doors that settings ask for."""
    return Doors(settings.trust, settings.listen_tokens, settings.announce)


def local_role_of(settings: Settings) -> Role:
    """What programs on this machine may do."""
    return Role[settings.local_role.upper()]


class Lock:
    """TLS for one address; a certificate that is renewed takes hold with the next connection."""

    def __init__(self, trust: Trust) -> None:
        """Read the keys.

        Raises:
            TrustUnusable: They are missing, damaged, or others may read them.
        """
        self._trust = trust
        self._seen = self._stamp = trust.stamp()
        self._reading = threading.Lock()
        self.keys = self._in_use = trust.keys()
        self._look_s = self._warn_s = -math.inf

    def look(self, now_s: float | None = None) -> None:
        """See every minute whether the keys are others, and once a day whether their end is near."""
        now_s = time.monotonic() if now_s is None else now_s
        if now_s < self._look_s + LOOK_S:
            return
        self._look_s = now_s
        with self._reading:
            self._read()
        from edge_app.access import certificates

        end = certificates.ends(self.keys.board.certificate)
        if end < datetime.now(timezone.utc) + _SOON and now_s >= self._warn_s + _DAY_S:
            self._warn_s = now_s
            _log.warning("certificate ends", ends=f"{end:%Y-%m-%d}", what_to_do="parfocal trust renew")

    def credentials(self, wants_certificate: bool) -> grpc.ServerCredentials:
        """For a server: a client without a certificate of this board's authority ends in the handshake, if wanted."""
        fetch: Any = self._renewed  # types-grpcio does not know that None stands for no change
        return grpc.dynamic_ssl_server_credentials(_configuration(self.keys), fetch, wants_certificate)

    def _renewed(self) -> grpc.ServerCertificateConfiguration | None:
        """The keys if they have changed; gRPC asks from its own threads, for every connection.

        None where they have not: under handshakes at the same time gRPC 1.85 crashes now and then when its
        configuration is replaced, so that must not happen for every stranger's connection.
        """
        with self._reading:
            self._read()
            if self.keys == self._in_use:
                return None
            self._in_use = self.keys
            return _configuration(self.keys)

    def _read(self) -> None:
        """Read the keys anew if they have changed; those that cannot be read are told once, and tried again."""
        stamp = self._trust.stamp()
        if stamp == self._stamp:
            return
        try:
            self.keys = self._trust.keys()
        except TrustUnusable as error:
            if stamp != self._seen:
                _log.error("keys unusable", why=str(error), in_use="those from before")
            self._seen = stamp
            return
        self._seen = self._stamp = stamp


def _configuration(keys: Keys) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(keys.board.key, keys.board.certificate)], keys.authority)
