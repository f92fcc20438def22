"""The monitor keeps the last state of every version and refuses moves that the table does not have."""

from __future__ import annotations

import itertools
import threading

import pytest

from tfs.errors import Internal, NotFound
from tfs.lifecycle.monitor import StateMonitor
from tfs.lifecycle.states import TRANSITIONS, ServableId, State

ONE = ServableId("m", 1)
# The shortest way to each state.
WAYS = {
    None: [],
    State.START: [State.START],
    State.LOADING: [State.START, State.LOADING],
    State.AVAILABLE: [State.START, State.LOADING, State.AVAILABLE],
    State.UNLOADING: [State.START, State.LOADING, State.AVAILABLE, State.UNLOADING],
    State.END: [State.START, State.END],
}


@pytest.mark.parametrize(("before", "after"), list(itertools.product([None, *State], State)))
def test_only_moves_of_the_table_are_accepted(before: State | None, after: State) -> None:
    monitor = StateMonitor()
    for state in WAYS[before]:
        monitor.report(ONE, state)
    assert monitor.state(ONE) is before
    if after in TRANSITIONS[before]:
        monitor.report(ONE, after)
        assert monitor.state(ONE) is after
    else:
        with pytest.raises(Internal, match=f"cannot go from .* to {after.name}"):
            monitor.report(ONE, after)
        assert monitor.state(ONE) is before


def test_versions_come_highest_first_and_are_never_forgotten() -> None:
    monitor = StateMonitor()
    for version in (3, 10, -1):
        monitor.report(ServableId("m", version), State.START)
    monitor.report(ServableId("m", 3), State.END, NotFound("no file"))
    assert [(s.version, s.state) for s in monitor.versions("m")] == [
        (10, State.START),
        (3, State.END),
        (-1, State.START),
    ]
    assert monitor.versions("other") == []
    assert monitor.models() == ["m"]


def test_the_error_belongs_to_the_state() -> None:
    monitor = StateMonitor()
    monitor.report(ONE, State.START)
    monitor.attempt_failed(ONE, NotFound("first try"))
    status = monitor.status(ONE)
    assert status is not None
    assert status.error is None
    assert str(status.attempt_error) == "first try"
    monitor.report(ONE, State.END, NotFound("last try"))
    assert str(monitor.versions("m")[0].error) == "last try"
    monitor.report(ONE, State.START)
    status = monitor.status(ONE)
    assert status is not None
    assert status.error is None
    assert status.attempt_error is None


def test_waiting_ends_with_the_report_that_was_waited_for() -> None:
    monitor = StateMonitor()
    seen: list[bool] = []
    waiter = threading.Thread(
        target=lambda: seen.append(monitor.wait_for(lambda: monitor.state(ONE) is State.END, 30))
    )
    waiter.start()
    monitor.report(ONE, State.START)
    monitor.report(ONE, State.END)
    waiter.join(30)
    assert seen == [True]


def test_waiting_says_when_the_time_is_up() -> None:
    assert not StateMonitor().wait_for(lambda: False, 0.0)
