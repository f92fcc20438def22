"""What the engine answers, over a fake session: model specs, the order of the checks and their texts, output filters, where a call runs.

Owns: behaviour of one call at a time.  Threads against each other are in test_engine_threads.py.  No TensorFlow.
"""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable, Iterator

import pytest
import reference
import wiretools as wire
from engine_support import (
    Consumer,
    ask,
    label,
    map_entry,
    signature,
    signature_name,
    tensor_info,
    vector,
    version,
)

from tfs import _fastpath, errors
from tfs._fastpath import Engine, FakeSession, LoadedServable, fake_servable

pytestmark = pytest.mark.fake_session

INLINE_MIN_SEEN = 4  # engine.pxi
MAX_FETCH_SETS = 8  # plan.pxi
TWO_INPUTS = signature(("a", "b"), {"y": "out:0", "z": "out:1"})


class Bench:
    """An engine, a consumer on this thread, and model m at versions 1, 3 (stable) and 7, each with its own session."""

    def __init__(self) -> None:
        self.engine = Engine()
        self.consumer = Consumer(self.engine)
        self.sessions: dict[int, FakeSession] = {}
        self.servables: list[LoadedServable] = []
        self.signatures = {
            "serving_default": signature(),
            "two": TWO_INPUTS,
            "twenty": signature(("x",), {f"y{i:02}": "out:0" for i in range(20)}),
            "nothing": signature((), {"y": "out:0"}),
            "filled": signature(("a", "b"), {"y": "out:0"}, defaults={"b": vector(9.0)}),
            "odd": signature(method=b"tensorflow/serving/odd"),
            "nine": signature([f"x{i}" for i in range(24)], {"y": "out:23"}),
        }

    def servable(self, name: str, number: int, may_block: bool = False) -> LoadedServable:
        self.sessions[number] = FakeSession()
        made = fake_servable(name, number, self.sessions[number], self.signatures, may_block=may_block)
        self.servables.append(made)
        return made

    def publish(self) -> None:
        self.engine.publish(
            {"m": {number: self.servable("m", number) for number in (1, 3, 7)}},
            {"m": {"stable": 3, "gone": 4}},
        )

    def close(self) -> None:
        self.engine.publish({}, {})
        self.engine.close()
        self.consumer.mailbox.close()
        for servable in self.servables:
            assert servable.wait_unused(5)
            servable.close()

    def refused(self, request: bytes, timeout_ns: int | None = None) -> errors.TfsError:
        with pytest.raises(errors.TfsError) as caught:
            self.consumer.predict(request, timeout_ns)
        return caught.value

    def reply(self, request: bytes) -> dict[str, object]:
        return decoded(self.consumer.predict(request))


def decoded(reply: bytes) -> dict[str, object]:
    """version, signature and the output floats of a PredictResponse."""
    message = reference.messages.PredictResponse.FromString(reply)
    return {
        "model": message.model_spec.name,
        "version": message.model_spec.version.value,
        "signature": message.model_spec.signature_name,
        **{alias: list(tensor.float_val) for alias, tensor in message.outputs.items()},
    }


@pytest.fixture
def bench(fake_tensors: None) -> Iterator[Bench]:
    made = Bench()
    made.publish()
    yield made
    made.close()


# --- model specs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "served"),
    [
        (b"", 7),
        (version(1), 1),
        (version(7), 7),
        (label("stable"), 3),
        (version(1) + label("stable"), 3),  # a oneof: the later wins
        (label("stable") + version(1), 1),
    ],
)
def test_model_spec_chooses_a_version(bench: Bench, spec: bytes, served: int) -> None:
    assert bench.reply(ask(spec=spec)) == {
        "model": "m",
        "version": served,
        "signature": "serving_default",
        "y": [1.0],
    }
    assert bench.sessions[served].finished == 1


