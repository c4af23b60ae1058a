"""Everything that can go wrong in the appliance, as one tree; faults of the board are in firmware.errors."""


class AppError(Exception):
    """A fault of the appliance: its configuration, a model, a runtime, or a request it cannot serve."""


class GridTooLarge(AppError):
    """A patch grid or region does not fit the frame."""


class BadSettings(AppError):
    """The configuration has an unknown key or a value that cannot be."""


class BadRequest(AppError):
    """A request holds a value that cannot be (NaN, a negative size, an unknown name)."""


class UnknownStrategy(BadRequest):
    """A request names a strategy that is not in the folder."""


class BundleError(AppError):
    """A model bundle cannot be used."""


class BundleCorrupt(BundleError):
    """A bundle's bytes are not those that were packed."""


class BundleNotFound(BundleError):
    """No bundle of that name."""


class UnfitRuler(BundleError):
    """A bundle that was tuned on this stage's own z cannot measure that stage."""


class StateUnusable(AppError):
    """What the board remembers cannot be read or written: a full disk, a damaged file, a folder of somebody else."""


class RuntimeFailed(AppError):
    """An inference runtime is missing or refused the model."""


class Busy(AppError):
    """Another job holds the hardware; try again when it has ended."""


class TooOften(Busy):
    """One client asks for motion faster than a stage should be moved; try again in a moment."""


class TooMany(Busy):
    """One client has too many calls under way; let some of them end first."""


class JobStopped(AppError):
    """The job was stopped, by request or because its client went away."""


class NotReady(AppError):
    """The service has no board to use: it is being opened, cannot be opened, or no longer answers."""


class AddressInUse(AppError):
    """The listening address cannot be bound."""


class NotIdentified(AppError):
    """A client showed neither a certificate nor a token that this board knows."""


class NotAllowed(AppError):
    """A client is known, and its role does not cover what it asks."""


class TrustUnusable(AppError):
    """The board's keys are missing, damaged, or can be read by others."""


class UpdateError(AppError):
    """An update cannot be had or must not be used; the model that served goes on serving."""


class RepositoryUnreachable(UpdateError):
    """The repository did not answer, answered too slowly, or the connection was cut."""


class RepositoryUntrusted(UpdateError):
    """What a repository gave is not signed as it must be, older than what was seen, expired, or another file."""


class UpdateRefused(UpdateError):
    """A bundle is what was signed, and this board must not use it: other optics, no room, worse focus, tried once."""


class UpdateUnfit(UpdateRefused):
    """A bundle is not for this board as it is set up now; on another day, or another setting, it may be."""


class RemoteError(AppError):
    """A server answered with a fault that this client has no name for."""


class Unreachable(RemoteError):
    """Nothing answers at an address, or it fell silent."""
