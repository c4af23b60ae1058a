"""Travel: how far a job may go, what a finished move was, and how an axis knows where it is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from firmware.errors import TravelSpent


class Trust(Enum):
    """Why the axis may believe its own position."""

    UNKNOWN = "never homed"
    HOMED = "homed"
    ZEROED = "zero set by hand"
    LOST = "position lost"


@dataclass
class Travel:
    """What one job may use: a window around its start, narrower towards the specimen, and a total path."""

    low_um: float
    high_um: float
    path_um: float

    def clamp(self, z_um: float) -> float:
        """The nearest position that the job may ask for."""
        return min(max(z_um, self.low_um), self.high_um)

    def spend(self, distance_um: float) -> None:
        """Take a move out of the budget.

        Raises:
            TravelSpent: There is not enough left; nothing moved.
        """
        if distance_um > self.path_um:
            raise TravelSpent(
                f"this job has {self.path_um:.1f} um of travel left and asked for {distance_um:.1f} um; "
                "check that the specimen is in reach, or raise focus.path_um in the board file"
            )
        self.path_um -= distance_um


@dataclass(frozen=True)
class Move:
    """A finished move, in um: where it began, was to end and ended; taking out play costs a second leg."""

    from_um: float
    asked_um: float
    to_um: float
    legs: int = 1
