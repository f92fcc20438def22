"""Version names, policies and polls over real directories."""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import wait_until

from tfs.lifecycle import files
from tfs.lifecycle.source import (
    AspiredVersion,
    Choice,
    Source,
    SourceModel,
    VersionPolicy,
    aspired_from_names,
    parse_version,
)

ALL = VersionPolicy(Choice.ALL)


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("1", 1),
        ("0", 0),
        ("00000123", 123),
        (" 5", 5),
        ("5\t\n", 5),
        ("+5", 5),
        ("-5", -5),
        ("-0", 0),
        ("9223372036854775807", 2**63 - 1),
        ("-9223372036854775808", -(2**63)),
        ("9223372036854775808", None),
        ("9" * 5000, None),
        ("", None),
        (" ", None),
        ("+", None),
        ("+ 5", None),
        ("--5", None),
        ("1.0", None),
        ("v1", None),
        ("1.tmp", None),
        ("1_2", None),
        ("0x9", None),
        ("1e3", None),
        (".2", None),
        ("1 2", None),
        ("\u0661", None),  # an Arabic-Indic one: a digit for Python, not for the format
        ("\u00a05", None),
        ("5\x00", None),
    ],
)
def test_which_names_are_versions(name: str, version: int | None) -> None:
    assert parse_version(name) == version


@given(st.text(max_size=8))
def test_a_version_is_at_least_a_number_for_python(name: str) -> None:
    version = parse_version(name)
    if version is not None:
        assert int(name) == version


def choose(policy: VersionPolicy, *names: str) -> tuple[list[tuple[int, str]], list[str]]:
    aspired, warnings = aspired_from_names(SourceModel("m", "/m", policy), sorted(names))
    return [(v.version, v.path) for v in aspired], warnings


@pytest.mark.parametrize(
    ("policy", "names", "aspired"),
    [
        (VersionPolicy(), ("1", "2", "10", "v11"), [(10, "/m/10")]),
        (VersionPolicy(count=0), ("1", "2"), [(2, "/m/2")]),
        (VersionPolicy(count=2), ("1", "2", "10"), [(10, "/m/10"), (2, "/m/2")]),
        (VersionPolicy(count=99), ("1", "2"), [(2, "/m/2"), (1, "/m/1")]),
        (VersionPolicy(), ("x",), []),
        (ALL, ("10", "2", "x"), [(10, "/m/10"), (2, "/m/2")]),
        (ALL, ("1", "001"), [(1, "/m/001"), (1, "/m/1")]),
        (
            VersionPolicy(Choice.SPECIFIC, versions=(2, 5)),
            ("1", "0002", "5"),
            [(2, "/m/0002"), (5, "/m/5")],
        ),
        (VersionPolicy(Choice.SPECIFIC, versions=(1, 1)), ("1",), [(1, "/m/1")]),
    ],
)
def test_policies(policy: VersionPolicy, names: tuple[str, ...], aspired: list[tuple[int, str]]) -> None:
    assert choose(policy, *names) == (aspired, [])


def test_of_two_names_for_one_number_the_last_wins() -> None:
    aspired, warnings = choose(VersionPolicy(), "1", "001", "0001")
    assert aspired == [(1, "/m/1")]
    assert len(warnings) == 1
    assert "1 is used, not 0001, 1 is used, not 001" in warnings[0]


def test_specific_versions_that_are_not_there_are_skipped_with_a_warning() -> None:
    aspired, warnings = choose(VersionPolicy(Choice.SPECIFIC, versions=(7, 1)), "1")
    assert aspired == [(1, "/m/1")]
    assert len(warnings) == 1
    assert "Version 7 of servable m" in warnings[0]


class Polled:
    """A source with a record of what it handed on."""

    def __init__(self, patience_s: float = 30) -> None:
        self.lists: list[tuple[str, list[tuple[int, str]]]] = []
        self.source = Source(self.aspire, patience_s=patience_s)

    def aspire(self, name: str, versions: Sequence[AspiredVersion]) -> None:
        self.lists.append((name, [(v.version, Path(v.path).name) for v in versions]))

    def poll(self) -> list[tuple[str, list[tuple[int, str]]]]:
        """What one poll hands on."""
        self.lists.clear()
        self.source.poll()
        return list(self.lists)


@pytest.fixture
def polled() -> Polled:
    return Polled()


def make(base: Path, *names: str) -> Path:
    for name in names:
        (base / name).mkdir(parents=True)
    return base


def test_a_list_is_handed_on_when_it_changes(polled: Polled, tmp_path: Path) -> None:
    base = make(tmp_path / "m", "1")
    polled.source.set_models([SourceModel("m", str(base))])
    assert polled.poll() == [("m", [(1, "1")])]
    assert polled.poll() == []
    make(base, "notes")
    assert polled.poll() == []
    make(base, "2")
    assert polled.poll() == [("m", [(2, "2")])]
    (base / "2").rmdir()
    assert polled.poll() == [("m", [(1, "1")])]
    (base / "1").rename(base / "001")
    assert polled.poll() == [("m", [(1, "001")])]


