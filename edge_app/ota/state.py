"""State: which models updates have put into service on a board, and the steps by which that changes. Pure."""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum

from pydantic import Field

from edge_app.ota.catalogue import Name, Sha256, VersionText
from edge_app.passport import Strict


class Stage(str, Enum):
    """Where updating stands; the wire's UpdateState has the same names."""

    IDLE = "idle"
    AVAILABLE = "available"
    STAGING = "staging"
    READY = "ready"
    WATCHED = "watched"
    SETTLED = "settled"
    REFUSED = "refused"
    ROLLED_BACK = "rolled_back"
    FAILED = "failed"


class Version(Strict):
    """One bundle of the depot."""

    name: Name
    version: VersionText
    sha256: Sha256

    @property
    def label(self) -> str:
        """Name and version."""
        return f"{self.name}@{self.version}"


class Slot(Strict):
    """What serves under a name, and what did before; None is the bundle that ships, if there is one."""

    serving: Version | None
    previous: Version | None


class Bad(Strict):
    """A version that was refused or left again, and why; it is not taken a second time."""

    label: str
    sha256: Sha256
    why: str


class State(Strict):
    """All that a board remembers of its updates.

    `about` is the name that `stage` and `reason` are about. `watched` took the place of the bundle with the hash
    `replaced`; `starts` counts the services in a row that opened it and ended without an answer of it or a clean end;
    `counted` says whether its jobs are counted yet. `tries` counts by hash how often a candidate was opened and
    rehearsed without an end of any kind. `waiting` are the hashes by name of what was fetched and may be tried another
    day. `latest` is the latest time at which the clock was known to be right, in ISO 8601; `seen` are the versions of
    the repository's roles that were believed, which may not sink again.
    """

    format: int = Field(default=1, ge=1, le=1)
    slots: dict[Name, Slot] = Field(default_factory=dict)
    candidate: Version | None = None
    stage: Stage = Stage.IDLE
    reason: str = ""
    about: str = ""
    watched: Version | None = None
    replaced: str = ""
    starts: int = 0
    counted: bool = False
    tries: dict[Sha256, int] = Field(default_factory=dict)
    waiting: dict[Name, Sha256] = Field(default_factory=dict)
    bad: tuple[Bad, ...] = ()
    latest: str = ""
    seen: dict[str, int] = Field(default_factory=dict)

    def told(self, stage: Stage, reason: str, about: str = "") -> State:
        """The same, at another stage for another reason."""
        return self.model_copy(update={"stage": stage, "reason": reason, "about": about or self.about})

    def staging(self, version: Version) -> State:
        """A candidate is being looked at."""
        return self.told(Stage.STAGING, _verifying(version), version.name).model_copy(update={"candidate": version})

    def tried(self, version: Version) -> State:
        """A candidate is opened and rehearsed once more; whoever does that may not live to tell."""
        count = self.tries.get(version.sha256, 0) + 1
        return self.model_copy(update={"tries": {**self.tries, version.sha256: count}})

    def untried(self, version: Version) -> State:
        """Somebody ended the look at a candidate; the tries before that count on."""
        count = self.tries.get(version.sha256, 0) - 1
        if count <= 0:
            return self.ended(version)
        return self.model_copy(update={"tries": {**self.tries, version.sha256: count}})

    def ended(self, version: Version) -> State:
        """The look at a candidate came to an end that is not its doing, or to one that is remembered otherwise."""
        tries = {sha256: count for sha256, count in self.tries.items() if sha256 != version.sha256}
        return self.model_copy(update={"tries": tries})

    def ready(self, version: Version, why: str) -> State:
        """A candidate passed; what was left meanwhile is still told."""
        left = self.reason.removesuffix(_verifying(version)) if self.stage is Stage.STAGING else ""
        changed = self.ended(version).told(Stage.READY, left + why, version.name)
        return changed.model_copy(update={"candidate": version, "waiting": _without(version, changed.waiting)})

    def refused(self, version: Version, why: str) -> State:
        """A candidate did not pass, and is not to be tried again; a model that is watched is still watched."""
        changed = self._put_off(Stage.REFUSED, why, version.name).ended(version)
        known = {"waiting": _without(version, changed.waiting), "bad": self._bad_with(version, why)}
        return changed.model_copy(update=known)

    def failed(self, why: str) -> State:
        """Nothing came of it, and it may be tried again; a model that is watched is still watched."""
        return self._put_off(Stage.FAILED, why)

    def activated(self, why: str, replaced: str) -> State:
        """The candidate serves in place of the bundle of this hash, "" for none, and is watched."""
        version = self.candidate
        assert version is not None
        before = self.slots.get(version.name)
        slot = Slot(serving=version, previous=before.serving if before else None)
        changed = self.told(Stage.WATCHED, why, version.name)
        return changed.model_copy(
            update={
                "slots": {**self.slots, version.name: slot},
                "candidate": None,
                "watched": version,
                "replaced": replaced,
                "starts": 0,
                "counted": False,
            }
        )

    def settled(self, why: str) -> State:
        """The watched version proved itself."""
        assert self.watched is not None
        changed = self._told_beside(Stage.SETTLED, why, self.watched.name)
        return changed.model_copy(update={"watched": None, "starts": 0})

    def counting(self) -> State:
        """The jobs of the watched version are counted from here on."""
        return self.model_copy(update={"counted": True})

    def begun(self) -> State:
        """The service began once more while a version is watched."""
        return self.model_copy(update={"starts": self.starts + 1})

    def proved(self) -> State:
        """The watched version finished a job, or ended as it should."""
        return self.model_copy(update={"starts": 0})

    def not_begun(self) -> State:
        """The service could not begin, for reasons that are not the watched version's."""
        return self.model_copy(update={"starts": max(0, self.starts - 1)})

    def unfit(self, version: Version, why: str) -> State:
        """A candidate is not for this board as it is now; that may change, so it is not remembered against it."""
        return self._put_off(Stage.REFUSED, why, version.name).ended(version)

    def forgiven(self, label: str) -> State:
        """A version may be tried again, because a person says so."""
        kept = tuple(bad for bad in self.bad if bad.label != label)
        stage = Stage.IDLE if self.watched is None else Stage.WATCHED
        return self._told_beside(stage, f"{label} may be tried again").model_copy(update={"bad": kept})

    def looked(self, offered: Collection[str]) -> State:
        """The repository could be asked, and offers these hashes: that it could not before is over."""
        changed = self.told(Stage.IDLE, "") if self.stage is Stage.FAILED else self
        waiting = {name: sha256 for name, sha256 in self.waiting.items() if sha256 in offered}
        return changed.model_copy(update={"waiting": waiting})

    def can_roll_back(self, name: str) -> bool:
        """Whether something other than the bundle that ships serves under a name."""
        slot = self.slots.get(name)
        return slot is not None and slot.serving is not None

    def serves(self, version: Version) -> bool:
        """Whether this very version serves under its name."""
        slot = self.slots.get(version.name)
        return slot is not None and slot.serving == version

    def rolled_back(self, name: str, why: str) -> State:
        """What served under a name before serves again, and what is left is not taken a second time."""
        left = self.slots[name].serving
        assert left is not None
        if self._has_candidate:
            changed = self.told(self.stage, f"{why}; {self.reason}")
        else:
            changed = self.told(Stage.ROLLED_BACK, why, name)
        slots = dict(self.slots)
        slots[name] = Slot(serving=self.slots[name].previous, previous=None)
        if slots[name].serving is None:
            del slots[name]
        stays = self.watched is not None and self.watched.name != name
        return changed.model_copy(
            update={
                "slots": slots,
                "bad": self._bad_with(left, why),
                "watched": self.watched if stays else None,
                "starts": self.starts if stays else 0,
            }
        )

    def is_bad(self, label: str, sha256: str) -> str:
        """Why a version is not to be tried again, or ""."""
        return next((bad.why for bad in self.bad if sha256 == bad.sha256 or label == bad.label), "")

    def kept(self) -> set[str]:
        """The hashes of all bundles that are still wanted."""
        versions = [self.candidate, self.watched]
        for slot in self.slots.values():
            versions += [slot.serving, slot.previous]
        return {version.sha256 for version in versions if version is not None} | set(self.waiting.values())

    @property
    def _has_candidate(self) -> bool:
        """Whether a candidate is on its way: then that is still what there is to tell."""
        return self.stage in (Stage.STAGING, Stage.READY)

    def _told_beside(self, stage: Stage, reason: str, about: str = "") -> State:
        """As `told`, unless a candidate is on its way."""
        return self if self._has_candidate else self.told(stage, reason, about)

    def _put_off(self, stage: Stage, reason: str, about: str = "") -> State:
        """There is no candidate any more, and its bytes stay; while a model is watched, that is still the stage."""
        if self.watched is not None:
            stage, about = Stage.WATCHED, self.watched.name
        waiting = dict(self.waiting)
        if self.candidate is not None:
            waiting[self.candidate.name] = self.candidate.sha256
        return self.told(stage, reason, about).model_copy(update={"candidate": None, "waiting": waiting})

    def _bad_with(self, version: Version, why: str) -> tuple[Bad, ...]:
        kept = tuple(bad for bad in self.bad if bad.sha256 != version.sha256)
        return (*kept, Bad(label=version.label, sha256=version.sha256, why=why))


def _without(version: Version, waiting: dict[str, str]) -> dict[str, str]:
    return {name: sha256 for name, sha256 in waiting.items() if name != version.name}


def _verifying(version: Version) -> str:
    return f"{version.label} is being verified"
