"""The engine over real TensorFlow, in this process: what issue B promises of blocking models, deadlines, memory, denormals, healing.

Owns: behaviour that a fake session cannot show.  TensorFlow's library is loaded here (never its Python package); the transports are not.
"""

from __future__ import annotations

import gc
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import wiretools as wire
from engine_support import Consumer, ask, in_threads, signature_name
from support import plain_environment

from tfs import _fastpath, errors, messages
from tfs._fastpath import Engine, LoadedServable
from tfs.op_packages import OpPackage, OpPackages
from tfs.servable import ServableLoader, tensorflow_directory

MS = 1_000_000
CALLS = int(os.environ.get("TFS_TEST_CALLS", "30000"))  # the whole of issue B: 1000000
DTYPES = {"float32": 1, "int32": 3, "int64": 9}
BROKEN = Path(__file__).parents[1] / "conformance" / "models"


@pytest.fixture(autouse=True)
def tensorflow() -> None:
    _fastpath.load_runtime(tensorflow_directory())


def tensor(value: np.ndarray) -> bytes:
    """The TensorProto of an array: numbers as content, bytes as strings."""
    if value.dtype.kind == "S":
        return wire.tensor(
            7, value.shape, b"".join(wire.field(8, item) for item in value.reshape(-1).tolist())
        )
    return wire.tensor(DTYPES[value.dtype.name], value.shape, wire.field(4, value.tobytes()))


def floats(*values: float) -> bytes:
    return tensor(np.array(values, np.float32))


def arrays(reply: bytes) -> dict[str, np.ndarray]:
    """The outputs of a PredictResponse as float arrays."""
    shown = {}
    for alias, proto in messages.PredictResponse.FromString(reply).outputs.items():
        values = proto.float_val or proto.int_val or proto.int64_val
        shown[alias] = np.array(values, np.float32).reshape([dim.size for dim in proto.tensor_shape.dim])
    return shown


def expected_of(models: Path, name: str) -> dict[str, np.ndarray]:
    """Python TensorFlow's own answer: in_ALIAS and out_ALIAS."""
    with np.load(models / "expected" / f"{name}.npz") as file:
        return dict(file)


def memory_kb() -> int:
    """The resident set of this process."""
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


class Bench:
    def __init__(self, models: Path) -> None:
        self.models = models
        self.engine = Engine()
        self.consumer = Consumer(self.engine)
        self.loaded: dict[str, LoadedServable] = {}

    def load(self, *names: str, heal: bool = True) -> None:
        for name in names:
            path = str(self.models / name / "1")
            self.loaded[name] = LoadedServable.load(name, 1, path, tags=["serve"], heal=heal)
        self.engine.publish({name: {1: servable} for name, servable in self.loaded.items()}, {})

    def predict(self, model: str, timeout_ns: int | None = None, spec: bytes = b"", **inputs: bytes) -> bytes:
        return self.consumer.predict(ask(model, inputs, spec), timeout_ns)

    def answer(self, model: str, spec: bytes = b"", **inputs: np.ndarray) -> dict[str, np.ndarray]:
        return arrays(self.predict(model, spec=spec, **{k: tensor(v) for k, v in inputs.items()}))

    def refused(self, model: str, spec: bytes = b"", **inputs: bytes) -> errors.TfsError:
        with pytest.raises(errors.TfsError) as caught:
            self.predict(model, spec=spec, **inputs)
        return caught.value

    def close(self) -> None:
        self.engine.publish({}, {})
        for servable in self.loaded.values():  # ends what is blocked in TensorFlow
            closing = threading.Thread(target=servable.close)
            closing.start()
            while closing.is_alive():
                self.consumer.drain(0.01)
        self.engine.close()
        self.consumer.mailbox.close()


@pytest.fixture
def bench(models: Path, tensorflow: None) -> Iterator[Bench]:
    made = Bench(models)
    yield made
    made.close()


# --- where calls run --------------------------------------------------------------------------------------------------------------


def test_a_while_loop_never_runs_on_the_submitting_thread(bench: Bench) -> None:
    """Its length comes with the request: a thousand short ones say nothing of the next."""
    bench.load("loop")
    inlined = [bench.consumer.submit(ask("loop", {"n": tensor(np.int32(1))})) for _ in range(100)]
    bench.consumer.wait()
    started = time.monotonic()
    number = bench.consumer.submit(ask("loop", {"n": tensor(np.int32(50_000_000))}))
    assert time.monotonic() - started < 0.5
    assert number not in bench.consumer.answers
    bench.consumer.cancel(number)
    assert isinstance(bench.consumer.answer(number), errors.Cancelled)
    assert bench.answer("loop", n=np.int32(7))["y"] == 7
    assert len(inlined) == 100


