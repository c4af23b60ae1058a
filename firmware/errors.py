"""Everything that can go wrong on the board, as one tree."""


class FirmwareError(Exception):
    """A fault of the board: its profile, its camera, its axis, or a recording that stands in for them."""


class ProfileError(FirmwareError):
    """A board file cannot be used: unreadable, an unknown key, or values that contradict each other."""


class UnknownPlugin(FirmwareError):
    """A profile names a driver that is not in the folder."""


class MissingDriver(FirmwareError):
    """The vendor's library for a driver is not installed; the message names what to install."""


class StackError(FirmwareError):
    """A recorded z-stack cannot be used: unreadable, truncated, one slice, or a shape that does not fit."""


class CameraError(FirmwareError):
    """The camera failed or vanished."""


class CameraTimeout(CameraError):
    """The camera delivered no frame in its time."""


class AxisError(FirmwareError):
    """The Z axis failed."""


class OutOfLimits(AxisError):
    """A move was asked for beyond the soft limits; nothing moved."""


class NotTrusted(AxisError):
    """The axis does not know where it is (never homed, or position lost) and was asked to move far."""


class TravelSpent(AxisError):
    """A job used up the travel it was given."""


class LimitReached(AxisError):
    """A limit switch closed, or was closed before the move began; the axis may leave it the other way."""


class MotorFault(AxisError):
    """The motor's driver reports a fault (too hot, a short circuit, no supply)."""


class DiskFull(AxisError):
    """There is no room to record where the axis is."""


class MotionStopped(AxisError):
    """Somebody called stop(); the axis rests where it was halted."""
