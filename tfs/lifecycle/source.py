"""Where versions come from: directory names below each model's base path, read again at every poll.

Owns: the rules that make a name a version, the version policies (latest, all, specific), the poll and its log lines.
Must not know what is loaded: a poll yields the complete list of aspired versions of a model, and leaving one out is the order
to unload it. A list is handed on when it differs from the last one; one model's unreadable or hanging path never touches another's.

`Source.poll` may be called from any thread (calls wait for each other); it blocks on the file system.
"""

from __future__ import annotations

import enum
import logging
import os
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from tfs.errors import TfsError
from tfs.lifecycle import files
from tfs.lifecycle.patience import Patient

log = logging.getLogger("tfs.lifecycle.source")

_INT64_MIN: Final = -(2**63)
_INT64_MAX: Final = 2**63 - 1
_ACCESS_ERROR: Final = "FileSystemStoragePathSource encountered a filesystem access error: "
# A base path that takes longer hangs: a dead network mount. The others are polled without it.
PATIENCE_S: Final = 10.0
# A sign, leading zeros and ASCII blanks around the number are all fine; anything else in the name makes it no version.
_NUMBER: Final = re.compile(r"[ \t\n\v\f\r]*([+-]?[0-9]+)[ \t\n\v\f\r]*")


class AspiredVersion(NamedTuple):
    version: int
    path: str


Aspire = Callable[[str, Sequence[AspiredVersion]], None]


class Choice(enum.Enum):
    LATEST = "latest"
    ALL = "all"
    SPECIFIC = "specific"


@dataclass(frozen=True, slots=True)
class VersionPolicy:
    """Which of the versions found are aspired: the `count` highest, all of them, or exactly `versions`."""

    choice: Choice = Choice.LATEST
    count: int = 1
    versions: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class SourceModel:
    name: str
    base_path: str
    policy: VersionPolicy = VersionPolicy()


def parse_version(name: str) -> int | None:
    """The version that a directory name stands for, or None."""
    match = _NUMBER.fullmatch(name)
    if match is None:
        return None
    try:
        number = int(match.group(1))
    except ValueError:  # beyond Python's limit of digits
        return None
    return number if _INT64_MIN <= number <= _INT64_MAX else None


def aspired_from_names(model: SourceModel, names: Sequence[str]) -> tuple[list[AspiredVersion], list[str]]:
    """The aspired versions of `model` among the sorted `names` of its base path, and what there is to warn about."""
    found = [(version, name) for name in names if (version := parse_version(name)) is not None]
    if model.policy.choice is Choice.ALL:
        return [_at(model, version, name) for version, name in found], []
    by_version = dict(found)  # of two names for one number the lexicographically last stays
    warnings = []
    if len(by_version) != len(found):
        warnings.append(
            f"Duplicate version directories detected for servable {model.name} under base path {model.base_path}: "
            + ", ".join(f"{by_version[v]} is used, not {name}" for v, name in found if by_version[v] != name)
        )
    if model.policy.choice is Choice.LATEST:
        chosen = sorted(by_version, reverse=True)[: max(model.policy.count, 1)]
        return [_at(model, version, by_version[version]) for version in chosen], warnings
    for version in model.policy.versions:
        if version not in by_version:
            warnings.append(
                f"Version {version} of servable {model.name}, which was requested to be served as a 'specific' version in "
                f"the servable's version policy, was not found under base path {model.base_path}"
            )
    present = [v for v in dict.fromkeys(model.policy.versions) if v in by_version]
    if not model.policy.versions:
        warnings.append(f"No specific versions requested for servable {model.name}.")
    return [_at(model, version, by_version[version]) for version in present], warnings


def _at(model: SourceModel, version: int, name: str) -> AspiredVersion:
    return AspiredVersion(version, os.path.join(files.local_path(model.base_path), name))


@dataclass(slots=True)
class _Watch:
    """What is remembered of one model between polls."""

    model: SourceModel
    names: list[str] | None = None  # the listing that `aspired` was made from; None: made without one
    aspired: list[AspiredVersion] | None = None  # as last handed on; None: nothing handed on yet
    said: str = ""  # the last problem logged: one line per change, not one per poll
    warnings: list[str] = field(default_factory=list)


class _Look(NamedTuple):
    """What a look at a base path saw: a problem, versions that need no listing, or the names there."""

    problem: str = ""
    aspired: list[AspiredVersion] | None = None
    names: list[str] = []  # noqa: RUF012 (never written to)


def _look_at(model: SourceModel) -> _Look:
    """Blocks on the file system; never raises for what it says."""
    try:
        aspired = _specific_unlisted(model)
        return _Look(aspired=aspired) if aspired is not None else _Look(names=files.children(model.base_path))
    except TfsError as error:
        return _Look(problem=f"{_ACCESS_ERROR}{_access_error(model, error)}")


