"""Which settings a version is batched with, and how changed files reach versions in service."""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from wiretools import entry, field, floats, number, request, tensor

from tfs import _fastpath, config
from tfs.batching import Batching, core_parameters
from tfs.config import BatchingParameters, LoadingOptions
from tfs.errors import InvalidArgument, TfsError

FLOAT = 1
INFO = number(2, FLOAT) + field(3, number(3, 1))
SIGNATURE = field(1, field(1, b"x") + field(2, field(1, b"x:0") + INFO)) + field(
    2, field(1, b"y") + field(2, field(1, b"out:0") + INFO)
)


def options(parameters: BatchingParameters | None, per_model: bool = False) -> LoadingOptions:
    return LoadingOptions(
        platforms=frozenset({"tensorflow"}),
        saved_model_tags=("serve",),
        session_config=b"",
        batching=parameters,
        per_model_batching=per_model,
        enable_model_warmup=False,
        warmup_iterations=1,
    )


@pytest.fixture
def made() -> Iterator[Callable[..., Batching]]:
    """made(options, file): a Batching whose threads end with the test."""
    _fastpath.fake_runtime()
    batchings: list[Batching] = []

    def make(loading: LoadingOptions, file: Path | str = "") -> Batching:
        batchings.append(Batching(loading, str(file)))
        return batchings[-1]

    yield make
    for batching in batchings:
        batching.close()
        if batching.threads is not None:
            batching.threads.close()


class Model:
    """A fake version in service with an engine of its own."""

    def __init__(self, batching: Batching, directory: Path) -> None:
        self.session = _fastpath.FakeSession()
        self.servable = _fastpath.fake_servable("m", 1, self.session, {"serving_default": SIGNATURE})
        batching.configure(self.servable, str(directory))
        self.engine = _fastpath.Engine(batch_threads=batching.threads)
        self.engine.publish({"m": {1: self.servable}}, None)

    def call(self, rows: int) -> int:
        """Rows that the session saw for a call of so many."""
        body = request(entry("x", tensor(FLOAT, [rows], field(4, floats(*range(rows))))))
        outputs = self.engine.run(None, body, None, None)
        assert struct.unpack(f"<{rows}f", outputs.numbers("y")) == tuple(range(rows))
        return self.session.rows_seen

    def close(self) -> None:
        self.engine.publish({}, None)
        self.servable.close()
        self.engine.close()


def test_the_process_wide_fields_are_not_a_versions_business() -> None:
    given = core_parameters(BatchingParameters(num_batch_threads=3, thread_pool_name="x", max_batch_size=7))
    assert given["max_batch_size"] == 7
    assert not given.keys() & {"num_batch_threads", "thread_pool_name"}


def test_without_batching_there_are_no_threads(made: Callable[..., Batching], tmp_path: Path) -> None:
    batching = made(options(None))
    assert batching.threads is None
    model = Model(batching, tmp_path)
    assert model.call(3) == 3
    model.close()


def test_a_version_is_batched_as_the_file_says(made: Callable[..., Batching], tmp_path: Path) -> None:
    model = Model(made(options(BatchingParameters(max_batch_size=4, allowed_batch_sizes=(4,)))), tmp_path)
    assert model.call(3) == 4
    with pytest.raises(InvalidArgument, match="Task size 5 is larger than maximum input batch size 4"):
        model.call(5)
    model.close()


def test_wrong_settings_fail_the_load(made: Callable[..., Batching], tmp_path: Path) -> None:
    batching = made(options(BatchingParameters(max_batch_size=8, allowed_batch_sizes=(4,))))
    with pytest.raises(InvalidArgument, match="last entry was 4; expected 8"):
        Model(batching, tmp_path)


def test_a_file_of_its_own(made: Callable[..., Batching], tmp_path: Path) -> None:
    with_file, without = tmp_path / "with", tmp_path / "without"
    with_file.mkdir()
    without.mkdir()
    (with_file / "batching_params.pbtxt").write_text("max_batch_size { value: 4 } allowed_batch_sizes: 4")
    batching = made(options(BatchingParameters(max_batch_size=2), per_model=True))
    batched, alone = Model(batching, with_file), Model(batching, without)
    assert batched.call(1) == 4
    assert alone.call(9) == 9
    (with_file / "batching_params.pbtxt").write_text("max_batch_size: nonsense")
    with pytest.raises(TfsError):
        Model(batching, with_file)
    batched.close()
    alone.close()


def test_a_changed_file_is_taken_over(made: Callable[..., Batching], tmp_path: Path) -> None:
    file = tmp_path / "b"
    file.write_text("max_batch_size { value: 4 } allowed_batch_sizes: 4")
    batching = made(options(config.read_batching_parameters(str(file))), file)
    model = Model(batching, tmp_path)
    assert model.call(1) == 4
    file.write_text("max_batch_size { value: 8 } allowed_batch_sizes: 8")
    batching.reload()
    assert model.call(1) == 8
    model.close()


def test_a_wrong_file_changes_nothing(
    made: Callable[..., Batching], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "b"
    file.write_text("max_batch_size { value: 4 } allowed_batch_sizes: 4")
    batching = made(options(config.read_batching_parameters(str(file))), file)
    model = Model(batching, tmp_path)
    for text in ("nonsense", "max_batch_size { value: 8 } allowed_batch_sizes: 4"):
        file.write_text(text)
        with caplog.at_level(logging.ERROR, "tfs.batching"):
            batching.reload()
            batching.reload()
        assert model.call(1) == 4
    unread, unusable = [r.message for r in caplog.records if r.name == "tfs.batching"]
    assert "is not taken over" in unread
    assert "keeps its batching parameters: Last entry in allowed_batch_sizes" in unusable
    model.close()


def test_the_number_of_threads_needs_a_restart(
    made: Callable[..., Batching], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "b"
    file.write_text("num_batch_threads { value: 1 }")
    batching = made(options(config.read_batching_parameters(str(file))), file)
    file.write_text("num_batch_threads { value: 2 }")
    batching.reload()
    assert "num_batch_threads is taken over by a restart only" in caplog.text


def test_a_closed_version_is_forgotten(made: Callable[..., Batching], tmp_path: Path) -> None:
    file = tmp_path / "b"
    file.write_text("max_batch_size { value: 4 }")
    batching = made(options(config.read_batching_parameters(str(file))), file)
    model = Model(batching, tmp_path)
    model.close()
    file.write_text("max_batch_size { value: 8 }")
    batching.reload()  # still known while somebody holds the object
    model.servable.update_batching(max_batch_size=2)


def test_the_watch_sees_a_change(made: Callable[..., Batching], tmp_path: Path) -> None:
    """Calls go on while the file changes, and at some time run in the new size."""
    file = tmp_path / "b"
    file.write_text("max_batch_size { value: 4 } allowed_batch_sizes: 4")
    batching = made(options(config.read_batching_parameters(str(file))), file)
    model = Model(batching, tmp_path)
    batching.watch(0.005)
    file.write_text("max_batch_size { value: 8 } allowed_batch_sizes: 8")
    seen = {model.call(1)}
    while 8 not in seen:  # the test's own time limit ends a watch that sees nothing
        seen.add(model.call(1))
    assert seen <= {4, 8}
    model.close()
