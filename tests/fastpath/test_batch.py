"""The batcher stepped by hand: who meets, when a batch runs, what each call gets back, and every refusal.

Time is the test's, the session is a Python function, and nothing here waits.  Texts are the reference's (they are what clients see).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from batch_support import INT32, INT64, NEVER, Bench, Tensor, echo, failing_on, numbers, strings, values

from tfs import errors

US = 1000
FULL = "The batch scheduling queue to which this task was submitted is full; "


@pytest.fixture
def bench(fake_tensors: None) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(*arguments: Any, **parameters: Any) -> Bench:
        made.append(Bench(*arguments, **parameters))
        return made[-1]

    yield make
    for one in made:
        one.close()


# --- when a batch runs ----------------------------------------------------------------------------------------------------------


def test_without_a_timeout_a_call_is_due_at_once(bench: Callable[..., Bench]) -> None:
    b = bench()
    b.now = 500
    call = b.call(1, 2)
    assert b.core.due() == 500
    assert b.step() == [call]
    assert b.got(call) == [1, 2]
    assert b.core.due() == NEVER


def test_an_open_batch_waits_for_its_first_calls_timeout(bench: Callable[..., Bench]) -> None:
    b = bench(max_batch_size=4, batch_timeout_micros=100)
    first = b.call(1)
    b.now = 60 * US
    second = b.call(2)
    assert b.core.due() == 100 * US
    b.now = 100 * US - 1
    assert b.step() is None
    b.now += 1
    assert b.step() == [first, second]


def alone(b: Bench) -> None:
    """As many calls one after the other as make a client known to be alone; each waits for its timeout."""
    for _ in range(16):
        began = b.now
        b.call(1)
        assert b.core.due() == began + 100 * US
        assert b.step() is None
        b.finish()


def test_a_client_alone_does_not_wait(bench: Callable[..., Bench]) -> None:
    b = bench(max_batch_size=4, batch_timeout_micros=100)
    alone(b)
    for _ in range(3):
        call = b.call(2)
        assert b.core.due() == b.now
        assert b.step() == [call]


def test_company_while_it_runs_makes_a_client_wait_again(bench: Callable[..., Bench]) -> None:
    b = bench(max_batch_size=4, batch_timeout_micros=100)
    alone(b)
    first = b.call(2)
    b.during = lambda: b.call(3)
    assert b.step() == [first]
    b.during = lambda: None
    assert b.core.due() == b.now + 100 * US
    b.finish()
    b.call(4)
    assert b.core.due() == b.now + 100 * US


def test_company_while_it_waits_for_a_thread_makes_a_client_wait_again(bench: Callable[..., Bench]) -> None:
    b = bench(max_batch_size=4, batch_timeout_micros=100)
    alone(b)
    both = [b.call(2), b.call(3)]
    b.now += 100 * US
    assert b.step() == both
    b.call(4)
    assert b.core.due() == b.now + 100 * US


def test_a_full_batch_runs_at_once(bench: Callable[..., Bench]) -> None:
    b = bench(max_batch_size=3, batch_timeout_micros=100)
    calls = [b.call(1), b.call(2, 3)]
    assert b.core.due() == 0
    assert b.step() == calls


def test_a_call_that_does_not_fit_closes_the_batch(bench: Callable[..., Bench]) -> None:
    b = bench(max_batch_size=3, batch_timeout_micros=100)
    calls = [b.call(1, 2), b.call(3, 4)]
    assert b.core.due() == 0
    assert b.step() == calls[:1]
    assert b.step() is None
    b.now = 100 * US
    assert b.step() == calls[1:]


def test_a_call_without_rows_is_answered_too(bench: Callable[..., Bench]) -> None:
    b = bench(max_batch_size=4, allowed_batch_sizes=(4,))
    call = b.submit(numbers([], (0, 2)))
    assert b.step() == [call]
    assert b.answer(call) == [(1, (0, 2), b"")]


def test_empty_calls_cannot_grow_a_batch_without_end(bench: Callable[..., Bench]) -> None:
    b = bench(max_batch_size=2, max_enqueued_batches=2, batch_timeout_micros=1000)
    calls = [b.submit(numbers([], (0, 1))) for _ in range(200)]
    refused = [c for c in calls if b.core.answers[c]]
    assert len(calls) - len(refused) == 2 * (2 + 64)
    assert b.answer(refused[0])[0] == errors.Code.UNAVAILABLE


def test_queues_are_served_in_turn(bench: Callable[..., Bench]) -> None:
    b = bench(max_batch_size=1, max_enqueued_batches=10)
    narrow = [b.submit(numbers([i], (1, 1))) for i in range(3)]
    wide = [b.submit(numbers([i, i], (1, 2))) for i in range(3)]
    order = [b.step() for _ in range(6)]
    assert order == [[c] for pair in zip(narrow, wide, strict=True) for c in pair]


# --- who meets ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (numbers([1, 2], (1, 2)), numbers([1, 2, 3], (1, 3))),
        (numbers([1, 2], (1, 2)), numbers([1, 2], (1, 1, 2))),
        (numbers([1], (1, 1)), numbers([1], (1, 1), INT32)),
    ],
    ids=["row shape", "rank", "dtype"],
)
def test_odd_ones_do_not_meet(bench: Callable[..., Bench], one: Tensor, other: Tensor) -> None:
    b = bench()
    a, c = b.submit(one), b.submit(other)
    assert [b.step(), b.step()] == [[a], [c]]
    assert b.answer(a)[0] == one
    assert b.answer(c)[0] == other


def test_other_outputs_are_another_queue(bench: Callable[..., Bench]) -> None:
    b = bench(lambda feeds: feeds * 2, {"serving_default": (1, 2, 1)})
    both, one = b.call(1), b.call(2, outputs=[1])
    assert [b.step(), b.step()] == [[both], [one]]
    assert len(b.answer(both)) == 2
    assert len(b.answer(one)) == 1


def test_signatures_over_the_same_tensors_meet(bench: Callable[..., Bench]) -> None:
    b = bench(echo, {"serving_default": (1, 1, 1), "twin": (1, 1, 1), "other": (1, 1, 5)})
    a, c, d = b.call(1), b.call(2, signature="twin"), b.call(3, signature="other")
    assert [b.step(), b.step()] == [[a, c], [d]]
    assert [b.got(a), b.got(c), b.got(d)] == [[1], [2], [3]]


def test_several_inputs_and_a_default(bench: Callable[..., Bench]) -> None:
    b = bench(echo, {"serving_default": (2, 2, 1)}, max_batch_size=4)
    b.core.set_default("serving_default", 1, INT64, (1, 1), (7).to_bytes(8, "little"))
    own = b.submit(numbers([1]), numbers([9], dtype=INT64))
    default = b.submit(numbers([2]), None)
    b.finish()
    assert [values(t) for t in b.runs[0]] == [[1, 2], [9, 7]]
    assert values(b.answer(own)[1]) == [9]
    assert values(b.answer(default)[1]) == [7]


def test_strings_keep_their_bytes(bench: Callable[..., Bench]) -> None:
    b = bench(max_batch_size=8, allowed_batch_sizes=(8,))
    a = b.submit(strings([b"", b"\0x"], (1, 2)))
    c = b.submit(strings([b"long" * 50, b"z"], (1, 2)))
    b.finish()
    assert b.got(a) == [b"", b"\0x"]
    assert b.got(c) == [b"long" * 50, b"z"]
    assert values(b.runs[0][0])[4:] == [b"long" * 50, b"z"] * 6


# --- padding --------------------------------------------------------------------------------------------------------------------


def test_rows_are_rounded_up_with_the_last_tasks_first_row(bench: Callable[..., Bench]) -> None:
    b = bench(max_batch_size=8, allowed_batch_sizes=(2, 4, 8))
    a, c = b.call(1, 2), b.call(3, 4, 5)
    b.finish()
    assert values(b.runs[0][0]) == [1, 2, 3, 4, 5, 3, 3, 3]
    assert [b.got(a), b.got(c)] == [[1, 2], [3, 4, 5]]
    counted = b.core.threads.counters()
    assert counted["padding"][8][1:] == (3.0, 1)
    assert counted["processed_size"][0][4] == 1  # 8 < 16
    assert counted["batching"]["probe", "serving_default"]["padding_rows"] == 3


def test_allowed_sizes_may_come_in_any_order(bench: Callable[..., Bench]) -> None:
    b = bench(max_batch_size=8, allowed_batch_sizes=(6, 4, 8))
    b.call(1)
    b.finish()
    assert b.sizes() == [4]


def test_variable_lengths_are_padded_with_their_own_first_element(bench: Callable[..., Bench]) -> None:
    b = bench(max_batch_size=4, pad_variable_length_inputs=True)
    a = b.submit(numbers([1, 2, 3, 4], (2, 2)))
    c = b.submit(numbers([5, 6, 7], (1, 3)))
    b.finish()
    assert b.runs[0][0][1] == (3, 3)
    assert values(b.runs[0][0]) == [1, 2, 1, 3, 4, 1, 5, 6, 7]
    assert b.got(a) == [1, 2, 1, 3, 4, 1]
    assert b.got(c) == [5, 6, 7]


def test_padding_in_several_dimensions(bench: Callable[..., Bench]) -> None:
    b = bench(max_batch_size=4, pad_variable_length_inputs=True)
    b.submit(numbers([1, 2], (1, 2, 1)))
    b.submit(strings([b"a"], (1, 1, 1)))
    b.submit(numbers([3, 4, 5], (1, 1, 3)))
    b.finish()
    assert b.runs[0][0][1] == (2, 2, 3)
    assert values(b.runs[0][0]) == [1, 1, 1, 2, 1, 1, 3, 4, 5, 3, 3, 3]


def test_ranks_and_empty_rows_stay_apart_when_padding(bench: Callable[..., Bench]) -> None:
    b = bench(max_batch_size=9, pad_variable_length_inputs=True)
    flat = b.submit(numbers([1, 2], (2,)))
    deep = b.submit(numbers([1, 2], (1, 2)))
    empty = b.submit(numbers([], (2, 0)))
    assert [b.step(), b.step(), b.step()] == [[flat], [deep], [empty]]


def test_padding_cannot_blow_a_batch_up(bench: Callable[..., Bench]) -> None:
    """Two thin tensors, one wide and one tall, would together claim 64 Mi elements and more."""
    b = bench(max_batch_size=4, pad_variable_length_inputs=True)
    wide = b.submit(numbers([0.0] * 9000, (1, 9000, 1)))
    tall = b.submit(numbers([0.0] * 9000, (1, 1, 9000)))
    assert [b.step(), b.step()] == [[wide], [tall]]


# --- the door -------------------------------------------------------------------------------------------------------------------


def test_too_many_rows(bench: Callable[..., Bench]) -> None:
    b = bench(max_batch_size=8)
    assert b.answer(b.call(*range(9))) == (3, "Task size 9 is larger than maximum input batch size 8")


def test_shapes_that_cannot_be_batched(bench: Callable[..., Bench]) -> None:
    b = bench(echo, {"serving_default": (2, 1, 1), "none": (0, 1, 3)})
    scalar = b.submit(numbers([1]), numbers([1], ()))
    unequal = b.submit(numbers([1]), numbers([1, 2]))
    nothing = b.submit(signature="none")
    assert b.answer(scalar) == (3, "Batching Run() input tensors must have at least one dimension")
    assert b.answer(unequal) == (3, "Batching Run() input tensors must have equal 0th-dimension size")
    assert b.answer(nothing) == (3, "Batching Run() must have at least one input tensor")


@pytest.mark.parametrize("most", [0, 1])
def test_a_full_queue(bench: Callable[..., Bench], most: int) -> None:
    """max_enqueued_batches 0 is taken as 1, as the reference does."""
    b = bench(max_batch_size=2, max_enqueued_batches=most)
    b.call(1)
    b.call(2)
    text = "currently 1 batches enqueued and max_enqueued_batches is 1"
    assert b.answer(b.call(3)) == (14, FULL + text)
    b.step()
    later = b.call(4)
    b.finish()
    assert b.got(later) == [4]


def test_a_full_queue_refuses_only_what_does_not_fit(bench: Callable[..., Bench]) -> None:
    b = bench(max_batch_size=4, max_enqueued_batches=1, batch_timeout_micros=10)
    first = b.call(1, 2)
    refused, fits = b.call(1, 2, 3), b.call(3)
    b.finish()
    assert b.answer(refused)[0] == 14
    assert b.got(first) + b.got(fits) == [1, 2, 3]


def test_ever_new_shapes_meet_a_limit(bench: Callable[..., Bench]) -> None:
    b = bench(batch_timeout_micros=1000)
    calls = [b.submit(numbers([0.0] * i, (1, i))) for i in range(1, 300)]
    refused = [c for c in calls if b.core.answers[c]]
    assert len(refused) == 299 - 256
    assert b.answer(refused[0]) == (
        14,
        "The batch scheduling queues of model probe are full; at most 256 different input shapes can wait at a time",
    )
    b.finish()
    assert b.core.state()["queues"] <= 32 + 1


def test_queued_rows_meet_a_limit_over_all_shapes(bench: Callable[..., Bench]) -> None:
    b = bench(max_batch_size=300_000, max_enqueued_batches=2, batch_timeout_micros=1000)
    calls = [b.submit(numbers([], (300_000, i, 0))) for i in range(1, 6)]
    assert [bool(b.core.answers[c]) for c in calls] == [False, False, False, True, True]
    assert "too many rows are waiting" in b.answer(calls[3])[1]


# --- splitting ------------------------------------------------------------------------------------------------------------------


def splitting(bench: Callable[..., Bench], **more: Any) -> Bench:
    return bench(
        **{
            "max_batch_size": 20,
            "max_execution_batch_size": 4,
            "enable_large_batch_splitting": True,
            "batch_timeout_micros": 100,
            **more,
        }
    )


def test_a_large_call_fills_the_open_batch_first(bench: Callable[..., Bench]) -> None:
    b = splitting(bench)
    small, large = b.call(1), b.call(*range(10, 20))
    b.finish()
    assert b.sizes() == [4, 4, 3]
    assert b.got(small) == [1]
    assert b.got(large) == list(range(10, 20))


def test_a_split_call_of_strings_with_allowed_sizes(bench: Callable[..., Bench]) -> None:
    b = splitting(bench, allowed_batch_sizes=(2, 4, 20))
    words = [str(i).encode() * 9 for i in range(5)]
    call = b.submit(strings(words))
    b.finish()
    assert b.sizes() == [4, 2]
    assert b.got(call) == words


def test_the_capacity_of_a_splitting_queue(bench: Callable[..., Bench]) -> None:
    b = splitting(bench, max_enqueued_batches=2)
    b.call(1)
    text = (
        "task size is 8 but scheduling capacity is only 7 "
        "(num_enqueued_batches=1, max_enqueued_batches=2, open_batch_size=1, max_execution_batch_size=4)"
    )
    assert b.answer(b.call(*range(8))) == (14, FULL + text)
    fits = b.call(*range(7))
    b.finish()
    assert b.got(fits) == list(range(7))


def test_a_failed_piece_fails_the_call_and_the_other_pieces_are_not_run(bench: Callable[..., Bench]) -> None:
    b = Bench(
        failing_on(0),
        max_batch_size=20,
        max_execution_batch_size=4,
        enable_large_batch_splitting=True,
    )
    call = b.call(*range(12))
    b.finish()
    assert b.answer(call) == (3, "bad value")
    assert b.sizes() == [4]
    b.close()


# --- outputs that cannot be scattered -------------------------------------------------------------------------------------------


def test_a_scalar_output(bench: Callable[..., Bench]) -> None:
    b = bench(lambda feeds: [numbers([1], ())])
    calls = [b.call(1), b.call(2)]
    b.finish()
    assert [b.answer(c) for c in calls] == [(9, "Batched output tensor has 0 dimensions")] * 2
    assert len(b.runs) == 1


def test_an_output_with_other_rows_fails_only_those_it_does_not_fit(bench: Callable[..., Bench]) -> None:
    b = bench(lambda feeds: [numbers([1, 2, 3], (3,))])
    fits, other = b.call(1, 2, 3), b.call(4)
    b.finish()
    assert b.got(fits) == [1, 2, 3]
    assert b.answer(other) == (
        9,
        "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the input tensors",
    )
