"""The manager stepped by hand: single stories first, then generated histories of directories, failures and slow loads."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from fakes import FakeLoader, FakeServable, ManualClock, PuppetPool
from hypothesis import given, settings
from hypothesis import strategies as st

from tfs.lifecycle.manager import Manager, RetryPolicy
from tfs.lifecycle.monitor import StateMonitor
from tfs.lifecycle.policy import POLICIES
from tfs.lifecycle.source import AspiredVersion
from tfs.lifecycle.states import ServableId, State


class Bench:
    """A manager with fakes all around and its pools in the test's hands."""

    def __init__(
        self, policy: str = "availability_preserving", retries: int = 0, inline: bool = False
    ) -> None:
        self.clock = ManualClock()
        self.loader = FakeLoader()
        self.monitor = StateMonitor()
        self.loads, self.unloads = PuppetPool(inline), PuppetPool(inline)
        self.maps: list[dict[str, list[int]]] = []
        self.serving: Mapping[str, Mapping[int, FakeServable]] = {}
        self.manager = Manager[FakeServable](
            self.loader,  # type: ignore[arg-type]
            self.publish,
            self.monitor,
            POLICIES[policy],
            RetryPolicy(retries, 60.0),
            load_pool=self.loads,
            unload_pool=self.unloads,
            clock=self.clock,
        )

    def publish(self, models: Mapping[str, Mapping[int, FakeServable]]) -> None:
        self.serving = models
        self.maps.append({name: sorted(versions) for name, versions in models.items()})

    def aspire(self, name: str, *versions: int) -> None:
        self.manager.set_aspired(name, [AspiredVersion(v, f"/{name}/{v}") for v in versions])

    def settle(self) -> None:
        """Steps and runs tasks until nothing moves (retries that wait stay waiting)."""
        self.manager.step()
        while self.loads.tasks or self.unloads.tasks:
            self.loads.run_all()
            self.unloads.run_all()
            self.manager.step()

    def states(self, name: str = "m") -> dict[int, str]:
        return {status.version: status.state.name for status in self.monitor.versions(name)}

    def error(self, version: int) -> str:
        error = next(s.error for s in self.monitor.versions("m") if s.version == version)
        return error.status_text if error is not None else ""


@pytest.fixture
def bench() -> Bench:
    FakeServable.live = 0
    return Bench()


def test_states_are_reported_in_order(bench: Bench) -> None:
    bench.aspire("m", 1)
    bench.manager.step()
    assert bench.states() == {1: "START"}
    bench.loads.run_all()
    assert bench.states() == {1: "LOADING"}
    assert bench.serving == {}
    bench.manager.step()
    assert bench.states() == {1: "AVAILABLE"}
    assert bench.maps == [{"m": [1]}]


def test_the_new_version_serves_before_the_old_one_leaves(bench: Bench) -> None:
    bench.aspire("m", 1)
    bench.settle()
    bench.aspire("m", 2)
    bench.manager.step()
    assert bench.states() == {2: "START", 1: "AVAILABLE"}
    bench.loads.run_all()
    bench.manager.step()
    assert bench.maps == [{"m": [1]}, {"m": [1, 2]}, {"m": [2]}]
    assert bench.states() == {2: "AVAILABLE", 1: "UNLOADING"}
    assert bench.loader.unloaded == []
    bench.settle()
    assert bench.states() == {2: "AVAILABLE", 1: "END"}
    assert bench.error(1) == ""
    assert FakeServable.live == 1


def test_resource_preserving_empties_the_place_first() -> None:
    bench = Bench("resource_preserving")
    bench.aspire("m", 1)
    bench.settle()
    bench.aspire("m", 2)
    bench.manager.step()
    assert bench.states() == {2: "START", 1: "UNLOADING"}
    assert not bench.loads.tasks
    bench.settle()
    assert bench.maps == [{"m": [1]}, {}, {"m": [2]}]


def test_a_broken_new_version_leaves_the_old_one_serving(bench: Bench) -> None:
    bench.aspire("m", 1)
    bench.settle()
    bench.loader.broken.add(("m", 2))
    bench.aspire("m", 2)
    bench.settle()
    assert bench.states() == {2: "END", 1: "AVAILABLE"}
    assert bench.error(2) == "NOT_FOUND: /m/2 is broken"
    assert bench.maps == [{"m": [1]}]
    bench.aspire("m", 3)
    bench.settle()
    assert bench.states() == {3: "AVAILABLE", 2: "END", 1: "END"}


