"""Made-up warm-up requests through the engine: they run where the graph is stateless, and only there."""

from __future__ import annotations

import pytest

from tfs import _fastpath as core
from tfs.lifecycle.synthetic import SyntheticWarmUp
from tfs.messages import SignatureDef


@pytest.mark.parametrize("stateless", [True, False])
def test_only_stateless_signatures_are_run(fake_tensors: None, stateless: bool) -> None:
    definition = SignatureDef()
    for tensors, alias, name in ((definition.inputs, "x", "in:0"), (definition.outputs, "y", "out:0")):
        tensors[alias].name, tensors[alias].dtype = name, 1
        tensors[alias].tensor_shape.dim.add(size=-1)
        tensors[alias].tensor_shape.dim.add(size=3)
    session = core.FakeSession()
    servable = core.fake_servable(
        "m", 1, session, {"serving_default": definition.SerializeToString()}, stateless=stateless
    )
    engine = core.Engine()
    outputs: list[core.Outputs] = []
    try:
        assert servable.is_stateless("serving_default") is stateless
        assert not servable.is_stateless("other")
        SyntheticWarmUp[core.LoadedServable](
            lambda s: s.signature_defs,
            lambda s, signature: s.is_stateless(signature),
            lambda s, request: outputs.append(engine.run_on(s, request)),
        )(servable)
        assert session.started == int(stateless)
        assert [(o.shape("y"), bytes(o.numbers("y"))) for o in outputs] == [((1, 3), bytes(12))] * stateless
    finally:
        outputs.clear()
        servable.close()
        engine.close()
