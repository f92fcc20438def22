"""The blocking client over REST, with the face of the gRPC one; the standard library's HTTP only.

Owns: URLs, JSON bodies, the pool of connections. Must not know: gRPC. Instances may be shared between threads.
JSON carries no types: outputs take theirs from the model's metadata, which is asked for once per model and version.
"""

from __future__ import annotations

import base64
import http.client
import json
import ssl
from collections import deque
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Final
from urllib.parse import quote, urlsplit

import numpy as np

from tfs.client import types
from tfs.client.dtypes import Array, DataType, numpy_type, to_array, to_tensor
from tfs.client.examples import Example, decode_example
from tfs.errors import Code, Internal, InvalidArgument, TfsError, Unavailable, Unimplemented, from_code

# HTTP status -> the code it stands for most often; the reply's text says the rest.
_CODES: Final = {
    400: Code.INVALID_ARGUMENT, 401: Code.UNAUTHENTICATED, 403: Code.PERMISSION_DENIED, 404: Code.NOT_FOUND, 409: Code.ABORTED,
    429: Code.RESOURCE_EXHAUSTED, 499: Code.CANCELLED, 500: Code.INTERNAL, 501: Code.UNIMPLEMENTED, 503: Code.UNAVAILABLE,
    504: Code.DEADLINE_EXCEEDED,
}  # fmt: skip
_IDLE_CONNECTIONS: Final = 16
Headers = Sequence[tuple[str, str]]