def test_going_back_to_the_old_version_needs_no_load(bench: Bench) -> None:
    bench.aspire("m", 1)
    bench.settle()
    bench.loader.broken.add(("m", 2))
    bench.aspire("m", 2)
    bench.settle()
    bench.aspire("m", 1)
    bench.settle()
    assert bench.loader.attempts == [("m", 1), ("m", 2)]
    assert bench.states() == {2: "END", 1: "AVAILABLE"}


def test_a_failed_version_is_tried_again_only_after_it_was_gone(bench: Bench) -> None:
    bench.loader.broken.add(("m", 1))
    bench.aspire("m", 1)
    bench.settle()
    bench.loader.broken.clear()
    bench.aspire("m", 1)
    bench.settle()
    assert bench.states() == {1: "END"}
    assert len(bench.loader.attempts) == 1
    bench.aspire("m")
    bench.settle()
    bench.aspire("m", 1)
    bench.settle()
    assert bench.states() == {1: "AVAILABLE"}


def test_retries_wait_without_a_thread_and_other_models_go_on() -> None:
    bench = Bench(retries=2)
    bench.loader.broken.add(("m", 1))
    bench.aspire("m", 1)
    bench.settle()
    assert bench.states() == {1: "LOADING"}
    assert bench.manager.step() == 60.0
    bench.aspire("other", 1)
    bench.settle()
    assert bench.states("other") == {1: "AVAILABLE"}
    bench.clock.advance(59.0)
    assert bench.manager.step() == pytest.approx(1.0)
    bench.clock.advance(1.0)
    bench.settle()
    assert bench.loader.attempts.count(("m", 1)) == 2
    bench.clock.advance(60.0)
    bench.settle()
    assert bench.loader.attempts.count(("m", 1)) == 3
    assert bench.states() == {1: "END"}
    assert bench.error(1) == "NOT_FOUND: /m/1 is broken"
    assert bench.manager.step() is None


def test_a_retry_may_succeed() -> None:
    bench = Bench(retries=1)
    bench.loader.broken.add(("m", 1))
    bench.aspire("m", 1)
    bench.settle()
    bench.loader.broken.clear()
    bench.clock.advance(60.0)
    bench.settle()
    assert bench.states() == {1: "AVAILABLE"}
    assert bench.error(1) == ""


def test_retries_end_when_nobody_wants_the_version() -> None:
    bench = Bench(retries=5)
    bench.loader.broken.add(("m", 1))
    bench.aspire("m", 1)
    bench.settle()
    bench.aspire("m")
    bench.settle()
    assert bench.states() == {1: "END"}
    assert bench.manager.step() is None
    bench.clock.advance(1000.0)
    bench.settle()
    assert len(bench.loader.attempts) == 1


def test_a_load_that_nobody_wants_any_more_is_discarded(bench: Bench) -> None:
    bench.aspire("m", 1)
    bench.manager.step()
    bench.aspire("m")
    bench.manager.step()
    bench.settle()
    assert bench.states() == {1: "END"}
    assert bench.error(1) == "CANCELLED: Loading of servable cancelled"
    assert bench.maps == []
    assert FakeServable.live == 0


def test_what_is_being_removed_comes_back_after_the_removal(bench: Bench) -> None:
    bench.aspire("m", 1)
    bench.settle()
    bench.aspire("m")
    bench.manager.step()
    assert bench.states() == {1: "UNLOADING"}
    bench.aspire("m", 1, 2)
    bench.manager.step()
    assert bench.states() == {2: "START", 1: "UNLOADING"}
    bench.unloads.run_all()
    bench.manager.step()
    assert bench.states() == {2: "START", 1: "START"}
    bench.settle()
    assert bench.states() == {2: "AVAILABLE", 1: "AVAILABLE"}


