"""One attempt: its order, what it closes when a later step fails, and the errors of unreadable directories."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fakes import FakeServable

from tfs.errors import Code, NotFound
from tfs.lifecycle.files import probe_tree
from tfs.lifecycle.loader import Attempt, Loader
from tfs.lifecycle.states import ServableId

ONE = ServableId("m", 1)
RESERVE = "Error while attempting to reserve resources to load servable {name: m version: 1}: "


@pytest.fixture(autouse=True)
def no_servable_left() -> None:
    FakeServable.live = 0


def attempt(path: Path, warm_up: object = None) -> Attempt[FakeServable]:
    return Loader(FakeServable, warm_up, 1.0).attempt(ONE, str(path), lambda: None)  # type: ignore[arg-type]


def test_a_good_attempt_loads_then_warms_up(tmp_path: Path) -> None:
    seen: list[str] = []

    def load(name: str, version: int, path: str) -> FakeServable:
        seen.append("load")
        return FakeServable(name, version, path)

    loader = Loader(load, lambda servable, path: seen.append(f"warm up {servable.path == path}"), 1.0)
    done = loader.attempt(ONE, str(tmp_path), lambda: seen.append("loading"))
    assert seen == ["loading", "load", "warm up True"]
    assert done.error is None
    assert done.servable is not None
    loader.unload(ONE, done.servable)
    assert FakeServable.live == 0


def test_a_failed_warm_up_fails_the_load_and_frees_the_servable(tmp_path: Path) -> None:
    def warm_up(servable: FakeServable, path: str) -> None:
        raise NotFound("no such signature")

    done = attempt(tmp_path, warm_up)
    assert done.servable is None
    assert done.error is not None
    assert done.error.status_text == "NOT_FOUND: no such signature"
    assert FakeServable.live == 0


def test_an_unexpected_error_becomes_internal(tmp_path: Path) -> None:
    def warm_up(servable: FakeServable, path: str) -> None:
        raise ZeroDivisionError("oh")

    error = attempt(tmp_path, warm_up).error
    assert error is not None
    assert (
        error.status_text
        == "INTERNAL: loading servable version {name: m version: 1} failed: ZeroDivisionError: oh"
    )


def test_unreadable_directories_are_refused_before_loading(tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    file = tmp_path / "file"
    file.write_text("not a directory")
    dangling = tmp_path / "dangling"
    dangling.mkdir()
    (dangling / "variables").mkdir()
    link = dangling / "variables" / "link"
    link.symlink_to("nowhere")
    for path, at, code, text in [
        (absent, absent, Code.NOT_FOUND, "No such file or directory"),
        (file, file, Code.FAILED_PRECONDITION, "Not a directory"),
        (dangling, link, Code.NOT_FOUND, "No such file or directory"),
    ]:
        error = attempt(path).error
        assert error is not None
        assert (error.code, error.message) == (code, f"{RESERVE}{at}; {text}")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every directory")
def test_a_directory_without_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0)
    try:
        error = attempt(tmp_path).error
    finally:
        tmp_path.chmod(0o700)
    assert error is not None
    assert (error.code, error.message) == (Code.PERMISSION_DENIED, f"{RESERVE}{tmp_path}; Permission denied")


def test_an_unload_closes_even_what_is_still_in_use(caplog: pytest.LogCaptureFixture) -> None:
    servable = FakeServable("m", 1)
    servable.unused = False
    Loader(FakeServable, None, 0.5).unload(ONE, servable)
    assert servable.closed
    assert "{name: m version: 1} is still in use after 0.5 s" in caplog.text


def test_links_in_circles_are_followed_once(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).symlink_to(tmp_path)
    (tmp_path / "saved_model.pb").write_bytes(b"12345")
    assert attempt(tmp_path).error is None
    assert probe_tree(str(tmp_path)) == 10  # the file itself, and once more behind the first link