@pytest.mark.parametrize(
    ("request_bytes", "kind", "text"),
    [
        (wire.entry("x", vector(1.0)), errors.InvalidArgument, "Missing ModelSpec"),
        (ask(""), errors.InvalidArgument, "ModelSpec has no name specified."),
        (wire.field(1, b""), errors.InvalidArgument, "ModelSpec has no name specified."),
        (ask("n"), errors.NotFound, "Servable not found for request: Latest(n)"),
        (ask(spec=version(2)), errors.NotFound, "Servable not found for request: Specific(m, 2)"),
        (ask(spec=version(0)), errors.NotFound, "Servable not found for request: Specific(m, 0)"),
        (ask("n", spec=version(1)), errors.NotFound, "Servable not found for request: Specific(n, 1)"),
        (ask(spec=label("gone")), errors.NotFound, "Servable not found for request: Specific(m, 4)"),
        (ask(spec=label("new")), errors.InvalidArgument, "Unrecognized servable version label: new"),
        (ask(spec=label("")), errors.InvalidArgument, "Unrecognized servable version label: "),
        (
            ask("n", spec=label("stable")),
            errors.InvalidArgument,
            "Unrecognized servable version label: stable",
        ),
        (
            ask(spec=signature_name("none")),
            errors.FailedPrecondition,
            'Serving signature key "none" not found.',
        ),
    ],
)
def test_model_spec_refusals(
    bench: Bench, request_bytes: bytes, kind: type[errors.TfsError], text: str
) -> None:
    error = bench.refused(request_bytes)
    assert (type(error), str(error)) == (kind, text)
    assert bench.reply(ask())["version"] == 7, "the next request works"


def test_negative_version_is_a_version(bench: Bench) -> None:
    spec = wire.field(2, wire.number(1, 2**64 - 5))
    assert str(bench.refused(ask(spec=spec))) == "Servable not found for request: Specific(m, -5)"


def test_labels_before_the_first_map_and_without_configuration(bench: Bench) -> None:
    bench.engine.publish({"m": {1: bench.servable("m", 1)}}, None)
    error = bench.refused(ask(spec=label("stable")))
    assert (type(error), str(error)) == (errors.Unavailable, "Model labels does not init yet.stable")
    assert bench.reply(ask())["version"] == 1
    fresh = Engine()
    try:
        with pytest.raises(errors.Unavailable, match=r"^Model labels does not init yet\.stable$"):
            Consumer(fresh).predict(ask(spec=label("stable")))
        with pytest.raises(errors.NotFound, match=r"^Servable not found for request: Latest\(m\)$"):
            Consumer(fresh).predict(ask())
    finally:
        fresh.close()


def test_signature_without_serving_default(bench: Bench) -> None:
    session = FakeSession()
    bench.servables.append(fake_servable("bare", 1, session, {"other": signature()}))
    bench.engine.publish({"bare": {1: bench.servables[-1]}}, {})
    error = bench.refused(ask("bare"))
    assert (type(error), str(error)) == (
        errors.FailedPrecondition,
        'Serving signature key "serving_default" not found.',
    )
    assert bench.reply(ask("bare", spec=signature_name("other")))["signature"] == "other"


def test_method_name_check_is_off_by_default_and_a_flag(bench: Bench) -> None:
    request = ask(spec=signature_name("odd"))
    assert bench.reply(request)["y"] == [1.0]
    strict = Engine(check_method_names=True)
    try:
        strict.publish({"m": {9: bench.servable("m", 9)}}, {})
        consumer = Consumer(strict)
        with pytest.raises(errors.Internal) as caught:
            consumer.predict(request)
        assert str(caught.value) == (
            "Expected prediction signature method_name to be one of {tensorflow/serving/predict, "
            "tensorflow/serving/classify, tensorflow/serving/regress}. Was: tensorflow/serving/odd"
        )
        assert consumer.predict(ask())
    finally:
        strict.close()
    consumer.mailbox.close()  # gives back what the runners held to the last


