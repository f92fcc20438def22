"""The parts of one server process and how they hang together.

Owns: one instance of each part; which transport serves gRPC; the ready lines.  Part of the composition root: the only modules that
may import everything below.  Must not know: how any part works.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from tfs import _fastpath, config, cores, messages, servable
from tfs._fastpath import Engine, LoadedServable, Mailbox
from tfs.batching import Batching
from tfs.errors import Code, Internal, InvalidArgument, TfsError
from tfs.lifecycle.options import LifecycleOptions
from tfs.lifecycle.server_core import ServerCore
from tfs.lifecycle.server_core import build as build_server_core
from tfs.lifecycle.synthetic import SyntheticWarmUp
from tfs.lifecycle.warmup import WarmUp, WarmUpStats
from tfs.metrics import Metrics, Sources
from tfs.op_packages import OpPackages
from tfs.service import examples, openapi
from tfs.service.metadata import MetadataService
from tfs.service.methods import API_NAMES, SERVICES, Handler, method_table
from tfs.service.model import ModelService
from tfs.transport import health, pages, reflection, rest, rest_protocol
from tfs.transport.grpc_aio import GrpcServer, GrpcSettings
from tfs.transport.native_bridge import NativeBridge
from tfs.transport.tls import TlsFiles, server_context

_log = logging.getLogger("tfs.server")

# Without --max_held_request_bytes: four of the largest usual tensors (64 MiB) with as much again in flight. Beyond it the native
# transport gives no HTTP/2 windows, REST refuses.
_BYTE_BUDGET = 512 << 20
# Once the transports have drained, nobody waits for a run any more: runs that outlived their callers are cancelled after this long.
_CLOSE_WAIT_S = 2.0
# Without a limit by flag: protobuf's own, which is also the reference's.
_MAX_MESSAGE_BYTES = (1 << 31) - 1
# Without --max_connections: about 20 kB each when idle, so 400 MB at the very worst.
_MAX_CONNECTIONS = 20_000


@dataclass(slots=True)
class Parts:
    """Everything that runs. `start_models` and `close` block (a thread); the coroutines belong to the loop of the mailbox."""

    prepared: config.Prepared
    engine: Engine
    batching: Batching
    mailbox: Mailbox
    core: ServerCore[LoadedServable]
    methods: dict[str, Handler]
    rest_app: rest.RestApp
    health: health.Health
    grpc_server: GrpcServer | None = None
    native: _fastpath.NativeServer | None = None
    bridge: NativeBridge | None = None
    rest_server: rest_protocol.RestServer | None = None

    def start_models(self) -> None:
        """Blocks until every model has a version that serves; raises the start-up error."""
        self.core.start(self.prepared.models)
        period_s = self.prepared.settings.model_config_file_poll_wait_seconds
        if period_s > 0:
            self.batching.watch(period_s)

    async def open_ports(self) -> None:
        """gRPC first, then REST, each announced by the reference's ready line. Raises TfsError for an address that is taken."""
        asyncio.get_running_loop().add_reader(self.mailbox.fileno(), self.mailbox.drain)
        self.health.set_serving(True)
        rest_problem = self._bind_rest()
        native_grpc = self._natively("gRPC")
        native_rest = self.rest_server is not None and self._natively("REST")
        await self._open_grpc(native_grpc, native_rest)
        if rest_problem:  # gRPC is served all the same, as in the reference
            _log.error("%s", rest_problem)
        if self.rest_server is not None:
            if not native_rest:
                await self.rest_server.start()
            _log.info("Exporting HTTP/REST API at:localhost:%d ...", self.rest_server.port)

    async def drain(self, grace_s: float) -> None:
        """Tells health checks, accepts nothing more, waits for the calls under way for `grace_s`, cuts off the rest."""
        self.health.set_serving(False)
        waits = []
        if self.native is not None:
            self.native.drain(grace_s)
            waits.append(self._drain_native(self.native, grace_s))
        if self.bridge is not None:
            self.bridge.take()  # REST connections on their way to Python
        if self.rest_server is not None:
            waits.append(self.rest_server.stop(grace_s))
        if self.grpc_server is not None:
            waits.append(self.grpc_server.stop(grace_s))
        await asyncio.gather(*waits)

    def close(self) -> None:
        """Unloads every model and ends the core's threads. Blocks, on a thread: the loop must go on draining the mailbox, because a call
        whose run outlives its answer holds its servable until the loop has freed it."""
        if self.native is not None:
            self.native.close()
        self.batching.close()
        self.core.close(_CLOSE_WAIT_S)
        self.engine.close()

    # -- which transport

    def _natively(self, face: str) -> bool:
        """Whether the core's I/O threads serve this face ("gRPC" or "REST"); says why not, where that was asked for or may surprise."""
        settings = self.prepared.settings
        asked = settings.grpc_transport if face == "gRPC" else settings.rest_transport
        ssl = self.prepared.ssl if face == "gRPC" else self.prepared.rest_ssl
        if asked not in ("auto", "native"):
            return False
        reason = native_refusal(ssl)
        if reason is not None:
            level = logging.WARNING if asked == "native" else logging.INFO
            _log.log(level, "%s is served by %s: %s", face, "grpcio" if face == "gRPC" else "uvicorn", reason)
        return reason is None

    def _make_native(self, addresses: list[str]) -> _fastpath.NativeServer:
        """The I/O threads, not started yet, with gRPC at these addresses."""
        settings = self.prepared.settings
        native = _fastpath.NativeServer(
            self.engine,
            addresses=addresses,
            io_threads=settings.grpc_io_threads or cores.usable(),
            cold=list(self._cold_methods()),
            max_message_bytes=_MAX_MESSAGE_BYTES
            if settings.grpc_max_message_bytes < 0
            else settings.grpc_max_message_bytes,
            byte_budget=settings.max_held_request_bytes or _BYTE_BUDGET,
            max_connections=settings.max_connections or _MAX_CONNECTIONS,
            arguments=dict(self.prepared.grpc_arguments) if addresses else {},
            processors=cores.usable(),
            start=False,
        )
        for name in native.ignored_arguments:
            _log.warning("--grpc_channel_arguments: %s has no effect on the native transport", name)
        return native

    def _cold_methods(self) -> dict[str, Handler]:
        """What the native transport leaves to Python."""
        methods = dict(self.methods)
        if self.prepared.settings.enable_grpc_healthcheck_service:
            methods[health.CHECK] = self.health.check
        return methods

    async def _start_native(
        self, native: _fastpath.NativeServer, rest_server: rest_protocol.RestServer | None
    ) -> None:
        """Starts the I/O threads, with REST (None: without), and the bridge to what they leave to Python."""
        settings = self.prepared.settings
        if rest_server is not None:
            native.listen_rest(
                await rest_server.start_adopting(),
                **self.rest_app.native_settings(),
                max_connections=settings.max_connections or _MAX_CONNECTIONS,
                write_stall_ns=int(settings.rest_body_timeout_seconds * 1e9),
                keep_alive_ns=rest_protocol.KEEP_ALIVE_S * 1_000_000_000,
                silent_ns=int(settings.rest_header_timeout_seconds * 1e9),
            )
        self.bridge = NativeBridge(native, self._cold_methods(), rest_server)
        self.bridge.start()
        native.start()

    # -- gRPC

    async def _open_grpc(self, native_grpc: bool, native_rest: bool) -> None:
        settings = self.prepared.settings
        addresses = [f"{settings.bind_address}:{settings.port}"] if settings.port else []
        if settings.grpc_socket_path:
            addresses.append(f"unix:{settings.grpc_socket_path}")
        try:
            if native_grpc or native_rest:
                self.native = self._make_native(addresses if native_grpc else [])
            ports = (
                self.native.ports
                if native_grpc and self.native is not None
                else await self._start_grpcio(addresses)
            )
        except TfsError as error:  # the reference's code and words, and what it does not say
            raise InvalidArgument(f"Failed to BuildAndStart gRPC server: {error.message}") from None
        if self.native is not None:
            await self._start_native(self.native, self.rest_server if native_rest else None)
        for address, port in zip(addresses, ports, strict=True):
            if address.startswith("unix:"):
                _log.info("Running gRPC ModelServer at UNIX socket %s ...", address.removeprefix("unix:"))
            else:
                _log.info("Running gRPC ModelServer at %s:%d ...", settings.bind_address, port)

    async def _start_grpcio(self, addresses: list[str]) -> list[int]:
        settings = self.prepared.settings
        self.grpc_server = GrpcServer(
            GrpcSettings(
                addresses=addresses,
                tls=tls_files(self.prepared.ssl),
                max_receive_bytes=settings.grpc_max_message_bytes,
                channel_arguments=self.prepared.grpc_arguments,
            ),
            self.engine,
            self.mailbox,
            self.methods,
            health=self.health if settings.enable_grpc_healthcheck_service else None,
            reflection=reflection.Reflection(messages.pool(), SERVICES),
        )
        return await self.grpc_server.start()

    async def _drain_native(self, native: _fastpath.NativeServer, grace_s: float) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, native.wait_drained, grace_s + 1.0)
        if self.bridge is not None:
            await self.bridge.stop(0.0)  # what is left has had its grace; a reload may take minutes

    # -- REST

    def _bind_rest(self) -> str | None:
        """The REST server, bound but not serving, where there is to be one; what keeps it from that."""
        settings = self.prepared.settings
        if not settings.rest_api_port:
            return None
        if settings.rest_api_port == settings.port:
            return f"--rest_api_port is the gRPC port {settings.port}: the REST API is off"
        tls = tls_files(self.prepared.rest_ssl)
        context = server_context(tls) if tls is not None else None
        try:
            self.rest_server = rest_protocol.RestServer(
                self.rest_app,
                address=settings.bind_address,
                port=settings.rest_api_port,
                header_timeout_s=settings.rest_header_timeout_seconds,
                body_timeout_s=settings.rest_body_timeout_seconds,
                at_once=self.rest_app.at_once,
                max_connections=settings.max_connections or _MAX_CONNECTIONS,
                budget=self.rest_app.budget,
                tls=context,
            )
        except Internal as error:
            return f"Failed to start HTTP Server at localhost:{settings.rest_api_port}: {error.message}"
        return None