def test_an_empty_base_path_unloads_everything_and_says_so_once(
    polled: Polled, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = make(tmp_path / "m", "1")
    polled.source.set_models([SourceModel("m", str(base))])
    polled.poll()
    (base / "1").rmdir()
    assert polled.poll() == [("m", [])]
    assert polled.poll() == []
    assert caplog.text.count("No versions of servable m found under base path") == 1
    assert "Did you forget to name your leaf directory as a number (eg. '/1/')?" in caplog.text
    assert not polled.source.found("m")
    assert "No versions of servable m" in polled.source.problem("m")


def test_a_missing_base_path_keeps_its_model_and_touches_no_other(
    polled: Polled, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base, other = make(tmp_path / "a", "1"), make(tmp_path / "b", "1")
    polled.source.set_models([SourceModel("a", str(base)), SourceModel("b", str(other))])
    polled.poll()
    shutil.rmtree(base)
    make(other, "2")
    assert polled.poll() == [("b", [(2, "2")])]
    assert polled.poll() == []
    text = (
        "FileSystemStoragePathSource encountered a filesystem access error: "
        f"Could not find base path {base} for servable a with error NOT_FOUND: {base} not found"
    )
    assert [r.getMessage() for r in caplog.records] == [text]
    assert polled.source.problem("a") == text
    make(base, "1")
    assert polled.poll() == []
    assert polled.source.problem("a") == ""
    assert [r.levelno for r in caplog.records] == [logging.ERROR]


class DeadMount:
    """`files.children` hangs for one path until `alive` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
        self.alive, self.inside, self.looks = threading.Event(), threading.Event(), 0
        real = files.children

        def children(asked: str) -> list[str]:
            if asked == str(path):
                self.looks += 1
                self.inside.set()
                assert self.alive.wait(60)
            return real(asked)

        monkeypatch.setattr(files, "children", children)


def test_a_base_path_that_hangs_touches_no_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    polled = Polled(patience_s=0.2)
    paths = {name: make(tmp_path / name, "1") for name in "abc"}
    polled.source.set_models([SourceModel(name, str(path)) for name, path in paths.items()])
    polled.poll()
    mount = DeadMount(monkeypatch, paths["b"])
    for path in paths.values():
        make(path, "2")
    assert polled.poll() == [("a", [(2, "2")]), ("c", [(2, "2")])]
    text = polled.source.problem("b")
    assert text == (
        f"FileSystemStoragePathSource encountered a filesystem access error: base path {paths['b']} of servable b has not "
        "answered for 0.2 s; the model stays as it is until it does"
    )
    make(paths["c"], "3")
    assert polled.poll() == [("c", [(3, "3")])]
    assert [r.getMessage() for r in caplog.records] == [text]
    assert mount.looks == 1  # nobody else went in there
    mount.alive.set()
    wait_until(lambda: ("b", [(2, "2")]) in polled.lists, 20, "what the look saw after all")
    assert polled.source.problem("b") == ""
    make(paths["b"], "3")
    wait_until(lambda: polled.poll() == [("b", [(3, "3")])], 20, "the mount to be looked at again")


def test_a_base_path_that_is_always_slow_is_served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    polled = Polled(patience_s=0.01)
    base = make(tmp_path / "slow", "1")
    mount = DeadMount(monkeypatch, base)
    polled.source.set_models([SourceModel("slow", str(base))])
    assert polled.poll() == []
    assert "has not answered" in polled.source.problem("slow")
    mount.alive.set()
    wait_until(lambda: polled.lists == [("slow", [(1, "1")])], 20, "what was seen too late")
    assert mount.looks == 1


def test_a_base_path_that_no_system_call_takes_is_a_problem_of_its_model_alone(tmp_path: Path) -> None:
    polled = Polled()
    base = make(tmp_path / "good", "1")
    polled.source.set_models([SourceModel("bad", "/no\0where"), SourceModel("good", str(base))])
    assert polled.poll() == [("good", [(1, "1")])]
    assert "embedded null byte" in polled.source.problem("bad")


def test_a_hanging_poll_does_not_hold_up_a_new_configuration(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    polled = Polled()
    base = make(tmp_path / "a", "1")
    polled.source.set_models([SourceModel("a", str(base))])
    mount = DeadMount(monkeypatch, base)
    poll = threading.Thread(target=polled.source.poll)
    poll.start()
    assert mount.inside.wait(20)
    polled.source.set_models([])
    assert polled.lists == [("a", [])]
    mount.alive.set()
    poll.join(20)
    assert polled.lists == [("a", [])]  # what the old look saw is nobody's any more


def test_specific_versions_need_no_listing(
    polled: Polled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = make(tmp_path / "m", "1", "2")
    policy = VersionPolicy(Choice.SPECIFIC, versions=(1, 2))
    polled.source.set_models([SourceModel("m", str(base), policy)])
    with monkeypatch.context() as patched:
        patched.setattr("os.listdir", None)
        assert polled.poll() == [("m", [(1, "1"), (2, "2")])]
    (base / "2").rename(base / "02")
    assert polled.poll() == [("m", [(1, "1"), (2, "02")])]


def test_a_model_that_leaves_is_unloaded_at_once(polled: Polled, tmp_path: Path) -> None:
    base = make(tmp_path / "m", "1", "2")
    polled.source.set_models([SourceModel("m", str(base)), SourceModel("n", str(base))])
    polled.poll()
    polled.lists.clear()
    polled.source.set_models([SourceModel("n", str(base), ALL)])
    assert polled.lists == [("m", [])]
    assert polled.poll() == [("n", [(1, "1"), (2, "2")])]


def test_a_file_scheme_is_the_local_path(polled: Polled, tmp_path: Path) -> None:
    base = make(tmp_path / "m", "1")
    polled.source.set_models([SourceModel("m", f"file://{base}")])
    assert polled.poll() == [("m", [(1, "1")])]