def test_resolve_gives_the_published_servable(bench: Bench) -> None:
    assert bench.engine.resolve("m", None, None).version == 7
    assert bench.engine.resolve("m", 1, None).version == 1
    assert bench.engine.resolve("m", None, "stable").version == 3
    with pytest.raises(errors.NotFound, match=r"Specific\(m, 2\)"):
        bench.engine.resolve("m", 2, None)


# --- inputs, in the reference's order --------------------------------------------------------------------------------------------

BAD = wire.tensor(1, [2], wire.field(4, wire.floats(1, 2, 3)))  # content of three elements for two


@pytest.mark.parametrize(
    ("name", "inputs", "text"),
    [
        (
            "two",
            {"z": vector(1), "a": vector(1), "q": vector(1)},
            "input size does not match signature: 3!=2 len({a,q,z}) != len({a,b}). "
            "Sent extra: {q,z}. Missing but required: {b}.",
        ),
        (
            "two",
            {"a": vector(1)},
            "input size does not match signature: 1!=2 len({a}) != len({a,b}). Sent extra: {}. Missing but required: {b}.",
        ),
        (
            "two",
            {"a": vector(1), "c": vector(1)},
            "Signature input alias: b(feed name: b:0) not found in request and no default value provided. "
            "Inputs expected to be in the request {a,c}, or default input alias set: ",
        ),
        (
            "filled",
            {"b": vector(1)},
            "Signature input alias: a(feed name: a:0) not found in request and no default value provided. "
            "Inputs expected to be in the request {b}, or default input alias set: b",
        ),
        (
            "filled",
            {"a": vector(1), "c": vector(1)},
            "Inputs contains invalid name. Used request inputs: a, request input: a,c",
        ),
        (
            "filled",
            {"a": vector(1), "b": vector(1), "c": vector(1)},
            "input size does not match signature: 3!=2 len({a,b,c}) != len({a,b}). "
            "Sent extra: {c}. Missing but required: {}.",
        ),
        ("serving_default", {"x": BAD}, "tensor parsing error: x"),
        ("two", {"a": BAD, "c": vector(1)}, "tensor parsing error: a"),  # aliases in order: a before b
    ],
)
def test_input_refusals(bench: Bench, name: str, inputs: dict[str, bytes], text: str) -> None:
    error = bench.refused(ask(inputs=inputs, spec=signature_name(name)))
    assert (type(error), str(error)) == (errors.InvalidArgument, text)
    assert bench.sessions[7].started == 0


def test_inputs_are_judged_before_the_output_filter(bench: Bench) -> None:
    both = ask(inputs={"x": BAD}, output_filter=["none"])
    assert str(bench.refused(both)) == "tensor parsing error: x"
    assert str(bench.refused(ask("n", output_filter=["none"]))).startswith("Servable not found")
    assert str(bench.refused(ask(spec=signature_name("no"), inputs={"x": BAD}))).startswith(
        "Serving signature key"
    )


def test_defaults_fill_what_is_missing(bench: Bench) -> None:
    session = FakeSession()
    shown = signature(("a", "b"), {"a": "out:0", "b": "out:1"}, defaults={"b": vector(9.0)})
    bench.servables.append(fake_servable("d", 1, session, {"serving_default": shown}))
    bench.engine.publish({"d": {1: bench.servables[-1]}}, {})
    for _ in range(10):  # the default tensor is fed again and again, on runners and inline
        assert bench.reply(ask("d", {"a": vector(1.0)}))["b"] == [9.0]
    assert bench.reply(ask("d", {"a": vector(1.0), "b": vector(2.0)}))["b"] == [2.0]


def test_repeated_alias_takes_the_last(bench: Bench) -> None:
    twice = wire.request(wire.entry("x", vector(1.0)), wire.entry("x", vector(2.0, 3.0)))
    assert bench.reply(twice)["y"] == [2.0, 3.0]


