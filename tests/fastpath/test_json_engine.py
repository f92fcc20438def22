"""REST predict bodies through the whole engine, on a fake session that answers its inputs: the order of the checks, and the answers."""

from __future__ import annotations

import json
import select
from collections.abc import Callable, Iterator

import pytest

from tfs import _fastpath, errors, messages

DEADLINE_S = 10
ANSWER = Callable[..., str]


def signature_def(**inputs: int) -> bytes:
    """Inputs alias -> dtype; output `y_<alias>` answers input <alias>."""
    made = messages.SignatureDef(method_name="tensorflow/serving/predict")
    for index, (alias, dtype) in enumerate(sorted(inputs.items())):
        made.inputs[alias].name, made.inputs[alias].dtype = f"in:{index}", dtype
        made.outputs[f"y_{alias}"].name, made.outputs[f"y_{alias}"].dtype = f"out:{index}", dtype
    serialized: bytes = made.SerializeToString()
    return serialized


@pytest.fixture
def predict(fake_tensors: None) -> Iterator[ANSWER]:
    """predict(body, model, version, label) -> the reply, or raises its error."""
    made = _fastpath.Engine(max_runners=2)
    session = _fastpath.FakeSession()
    signatures = {
        "serving_default": signature_def(x=1),
        "two": signature_def(n=3, s_bytes=7),
        "complex": signature_def(x=8),
        "none": signature_def(),
    }
    servables = {version: _fastpath.fake_servable("m", version, session, signatures) for version in (1, 2)}
    other = _fastpath.fake_servable("other", 1, session, {"odd": signature_def(x=1)})
    made.publish({"m": servables, "other": {1: other}}, {"m": {"stable": 1}})
    mailbox = made.mailbox()

    def call(body: str, model: str = "m", version: int | None = None, label: str | None = None) -> str:
        answers: list[bytes | errors.TfsError] = []
        answer = made.predict_json(mailbox, body.encode(), model, version, label, None, answers.append)
        if isinstance(answer, bytes):
            return answer.decode()
        while not answers:
            assert select.select([mailbox.fileno()], [], [], DEADLINE_S)[0], "no answer came"
            mailbox.drain()
        if isinstance(answers[0], errors.TfsError):
            raise answers[0]
        return answers[0].decode()

    yield call
    made.publish({}, {})
    made.close()
    mailbox.close()  # a runner that lets go of a ticket after its answer was taken leaves it to the mailbox: it still holds its model
    for servable in (*servables.values(), other):
        servable.close()


def test_rows_and_columns_are_answered_in_kind(predict: ANSWER) -> None:
    for _ in range(200):  # from the first call on runners to those that run inline
        assert predict('{"instances": [1.5, 2]}') == '{"predictions": [1.5,2.0]}'
        assert predict('{"inputs": [[1.5, 2]]}') == '{"outputs": [[1.5,2.0]]}'
    assert json.loads(predict('{"signature_name": "two", "instances": [{"n": 3, "s_bytes": "hi"}]}')) == {
        "predictions": [{"y_n": 3, "y_s_bytes": {"b64": "aGk="}}]
    }


def test_versions_labels_and_late_signature_names(predict: ANSWER) -> None:
    assert (
        predict('{"inputs": 1}', version=1) == predict('{"inputs": 1}', label="stable") == '{"outputs": 1.0}'
    )
    assert predict('{"inputs": 1, "signature_name": "serving_default"}') == '{"outputs": 1.0}'
    assert json.loads(predict('{"inputs": {"n": 1, "s_bytes": []}, "signature_name": "two"}'))["outputs"] == {
        "y_n": 1,
        "y_s_bytes": [],
    }


@pytest.mark.parametrize(
    ("body", "where", "code", "message"),
    [
        ("[]", {"model": "nope"}, 3, "JSON Value: [] Is not object"),
        ('{"instances": [1', {"model": "nope"}, 3, "JSON Parse error: Missing a comma or ']' after an array element. at offset: 16"),
        ('{"signature_name": 1}', {"model": "nope"}, 3, "must be a string value."),
        ("{}", {"model": "nope"}, 5, "Servable not found for request: Latest(nope)"),
        ('{"instances": ["x"]}', {"version": 9}, 5, "Servable not found for request: Specific(m, 9)"),
        ('{"instances": [1]}', {"label": "canary"}, 3, "Unrecognized servable version label: canary"),
        ('{"signature_name": "nope"}', {}, 3, 'Serving signature name: "nope" not found in signature def'),
        ('{"instances": [1], "signature_name": "nope"}', {}, 3, 'Serving signature name: "nope" not found in signature def'),
        ('{"instances": [1]}', {"model": "other"}, 3, 'Serving signature name: "serving_default" not found in signature def'),
        ('{"signature_name": "none"}', {}, 3, "Failed to get input map for signature: none"),
        ("{}", {}, 3, "Missing 'inputs' or 'instances' key"),
        ('{"signature_name": "complex", "inputs": [1]}', {}, 12, "Conversion of JSON Value: 1 to type: complex64"),
        ('{"instances": [{"b64": "aGk="}], "signature_name": "two"}', {}, 3, "Type: Object is not of expected type: int32"),
    ],
)  # fmt: skip
def test_checks_come_in_the_references_order(
    predict: ANSWER, body: str, where: dict[str, str], code: int, message: str
) -> None:
    with pytest.raises(errors.TfsError) as caught:
        predict(body, **where)
    assert caught.value.code == code
    assert caught.value.message.endswith(message)


def test_an_empty_result_of_a_dtype_without_text(predict: ANSWER) -> None:
    assert predict('{"signature_name": "complex", "inputs": [[], []]}') == '{"outputs": [[],[]]}'