class RestClient:
    """Talks to the REST port: `RestClient("http://host:8501")`.

    Methods are those of `Client`, with HTTP headers for `metadata`; there is no reload over REST. Every method raises TfsError with
    the code that the HTTP status stands for and the server's text."""

    def __init__(
        self,
        url: str,
        *,
        tls: ssl.SSLContext | None = None,
        metadata: Headers = (),
        timeout: float | None = None,
    ) -> None:
        """Connects when first used. `url`: http://host:port or https://host:port, a path before /v1 allowed. tls: for https, instead
        of the system's authorities. metadata: headers sent with every request. timeout: seconds for each step on the socket."""
        try:
            parts = urlsplit(url)
            self._host, self._port = parts.hostname or "", parts.port
        except ValueError:  # brackets that do not close, a port that is no number
            parts = None
        if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidArgument(f"a REST address is http://host:port or https://host:port, not {url!r}")
        self._base = parts.path.rstrip("/")
        self._secure, self._tls = parts.scheme == "https", tls
        self._headers = dict(metadata)
        self._timeout = timeout
        self._idle: deque[http.client.HTTPConnection] = deque(maxlen=_IDLE_CONNECTIONS)
        self._known: dict[tuple[str, int | None, str | None], types.ModelMetadata] = {}

    def predict(
        self,
        model: str,
        inputs: Mapping[str, object],
        *,
        version: int | None = None,
        label: str | None = None,
        signature: str = "",
        output_filter: Sequence[str] = (),
        timeout: float | None = None,
        metadata: Headers = (),
    ) -> types.Prediction:
        """Runs a signature on arrays and gives its outputs as arrays; bytes travel as base64. The filter is applied here."""
        outputs = self._signature(model, version, label, signature).outputs
        body: dict[str, Any] = {"signature_name": signature} if signature else {}
        body["inputs"] = {alias: _to_json(alias, value) for alias, value in inputs.items()}
        path = _path(model, version, label) + ":predict"
        found = self._post(path, body, "outputs", timeout, metadata)
        if len(outputs) == 1:
            found = {next(iter(outputs)): found}
        unknown = set(output_filter) - set(found)
        if unknown:
            raise InvalidArgument(f"output tensor alias not found in signature: {min(unknown)}")
        wanted = output_filter or found
        return types.Prediction({alias: _from_json(found[alias], outputs[alias].dtype) for alias in wanted})

    def classify(
        self,
        model: str,
        examples: Sequence[Example],
        *,
        context: Example | None = None,
        version: int | None = None,
        label: str | None = None,
        signature: str = "",
        timeout: float | None = None,
        metadata: Headers = (),
    ) -> list[list[types.Class]]:
        """The classes of each example; examples are dicts of features or serialized tf.Examples."""
        path = _path(model, version, label) + ":classify"
        found = self._post(path, _examples(examples, context, signature), "results", timeout, metadata)
        return [[types.Class(label, float(score)) for label, score in row] for row in found]

    def regress(
        self,
        model: str,
        examples: Sequence[Example],
        *,
        context: Example | None = None,
        version: int | None = None,
        label: str | None = None,
        signature: str = "",
        timeout: float | None = None,
        metadata: Headers = (),
    ) -> Array:
        """The value of each example: float32 [number of examples]."""
        path = _path(model, version, label) + ":regress"
        found = self._post(path, _examples(examples, context, signature), "results", timeout, metadata)
        return np.array(found, np.float32)

    def status(
        self, model: str, *, version: int | None = None, timeout: float | None = None, metadata: Headers = ()
    ) -> list[types.VersionStatus]:
        """Every version the server has seen, highest first, or the one asked for."""
        return _statuses(self._get(_path(model, version, None), timeout, metadata))

    def models(
        self, *, timeout: float | None = None, metadata: Headers = ()
    ) -> dict[str, list[types.VersionStatus]]:
        """Every model with its versions, highest first. TensorFlow Serving cannot tell and answers with an error."""
        found = self._get("/v1/models", timeout, metadata).get("models", [])
        return {one["name"]: _statuses(one) for one in found}

    def metadata(
        self,
        model: str,
        *,
        version: int | None = None,
        label: str | None = None,
        timeout: float | None = None,
        metadata: Headers = (),
    ) -> types.ModelMetadata:
        """The signatures of a loaded version."""
        found = self._get(_path(model, version, label) + "/metadata", timeout, metadata)
        named = found["metadata"]["signature_def"]["signature_def"]
        signatures = {name: _signature(one) for name, one in sorted(named.items())}
        spec = found["model_spec"]
        return types.ModelMetadata(spec["name"], int(spec["version"]), signatures)

    def reload(self, models: Sequence[types.ModelConfig] | bytes, **_: object) -> dict[str, int]:
        """Raises Unimplemented: configurations are replaced over gRPC only."""
        raise Unimplemented("there is no reload over REST: use the gRPC port")

    def close(self) -> None:
        """Closes the idle connections. Idempotent."""
        while self._idle:
            self._idle.pop().close()

    def __enter__(self) -> RestClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _signature(
        self, model: str, version: int | None, label: str | None, signature: str
    ) -> types.Signature:
        key = (model, version, label)
        name = signature or "serving_default"
        known = self._known.get(key)
        if known is None or name not in known.signatures:
            known = self._known[key] = self.metadata(model, version=version, label=label)
        if name not in known.signatures:
            raise InvalidArgument(f'Serving signature name: "{name}" not found in signature def')
        return known.signatures[name]

    def _post(self, path: str, body: object, wanted: str, timeout: float | None, headers: Headers) -> Any:
        reply = self._request("POST", path, json.dumps(body).encode(), timeout, headers)
        if wanted not in reply:
            raise Internal(f"the reply cannot be read: it has no '{wanted}'")
        return reply[wanted]

    def _get(self, path: str, timeout: float | None, headers: Headers) -> Any:
        return self._request("GET", path, None, timeout, headers)

    def _request(
        self, method: str, path: str, body: bytes | None, timeout: float | None, headers: Headers
    ) -> Any:
        """The reply's JSON object; a kept connection that the server has closed meanwhile is replaced once."""
        sent = {"Content-Type": "application/json", **self._headers, **dict(headers)}
        patience = self._timeout if timeout is None else timeout
        while True:
            try:
                connection, kept = self._idle.pop(), True
            except IndexError:
                connection, kept = self._connection(), False
            connection.timeout = patience
            if connection.sock is not None:
                connection.sock.settimeout(patience)
            try:
                connection.request(method, self._base + path, body, sent)
                response = connection.getresponse()
                raw = response.read()
                break
            except TimeoutError:
                connection.close()
                raise from_code(
                    Code.DEADLINE_EXCEEDED, f"no answer from {self._host} in {patience} s"
                ) from None
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                if not (kept and isinstance(error, (ConnectionError, http.client.RemoteDisconnected))):
                    raise Unavailable(f"{self._host}:{self._port}: {_trouble(error)}") from None
        if not response.will_close:
            self._idle.append(connection)
        return _reply(response.status, raw)

    def _connection(self) -> http.client.HTTPConnection:
        if self._secure:
            return http.client.HTTPSConnection(self._host, self._port, context=self._tls)
        return http.client.HTTPConnection(self._host, self._port)


