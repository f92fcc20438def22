"""Requests with an Input, taken apart by the core: the same as protobuf's parser, whatever the bytes."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from google.protobuf.message import DecodeError

from tfs import messages
from tfs._fastpath import take_examples
from tfs.errors import Code, TfsError
from tfs.service.examples import pack, take_apart

REQUEST = "ClassificationRequest"


def random_example(rng: random.Random) -> Any:
    made = messages.Example()
    for _ in range(rng.randrange(4)):
        feature = made.features.feature[rng.choice(["x", "y", "\u00e9", ""])]
        kind = rng.randrange(4)
        if kind == 0:
            feature.bytes_list.value.extend([b"", b"\xff\0", b"abc"][: rng.randrange(4)])
        elif kind == 1:
            feature.float_list.value.extend([1.5, -2.0, 0.0][: rng.randrange(4)])
        elif kind == 2:
            feature.int64_list.value.extend([-1, 300, 0][: rng.randrange(4)])
    return made


def random_request(rng: random.Random) -> bytes:
    made = messages.ClassificationRequest()
    if rng.random() < 0.9:
        made.model_spec.name = "m"
        made.model_spec.signature_name = rng.choice(["", "s"])
    body: bytes = made.SerializeToString()
    for _ in range(rng.choice([0, 1, 1, 1, 2, 3])):
        part = messages.ClassificationRequest()
        if rng.random() < 0.5:
            listed = part.input.example_list
        else:
            listed = part.input.example_list_with_context
            if rng.random() < 0.8:
                listed.context.CopyFrom(random_example(rng))
        listed.examples.extend(random_example(rng) for _ in range(rng.randrange(4)))
        piece = part.SerializeToString()
        body = body + piece if rng.random() < 0.7 else piece + body
    return body


def mutated(rng: random.Random, body: bytes) -> bytes:
    data = bytearray(body)
    for _ in range(rng.randrange(4)):
        at = rng.randrange(len(data) + 1)
        action = rng.randrange(4)
        if action == 0 and data:
            data[at % len(data)] = rng.randrange(256)
        elif action == 1:
            data[at:at] = bytes([rng.randrange(256)])
        elif action == 2 and data:
            del data[at % len(data)]
        else:
            data[at:at] = rng.choice(
                [b"\x0b\x0c", b"\x50\x01", b"\x12\x00", b"\x2d....", b"\x0a\x02\x0a\x00"]
            )
    return bytes(data)


def by_protobuf(body: bytes) -> tuple[bytes, list[bytes]] | None:
    """(the request without its Input, the Examples with their context merged in); None when it is no request."""
    try:
        whole = messages.ClassificationRequest.FromString(body)
    except DecodeError:
        return None
    if whole.input.WhichOneof("kind") == "example_list_with_context":
        listed = whole.input.example_list_with_context
        context = listed.context.SerializeToString()
        values = [plain(context + one.SerializeToString()) for one in listed.examples]
    else:
        values = [plain(one.SerializeToString()) for one in whole.input.example_list.examples]
    whole.ClearField("input")
    return whole.SerializeToString(deterministic=True), values


def plain(example: bytes) -> bytes:
    """One form for all encodings of an Example."""
    made: bytes = messages.Example.FromString(example).SerializeToString(deterministic=True)
    return made


@pytest.mark.parametrize("seed", range(8))
def test_the_core_reads_what_protobuf_reads(seed: int) -> None:
    rng = random.Random(seed)
    refused = 0
    for _ in range(1500):
        body = mutated(rng, random_request(rng))
        wanted = by_protobuf(body)
        said = None
        try:
            request, examples = take_apart(REQUEST, body)
        except TfsError as error:
            said, refused = (error.code, error.message), refused + 1
        if wanted is None:
            assert said == (Code.INTERNAL, ""), body
            continue
        assert said is None, body
        values = list(messages.TensorProto.FromString(examples.values).string_val)
        read = [plain(value) for value in values]
        assert (request.SerializeToString(deterministic=True), read) == wanted, body
        assert examples.count == len(values)
        assert examples == pack(values)
    assert 100 < refused < 1400


def test_a_context_that_multiplies_is_refused() -> None:
    """A request of a few megabytes must not stand for terabytes."""
    made = messages.ClassificationRequest()
    made.input.example_list_with_context.context.features.feature["x"].bytes_list.value.append(bytes(1 << 20))
    body = made.SerializeToString()
    many = messages.ClassificationRequest()
    many.input.example_list_with_context.examples.extend([messages.Example()] * 255)
    _, values, count = take_examples(body + many.SerializeToString())
    assert (count, len(values) >> 20) == (255, 255)
    many.input.example_list_with_context.examples.add()
    with pytest.raises(
        TfsError, match=r"256 Examples with a context of \d+ bytes are more than 268435456"
    ) as raised:
        take_examples(body + many.SerializeToString())
    assert raised.value.code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize("shape", ["many", "one"])
def test_the_loop_goes_on_while_64_mib_are_taken_apart(shape: str) -> None:
    """The work is on a thread and without the GIL: nothing on the loop waits for it."""
    if shape == "many":
        body = b"\x12\x06\x0a\x04\x0a\x02\x0a\x00" * (8 << 20)
    else:
        made = messages.Example()
        made.features.feature["x"].bytes_list.value.append(bytes(64 << 20))
        part = messages.ClassificationRequest()
        part.input.example_list.examples.append(made)
        body = part.SerializeToString()

    async def turns_meanwhile() -> int:
        work = asyncio.ensure_future(asyncio.to_thread(take_apart, REQUEST, body))
        turns = 0
        while not work.done():
            await asyncio.sleep(0)
            turns += 1
        assert (await work)[1].count == (8 << 20 if shape == "many" else 1)
        return turns

    # Thousands, in fact; a handful when the work keeps the GIL.
    assert asyncio.run(turns_meanwhile()) > 100