def native_refusal(ssl: config.Ssl | None) -> str | None:
    """Why the native transport cannot serve a face with these credentials, None when it can."""
    if not hasattr(_fastpath, "NativeServer"):
        return "this build has no native transport (libnghttp2 was not found)"
    if ssl is not None:
        return "the native transport has no TLS"
    return None


def tls_files(ssl: config.Ssl | None) -> TlsFiles | None:
    """The transport's form of an SSLConfig."""
    if ssl is None:
        return None
    return TlsFiles(
        ssl.server_key.encode(), ssl.server_cert.encode(), ssl.custom_ca.encode() or None, ssl.client_verify
    )


def build(prepared: config.Prepared) -> Parts:
    """Makes every part; nothing is loaded or bound yet. TensorFlow must be in the process. Loop thread."""
    settings = prepared.settings
    batching = Batching(prepared.loading, settings.batching_parameters_file)
    engine = _engine(settings, batching)
    mailbox = engine.mailbox()
    warm_ups = WarmUpStats()
    metrics = Metrics(
        Sources(
            counters=engine.counters,
            api_names=API_NAMES,
            status_names=[code.name for code in Code],
            warm_ups=warm_ups.rows,
        )
    )
    core = _server_core(prepared, engine, batching, warm_ups, metrics)
    example_service = examples.ExampleService(
        engine,
        mailbox,
        check_method_names=settings.enable_signature_method_name_check,
        count_examples=metrics.count_examples,
    )
    metadata = MetadataService(engine)
    model = ModelService(core, metrics.first_value)
    app = rest.RestApp(
        rest.RestSettings(
            timeout_ms=settings.rest_api_timeout_in_ms,
            cors=settings.rest_api_enable_cors_support,
            max_body_bytes=settings.rest_max_body_bytes,
            byte_budget=settings.max_held_request_bytes or _BYTE_BUDGET,
        ),
        engine,
        mailbox,
        examples=example_service,
        metadata=metadata,
        model=model,
        pages=pages.pages(
            reference_path=prepared.monitoring.path if prepared.monitoring.enabled else None,
            reference_metrics=metrics.reference_page,
            metrics=metrics.standard_page,
            openapi=lambda: openapi.document(engine, core.model_names),
        ),
    )
    return Parts(
        prepared=prepared,
        engine=engine,
        batching=batching,
        mailbox=mailbox,
        core=core,
        methods=method_table(example_service, metadata, model),
        rest_app=app,
        health=health.Health(),
    )