def _trouble(error: Exception) -> str:
    if isinstance(error, http.client.BadStatusLine) and not isinstance(error, ConnectionError):
        return "what answers there does not speak HTTP/1.1; is it the gRPC port?"
    return str(error)


def _reply(status: int, raw: bytes) -> Any:
    try:
        found = json.loads(raw)
    except ValueError:
        found = None
    if status == 200 and isinstance(found, dict):
        return found
    text = found.get("error") if isinstance(found, dict) else raw[:200].decode("utf-8", "replace")
    raise _error(status, text or f"HTTP status {status}")


def _error(status: int, text: str) -> TfsError:
    return from_code(_CODES.get(status, Code.INTERNAL if status == 200 else Code.UNKNOWN), text)


def _path(model: str, version: int | None, label: str | None) -> str:
    types.check_choice(version, label)
    path = f"/v1/models/{quote(model, safe='')}"
    if version is not None:
        return f"{path}/versions/{version}"
    return path if label is None else f"{path}/labels/{quote(label, safe='')}"


def _statuses(found: Any) -> list[types.VersionStatus]:
    return [
        types.VersionStatus(
            int(one.get("version", 0)),
            types.State[one["state"]],
            Code[one["status"]["error_code"]],
            one["status"]["error_message"],
        )
        for one in found.get("model_version_status", [])
    ]


def _signature(found: Any) -> types.Signature:
    return types.Signature(
        {name: _tensor_info(info) for name, info in sorted(found["inputs"].items())},
        {name: _tensor_info(info) for name, info in sorted(found["outputs"].items())},
        found.get("method_name", ""),
        tuple(sorted(found.get("defaults", {}))),
    )


def _tensor_info(found: Any) -> types.TensorInfo:
    shape = found["tensor_shape"]
    sizes = [int(dim["size"]) for dim in shape.get("dim", [])]
    known = not shape.get("unknown_rank", False)
    return types.TensorInfo(
        found.get("name", ""),
        DataType[found["dtype"]],
        tuple(size if size >= 0 else None for size in sizes) if known else None,
    )


def _to_json(alias: str, value: object) -> Any:
    dtype, shape, values = to_tensor(alias, value)
    if isinstance(values, list):
        return to_array(dtype, shape, [{"b64": base64.b64encode(one).decode()} for one in values]).tolist()  # type: ignore[misc]
    return values.tolist()


def _from_json(found: Any, dtype: int) -> Array:
    if dtype != DataType.DT_STRING:
        return np.array(found, numpy_type(dtype))
    return _strings(found)


def _strings(found: Any) -> Array:
    """Nested lists of strings and b64 objects as an object array of bytes."""
    shape, level = [], found
    while isinstance(level, list):
        shape.append(len(level))
        level = level[0] if level else None
    flat = [found]
    for _ in shape:
        flat = [one for row in flat for one in row]
    return to_array(DataType.DT_STRING, tuple(shape), [_text(one) for one in flat])


def _text(one: Any) -> bytes:
    return base64.b64decode(one["b64"]) if isinstance(one, dict) else str(one).encode()


def _examples(examples: Sequence[Example], context: Example | None, signature: str) -> dict[str, Any]:
    body: dict[str, Any] = {"signature_name": signature} if signature else {}
    if context is not None:
        body["context"] = _features(context)
    body["examples"] = [_features(one) for one in examples]
    return body


def _features(example: Example) -> dict[str, Any]:
    given = decode_example(example) if isinstance(example, bytes) else example
    return {name: _feature(value) for name, value in given.items()}


def _feature(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"b64": base64.b64encode(value).decode()}
    if isinstance(value, (np.ndarray, np.generic)):
        return _feature(value.tolist())
    return [_feature(one) for one in value] if isinstance(value, (list, tuple)) else value