def test_more_inputs_than_fit_on_the_stack(bench: Bench) -> None:
    inputs = {f"x{i}": vector(float(i)) for i in range(24)}
    for _ in range(6):
        reply = bench.reply(ask(inputs=inputs, spec=signature_name("nine")))
        assert reply["y"] == [9.0], "inputs are fed in alias order: x9 is the last of 24"


def test_signature_naming_an_absent_tensor(bench: Bench) -> None:
    """The fake graph has every node; what it lacks is said in the real one's tests (test_engine_tf.py)."""
    assert bench.reply(ask(inputs={"a": vector(5.0), "b": vector(6.0)}, spec=signature_name("two")))["z"] == [
        6.0
    ]


@pytest.mark.parametrize("cut", range(1, 12))
def test_malformed_bytes_are_refused(bench: Bench, cut: int) -> None:
    error = bench.refused(ask()[:-cut])
    assert type(error) is errors.InvalidArgument


# --- output filters ----------------------------------------------------------------------------------------------------------------


def test_output_filter_texts_and_subsets(bench: Bench) -> None:
    inputs = {"a": vector(1.0), "b": vector(2.0)}

    def filtered(*names: str) -> bytes:
        return ask(inputs=inputs, spec=signature_name("two"), output_filter=names)

    assert bench.reply(filtered("z"))["z"] == [2.0]
    assert "y" not in bench.reply(filtered("z"))
    assert bench.sessions[7].fetches_seen == 1, "only what was asked for is fetched"
    assert {"y", "z"} <= set(bench.reply(filtered("z", "y")))
    assert str(bench.refused(filtered("z", "q", "z"))) == (
        "output tensor alias not found in signature: q Outputs expected to be in the set {y,z}."
    )
    assert str(bench.refused(filtered("z", "z", "q"))) == "duplicate output tensor alias: z"
    assert str(bench.refused(filtered(""))).startswith("output tensor alias not found in signature:  Outputs")


def test_random_filters_keep_the_executors_capped(bench: Bench) -> None:
    chooser = random.Random(3)
    session = bench.sessions[7]
    pruned: set[frozenset[str]] = set()
    consumer = bench.consumer
    for _ in range(3000):
        names = chooser.sample([f"y{i:02}" for i in range(20)], chooser.randint(1, 20))
        reply = bench.reply(ask(spec=signature_name("twenty"), output_filter=names))
        assert {name for name in reply if name[0] == "y"} == set(names)
        assert session.fetches_seen in (len(names), 20)
        if session.fetches_seen < 20:
            pruned.add(frozenset(names))
    assert 0 < len(pruned) <= MAX_FETCH_SETS
    consumer.check_once()


def test_capped_filters_answer_the_right_values(bench: Bench) -> None:
    session = FakeSession()
    many = signature(("a", "b", "c"), {f"y{i:02}": f"out:{i % 3}" for i in range(20)})
    bench.servables.append(fake_servable("v", 1, session, {"serving_default": many}))
    bench.engine.publish({"v": {1: bench.servables[-1]}}, {})
    inputs = {"a": vector(0.0), "b": vector(1.0), "c": vector(2.0)}
    chooser = random.Random(4)
    for _ in range(300):
        numbers = chooser.sample(range(20), chooser.randint(1, 19))
        reply = bench.reply(ask("v", inputs, output_filter=[f"y{i:02}" for i in numbers]))
        assert {k: v for k, v in reply.items() if k[0] == "y"} == {
            f"y{i:02}": [float(i % 3)] for i in numbers
        }


# --- where a call runs ----------------------------------------------------------------------------------------------------------------


def ran_here(session: FakeSession) -> bool:
    return session.thread_seen == threading.get_ident()


def repeat_until_inline(bench: Bench, request: bytes, times: int) -> list[bool]:
    """For each of `times` calls: did it run on this thread?"""
    places = []
    for _ in range(times):
        bench.consumer.predict(request)
        places.append(ran_here(bench.sessions[7]))
    return places


