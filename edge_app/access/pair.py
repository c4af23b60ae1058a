"""Pair: a private key with its certificate."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Pair:
    """A private key and its certificate, both PEM."""

    key: bytes = field(repr=False)
    certificate: bytes

    @property
    def sha256(self) -> str:
        """The certificate's fingerprint."""
        from edge_app.access.certificates import fingerprint

        return fingerprint(self.certificate)
