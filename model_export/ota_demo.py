"""The demo of updates: a repository, two boards, a good model for both, and two bad ones that neither is left with.

What is simulated is the microscopes and what was done to the models (`ota_demo_models.WHAT`). The repository is
signed, served over HTTP, fetched, verified, rehearsed, switched to, watched and rolled back from as anywhere.
"""

from __future__ import annotations

import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edge_app import bundle as bundles
from edge_app.ota.decision import covers
from model_export import ota_demo_models as models
from model_export.errors import ExportError
from model_export.ota_demo_boards import LAMP, Board, served, web
from model_export.ota_demo_pictures import draw
from model_export.ota_demo_telling import Progress, Story
from model_export.publishing import Publisher

BUNDLE = "spectral_20x"
SHARE = 0.5
CHANNEL = "candidate"
_SETTLED_JOBS, _WATCH_S = 64, 300.0
_BUSY_S, _IDLE_S = 1.5, 3.0
_TRIES = 3
_IDS = 1000
Said = dict[str, Any]


@dataclass(frozen=True)
class Cast:
    """Who plays: the publisher's repository and keys, the two boards, and the bundles by what was done to them."""

    repository: Path
    keys: Path
    canary: Board
    other: Board
    bundles: dict[str, Path]

    def label(self, what: str) -> str:
        """Name and version of the bundle to which this was done."""
        return f"{BUNDLE}@{self.bundles[what].stem.removeprefix(f'{BUNDLE}-')}"

    def publisher(self) -> Publisher:
        """Whoever publishes, at this moment."""
        return Publisher(self.repository, self.keys)


def demo(out: Path, progress: Progress) -> dict[str, Any]:
    """Play the story, and draw it into `out`.

    Args:
        out: Folder of the picture and of the boards' logs; made if it is not there.
        progress: Called with chapters begun, chapters in all, and what is being done.

    Returns:
        {"boards", "models", "events", "jobs", "took_s", "picture"}.

    Raises:
        ExportError: It did not go as told here; the message says where.
        NotInstalled: onnx is missing.
        PublishError: The repository cannot be made.
    """
    out.mkdir(parents=True, exist_ok=True)
    story = Story(progress)
    with ExitStack() as stack:
        cast = _cast(stack, story, out)
        _play(cast, story)
        boards = [cast.canary, cast.other]
        for board in boards:
            _see(not board.errors, f"all jobs on {board.name} were done ({board.errors[:1]})")
    picture = out / "timeline.png"
    jobs = {board.name: [story.row(job) for job in board.jobs] for board in boards}
    events = [asdict(event) for event in story.events]
    draw(jobs, events, picture)
    return {
        "boards": {"canary": cast.canary.name, "other": cast.other.name},
        "models": {cast.label(what): models.WHAT[what] for what in cast.bundles},
        "events": events,
        "jobs": jobs,
        "took_s": story.lasts_s,
        "picture": str(picture),
    }


def cast_ids(labels: list[str]) -> tuple[str, str]:
    """The ids of a board that is in the share of all these versions, and of one that is in none."""
    ids = [f"board-{number}" for number in range(1, _IDS)]
    drawn = {name: [covers(SHARE, name, label) for label in labels] for name in ids}
    canary = next(name for name in ids if all(drawn[name]))
    return canary, next(name for name in ids if not any(drawn[name]))


def _cast(stack: ExitStack, story: Story, out: Path) -> Cast:
    """Make the models, the repository and the boards, and serve them."""
    story.chapter("making three models and a repository, and starting two boards")
    work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="parfocal-demo-")))
    serves = bundles.read(bundles.find(BUNDLE))
    versions = {what: models.successor(serves.manifest.version, k) for k, what in enumerate(models.WHAT, 1)}
    made = {what: models.make(serves, version, what, work) for what, version in versions.items()}
    repository, keys, root = work / "repository", work / "keys", work / "root.json"
    Publisher(repository, keys).init()
    root.write_bytes(Publisher(repository, keys).root())
    story.tell("publisher", "makes keys and a repository")
    url = stack.enter_context(web(repository))
    names = cast_ids([f"{BUNDLE}@{version}" for version in versions.values()])
    settings = {"update_from": url, "update_root": str(root), "update_channel": CHANNEL}
    with ThreadPoolExecutor() as pool:
        managers = [served(name, k, work / name, out, settings) for k, name in enumerate(names, 1)]
        starting = [pool.submit(manager.__enter__) for manager in managers]
        for manager, start in zip(managers, starting, strict=True):
            if start.exception() is None:
                stack.push(manager)
    canary, other = (start.result() for start in starting)
    for board in (canary, other):
        story.tell(board.name, "serves and focuses", serves.manifest.label)
    return Cast(repository, keys, canary, other, made)