def _engine(settings: config.Settings, batching: Batching) -> Engine:
    return Engine(
        max_runners=settings.max_runners,
        max_runners_per_model=settings.max_runners_per_model,
        max_queued_calls=settings.max_queued_calls,
        max_queued_bytes=settings.max_queued_bytes,
        tensor_content=settings.enable_serialization_as_tensor_content,
        check_method_names=settings.enable_signature_method_name_check,
        batch_threads=batching.threads,
    )


def _server_core(
    prepared: config.Prepared, engine: Engine, batching: Batching, warm_ups: WarmUpStats, metrics: Metrics
) -> ServerCore[LoadedServable]:
    settings, loading = prepared.settings, prepared.loading
    loader = servable.ServableLoader(
        tags=loading.saved_model_tags,
        session_config=loading.session_config,
        ensure_ops=OpPackages().ensure_ops,
        configure=batching.configure,
        count_load=metrics.count_load,
    )
    synthetic = SyntheticWarmUp(
        lambda loaded: loaded.signature_defs, lambda loaded, name: loaded.is_stateless(name), engine.run_on
    )
    warm_up = WarmUp(
        lambda loaded, record: examples.replay(engine, loaded, record),
        loading.warmup_iterations,
        warm_ups,
        synthetic if settings.synthetic_warmup else None,
    )
    return build_server_core(
        LifecycleOptions(
            file_system_poll_wait_seconds=settings.file_system_poll_wait_seconds,
            model_config_file_poll_wait_seconds=settings.model_config_file_poll_wait_seconds,
            max_num_load_retries=settings.max_num_load_retries,
            load_retry_interval_micros=settings.load_retry_interval_micros,
            num_load_threads=settings.num_load_threads,
            num_unload_threads=settings.num_unload_threads,
            aspired_version_policy=settings.aspired_version_policy,
            allow_version_labels_for_unavailable_models=settings.allow_version_labels_for_unavailable_models,
            allow_partial_startup=settings.allow_partial_startup,
            platforms=loading.platforms,
            unload_grace_s=settings.unload_grace_seconds,
        ),
        loader.load,
        warm_up if loading.enable_model_warmup else None,
        engine.publish,
        settings.model_server_config if settings.model_config_file else None,
    )
