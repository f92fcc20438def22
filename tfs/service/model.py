"""ModelService: GetModelStatus and HandleReloadConfigRequest, and the JSON of a status for REST.

Owns: turning what the control plane knows into messages.  The control plane itself is behind `ModelCore`.
Must not know: grpc, HTTP.  A reload blocks for as long as models load, so it runs on threads of its own: neither on the loop nor
on those that the loop lends to short work.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Protocol

from tfs import messages
from tfs.errors import InvalidArgument, TfsError
from tfs.service.metadata import printable
from tfs.service.parsing import MAX_CONFIG_BYTES, parse, version_of

# Reloads take turns in the control plane; more of them than this wait here.
_RELOADS: Final = 4


class VersionStatus(Protocol):
    """One known version of a model."""

    @property
    def version(self) -> int: ...
    @property
    def state(self) -> int:
        """The number of ModelVersionStatus.State."""

    @property
    def error(self) -> TfsError | None: ...


class ModelCore(Protocol):
    """The control plane as the services see it; methods from any thread."""

    def reload(self, config: Any, timeout_s: float | None) -> None:
        """Applies a ModelServerConfig message; blocks until its new models are available, for `timeout_s` at most; raises TfsError."""

    def model_status(self, name: str, version: int | None) -> Sequence[VersionStatus]:
        """The known versions, or that one; raises NotFound with the reference's texts."""

    def model_names(self) -> Iterable[str]:
        """The models of the present configuration."""


class ModelService:
    """Both RPCs over one control plane."""

    def __init__(self, core: ModelCore, counter: Callable[[str], int] = lambda name: 0) -> None:
        """`counter` gives a metric's first value by its internal name, 0 when there is none."""
        self._core, self._counter = core, counter
        self._reloads = ThreadPoolExecutor(_RELOADS, thread_name_prefix="tfs-reload")

    async def get_model_status(self, body: bytes, timeout_ns: int | None) -> bytes:
        """A serialized GetModelStatusRequest -> GetModelStatusResponse."""
        request = parse("GetModelStatusRequest", body)
        if not request.HasField("model_spec"):
            raise InvalidArgument("Missing ModelSpec")
        spec = request.model_spec
        return bytes(self.status(spec.name, version_of(spec)).SerializeToString())

    async def handle_reload_config(self, body: bytes, timeout_ns: int | None) -> bytes:
        """A serialized ReloadConfigRequest -> ReloadConfigResponse."""
        request = parse("ReloadConfigRequest", body, MAX_CONFIG_BYTES)
        if request.config.WhichOneof("config") != "model_config_list":
            raise InvalidArgument(
                "ServerModelConfig type not supported by HandleReloadConfigRequest."
                " Only ModelConfigList is currently supported"
            )
        before = [self._counter(name) for name in request.metric_names]
        timeout_s = None if timeout_ns is None else timeout_ns / 1e9
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._reloads, self._core.reload, request.config, timeout_s)
        response = messages.ReloadConfigResponse()
        response.status.SetInParent()
        for name, value in zip(request.metric_names, before, strict=True):
            metric = response.metric.add()
            metric.name = name
            metric.int64_value_increase = self._counter(name) - value
        return bytes(response.SerializeToString())

    def status(self, model: str, version: int | None) -> Any:
        """The GetModelStatusResponse message; raises NotFound."""
        response = messages.GetModelStatusResponse()
        known = sorted(self._core.model_status(model, version), key=lambda one: -one.version)
        for one in known:
            entry = response.model_version_status.add()
            entry.version = one.version
            entry.state = int(one.state)
            entry.status.SetInParent()
            if one.error is not None:
                entry.status.error_code = int(one.error.code)
                entry.status.error_message = one.error.message
        return response

    def status_json(self, model: str, version: int | None) -> bytes:
        """The REST body of a status; raises NotFound."""
        return json.dumps(printable(self.status(model, version)), indent=1, ensure_ascii=False).encode()

    def list_json(self) -> bytes:
        """The REST body of `GET /v1/models`: every configured model and its known versions."""
        models = []
        for name in sorted(self._core.model_names()):
            try:
                versions = printable(self.status(name, None))
            except TfsError:
                versions = {"model_version_status": []}  # Configured, but no version directory has been seen.
            models.append({"name": name, **versions})
        return json.dumps({"models": models}, indent=1, ensure_ascii=False).encode()