def test_of_two_directories_for_one_version_the_first_stays(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.manager.set_aspired("m", [AspiredVersion(1, "/m/001"), AspiredVersion(1, "/m/1")])
    bench.settle()
    assert bench.serving["m"][1].path == "/m/001"
    assert "already managed from /m/001; /m/1 is ignored" in caplog.text


def test_close_frees_everything(bench: Bench) -> None:
    bench.aspire("m", 1, 2)
    bench.settle()
    bench.aspire("n", 7)
    bench.manager.step()
    assert bench.manager.close(5.0)
    assert bench.serving == {}
    assert FakeServable.live == 0


# --- generated histories

NAMES = ("a", "b")
events = st.one_of(
    st.tuples(st.just("aspire"), st.sampled_from(NAMES), st.frozensets(st.integers(1, 4), max_size=3)),
    st.tuples(st.just("break"), st.sampled_from(NAMES), st.integers(1, 4)),
    st.tuples(st.just("mend"), st.sampled_from(NAMES), st.integers(1, 4)),
    st.tuples(st.just("load"), st.integers(0, 5), st.none()),
    st.tuples(st.just("unload"), st.integers(0, 5), st.none()),
    st.tuples(st.just("step"), st.none(), st.none()),
    st.tuples(st.just("time"), st.integers(1, 90), st.none()),
)


class History:
    """Plays events and checks after each one what must always hold."""

    def __init__(self, policy: str) -> None:
        FakeServable.live = 0
        self.bench = Bench(policy, retries=1)
        self.always_available = policy == "availability_preserving"
        self.wanted: dict[str, frozenset[int]] = dict.fromkeys(NAMES, frozenset())

    def play(self, event: tuple[str, object, object]) -> None:
        kind, a, b = event
        bench = self.bench
        before = {name: set(bench.serving.get(name, {})) for name in NAMES}
        maps = len(bench.maps)
        attempts = len(bench.loader.attempts)
        if kind == "aspire":
            self.wanted[str(a)] = b  # type: ignore[assignment]
            bench.aspire(str(a), *b)  # type: ignore[misc]
        elif kind == "break":
            bench.loader.broken.add((a, b))  # type: ignore[arg-type]
        elif kind == "mend":
            bench.loader.broken.discard((a, b))  # type: ignore[arg-type]
        elif kind == "load":
            bench.loads.run_one(a)  # type: ignore[arg-type]
        elif kind == "unload":
            bench.unloads.run_one(a)  # type: ignore[arg-type]
        elif kind == "time":
            bench.clock.advance(float(a))  # type: ignore[arg-type]
        if kind in ("step", "time"):
            bench.manager.step()
            self.check_maps(before, bench.maps[maps:])
        assert len(bench.loader.attempts) - attempts <= 1
        self.check_map_is_alive()

    def check_maps(self, before: dict[str, set[int]], maps: list[dict[str, list[int]]]) -> None:
        for name in NAMES:
            if self.always_available and self.wanted[name] and before[name]:
                assert all(one.get(name) for one in maps), f"{name} had nothing to serve in {maps}"

    def check_map_is_alive(self) -> None:
        bench = self.bench
        for name, versions in bench.serving.items():
            for number, servable in versions.items():
                assert not servable.closed
                assert bench.monitor.state(ServableId(name, number)) is State.AVAILABLE

    def end(self) -> None:
        """Everything runs to its end: what is wanted and whole serves, nothing else lives."""
        bench = self.bench
        bench.settle()
        for _ in range(4):
            bench.clock.advance(60.0)
            bench.settle()
        live = 0
        for name in NAMES:
            whole = {v for v in self.wanted[name] if bench.states(name)[v] == "AVAILABLE"}
            given_up = {v for v in self.wanted[name] if bench.states(name)[v] == "END"}
            assert whole | given_up == self.wanted[name]
            serving = set(bench.serving.get(name, {}))
            assert whole <= serving
            old = serving - whole
            assert len(old) <= (1 if given_up and not whole and self.always_available else 0)
            live += len(serving)
        assert FakeServable.live == live


@pytest.mark.parametrize("policy", list(POLICIES))
@settings(max_examples=150)
@given(history=st.lists(events, max_size=40))
def test_any_history(policy: str, history: list[tuple[str, object, object]]) -> None:
    story = History(policy)
    for event in history:
        story.play(event)
    story.end()
