"""The policies, by table and by generated histories played to their end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfs.lifecycle.policy import (
    POLICIES,
    Action,
    Phase,
    Policy,
    Snapshot,
    Verb,
    availability_preserving,
    resource_preserving,
)

NEW, LOADING, READY, UNLOADING, FAILED = Phase
LOAD, UNLOAD = Verb

TABLE = [
    # phases of the aspired and un-aspired versions -> what availability_preserving and resource_preserving do
    ([], None, None),
    ([Snapshot(1, NEW, True)], Action(LOAD, 1), Action(LOAD, 1)),
    ([Snapshot(1, NEW, True), Snapshot(2, NEW, True)], Action(LOAD, 2), Action(LOAD, 2)),
    ([Snapshot(1, LOADING, True)], None, None),
    ([Snapshot(1, READY, False)], Action(UNLOAD, 1), Action(UNLOAD, 1)),
    ([Snapshot(1, READY, False), Snapshot(2, NEW, True)], Action(LOAD, 2), Action(UNLOAD, 1)),
    ([Snapshot(1, READY, False), Snapshot(2, LOADING, True)], None, Action(UNLOAD, 1)),
    ([Snapshot(1, READY, False), Snapshot(2, READY, True)], Action(UNLOAD, 1), Action(UNLOAD, 1)),
    ([Snapshot(1, READY, False), Snapshot(2, FAILED, True)], None, Action(UNLOAD, 1)),
    (
        [Snapshot(1, READY, False), Snapshot(2, READY, False), Snapshot(3, LOADING, True)],
        Action(UNLOAD, 1),
        Action(UNLOAD, 1),
    ),
    ([Snapshot(1, UNLOADING, False), Snapshot(2, NEW, True)], Action(LOAD, 2), None),
    ([Snapshot(1, LOADING, False), Snapshot(2, NEW, True)], Action(LOAD, 2), None),
    ([Snapshot(1, READY, True), Snapshot(2, NEW, True)], Action(LOAD, 2), Action(LOAD, 2)),
]


@pytest.mark.parametrize(("versions", "available", "resource"), TABLE)
def test_table(versions: list[Snapshot], available: Action | None, resource: Action | None) -> None:
    assert availability_preserving(versions) == available
    assert resource_preserving(versions) == resource


snapshots = st.lists(
    st.builds(Snapshot, st.integers(1, 6), st.sampled_from(Phase), st.booleans()),
    unique_by=lambda v: v.version,
    max_size=6,
)


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES.keys())
@given(versions=snapshots)
def test_only_new_aspired_versions_load_and_only_ready_unaspired_ones_unload(
    policy: Policy, versions: list[Snapshot]
) -> None:
    action = policy(versions)
    if action is None:
        return
    version = next(v for v in versions if v.version == action.version)
    assert version.aspired is (action.verb is LOAD)
    assert version.phase is (NEW if action.verb is LOAD else READY)


def play(policy: Policy, versions: list[Snapshot], failing: set[int]) -> list[int]:
    """Plays to the end, each action done before the next question; returns how many versions were ready after each action."""
    ready = []
    for _ in range(2 * len(versions) + 1):
        action = policy(versions)
        if action is None:
            return ready
        after = {LOAD: FAILED if action.version in failing else READY, UNLOAD: None}[action.verb]
        versions = [
            v if v.version != action.version else v._replace(phase=after)
            for v in versions
            if v.version != action.version or after is not None
        ]
        ready.append(sum(v.phase is READY for v in versions))
    pytest.fail("the policy never comes to an end")


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES.keys())
@given(versions=snapshots, failing=st.sets(st.integers(1, 6)))
def test_it_always_ends(policy: Policy, versions: list[Snapshot], failing: set[int]) -> None:
    play(policy, versions, failing)


@given(versions=snapshots, failing=st.sets(st.integers(1, 6)))
def test_availability_is_never_given_up_while_something_is_aspired(
    versions: list[Snapshot], failing: set[int]
) -> None:
    before = sum(v.phase is READY for v in versions)
    ready = play(availability_preserving, versions, failing)
    if before and any(v.aspired for v in versions):
        assert all(ready)


@given(versions=snapshots)
def test_resource_preserving_never_has_two_generations(versions: list[Snapshot]) -> None:
    action = resource_preserving(versions)
    if action is not None and action.verb is LOAD:
        assert all(v.aspired or v.phase in (NEW, FAILED) for v in versions)
