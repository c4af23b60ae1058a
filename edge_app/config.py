"""Settings: what the appliance was told at start, read once: defaults < TOML file < environment < flags."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, TomlConfigSettingsSource
from pydantic_settings import PydanticBaseSettingsSource as Source

from edge_app.errors import BadSettings
from firmware.table import explain

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PREFIX = "PARFOCAL_"
_NOT_SETTINGS = frozenset({"config", "debug"})


class Settings(BaseSettings):
    """What `parfocal serve` needs to know.

    `bundle` is "factory" (the one for the board's camera and objective), a factory bundle by its own name, a
    path, or "none" to serve without a model. An empty `runtime` is the fastest one here, an empty `strategy` the
    board's own, `threads` 0 one per core. `seed` replaces the simulation's. `state` is the folder for what a board
    must remember: where its axis rests, its measured mechanics and its updates; a simulated board remembers them only
    where a folder is named.

    `listen` is one address or several with commas between them. Those that other machines can reach want the keys in
    the folder `trust`; `listen_tokens` is one for clients that have a token in place of a certificate. Programs on
    this machine have the role `local_role`. `announce` tells the network by mDNS; `metrics` is the address of
    /metrics, empty for none. `identity` is the folder with which this machine's verbs ask other machines.

    `update_from` is the URL or folder of a repository, empty for no updates; `update_root` the file that holds its
    root of trust, `update_channel` the channel that the board follows; under `update_hold` it takes nothing by itself.
    `update_clock` is "required" where a board whose clock is not set must not update. `board_id` is what a
    canary's share is drawn by; the machine's own id unless given.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True, allow_inf_nan=False)

    board: str = "simulated"
    listen: str = "127.0.0.1:50051"
    bundle: str = "factory"
    runtime: str = ""
    threads: int = Field(default=0, ge=0, le=256)
    strategy: str = ""
    state: Path | None = None
    seed: int | None = Field(default=None, ge=0)
    trust: Path | None = None
    listen_tokens: str = ""
    local_role: Literal["viewer", "operator", "admin"] = "admin"
    announce: bool = False
    metrics: str = ""
    identity: Path | None = None
    update_from: str = ""
    update_root: Path | None = None
    update_channel: Literal["stable", "candidate"] = "stable"
    update_hold: bool = False
    update_clock: Literal["floor", "required"] = "floor"
    board_id: str = ""

    @field_validator("listen")
    @classmethod
    def _addresses(cls, listen: str) -> str:
        return _address(listen)

    @field_validator("listen_tokens", "metrics")
    @classmethod
    def _an_address_or_none(cls, listen: str) -> str:
        return _one_address(listen) if listen else ""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: Source,
        env_settings: Source,
        dotenv_settings: Source,
        file_secret_settings: Source,
    ) -> tuple[Source, ...]:
        """Flags before environment before file; no dotenv files, no secrets folder."""
        del dotenv_settings, file_secret_settings
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def read_settings(config: Path | None = None, **flags: Any) -> Settings:
    """Put all sources together; flags that are None count as not given.

    Args:
        config: A TOML file; None for the one that PARFOCAL_CONFIG names, if any.
        flags: Settings from the command line.

    Raises:
        BadSettings: A key is unknown, a value cannot be, or the file cannot be read; the message names it.
    """
    _refuse_unknown_variables(os.environ)
    named = os.environ.get(f"{PREFIX}CONFIG")
    path = config or (Path(named) if named else None)
    if path is not None and not path.is_file():
        raise BadSettings(f"there is no configuration file {path}; create it, or leave it out for the defaults")

    class FromFile(Settings):
        model_config = SettingsConfigDict(toml_file=path)

    try:
        found = FromFile(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        raise BadSettings(f"{_origin(path)}: {explain(error)}") from error
    except (OSError, ValueError) as error:
        raise BadSettings(f"cannot read {path}: {error}") from error
    return Settings.model_construct(**found.model_dump())


def listen_anyway(config: Path | None = None, listen: str | None = None, before: str = "") -> str:
    """Where to listen by a configuration that may be broken: by the first valid of flag, environment and file.

    A service that cannot use its configuration says so there: where the file cannot be read, or its address cannot be,
    at the address from before, at which it is known; the default where there is none.
    """
    named = config or Path(os.environ.get(f"{PREFIX}CONFIG", ""))
    default = str(Settings.model_fields["listen"].default)
    found: list[Any] = [listen, os.environ.get(f"{PREFIX}LISTEN")]
    with suppress(OSError, ValueError):
        found.append(tomllib.loads(named.read_text(encoding="utf-8")).get("listen", default))
    for address in [*found, before]:
        with suppress(ValueError):
            if isinstance(address, str):
                return _address(address)
    return default


def state_folder(machine: Path = Path("/var/lib/parfocal")) -> Path:
    """Where a real board keeps its state unless told otherwise.

    The folder that systemd names, else the machine's if there is one, whoever asks, since an axis wants one record;
    else the user's own.
    """
    given = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if given:
        return Path(given)
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return machine if machine.is_dir() else Path(home) / "parfocal"


def is_host_port(address: str) -> bool:
    """Whether this is HOST:PORT."""
    host, _, port = address.rpartition(":")
    return bool(host) and port.isascii() and port.isdigit() and int(port) <= 65535


def _address(listen: str) -> str:
    """One address, or several with commas between them."""
    return ",".join(_one_address(part.strip()) for part in listen.split(","))


def _one_address(listen: str) -> str:
    if listen.startswith("tls:"):
        raise ValueError(
            f"{listen!r} is how clients ask for TLS; to serve it listen on an address that other machines can reach, "
            "0.0.0.0:50052 say"
        )
    if not listen.startswith("unix:") and not is_host_port(listen):
        raise ValueError(f"{listen!r} is not HOST:PORT with a port up to 65535, nor unix:PATH")
    return listen


def _refuse_unknown_variables(environment: Mapping[str, str]) -> None:
    known = Settings.model_fields.keys() | _NOT_SETTINGS
    for name in environment:
        if name.upper().startswith(PREFIX) and name[len(PREFIX) :].lower() not in known:
            choices = ", ".join(f"{PREFIX}{key.upper()}" for key in sorted(known))
            raise BadSettings(f"unknown variable {name} in the environment; known: {choices}")


def _origin(path: Path | None) -> str:
    return f"settings (flags, {PREFIX}*, {path})" if path else f"settings (flags, {PREFIX}*)"