def test_inline_after_it_was_seen_often_enough(bench: Bench) -> None:
    places = repeat_until_inline(bench, ask(), 30)
    assert not any(places[:INLINE_MIN_SEEN]), "the first runs are on a runner"
    assert any(places[INLINE_MIN_SEEN:]), "a short and known run is made by the thread that has it"


@pytest.mark.parametrize("names", [["y00"], ["y01", "y02"], []])
def test_the_first_run_of_every_fetch_set_is_on_a_runner(bench: Bench, names: list[str]) -> None:
    repeat_until_inline(bench, ask(), 20)
    places = repeat_until_inline(bench, ask(spec=signature_name("twenty"), output_filter=names), 20)
    assert not any(places[:INLINE_MIN_SEEN])
    assert any(places)


def test_the_first_runs_of_a_size_are_on_a_runner(bench: Bench) -> None:
    repeat_until_inline(bench, ask(), 20)
    places = repeat_until_inline(bench, ask(inputs={"x": vector(*[1.0] * 5000)}), 20)
    assert not any(places[:INLINE_MIN_SEEN])


def test_a_graph_that_may_block_never_runs_here(bench: Bench) -> None:
    bench.engine.publish({"m": {7: bench.servable("m", 7, may_block=True)}}, {})
    assert not any(repeat_until_inline(bench, ask(), 100))


def test_a_slow_model_goes_back_to_the_runners(bench: Bench) -> None:
    session = bench.sessions[7] = FakeSession(spin_ns=2_000_000)
    bench.servables.append(fake_servable("m", 8, session, bench.signatures))
    bench.engine.publish({"m": {8: bench.servables[-1]}}, {})
    assert not any(repeat_until_inline(bench, ask(), 20))


def test_little_time_left_goes_to_a_runner(bench: Bench) -> None:
    """Inline runs cannot be interrupted, so they need a deadline far beyond the expected time."""
    assert any(repeat_until_inline(bench, ask(), 20))
    finished = bench.sessions[7].finished
    error = bench.refused(ask(), timeout_ns=0)
    assert (type(error), str(error)) == (errors.DeadlineExceeded, "Timed out waiting for notification")
    assert bench.sessions[7].finished == finished


@pytest.mark.parametrize("timeout_ns", [2**63 - 1, 2**70, 10**18])
def test_a_deadline_beyond_the_clock_is_none(bench: Bench, timeout_ns: int) -> None:
    for _ in range(8):
        assert bench.consumer.predict(ask(), timeout_ns)


def test_a_negative_timeout_has_passed(bench: Bench) -> None:
    assert type(bench.refused(ask(), -5)) is errors.DeadlineExceeded


# --- failures of a run -----------------------------------------------------------------------------------------------------------------


def test_a_failing_run_answers_its_code_and_spoils_nothing(bench: Bench) -> None:
    session = bench.sessions[7]
    for inline in (False, True):
        session.fail(errors.DataLoss.code)
        error = bench.refused(ask())
        assert (type(error), str(error)) == (errors.DataLoss, "the fake session was told to fail")
        session.fail(0)
        for _ in range(10):
            assert bench.reply(ask())["y"] == [1.0]
        assert inline or ran_here(session), "the second round fails inline"


def test_poisoned_values_fail_alone(bench: Bench) -> None:
    bench.sessions[7].poison(13.0)
    assert type(bench.refused(ask(inputs={"x": vector(1.0, 13.0)}))) is errors.InvalidArgument
    assert bench.reply(ask(inputs={"x": vector(12.0)}))["y"] == [12.0]


# --- the other entrances ---------------------------------------------------------------------------------------------------------------


