"""The OpenAPI 3.1 document of the REST API, generated from the signatures of the models that are served now.

Must not know: HTTP servers.  Any thread.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeAlias
from urllib.parse import quote

import tfs
from tfs import messages
from tfs._fastpath import Engine, LoadedServable
from tfs.errors import TfsError
from tfs.service.signatures import DEFAULT_SIGNATURE

Schema: TypeAlias = dict[str, Any]

_STRING, _BOOL = 7, 10
_INTEGERS: Final = frozenset({3, 4, 5, 6, 9, 17, 22, 23})  # the DataTypes of whole numbers
_BASE64: Final[Schema] = {
    "type": "object",
    "properties": {"b64": {"type": "string", "contentEncoding": "base64"}},
    "required": ["b64"],
}
_ERRORS: Final[Schema] = {
    "default": {
        "description": "An error; the status follows the canonical code.",
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {"error": {"type": "string"}},
                    "required": ["error"],
                }
            }
        },
    }
}
_NO_SIGNATURE: Final = "__saved_model_init_op"


def document(engine: Engine, model_names: Callable[[], Iterable[str]]) -> bytes:
    """The document as JSON; models without a version that serves are left out."""
    paths: dict[str, Any] = {"/v1/models": {"get": _get("The models and their versions")}}
    for name in sorted(model_names()):
        try:
            servable = engine.resolve(name, None, None)
        except TfsError:
            continue
        paths.update(_paths(name, servable))
    made = {
        "openapi": "3.1.0",
        "info": {
            "title": "tfs",
            "version": tfs.__version__,
            "description": "Models behind the TensorFlow Serving REST API. A version can be chosen by /versions/N or /labels/L "
            "before the verb. The schemas are those of the latest versions.",
        },
        "paths": paths,
    }
    return json.dumps(made, ensure_ascii=False).encode()


def _paths(name: str, servable: LoadedServable) -> dict[str, Any]:
    base = f"/v1/models/{quote(name, safe='')}"
    signatures = {
        key: messages.SignatureDef.FromString(serialized)
        for key, serialized in sorted(servable.signature_defs.items())
        if key != _NO_SIGNATURE
    }
    paths: dict[str, Any] = {
        base: {"get": _get(f"State of the versions of {name}")},
        f"{base}/metadata": {"get": _get(f"Signatures of {name}")},
        f"{base}:predict": _post(f"Run {name}", [_predict(key, one) for key, one in signatures.items()]),
    }
    for verb in ("classify", "regress"):
        fitting = [key for key, one in signatures.items() if one.method_name == f"tensorflow/serving/{verb}"]
        if fitting:
            paths[f"{base}:{verb}"] = _post(f"{verb.capitalize()} Examples with {name}", [_examples(fitting)])
    return paths


def _get(summary: str) -> Schema:
    ok = {"200": {"description": "OK", "content": {"application/json": {"schema": {"type": "object"}}}}}
    return {"summary": summary, "responses": ok | _ERRORS}


def _post(summary: str, bodies: list[tuple[Schema, Schema]]) -> Schema:
    return {
        "post": {
            "summary": summary,
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": _any_of([body for body, _ in bodies])}},
            },
            "responses": {
                "200": {
                    "description": "OK",
                    "content": {"application/json": {"schema": _any_of([answer for _, answer in bodies])}},
                }
            }
            | _ERRORS,
        }
    }


def _predict(key: str, signature: Any) -> tuple[Schema, Schema]:
    """(request, answer) of predict with one signature, rows or columns."""
    name: Schema = {"const": key}
    required = [] if key == DEFAULT_SIGNATURE else ["signature_name"]

    def body(member: str, value: Schema) -> Schema:
        return {
            "type": "object",
            "properties": {"signature_name": name, member: value},
            "required": [*required, member],
        }

    rows = {"type": "array", "items": _tensors(signature.inputs, "", row=True), "minItems": 1}
    columns = _tensors(signature.inputs, "", row=False)
    answers = [
        {"predictions": {"type": "array", "items": _tensors(signature.outputs, "_bytes", row=True)}},
        {"outputs": _tensors(signature.outputs, "_bytes", row=False)},
    ]
    return (
        _any_of([body("instances", rows), body("inputs", columns)]),
        _any_of([{"type": "object", "properties": one, "required": list(one)} for one in answers]),
    )


def _tensors(infos: Any, base64_suffix: str, *, row: bool) -> Schema:
    """One tensor as it is, or an object of several. Strings whose alias ends in `base64_suffix` may be base64 objects."""
    schemas = {
        alias: _tensor(info, row=row, base64=alias.endswith(base64_suffix))
        for alias, info in sorted(infos.items())
    }
    named: Schema = {"type": "object", "properties": schemas, "required": list(schemas)}
    if len(schemas) == 1:
        (alone,) = schemas.values()
        return _any_of([alone, named]) if not base64_suffix else alone
    return named


def _tensor(info: Any, *, row: bool, base64: bool) -> Schema:
    dims = [int(dim.size) for dim in info.tensor_shape.dim]
    if info.tensor_shape.unknown_rank:
        return {"description": f"{messages.DataType.Name(info.dtype)} of any shape"}
    schema = _element(info.dtype, base64)
    for size in reversed(dims[1:] if row else dims):
        schema = {"type": "array", "items": schema}
        if size >= 0:
            schema |= {"minItems": size, "maxItems": size}
    return schema | {"description": f"{messages.DataType.Name(info.dtype)} {dims}"}


def _element(dtype: int, base64: bool) -> Schema:
    if dtype == _STRING:
        return _any_of([{"type": "string"}, _BASE64]) if base64 else {"type": "string"}
    if dtype == _BOOL:
        return {"type": "boolean"}
    return {"type": "integer" if dtype in _INTEGERS else "number"}


def _examples(signatures: list[str]) -> tuple[Schema, Schema]:
    scalar = _any_of([{"type": ["number", "string", "boolean"]}, _BASE64])
    example = {
        "type": "object",
        "additionalProperties": _any_of([scalar, {"type": "array", "items": scalar}]),
    }
    required = ["examples"] if DEFAULT_SIGNATURE in signatures else ["signature_name", "examples"]
    body = {
        "type": "object",
        "properties": {
            "signature_name": {"enum": signatures},
            "context": example,
            "examples": {"type": "array", "items": example, "minItems": 1},
        },
        "required": required,
    }
    return body, {"type": "object", "properties": {"results": {"type": "array"}}, "required": ["results"]}


def _any_of(schemas: list[Schema]) -> Schema:
    return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
