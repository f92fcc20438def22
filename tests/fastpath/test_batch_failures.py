"""The batcher when things go wrong: bad values, deadlines, cancelled calls, settings.

Nobody may spoil another's call; who left is not run; wrong settings are refused with the reference's texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from batch_support import Bench, Tensor, failing_on, numbers, values

from tfs import _fastpath, errors

US, MS, S = 1000, 1_000_000, 1_000_000_000


@pytest.fixture
def bench(fake_tensors: None) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(*arguments: Any, **parameters: Any) -> Bench:
        made.append(Bench(*arguments, **parameters))
        return made[-1]

    yield make
    for one in made:
        one.close()


# --- bad values -----------------------------------------------------------------------------------------------------------------


def test_a_bad_value_fails_only_its_own_call(bench: Callable[..., Bench]) -> None:
    b = bench(failing_on(666), max_batch_size=32)
    calls = [b.call(666 if i == 11 else i) for i in range(32)]
    b.finish()
    assert b.answer(calls.pop(11)) == (3, "bad value")
    assert [b.got(c) for c in calls] == [[i] for i in range(32) if i != 11]
    assert len(b.runs) == 1 + 2 * 5
    series = b.core.threads.counters()["batching"]["probe", "serving_default"]
    assert series["reruns"] == 10
    assert series["spoiled"] == 0


def test_a_graph_with_state_is_not_run_twice(bench: Callable[..., Bench]) -> None:
    b = bench(failing_on(666), stateless=False, max_batch_size=4)
    calls = [b.call(1), b.call(666), b.call(3)]
    b.finish()
    assert [b.answer(c) for c in calls] == [(3, "bad value")] * 3
    assert len(b.runs) == 1
    assert b.core.threads.counters()["batching"]["probe", "serving_default"]["spoiled"] == 3


@pytest.mark.parametrize(
    "code", [errors.Code.RESOURCE_EXHAUSTED, errors.Code.CANCELLED, errors.Code.DEADLINE_EXCEEDED]
)
def test_what_is_no_values_fault_is_not_tried_again(bench: Callable[..., Bench], code: errors.Code) -> None:
    b = bench(failing_on(666, code), max_batch_size=4)
    calls = [b.call(1), b.call(666)]
    b.finish()
    assert [b.answer(c)[0] for c in calls] == [code, code]
    assert len(b.runs) == 1


def test_after_a_bad_value_batches_are_small_until_it_is_over(bench: Callable[..., Bench]) -> None:
    b = bench(failing_on(666), max_batch_size=8, max_enqueued_batches=100)
    for i in range(8):
        b.call(666 if i == 0 else i)
    b.step()
    b.runs.clear()
    good = [b.call(i) for i in range(80)]
    b.finish()
    assert all(b.got(c) == [i] for i, c in enumerate(good))
    sizes = b.sizes()
    assert sizes[:3] == [4, 4, 6] or sizes[0] == 4
    assert max(sizes) == 8
    assert sum(sizes) == 80


def test_with_the_budget_spent_calls_run_alone(bench: Callable[..., Bench]) -> None:
    """A flood of bad values: at first batches are parted, then calls run one by one, and no good call is ever spoiled."""
    b = bench(failing_on(666), max_batch_size=8, max_enqueued_batches=1000)
    good = []
    for _ in range(1000):
        for i in range(8):
            call = b.call(666 if i % 2 else i)
            if i % 2 == 0:
                good.append(call)
        while b.step() is not None:
            pass
    assert {b.got(c)[0] for c in good} == {0, 2, 4, 6}
    assert b.core.state()["tokens"] < 64
    assert set(b.sizes()[-100:]) == {1}


def test_the_budget_comes_back_with_time(bench: Callable[..., Bench]) -> None:
    b = bench(failing_on(666), max_batch_size=64)
    for _ in range(64):
        b.call(666)
    b.step()
    spent = 1000 - b.core.state()["tokens"]
    assert spent == 2 * 63
    b.now = (spent - 1) * MS
    b.call(666)
    b.call(666)
    b.step()
    assert b.core.state()["tokens"] == 1000 - 1 - 2
    b.now += 10 * S
    b.call(1)
    b.step()
    b.call(1)
    b.step()
    assert b.core.state()["tokens"] == 1000


# --- deadlines and cancelled calls ----------------------------------------------------------------------------------------------


def test_cancelled_rows_are_dropped_before_assembly(bench: Callable[..., Bench]) -> None:
    b = bench(max_batch_size=8, batch_timeout_micros=10)
    calls = [b.call(i) for i in range(4)]
    b.core.cancel(calls[1])
    b.now = 10 * US
    assert b.step() == [calls[0], calls[2], calls[3]]
    assert values(b.runs[0][0]) == [0, 2, 3]
    assert b.answer(calls[1]) == (1, "CANCELLED")
    assert b.core.threads.counters()["batching"]["probe", "serving_default"]["skipped"] == 1


def test_an_expired_call_is_never_run(bench: Callable[..., Bench]) -> None:
    b = bench(max_batch_size=8, batch_timeout_micros=10)
    call = b.call(1, deadline=5 * US)
    b.core.expire(call)
    b.now = 10 * US
    assert b.step() == []
    assert b.runs == []
    assert b.answer(call)[0] == errors.Code.DEADLINE_EXCEEDED
    assert b.core.state()["rows"] == 0


def test_those_behind_move_up_into_free_places(bench: Callable[..., Bench]) -> None:
    b = bench(max_batch_size=4, max_enqueued_batches=10)
    calls = [b.call(i) for i in range(10)]
    for gone in calls[1:4]:
        b.core.cancel(gone)
    assert b.step() == [calls[0], *calls[4:7]]
    assert b.step() == [calls[7]]
    assert b.step() == calls[8:]


def test_a_whole_batch_that_left_makes_room_for_the_next(bench: Callable[..., Bench]) -> None:
    b = bench(max_batch_size=2, max_enqueued_batches=10)
    calls = [b.call(i) for i in range(4)]
    for gone in calls[:2]:
        b.core.cancel(gone)
    assert b.step() == calls[2:]
    assert b.step() is None


def test_who_cannot_be_done_in_time_makes_room_for_others(bench: Callable[..., Bench]) -> None:
    b = bench(max_batch_size=2, max_enqueued_batches=10)
    b.call(0)
    b.step(run_ns=10 * MS)
    late, fine = b.call(1, deadline=5 * MS), b.call(2, deadline=50 * MS)
    other = b.call(3, deadline=50 * MS)
    assert b.step() == [fine, other]
    assert b.answer(late)[0] == errors.Code.DEADLINE_EXCEEDED


def test_who_is_late_is_still_run_when_nobody_wants_the_room(bench: Callable[..., Bench]) -> None:
    """Or a wrong estimate would refuse everybody for ever."""
    b = bench(max_batch_size=2)
    b.call(0)
    b.step(run_ns=10 * MS)
    late = b.call(1, deadline=5 * MS)
    assert b.step() == [late]
    assert b.got(late) == [1]


def test_when_all_are_late_the_newest_run(bench: Callable[..., Bench]) -> None:
    b = bench(max_batch_size=2, max_enqueued_batches=10)
    b.call(0)
    b.step(run_ns=10 * MS)
    calls = [b.call(i, deadline=(1 + i) * MS) for i in range(5)]
    assert b.step() == calls[3:]
    assert [b.answer(c)[0] for c in calls[:3]] == [errors.Code.DEADLINE_EXCEEDED] * 3
    assert b.step() is None


def test_hopeless_batches_run_for_a_newer_estimate_now_and_then_only(bench: Callable[..., Bench]) -> None:
    """Calls with 1 ms for a model that takes 10 ms: running them all would be work for nobody."""
    b = bench(max_batch_size=2, max_enqueued_batches=100)
    b.call(0)
    b.step(run_ns=10 * MS)

    def hopeless() -> list[int]:
        return [b.call(i, deadline=b.now + 1 * MS) for i in range(5)]

    b.during = lambda: [b.core.expire(call) for call in waiting]
    waiting = hopeless()
    assert b.step(run_ns=10 * MS) == waiting[3:]
    runs = 0
    for _ in range(30):
        waiting = hopeless()
        while (batch := b.step(run_ns=10 * MS)) is not None:
            runs += bool(batch)
            assert all(b.answer(call)[0] == errors.Code.DEADLINE_EXCEEDED for call in batch)
        b.now += 10 * MS
    assert 2 <= runs <= 4  # 300 ms, one in a hundred milliseconds


def test_a_wrong_estimate_is_left_at_once(bench: Callable[..., Bench]) -> None:
    """The batch that runs although all are thought late is in time: so is the next."""
    b = bench(max_batch_size=2, max_enqueued_batches=100)
    b.call(0)
    b.step(run_ns=1000 * MS)
    for _ in range(20):
        for i in range(4):
            b.call(i, deadline=b.now + 50 * MS)
        taken = b.step(run_ns=1 * MS)
        assert taken
        assert all(b.got(call) for call in taken)
        while b.step(run_ns=1 * MS) is not None:
            pass
        b.now += 5 * MS


def test_a_call_whose_time_is_over_is_not_run(bench: Callable[..., Bench]) -> None:
    """Even before the timer has said so, and with nobody behind it."""
    b = bench(max_batch_size=2)
    call = b.call(1, deadline=5 * MS)
    b.now += 6 * MS
    assert b.step() == []
    assert b.answer(call)[0] == errors.Code.DEADLINE_EXCEEDED


def test_twice_too_many_calls_leave_nine_tenths_of_the_capacity(bench: Callable[..., Bench]) -> None:
    """Eight calls come while four can be done, each with 50 ms, in a queue that would take them all."""
    b = bench(max_batch_size=4, max_enqueued_batches=1000)
    deadlines: dict[int, int] = {}
    in_time = 0
    rounds = 200
    for _ in range(rounds):
        for i in range(8):
            deadline = b.now + 50 * MS + i
            deadlines[b.call(i, deadline=deadline)] = deadline
        for call, deadline in deadlines.items():
            if deadline <= b.now and not b.core.answers[call]:
                b.core.expire(call)
        in_time += sum(deadlines[call] >= b.now + 10 * MS for call in b.step(run_ns=10 * MS) or ())
        b.now += 10 * MS
    assert in_time >= 0.9 * 4 * rounds
    assert b.core.state()["rows"] <= 8 * 6


def test_a_call_answered_during_its_run_is_answered_once(bench: Callable[..., Bench]) -> None:
    made: list[Bench] = []

    def session(feeds: list[Tensor]) -> list[Tensor]:
        made[0].core.expire(1)
        return feeds

    made.append(bench(session, max_batch_size=2))
    first, second = made[0].call(1), made[0].call(2)
    made[0].step()
    assert made[0].answer(first)[0] == errors.Code.DEADLINE_EXCEEDED
    assert made[0].got(second) == [2]


def test_a_cancelled_call_of_several_pieces(bench: Callable[..., Bench]) -> None:
    b = bench(
        max_batch_size=20,
        max_execution_batch_size=4,
        enable_large_batch_splitting=True,
        batch_timeout_micros=10,
    )
    call = b.call(*range(10))
    assert b.step() == [call]
    b.core.cancel(call)
    b.finish()
    assert b.answer(call) == (1, "CANCELLED")
    assert b.sizes() == [4]


# --- settings -------------------------------------------------------------------------------------------------------------------

ORDER = (
    "When enable_large_batch_splitting is true, input_batch_size_limit must be greater than or equal to "
    "max_execution_batch_size.1816"
)


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        (
            {"max_batch_size": 8, "allowed_batch_sizes": (2, 4)},
            "Last entry in allowed_batch_sizes must match max_batch_size; last entry was 4; expected 8",
        ),
        ({"batch_timeout_micros": -1}, "batch_timeout_micros must be non-negative; was -1"),
        ({"max_batch_size": 0}, "input_batch_size_limit must be positive; was 0"),
        (
            {"max_enqueued_batches": 0, "enable_large_batch_splitting": True},
            "max_enqueued_batches must be positive; was 0",
        ),
        ({"max_batch_size": 8, "max_execution_batch_size": 16, "enable_large_batch_splitting": True}, ORDER),
    ],
    ids=["allowed sizes", "timeout", "size", "queue", "execution size"],
)
def test_wrong_settings(fake_tensors: None, parameters: dict[str, Any], text: str) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        Bench(**parameters)
    assert str(caught.value) == text


def test_minus_one_means_no_limit(bench: Callable[..., Bench]) -> None:
    b = bench(max_batch_size=-1, max_enqueued_batches=-1)
    call = b.submit(numbers([], (10**6, 0)))
    b.finish()
    assert b.answer(call) == [(1, (10**6, 0), b"")]


def test_settings_change_while_calls_wait(bench: Callable[..., Bench]) -> None:
    b = bench(max_batch_size=2, batch_timeout_micros=1000, max_enqueued_batches=100)
    first = b.call(1)
    b.core.update(
        max_batch_size=4, allowed_batch_sizes=(4,), batch_timeout_micros=1000, max_enqueued_batches=100
    )
    rest = [b.call(i) for i in (2, 3, 4)]
    assert b.step() == [first, *rest]
    with pytest.raises(errors.InvalidArgument):
        b.core.update(max_batch_size=0)
    b.call(5)
    b.finish()
    assert b.sizes() == [4, 4]


def test_the_padding_option_may_be_switched_while_calls_wait(bench: Callable[..., Bench]) -> None:
    b = bench(batch_timeout_micros=1000)
    before = b.submit(numbers([1], (1, 1)))
    b.core.update(batch_timeout_micros=1000, pad_variable_length_inputs=True)
    after = [b.submit(numbers([2], (1, 1))), b.submit(numbers([3, 4], (1, 2)))]
    b.finish()
    assert b.got(before) == [1]
    assert [b.got(c) for c in after] == [[2, 2], [3, 4]]


# --- what is counted ------------------------------------------------------------------------------------------------------------


def test_the_reference_metrics(bench: Callable[..., Bench]) -> None:
    """One sample per input tensor at the door, refused calls included; one waiting time per call; sizes after rounding up."""
    b = bench(max_batch_size=8, allowed_batch_sizes=(4, 8))
    for size in (1, 3, 4, 5, 8, 9):
        b.call(*range(size))
        b.step()
    counted = b.core.threads.counters()
    assert counted["batches"] == 5
    assert counted["input_size"][2] == 6
    assert counted["queuing"][2] == 5
    assert counted["processed_size"] == ([0, 0, 0, 3, 2] + [0] * 10, 28.0, 5)
    assert counted["padding"][4] == ([1, 1, 1] + [0] * 12, 4.0, 3)
    assert counted["padding"][8][2] == 2
    assert sum(sum(h[0]) for h in counted["padding"].values()) == 5


def test_the_depth_of_the_queues(bench: Callable[..., Bench]) -> None:
    b = bench(batch_timeout_micros=1000)
    b.call(1, 2)
    b.submit(numbers([1, 2], (1, 2)))
    b.step()
    (shown,) = [s for s in [b.core.threads.counters()["batching"].get(("probe", "serving_default"))] if s]
    assert (shown["queued_calls"], shown["queued_rows"]) == (2, 3)
    b.finish()
    shown = b.core.threads.counters()["batching"]["probe", "serving_default"]
    assert (shown["queued_calls"], shown["queued_rows"], shown["calls"], shown["rows"]) == (0, 0, 2, 3)


def test_threads_need_a_number(fake_tensors: None) -> None:
    with pytest.raises(errors.InvalidArgument, match="num_batch_threads must be positive; was -1"):
        _fastpath.BatchThreads(-1)