def test_run_on_ignores_the_model_spec(bench: Bench) -> None:
    stranger = bench.servable("never_published", 5)
    outputs = bench.engine.run_on(stranger, ask("whatever", spec=version(99)))
    assert (outputs.aliases, outputs.version, outputs.shape("y")) == (["y"], 5, (1,))
    assert bytes(outputs.numbers("y")) == wire.floats(1.0)


def test_blocking_run_raises_and_returns(bench: Bench) -> None:
    outputs = bench.engine.run(None, ask(inputs={"x": vector(4.0, 5.0)}), None, None)
    assert bytes(outputs.numbers("y")) == wire.floats(4.0, 5.0)
    with pytest.raises(errors.NotFound):
        bench.engine.run(None, ask("n"), None, None)
    with pytest.raises(errors.DeadlineExceeded):
        bench.engine.run(None, ask(), 0, None)


def test_union_of_signatures(bench: Bench) -> None:
    servable = bench.engine.resolve("m", 7, None)
    name = servable.define_union(["serving_default", "two"])
    assert name == servable.define_union(["two", "serving_default", "two"]), "one plan whatever the order"
    outputs = bench.engine.run(
        None,
        ask(
            spec=signature_name(name),
            inputs={"x:0": vector(3.0), "a:0": vector(1.0), "b:0": vector(2.0)},
        ),
        None,
        None,
    )
    assert sorted(outputs.aliases) == ["out:0", "out:1"]
    with pytest.raises(errors.InvalidArgument, match="not found in model graph: none"):
        servable.define_union(["none"])


def test_unions_are_capped(bench: Bench) -> None:
    """Clients choose the sets of signatures, and TensorFlow keeps an executor for each."""
    servable = bench.engine.resolve("m", 7, None)
    pairs = list(itertools.combinations(sorted(bench.signatures), 2))[:20]
    made = [servable.define_union(pair) for pair in pairs]
    assert [name is not None for name in made] == [True] * 16 + [False] * 4
    assert servable.define_union(pairs[3]) == made[3], "those that exist go on"


@pytest.mark.parametrize(
    "use",
    [
        lambda engine, servable: engine.publish({"m": {1: servable}}, {}),
        lambda engine, servable: engine.run_on(servable, ask()),
        lambda engine, servable: servable.define_union(["serving_default"]),
    ],
    ids=["publish", "run_on", "define_union"],
)
def test_a_closed_servable_is_refused(bench: Bench, use: Callable[[Engine, LoadedServable], object]) -> None:
    servable = fake_servable("m", 1, FakeSession(), {"serving_default": signature()})
    servable.close()
    servable.close()
    with pytest.raises(errors.FailedPrecondition, match="version 1 of model m is closed"):
        use(bench.engine, servable)
    assert bench.reply(ask())["version"] == 7, "the map stays as it was"


def test_counters_of_calls(bench: Bench) -> None:
    for _ in range(5):
        bench.consumer.predict(ask())
    bench.refused(ask(spec=version(2)))
    bench.refused(ask("stranger"))
    bench.refused(ask("s" * 5000))
    counted = bench.engine.counters()
    predict, grpc = _fastpath.METHOD_PREDICT, _fastpath.ENTRY_GRPC
    assert counted["requests"]["m", predict, grpc, 0] == 5
    assert counted["requests"]["stranger", predict, grpc, errors.NotFound.code] == 1
    assert counted["requests"]["", predict, grpc, errors.NotFound.code] == 1, "a long name is nobody's"
    assert counted["latency"]["m", predict, grpc][2] == 5
    assert counted["run"]["m", predict][2] == 5
    assert (counted["queued_calls"], counted["queued_bytes"], counted["running"]) == (0, 0, 0)


def test_a_signature_that_cannot_be_read_leaves_nothing_behind(fake_tensors: None) -> None:
    broken = map_entry(1, "x", tensor_info("x:0")) + b"\xff\xff"
    with pytest.raises(errors.DataLoss):
        fake_servable("m", 1, FakeSession(), {"serving_default": broken})
