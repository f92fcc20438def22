"""The blocking client over gRPC.

Owns: the channel and its methods. What is asked and how answers are read is `_calls`. Instances may be shared between threads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

from tfs.client import _calls, _channel, types
from tfs.client._channel import TLS, Metadata
from tfs.client.dtypes import Array
from tfs.client.examples import Example

T = TypeVar("T")


class Client:
    """Talks to a TensorFlow Serving compatible server: `Client("host:8500")`.

    Every method takes `timeout` (seconds; None: the client's) and raises TfsError with the server's code and text. A version is chosen
    by `version` or by `label`; neither means the latest. Use it as a context manager, or call `close`."""

    def __init__(
        self,
        target: str | Sequence[str],
        *,
        tls: TLS | bool | None = None,
        metadata: Metadata = (),
        timeout: float | None = None,
        keepalive_s: float | None = None,
        retries: int = 3,
        options: Sequence[tuple[str, Any]] = (),
    ) -> None:
        """Connects when first used. `target`: what gRPC understands ("host:8500", "dns:///name:8500", "unix:/path"), or several
        numeric addresses; calls go to all servers of it in turn. tls: True for the system's authorities. metadata: sent with every
        call. keepalive_s: seconds between pings of an idle connection. retries: how often (at most 4) a call is repeated while the
        answer is UNAVAILABLE or CANCELLED: nobody there, too much to do, or a server that stops. options: more gRPC channel arguments."""
        self._metadata = tuple(metadata)
        self._timeout = timeout
        self._channel = _channel.open_channel(target, tls, keepalive_s, retries, options)
        self._methods: dict[str, Any] = {}

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
        metadata: Metadata = (),
    ) -> types.Prediction:
        """Runs a signature on arrays (or what numpy makes arrays of) and gives its outputs, or those in `output_filter`, as arrays.

        Outputs share memory with the reply where they can and are then read-only; strings are object arrays of bytes."""
        head = _calls.spec(model, version, label, signature)
        return self._run(_calls.predict(head, inputs, output_filter), timeout, metadata)

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
        metadata: Metadata = (),
    ) -> list[list[types.Class]]:
        """The classes of each example; examples are dicts of features or serialized tf.Examples."""
        head = _calls.spec(model, version, label, signature)
        return self._run(_calls.classify(head, examples, context), timeout, metadata)

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
        metadata: Metadata = (),
    ) -> Array:
        """The value of each example: float32 [number of examples]."""
        head = _calls.spec(model, version, label, signature)
        return self._run(_calls.regress(head, examples, context), timeout, metadata)

    def status(
        self, model: str, *, version: int | None = None, timeout: float | None = None, metadata: Metadata = ()
    ) -> list[types.VersionStatus]:
        """Every version the server has seen, highest first, or the one asked for."""
        return self._run(_calls.status(_calls.spec(model, version)), timeout, metadata)

    def metadata(
        self,
        model: str,
        *,
        version: int | None = None,
        label: str | None = None,
        timeout: float | None = None,
        metadata: Metadata = (),
    ) -> types.ModelMetadata:
        """The signatures of a loaded version."""
        return self._run(_calls.metadata(_calls.spec(model, version, label)), timeout, metadata)

    def reload(
        self,
        models: Sequence[types.ModelConfig] | bytes,
        *,
        metrics: Sequence[str] = (),
        timeout: float | None = None,
        metadata: Metadata = (),
    ) -> dict[str, int]:
        """Replaces the whole set of models (or takes a serialized ModelServerConfig); returns when every new one is available. Gives
        by how much each of `metrics` grew meanwhile."""
        return self._run(_calls.reload(models, metrics), timeout, metadata)

    def close(self) -> None:
        """Ends the channel; calls under way fail with CANCELLED. Idempotent."""
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, call: _calls.Call[T], timeout: float | None, metadata: Metadata) -> T:
        method = self._methods.get(call.path)
        if method is None:  # raw bytes both ways
            method = self._methods[call.path] = self._channel.unary_unary(call.path)
        try:
            reply = method(
                call.request,
                timeout=self._timeout if timeout is None else timeout,
                metadata=(*self._metadata, *metadata) or None,
            )
        except _channel.failure() as error:
            raise _channel.error_of(error) from None
        return call.read(reply)