def test_short_known_runs_are_inline(bench: Bench) -> None:
    bench.load("half_plus_two")
    request = ask("half_plus_two", {"x": floats(1, 2, 5)})
    assert _fastpath._probe_engine_loop(bench.engine, request, 500) > 300
    places = []
    for _ in range(50):
        bench.consumer.predict(request)
        places.append(bench.consumer.inlined)
    assert places[-1] > 0


@pytest.mark.parametrize("model", ["slow_loop", "slow_matmul"])
def test_a_deadline_is_answered_in_time(bench: Bench, model: str) -> None:
    """A loop of 2 s that TensorFlow can stop, and one kernel of 0.5 s that it cannot."""
    bench.load(model)
    taken = []
    for _ in range(3):
        started = time.monotonic()
        with pytest.raises(errors.DeadlineExceeded, match=r"^Timed out waiting for notification$"):
            bench.predict(model, 50 * MS, x=floats(1))
        taken.append(time.monotonic() - started)
    assert min(taken) >= 0.05
    assert min(taken) < 0.07, taken


def test_a_stuck_model_does_not_delay_another(bench: Bench) -> None:
    bench.load("stuck", "half_plus_two")
    stuck = [bench.consumer.submit(ask("stuck", {"x": floats(1)})) for _ in range(6)]
    taken = []
    for size in range(1, 40):  # every size bucket's first runs are on runners
        started = time.monotonic()
        bench.predict("half_plus_two", x=floats(*[2.0] * size * size))
        taken.append(time.monotonic() - started)
    assert not set(stuck) & set(bench.consumer.answers)
    assert sorted(taken)[len(taken) // 2] < 0.005, taken
    bench.engine.publish({}, {})
    closing = threading.Thread(target=bench.loaded["stuck"].close)
    closing.start()
    bench.consumer.wait()
    assert {type(bench.consumer.answers[number][0]) for number in stuck} == {errors.Cancelled}
    while closing.is_alive():
        bench.consumer.drain(0.01)


def test_eight_threads_agree(bench: Bench) -> None:
    bench.load("half_plus_two", "mnist")
    expected = expected_of(bench.models, "mnist")
    request = ask("mnist", {"image": tensor(expected["in_image"])})
    consumers = [Consumer(bench.engine) for _ in range(8)]

    def many(index: int) -> None:
        for i in range(40):
            values = arrays(consumers[index].predict(ask("half_plus_two", {"x": floats(index, i)})))["y"]
            assert values.tolist() == [index / 2 + 2, i / 2 + 2]
            scores = arrays(consumers[index].predict(request))["output_0"]
            np.testing.assert_allclose(scores, expected["out_output_0"], atol=1e-5)

    in_threads(8, many)
    for consumer in consumers:
        consumer.wait(lambda: True)
        bench.consumer.drain()
    bench.engine.publish({}, {})
    while any(not servable.wait_unused(0.01) for servable in bench.loaded.values()):
        for consumer in consumers:
            consumer.mailbox.drain()


# --- memory ---------------------------------------------------------------------------------------------------------------------------


def test_what_is_fed_is_never_touched_again(bench: Bench) -> None:
    """The model keeps the fed tensor itself, not a copy."""
    bench.load("assign_input")
    before = np.zeros(0, np.float32)
    chooser = random.Random(5)
    for i in range(300):
        value = np.full(chooser.choice([1, 3, 100, 5000]), i, np.float32)
        assert bench.answer("assign_input", x=value)["before"].tolist() == before.tolist()
        before = value


def test_random_output_filters_do_not_grow_memory(bench: Bench) -> None:
    bench.load("outputs20")
    chooser = random.Random(6)
    names = [f"y{i:02}" for i in range(20)]
    before = 0
    for turn in range(3000):
        chosen = chooser.sample(range(20), chooser.randint(1, 20))
        reply = bench.consumer.predict(
            ask("outputs20", {"x": floats(1)}, output_filter=[names[i] for i in chosen])
        )
        assert {k: v.tolist() for k, v in arrays(reply).items()} == {names[i]: [1.0 + i] for i in chosen}
        if turn == 200:
            before = memory_kb()
    assert memory_kb() - before < 10_000, "3,000 executors would be 880 MB"


def test_many_calls_leave_the_resident_set_flat(bench: Bench) -> None:
    """A million with TFS_TEST_CALLS=1000000; strings and errors among them."""
    bench.load("half_plus_two", "strings")
    good = ask("half_plus_two", {"x": floats(1, 2, 5)})
    text = ask("strings", {"text": tensor(np.array([b"short", b"long" * 20]))})
    wrong = ask("half_plus_two", {"x": tensor(np.array([b"text"]))})

    def some(calls: int) -> None:
        _fastpath._probe_engine_loop(bench.engine, good, calls)
        _fastpath._probe_engine_loop(bench.engine, text, calls // 4)
        for _ in range(calls // 50):
            bench.consumer.submit(wrong)
            bench.consumer.submit(good, 10_000 * MS)
            bench.consumer.wait()
            bench.consumer.answers.clear()
            bench.consumer.tickets.clear()
            bench.consumer.submitted = 0

    some(CALLS // 4)
    gc.collect()
    before = memory_kb()
    some(CALLS)
    gc.collect()
    assert memory_kb() - before < 4_000


def test_errors_with_strings_do_not_crash(bench: Bench) -> None:
    """A tensor of strings is destructed element by element, also when the run or the other input was refused."""
    bench.load("half_plus_two", "strings")
    strings = tensor(np.array([b"x" * n for n in range(40)]))
    short = wire.tensor(7, [5], wire.field(8, b"only one, and long enough to be on the heap"))
    none = wire.tensor(7, [3])
    broken = wire.tensor(7, [2], wire.field(4, b"content of strings"))
    for _ in range(100):
        error = bench.refused("half_plus_two", x=strings)
        assert (type(error), str(error)) == (
            errors.InvalidArgument,
            "Expects arg[0] to be float but string is provided",
        )
        assert str(bench.refused("strings", text=broken)) == "tensor parsing error: text"
        assert "float" in str(bench.refused("strings", text=floats(1)))
        reply = messages.PredictResponse.FromString(bench.predict("strings", text=short))
        assert reply.outputs["upper"].string_val[4].startswith(b"ONLY ONE")
        reply = messages.PredictResponse.FromString(bench.predict("strings", text=none))
        assert list(reply.outputs["upper"].string_val) == [b""] * 3


# --- numbers --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 4096])
def test_denormals_are_those_of_tensorflows_own_threads(bench: Bench, rows: int) -> None:
    """The first runs are pooled, later ones inline: on this thread (Python's mode restored) and on runners."""
    bench.load("denormal")
    value = np.full((rows, 8), 1e-20, np.float32)
    request = ask("denormal", {"x": tensor(value)})
    replies = {bench.consumer.predict(request) for _ in range(30)}
    assert len(replies) == 1
    assert np.count_nonzero(arrays(replies.pop())["y"]) == 0
    assert _fastpath._probe_engine_loop(bench.engine, request, 50) > 0 or rows > 1
    assert np.float32(1e-20) * np.float32(1e-20) > 0, "Python's own threads keep denormals"


@pytest.mark.parametrize(
    ("model", "signature", "healed"),
    [
        ("half_plus_two", "", False),
        ("mnist", "", False),
        ("mnist_tf1", "", False),
        ("keras_sequential", "", True),
        ("keras_subclassed", "call", True),
    ],
)
def test_answers_are_those_of_python_tensorflow(
    bench: Bench, model: str, signature: str, healed: bool
) -> None:
    bench.load(model)
    expected = expected_of(bench.models, model)
    inputs = {name[3:]: expected[name] for name in expected if name.startswith("in_")}
    found = bench.answer(model, signature_name(signature) if signature else b"", **inputs)
    assert {f"out_{alias}" for alias in found} == {name for name in expected if name[0] == "o"}
    for alias, values in found.items():
        np.testing.assert_allclose(values, expected[f"out_{alias}"], atol=1e-5)
    assert any("healed" in warning for warning in bench.loaded[model].warnings) == healed
    assert healed or bench.loaded[model].warnings == []


def test_without_healing_keras_3_twins_are_the_references_error(bench: Bench) -> None:
    bench.load("keras_sequential", heal=False)
    expected = expected_of(bench.models, "keras_sequential")
    (alias,) = (name[3:] for name in expected if name.startswith("in_"))
    error = bench.refused("keras_sequential", **{alias: tensor(expected[f"in_{alias}"])})
    assert type(error) is errors.FailedPrecondition
    assert "Could not find variable" in str(error)


# --- TensorFlow's own errors ------------------------------------------------------------------------------------------------------------


def test_py_function_is_a_warning_and_then_tensorflows_error(bench: Bench) -> None:
    bench.load("py_function")
    (warning,) = bench.loaded["py_function"].warnings
    assert "PyFunc" in warning
    assert "export the model without" in warning
    error = bench.refused("py_function", x=floats(1))
    assert "PyFunc" in str(error)


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ({"x": tensor(np.array([1, 2], np.int32))}, "Expects arg[0] to be float but int32 is provided"),
        ({"x": wire.tensor(1, [2], wire.field(4, b"123"))}, "tensor parsing error: x"),
    ],
)
def test_a_run_that_fails_carries_tensorflows_text(
    bench: Bench, inputs: Mapping[str, bytes], text: str
) -> None:
    bench.load("half_plus_two")
    for _ in range(10):
        error = bench.refused("half_plus_two", **inputs)
        assert (type(error), str(error)) == (errors.InvalidArgument, text)
        assert bench.answer("half_plus_two", x=np.float32([2]))["y"].tolist() == [3.0]


def no_package(error_text: str) -> bool:
    return False


def loader(ensure_ops: Callable[[str], bool] = no_package) -> ServableLoader:
    return ServableLoader(["serve"], b"", ensure_ops, lambda servable, path: None, lambda *counted: None)


@pytest.mark.parametrize(
    ("model", "kind", "text"),
    [
        (
            "broken_nopb",
            errors.NotFound,
            "Specified file path does not appear to contain a SavedModel bundle",
        ),
        ("broken_pb", errors.TfsError, ""),
        (
            "broken_emptypb",
            errors.NotFound,
            "Could not find meta graph def matching supplied tags: { serve }",
        ),
        ("broken_vars", errors.TfsError, ""),
        ("traintag", errors.NotFound, "Could not find meta graph def matching supplied tags: { serve }"),
        ("nowhere", errors.NotFound, "Specified file path does not appear to contain a SavedModel bundle"),
    ],
)
def test_broken_models_fail_with_tensorflows_code_and_text(
    model: str, kind: type[errors.TfsError], text: str
) -> None:
    with pytest.raises(kind) as caught:
        loader().load(model, 1, str(BROKEN / model / "1"))
    assert str(caught.value).startswith(text)
    if not text:
        assert caught.value.code is errors.Code.OUT_OF_RANGE
        assert str(caught.value).startswith("Read less bytes than requested")


def test_missing_variables_fail_at_the_call(bench: Bench) -> None:
    servable = loader().load("broken_novars", 1, str(BROKEN / "broken_novars" / "1"))
    bench.loaded["broken_novars"] = servable
    bench.engine.publish({"broken_novars": {1: servable}}, {})
    assert any("neither restored nor assigned" in warning for warning in servable.warnings)
    error = bench.refused("broken_novars", x=floats(1))
    assert type(error) is errors.FailedPrecondition


@pytest.fixture
def alien(models: Path, tmp_path: Path) -> Path:
    """half_plus_two with an op that TensorFlow does not know in the place of its addition."""
    saved = (models / "half_plus_two" / "1" / "saved_model.pb").read_bytes()
    assert b"AddV2" in saved
    (tmp_path / "saved_model.pb").write_bytes(saved.replace(b"AddV2", b"Alien"))
    return tmp_path


def test_an_unknown_op_is_tensorflows_error(alien: Path) -> None:
    with pytest.raises(errors.NotFound, match=r"^Op type not registered 'Alien' in binary"):
        loader().load("m", 1, str(alien))


def test_an_op_of_a_package_that_is_missing_names_it(alien: Path) -> None:
    packages = OpPackages((OpPackage("no_such_module", "alien-ops", (), ("Alien*",)),))
    with pytest.raises(errors.NotFound, match="pip install alien-ops"):
        loader(packages.ensure_ops).load("m", 1, str(alien))


def test_a_load_is_tried_again_for_every_library_that_was_loaded(alien: Path) -> None:
    answers = [True, True, False]
    seen: list[str] = []

    def ensure_ops(text: str) -> bool:
        seen.append(text)
        return answers[len(seen) - 1]

    with pytest.raises(errors.NotFound, match="Alien"):
        loader(ensure_ops).load("m", 1, str(alien))
    assert len(seen) == len(answers)


def test_an_op_library_that_does_not_load_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "no.so").write_bytes(b"not a library")
    with pytest.raises(errors.TfsError, match=r"no\.so"):
        _fastpath.load_op_library(str(tmp_path / "no.so"))


LIBRARIES_BESIDE = """
import sys
before = sys.argv[2] == "before"
names = ["ssl", "hashlib", "sqlite3", "zlib", "bz2", "lzma"]
if before:
    for name in names:
        __import__(name)
from tfs import _fastpath
_fastpath.load_runtime(sys.argv[1])
import hashlib, sqlite3, ssl, zlib
assert hashlib.sha256(b"tfs").hexdigest().startswith("")
assert len(hashlib.md5(b"x").digest()) == 16
assert zlib.decompress(zlib.compress(b"abc" * 1000)) == b"abc" * 1000
assert sqlite3.connect(":memory:").execute("select 1 + 1").fetchone() == (2,)
assert ssl.create_default_context().get_ciphers()
assert "tensorflow" not in sys.modules
print("well")
"""


@pytest.mark.parametrize("order", ["before", "after"])
def test_other_libraries_work_beside_tensorflow(order: str) -> None:
    """TensorFlow brings BoringSSL, zlib and sqlite of its own; with RTLD_GLOBAL they would take the place of Python's."""
    done = subprocess.run(
        [sys.executable, "-c", LIBRARIES_BESIDE, tensorflow_directory(), order],
        capture_output=True,
        text=True,
        env=plain_environment(),
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "well\n"), done.stderr