def _play(cast: Cast, story: Story) -> None:
    """The story, chapter by chapter."""
    good = cast.label("good")
    cast.canary.pace(_BUSY_S)
    cast.other.pace(_IDLE_S)
    story.chapter(f"publishing {good} to {SHARE:.0%} of the boards")
    _publish(cast, story, "good")
    _declines(cast.other, story, good)
    story.chapter(f"{cast.canary.name} fetches, verifies and rehearses {good}")
    _takes(cast.canary, story, good)
    story.chapter(f"{good} serves on {cast.canary.name}, and its first jobs are watched")
    _settles(cast.canary, story, good)
    story.chapter(f"{good} for all boards: {cast.other.name} updates; {cast.canary.name} meets a wrong one")
    cast.publisher().share(BUNDLE, 1.0, CHANNEL)
    story.tell("publisher", "offers it to all boards", good, f"{cast.canary.name} has done well with it")
    with ThreadPoolExecutor() as pool:
        updating = pool.submit(_takes, cast.other, story, good)
        _refuses(cast, story, "wrong", updating)
    story.chapter(
        f"{cast.canary.name} fetches, verifies and rehearses {cast.label('dim')}, which is wrong in the dark"
    )
    _publish(cast, story, "dim")
    cast.other.pace(_BUSY_S / 4)
    _takes(cast.canary, story, cast.label("dim"))
    story.chapter("its first jobs under this board's dim lamp are watched")
    _is_left(cast, story, "dim", good)
    story.chapter("asking again")
    _declines(cast.canary, story, cast.label("dim"), "not tried again")
    _declines(cast.other, story, cast.label("dim"))
    story.chapter(f"the first jobs with {good} on {cast.other.name} are watched")
    _settles(cast.other, story, good)
    _serves(cast.canary, good)
    _serves(cast.other, good)


def _publish(cast: Cast, story: Story, what: str) -> None:
    cast.publisher().add([cast.bundles[what]], CHANNEL, SHARE)
    story.tell("publisher", f"offers it to {SHARE:.0%} of the boards", cast.label(what), models.WHAT[what])


def _takes(board: Board, story: Story, label: str) -> None:
    """The board fetches, verifies, rehearses and takes a model into service."""
    began, jobs = time.time(), len(board.jobs)
    story.tell(board.name, "begins to update", label)
    said = _applied(board, story, label)
    _see(said.get("serving") == label, f"{board.name} takes {label}", said)
    _see(not board.errors, f"no job failed meanwhile ({board.errors[:1]})")
    did = f"it took {time.time() - began:.0f} s, in which {len(board.jobs) - jobs} jobs were done and none failed"
    story.tell(board.name, "takes it into service", label, f"{_praise(said)}; {did}")


def _applied(board: Board, story: Story, label: str) -> Said:
    """What comes of an update; one that the board says it may try again, since it was too busy, is tried again."""
    for _ in range(_TRIES):
        said = board.verb("update", "apply")
        error = said.get("error", {})
        if error.get("kind") != "UpdateError":
            break
        story.tell(board.name, "could not, and tries again", label, error["message"])
    return said


def _declines(board: Board, story: Story, label: str, why: str = "first, and this is none of them") -> None:
    """The board is asked to update, and finds nothing for it."""
    after = _applied(board, story, label)
    said = board.verb("update", "check")
    right = after.get("serving", label) != label and why in said.get("reason", "")
    _see(right, f"{board.name} leaves {label} alone", said)
    reasons = [reason for reason in said["reason"].split("; ") if reason.startswith(label)]
    story.tell(board.name, "leaves it alone", label, "; ".join(reasons))


def _settles(board: Board, story: Story, label: str) -> None:
    """The watch over a new model comes to its end."""
    board.pace(0.0)
    board.wait_for(lambda: len(board.jobs_of(label)) >= _SETTLED_JOBS, _WATCH_S, f"{_SETTLED_JOBS} jobs of {label}")
    said: Said = {}

    def settled() -> bool:
        said.update(board.verb("update", "status"))
        return bool(said["state"] == "settled")

    board.wait_for(settled, _WATCH_S, f"{label} to settle")
    board.pace(_BUSY_S)
    story.tell(board.name, "has watched it enough", label, said["reason"])


def _refuses(cast: Cast, story: Story, what: str, meanwhile: Future[None]) -> None:
    """The canary rehearses a model that focuses badly, and does not take it."""
    board, label = cast.canary, cast.label(what)
    _publish(cast, story, what)
    before = board.verb("update", "status")["serving"]
    story.tell(board.name, "begins to update", label)
    said = _applied(board, story, label)
    error = said.get("error", {})
    _see(error.get("kind") == "UpdateRefused" and "rehearsed" in error["message"], f"{board.name} refuses it", said)
    story.tell(board.name, "refuses it", label, error["message"])
    _serves(board, before)
    meanwhile.result()


def _is_left(cast: Cast, story: Story, what: str, good: str) -> None:
    """The canary goes back by itself after the first jobs of a model that is bad here."""
    board, label = cast.canary, cast.label(what)
    board.pace(0.0)

    def is_back() -> bool:
        latest = board.jobs[-1].model if board.jobs else ""
        return bool(board.jobs_of(label)) and latest == good

    board.wait_for(is_back, _WATCH_S, f"{board.name} to leave {label}")
    said = board.verb("update", "status")
    _see(said["state"] == "rolled_back" and said["serving"] == good, f"{board.name} is back at {good}", said)
    _see(not cast.other.jobs_of(label), f"{cast.other.name} never had {label}")
    board.pace(_BUSY_S)
    lamp = f"its lamp is dim ({LAMP} of full scale through clear glass, where the rehearsal had 0.82)"
    story.tell(board.name, "goes back by itself", good, f"{lamp}; {said['reason']}")


def _serves(board: Board, label: str) -> None:
    said = board.verb("update", "status")
    _see(said.get("serving") == label, f"{board.name} serves {label}", said)


def _see(right: bool, what: str, said: Said | None = None) -> None:
    """Check a step of the story.

    Raises:
        ExportError: It is not so.
    """
    if not right:
        heard = f"; it said: {said}" if said is not None else ""
        raise ExportError(f"the story did not go as told: not so that {what}{heard}")


def _praise(said: Said) -> str:
    """Why a board took a model, without what it says of the watch."""
    return str(said["reason"]).partition("watched: ")[2] or str(said["reason"])
