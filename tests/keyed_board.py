"""A board with keys, served inside a test: doors for certificates, for tokens, and for this machine's programs."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from edge_app.access import kit as kits
from edge_app.access.addresses import BOARD_NAME
from edge_app.access.doors import Doors
from edge_app.access.roles import Role
from edge_app.access.trust import Trust
from edge_app.client import Client
from edge_app.server import serving

if TYPE_CHECKING:
    from edge_app.appliance import Appliance

NOW = datetime.now(timezone.utc)
WAIT_S = 20.0


@dataclass
class Keyed:
    """A board that serves: its keys, its addresses, and where kits are put.

    `far` and `tokens` go by 0.0.0.0, which is this machine and counts as another one.
    """

    trust: Trust
    kits: Path
    here: str
    far: str
    tokens: str

    def kit(self, name: str, role: Role, by_token: bool = False, days: float = 30.0) -> Path:
        """Let somebody in; gives the kit."""
        folder = self.kits / name
        kits.write(self.trust.add(name, role, days, by_token, NOW), folder)
        return folder

    def client(self, name: str, role: Role, by_token: bool = False) -> Client:
        """Somebody who is let in, connected."""
        folder = self.kit(name, role, by_token)
        return Client(self.tokens if by_token else self.far, WAIT_S, folder)


def free_port() -> int:
    """A port that nobody has at the moment."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextmanager
def keyed(appliance: Appliance, folder: Path, local_role: Role = Role.ADMIN) -> Iterator[Keyed]:
    """Make keys, and serve."""
    trust = Trust(folder / "trust")
    trust.init("bench", ["localhost"], NOW)
    far, tokens = f"0.0.0.0:{free_port()}", f"0.0.0.0:{free_port()}"
    doors = Doors(trust.folder, tokens)
    with serving(appliance, f"127.0.0.1:0,{far}", doors, local_role) as addresses:
        yield Keyed(trust, folder / "kits", addresses.partition(",")[0], far, tokens)


def secure(address: str, identity: kits.Identity) -> grpc.Channel:
    """A bare channel with what a kit holds, for what the client would not send."""
    return grpc.secure_channel(
        address, kits.credentials(identity), options=(("grpc.ssl_target_name_override", BOARD_NAME),)
    )
