"""Who may do what: one table from every method of the service to the least role that may call it."""

from __future__ import annotations

import enum

from edge_app.errors import NotAllowed


class Role(enum.IntEnum):
    """What a client may do; each role may also do what those before it may."""

    VIEWER = 1
    """Measure and watch."""
    OPERATOR = 2
    """Move and focus."""
    ADMIN = 3
    """Update and configure."""

    @property
    def label(self) -> str:
        """The role as settings and the command line name it."""
        return self.name.lower()


_FOCUS = "/parfocal.v1.FocusService"
_MICROSCOPE = "/parfocal.v1.MicroscopeService"
_MODELS = "/parfocal.v1.ModelService"
_SIMULATION = "/parfocal.v1.SimulationService"
_HEALTH = "/grpc.health.v1.Health"

ROLES: dict[str, Role] = {
    f"{_FOCUS}/Measure": Role.VIEWER,
    f"{_FOCUS}/Focus": Role.OPERATOR,
    # Whoever sees a stage run into a specimen must be able to stop it; a stop for nothing costs one repeated job.
    f"{_FOCUS}/Stop": Role.VIEWER,
    f"{_MICROSCOPE}/Describe": Role.VIEWER,
    f"{_MICROSCOPE}/Capture": Role.VIEWER,
    f"{_MICROSCOPE}/GetPosition": Role.VIEWER,
    f"{_MICROSCOPE}/Move": Role.OPERATOR,
    f"{_MICROSCOPE}/Home": Role.OPERATOR,
    f"{_MICROSCOPE}/SetZero": Role.OPERATOR,
    # It changes what the board believes of its motor, for everybody and every later move.
    f"{_MICROSCOPE}/CalibrateMechanics": Role.ADMIN,
    # One stack an objective, which few_shot alone goes by: the daily work of whoever focuses.
    f"{_MICROSCOPE}/CalibrateFocus": Role.OPERATOR,
    f"{_MICROSCOPE}/SelectObjective": Role.OPERATOR,
    f"{_MICROSCOPE}/Stop": Role.VIEWER,
    f"{_MODELS}/List": Role.VIEWER,
    f"{_MODELS}/Check": Role.ADMIN,
    f"{_MODELS}/Apply": Role.ADMIN,
    f"{_MODELS}/Activate": Role.ADMIN,
    f"{_MODELS}/Rollback": Role.ADMIN,
    f"{_SIMULATION}/LoadField": Role.OPERATOR,
    f"{_SIMULATION}/Truth": Role.VIEWER,
    f"{_HEALTH}/Check": Role.VIEWER,
    f"{_HEALTH}/List": Role.VIEWER,
    f"{_HEALTH}/Watch": Role.VIEWER,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Role.VIEWER,
}
"""Every method that the service may offer, by its full name. What is not here is refused."""

MOVERS = frozenset(
    {
        f"{_FOCUS}/Focus",
        f"{_MICROSCOPE}/Move",
        f"{_MICROSCOPE}/Home",
        f"{_MICROSCOPE}/CalibrateMechanics",
        f"{_MICROSCOPE}/CalibrateFocus",
        f"{_MICROSCOPE}/SelectObjective",
        f"{_SIMULATION}/LoadField",
    }
)
"""The methods that may move the stage, which one client may not call without bound."""

STOPS = frozenset({f"{_FOCUS}/Stop", f"{_MICROSCOPE}/Stop"})
"""The methods that stop the stage, for which room is kept."""


def check(method: str, name: str, role: Role) -> None:
    """Refuse a call that a client's role does not cover.

    Raises:
        NotAllowed: The method wants a higher role, or is not in the table.
    """
    verb = method.rpartition("/")[2]
    least = ROLES.get(method)
    if least is None:
        raise NotAllowed(f"nobody may call {method}: the table of roles does not know it; use a method that it lists")
    if role < least:
        raise NotAllowed(
            f"{verb} wants the role {least.label}, and {name} is {role.label}; ask whoever keeps the board's keys for "
            f"a kit with that role (parfocal trust add)"
        )