def _specific_unlisted(model: SourceModel) -> list[AspiredVersion] | None:
    """`specific` with every `<base>/<version>` there needs no listing (base paths may be large)."""
    wanted = dict.fromkeys(model.policy.versions)
    if model.policy.choice is not Choice.SPECIFIC or not wanted:
        return None
    aspired = [_at(model, version, str(version)) for version in wanted]
    return aspired if all(os.path.exists(version.path) for version in aspired) else None


def _access_error(model: SourceModel, error: TfsError) -> str:
    try:
        files.require(model.base_path)
    except TfsError as e:
        return (
            f"Could not find base path {model.base_path} for servable {model.name} with error {e.status_text}"
        )
    return error.message


class Source:
    """Polls the base paths of the configured models and hands on changed lists of aspired versions."""

    def __init__(self, aspire: Aspire, *, patience_s: float = PATIENCE_S) -> None:
        """`aspire(name, versions)` must not block: it is called within the poll, or by the thread that saw a slow path."""
        self._aspire = aspire
        self._patience_s = patience_s
        self._looks = Patient(_look_at, patience_s, self._take)
        self._polling = threading.Lock()
        self._lock = threading.Lock()
        self._watches: dict[str, _Watch] = {}

    def set_models(self, models: Sequence[SourceModel]) -> None:
        """Replaces the models. Those that left get an empty list at once; changed ones are looked at by the next poll."""
        with self._lock:
            before = self._watches
            watches: dict[str, _Watch] = {}
            for model in models:
                known = before.get(model.name)
                watch = _Watch(model)
                if known is not None:
                    watch = known if known.model == model else _Watch(model, aspired=known.aspired)
                watches[model.name] = watch
            self._watches = watches
            for name in before.keys() - watches.keys():
                self._aspire(name, [])

    def poll(self) -> None:
        """Looks at every base path once. Never raises for what the file system says: that is logged, the model keeps its state."""
        with self._polling:
            with self._lock:
                models = [watch.model for watch in self._watches.values()]
            for model, look in self._looks.each(models):
                self._take(model, look if look is not None else self._hanging(model))

    def _take(self, model: SourceModel, look: _Look) -> None:
        """What was seen of a base path, if `model` is still as it was when the look began. Any thread."""
        with self._lock:
            watch = self._watches.get(model.name)
            if watch is not None and watch.model == model:
                self._note(watch, look)

    def _hanging(self, model: SourceModel) -> _Look:
        return _Look(
            f"{_ACCESS_ERROR}base path {model.base_path} of servable {model.name} has not answered for {self._patience_s:g} s; "
            "the model stays as it is until it does"
        )

    def found(self, name: str) -> bool:
        """Whether versions of model `name` are aspired. Takes no lock: never waits for a poll."""
        watch = self._watches.get(name)
        return watch is not None and bool(watch.aspired)

    def problem(self, name: str) -> str:
        """What the last poll had to complain about for model `name`, or empty. Takes no lock."""
        watch = self._watches.get(name)
        return watch.said if watch is not None else ""

    def _note(self, watch: _Watch, look: _Look) -> None:
        """Takes in what a look at the base path saw. With the lock."""
        if look.problem:
            self._say(watch, look.problem, logging.ERROR)
        elif look.aspired is not None:
            watch.names = None
            watch.said = ""
            self._hand_on(watch, look.aspired)
        elif look.names == watch.names and watch.aspired is not None:
            watch.said = "\n".join(
                watch.warnings
            )  # an unreadable path that is back as it was is nothing to log
        else:
            self._note_names(watch, look.names)

    def _note_names(self, watch: _Watch, names: list[str]) -> None:
        model = watch.model
        aspired, watch.warnings = aspired_from_names(model, names)
        watch.names = names
        if not aspired:
            watch.warnings.insert(
                0,
                f"No versions of servable {model.name} found under base path {model.base_path}. "
                "Did you forget to name your leaf directory as a number (eg. '/1/')?",
            )
        self._say(watch, "\n".join(watch.warnings), logging.WARNING)
        self._hand_on(watch, aspired)

    def _hand_on(self, watch: _Watch, aspired: list[AspiredVersion]) -> None:
        if aspired != watch.aspired:
            watch.aspired = aspired
            self._aspire(watch.model.name, aspired)

    def _say(self, watch: _Watch, text: str, level: int) -> None:
        if text and text != watch.said:
            log.log(level, "%s", text)
        watch.said = text


class Poller:
    """Calls `poll` every `period_s` seconds on a thread of its own, the first time after one period, until closed."""

    def __init__(self, poll: Callable[[], None], period_s: float, name: str) -> None:
        self._poll = poll
        self._period_s = period_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self, timeout_s: float | None = None) -> bool:
        """Stops the thread; False when it is still inside `poll` after `timeout_s`."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stop.wait(self._period_s):
            try:
                self._poll()
            except Exception:
                log.exception("the poll of thread %s failed; it goes on", threading.current_thread().name)
