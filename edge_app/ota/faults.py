"""What python-tuf raises, as one sentence each: what happened, why it is refused, what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from securesystemslib.exceptions import Error as SigningError
from tuf.api import exceptions as tuf
from tuf.api.serialization import DeserializationError

from edge_app.errors import RepositoryUnreachable, RepositoryUntrusted, UpdateError
from edge_app.ota.clock import Reference

_TELL = "nothing was changed, tell whoever publishes"
_MOST_CHARACTERS = 200


@contextmanager
def plainly(label: str, reference: Reference) -> Iterator[None]:
    """Within, python-tuf's errors and the disk's become the appliance's.

    Args:
        label: How messages name the source.
        reference: What expiry is held against.

    Raises:
        RepositoryUnreachable: A file is not there.
        RepositoryUntrusted: What came is not what may be taken.
        UpdateError: This board's own disk fails, which says nothing of what was offered.
    """
    try:
        yield
    except tuf.DownloadHTTPError as error:
        raise RepositoryUnreachable(
            f"{label} has no {error}: it is no repository, or copied in part; check update_from, or copy it anew"
        ) from error
    except (tuf.RepositoryError, tuf.DownloadError, SigningError) as error:
        raise RepositoryUntrusted(f"{label} {_distrust(error, reference)}") from error
    except OSError as error:
        raise UpdateError(
            f"this board cannot keep what it fetched ({error.strerror or error}); make room on its disk, or see that "
            "its state folder can be written, and try again"
        ) from error
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        # What was signed may still be put together in a way that python-tuf did not foresee.
        raise RepositoryUntrusted(f"{label} gave what cannot be read ({_brief(error)}); {_TELL}") from error


def _distrust(error: Exception, reference: Reference) -> str:
    """What is wrong with what a repository gave; the words after its name."""
    words = _brief(error)
    if isinstance(error, tuf.ExpiredMetadataError):
        clock = f"; {reference.note}" if reference.note else ""
        return (
            f"gave what is no longer valid by {reference.time:%Y-%m-%d %H:%M} UTC ({words}): nobody renewed it, or "
            "somebody keeps newer files back (freeze); let whoever publishes run `parfocal-model publish refresh`"
            + clock
        )
    if isinstance(error, tuf.UnsignedMetadataError):
        return (
            f"gave what is not signed by a key that this board trusts for it ({words}): unsigned, or signed with a "
            f"key that is foreign or was revoked; {_TELL}"
        )
    if isinstance(error, tuf.BadVersionNumberError):
        return (
            f"gave files older than this board has seen, or of two different states ({words}): somebody put an old "
            f"state back (rollback, mix-and-match), or a copy is not finished; {_TELL}"
        )
    if isinstance(error, tuf.LengthOrHashMismatchError):
        return (
            f"gave a file whose hash or length is not the one that was signed ({words}): it is damaged, of another "
            f"state, or somebody changed it; {_TELL}"
        )
    if isinstance(error, DeserializationError):
        return f"gave a file that is damaged or none of a repository's ({words}); copy it anew, or {_TELL}"
    return f"gave what does not fit together ({words}); {_TELL}"


def _brief(error: Exception) -> str:
    """An error's own words on one line; a stranger may have a part in how many they are."""
    words = " ".join(str(error).split())
    return words if len(words) <= _MOST_CHARACTERS else f"{words[:_MOST_CHARACTERS]}..."
