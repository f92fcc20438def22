"""TFRecord reading, its checksum, and warm-up: what is replayed, counted and refused."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes import FakeServable
from hypothesis import given
from hypothesis import strategies as st

from tfs._fastpath import crc32c
from tfs.errors import Code, DataLoss, InvalidArgument, NotFound, TfsError
from tfs.lifecycle import synthetic, tfrecord
from tfs.lifecycle.warmup import FILE_NAME, MAX_RECORDS, WarmUp, WarmUpStats
from tfs.messages import DataType, PredictionLog, PredictRequest, SignatureDef


def bitwise_crc32c(data: bytes) -> int:
    """Bit by bit, as the definition says."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


@pytest.mark.parametrize(
    ("data", "crc"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        # RFC 3720, B.4
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_crc32c_of_known_data(data: bytes, crc: int) -> None:
    assert crc32c(data) == crc
    assert tfrecord.slow_crc32c(data) == crc
    assert bitwise_crc32c(data) == crc


@given(st.binary(max_size=70))
def test_crc32c_fast_equals_slow(data: bytes) -> None:
    assert crc32c(data) == tfrecord.slow_crc32c(data) == bitwise_crc32c(data)


def record(body: bytes) -> bytes:
    length = struct.pack("<Q", len(body))
    return (
        length
        + struct.pack("<I", tfrecord.mask(crc32c(length)))
        + body
        + struct.pack("<I", tfrecord.mask(crc32c(body)))
    )


def damaged(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


TWO = record(b"hello") + record(b"world")


def test_a_file_as_tensorflow_writes_it() -> None:
    # tf.io.TFRecordWriter's bytes for one record b"hello"
    assert record(b"hello").hex() == "0500000000000000eab2043e68656c6c6fbb1f1c19"


@pytest.mark.parametrize(
    ("data", "bodies", "error"),
    [
        # What tf.compat.v1.io.tf_record_iterator of TensorFlow 2.21 gave for the same bytes.
        (TWO, [b"hello", b"world"], None),
        (b"", [], None),
        (b"abc", [], None),
        (TWO[:26], [b"hello"], None),
        (
            b"not a record at all, really, no no no",
            [],
            "corrupted record at 0 (Is this even a TFRecord file?)",
        ),
        (TWO[:-1], [b"hello"], "truncated record at 21' failed with Read less bytes than requested"),
        (TWO[:12], [], "truncated record at 0' failed with Read less bytes than requested"),
        (TWO[:14], [], "truncated record at 0' failed with Read less bytes than requested"),
        (damaged(TWO, 13), [], "corrupted record at 12"),
        (damaged(TWO, 21 + 13), [b"hello"], "corrupted record at 33"),
        (damaged(TWO, 21), [b"hello"], "corrupted record at 21"),
        (
            struct.pack("<QI", 2**63, tfrecord.mask(crc32c(struct.pack("<Q", 2**63)))),
            [],
            "truncated record at 0' failed with Read less bytes than requested",
        ),
    ],
)
def test_reading_records(tmp_path: Path, data: bytes, bodies: list[bytes], error: str | None) -> None:
    file = tmp_path / "file"
    file.write_bytes(data)
    read = []
    with file.open("rb") as opened:
        try:
            for body in tfrecord.read(opened):
                read.append(body)
            said = None
        except DataLoss as e:
            said = e.message
    assert (read, said) == (bodies, error)


@given(st.lists(st.binary(max_size=40), max_size=4), st.data())
def test_any_damage_is_a_data_loss_or_a_shorter_file(bodies: list[bytes], data: st.DataObject) -> None:
    """Invariant: whatever the bytes, reading yields a prefix of the records and then ends or raises DataLoss."""
    whole = b"".join(record(body) for body in bodies)
    cut = whole[: data.draw(st.integers(0, len(whole)))]
    if cut and data.draw(st.booleans()):
        cut = damaged(cut, data.draw(st.integers(0, len(cut) - 1)))
    descriptor = os.memfd_create("records")
    read = []
    with io.FileIO(descriptor, "r+") as raw:
        raw.write(cut)
        raw.seek(0)
        try:
            for body in tfrecord.read(raw):  # type: ignore[arg-type]
                read.append(body)
        except DataLoss:
            pass
    assert read == bodies[: len(read)]


# --- warm-up


class Replayed:
    """A version directory whose warm-up file the test writes, and what was replayed from it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path / FILE_NAME
        self.kinds: list[str | None] = []
        self.error: TfsError | None = None
        self.stats = WarmUpStats()

    def write(self, *bodies: bytes, tail: bytes = b"") -> None:
        self.file.parent.mkdir(exist_ok=True)
        self.file.write_bytes(b"".join(record(body) for body in bodies) + tail)

    def replay(self, servable: FakeServable, log: PredictionLog) -> None:
        self.kinds.append(log.WhichOneof("log_type"))
        if self.error is not None:
            raise self.error

    def run(self, iterations: int = 0, without_file: Callable[[FakeServable], None] | None = None) -> None:
        warm_up = WarmUp(self.replay, iterations, self.stats, without_file)
        servable = FakeServable("m", 1)
        try:
            warm_up(servable, str(self.path))
        finally:
            servable.close()

    def counted(self) -> dict[str, tuple[int, int]]:
        """Status -> (records, warm-ups)."""
        rows = self.stats.rows()
        assert {path for path, _ in rows} <= {str(self.path)}
        assert all(sum(row.buckets) == row.count for row in rows.values())
        return {status: (row.records, row.count) for (_, status), row in rows.items()}


@pytest.fixture
def replayed(tmp_path: Path) -> Replayed:
    return Replayed(tmp_path)


def predict_log() -> bytes:
    log = PredictionLog()
    log.predict_log.request.model_spec.name = "m"
    return log.SerializeToString()


def regress_log() -> bytes:
    log = PredictionLog()
    log.regress_log.request.model_spec.name = "m"
    return log.SerializeToString()


def test_no_file_is_fine(replayed: Replayed) -> None:
    replayed.run()
    assert replayed.kinds == []
    assert replayed.counted() == {}


def test_an_empty_file_is_fine(replayed: Replayed) -> None:
    replayed.write()
    replayed.run()
    assert replayed.counted() == {"OK": (0, 1)}


def test_every_record_is_replayed_in_order(replayed: Replayed) -> None:
    replayed.write(predict_log(), regress_log(), b"")
    replayed.run()
    assert replayed.kinds == ["predict_log", "regress_log", None]
    assert replayed.counted() == {"OK": (3, 1)}


@pytest.mark.parametrize(("iterations", "times"), [(-2, 1), (0, 1), (1, 1), (3, 3)])
def test_iterations_repeat_each_record(replayed: Replayed, iterations: int, times: int) -> None:
    replayed.write(predict_log(), regress_log())
    replayed.run(iterations)
    assert replayed.kinds == ["predict_log"] * times + ["regress_log"] * times
    assert replayed.counted() == {"OK": (2, 1)}


def test_the_limit_is_noticed_after_the_record_too_many(replayed: Replayed) -> None:
    replayed.write(*[predict_log()] * MAX_RECORDS)
    replayed.run()
    replayed.kinds.clear()
    replayed.write(*[predict_log()] * (MAX_RECORDS + 5))
    with pytest.raises(InvalidArgument) as caught:
        replayed.run()
    assert caught.value.message == f"Number of warmup records exceeds the maximum (1000) at {replayed.file}"
    assert len(replayed.kinds) == MAX_RECORDS + 1


def test_a_record_that_is_no_prediction_log(replayed: Replayed) -> None:
    replayed.write(predict_log(), b"\xff\xfe no proto")
    with pytest.raises(InvalidArgument) as caught:
        replayed.run()
    assert (
        caught.value.message == f"Failed to parse warmup record: \ufffd\ufffd no proto from {replayed.file}"
    )
    assert replayed.counted() == {}


def test_a_file_that_is_no_tfrecord(replayed: Replayed) -> None:
    replayed.write(predict_log(), tail=b"\x00" * 20)
    with pytest.raises(DataLoss) as caught:
        replayed.run()
    at = len(record(predict_log()))
    assert (
        caught.value.message
        == f"corrupted record at {at}. Please verify your warmup data is in TFRecord format."
    )
    assert replayed.counted() == {f"DATA_LOSS: corrupted record at {at}": (1, 1)}


@pytest.mark.parametrize(
    "error",
    [NotFound("no signature"), DataLoss("the model's own"), TfsError("assertion failed", Code.UNKNOWN)],
)
def test_the_error_of_a_request_is_the_error_of_the_load(replayed: Replayed, error: TfsError) -> None:
    replayed.write(predict_log(), predict_log())
    replayed.error = error
    with pytest.raises(TfsError) as caught:
        replayed.run()
    assert caught.value.status_text == error.status_text
    assert len(replayed.kinds) == 1
    assert replayed.counted() == {}


# --- made-up requests


def signature(**inputs: tuple[int, list[int] | None]) -> bytes:
    made = SignatureDef()
    for alias, (dtype, dims) in inputs.items():
        made.inputs[alias].name = f"{alias}:0"
        made.inputs[alias].dtype = dtype
        shape = made.inputs[alias].tensor_shape
        if dims is None:
            shape.unknown_rank = True
        for size in dims or []:
            shape.dim.add(size=size)
    return made.SerializeToString()


FLOAT, STRING = 1, 7


def test_requests_are_made_where_the_shapes_are_known() -> None:
    made = synthetic.requests(
        {
            "good": signature(x=(FLOAT, [-1, 3]), s=(STRING, []), n=(FLOAT, [2])),
            "unknown": signature(x=(FLOAT, None)),
            "huge": signature(x=(FLOAT, [1 << 20, 1 << 20])),
            "resource": signature(x=(DataType.DT_RESOURCE, [])),
            "empty": signature(),
            synthetic.INIT_SIGNATURE: signature(),
        }
    )
    assert sorted(made) == ["empty", "good"]
    request = PredictRequest.FromString(made["good"])
    assert request.model_spec.signature_name == "good"
    shapes = {a: (t.dtype, [d.size for d in t.tensor_shape.dim]) for a, t in request.inputs.items()}
    assert shapes == {"x": (FLOAT, [1, 3]), "s": (STRING, []), "n": (FLOAT, [2])}
    assert all(not t.tensor_content and not t.float_val for t in request.inputs.values())


def test_made_up_requests_run_when_there_is_no_file_and_never_fail_a_load(
    replayed: Replayed, caplog: pytest.LogCaptureFixture
) -> None:
    ran: list[str] = []

    def run(servable: FakeServable, request: bytes) -> None:
        ran.append(PredictRequest.FromString(request).model_spec.signature_name)
        raise InvalidArgument("zeros are not good enough")

    signatures = {name: signature(x=(FLOAT, [1])) for name in ("a", "b", "counts")}
    warm_up = synthetic.SyntheticWarmUp[FakeServable](
        lambda servable: signatures, lambda servable, name: name != "counts", run
    )
    with caplog.at_level("INFO"):
        replayed.run(without_file=warm_up)
    assert ran == ["a", "b"]
    assert caplog.text.count("zeros are not good enough") == 2
    replayed.write(predict_log())
    replayed.run(without_file=warm_up)
    assert ran == ["a", "b"]
    assert replayed.kinds == ["predict_log"]
