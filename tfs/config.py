"""From flag values and text protos to frozen settings: the only validation of settings.

Owns: `Settings` (the flags and what they mean together), the reading of text-format files with the reference's errors, and the
frozen values that the parts of the server are built from.  Must not know gRPC, HTTP, or how a command line is written.

`prepare(settings)` does everything that can fail before TensorFlow is touched, in the reference's order; its TfsError is the
start-up error.  protobuf is imported only when there is a file to read.  Threads: any, nothing is kept.
"""

from __future__ import annotations

import errno
import logging
import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from tfs import cores
from tfs.errors import InvalidArgument, Unimplemented
from tfs.flags import FLAGS, MAX_PORT, Flags
from tfs.lifecycle.files import local_path, os_error

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from tfs import messages

log = logging.getLogger("tfs.config")

PLATFORM: Final = "tensorflow"
DEFAULT_PROMETHEUS_PATH: Final = "/monitoring/prometheus/metrics"
DEFAULT_TAGS: Final = ("serve",)
# TensorFlow aborts below zero, and when the system has no more threads to give. No machine has as many cores.
_MOST_THREADS: Final = 4096


@dataclass(frozen=True, slots=True)
class BatchingParameters:
    """A BatchingParameters file; None stands for "not set".  Sizes are rows, times microseconds."""

    max_batch_size: int | None = None
    batch_timeout_micros: int | None = None
    max_enqueued_batches: int | None = None
    num_batch_threads: int | None = None
    thread_pool_name: str | None = None
    allowed_batch_sizes: tuple[int, ...] = ()
    pad_variable_length_inputs: bool = False
    enable_large_batch_splitting: bool | None = None
    max_execution_batch_size: int | None = None


@dataclass(frozen=True, slots=True)
class LoadingOptions:
    """How versions are loaded, warmed up and batched: from the flags, or all of it from --platform_config_file.

    `batching` is None when calls are not batched.  With `per_model_batching` it only says num_batch_threads and
    thread_pool_name; the rest comes from each version's own file.  `warmup_iterations` <= 0 means once.
    """

    platforms: frozenset[str]
    saved_model_tags: tuple[str, ...]
    session_config: bytes  # a serialized tensorflow.ConfigProto
    batching: BatchingParameters | None
    per_model_batching: bool
    enable_model_warmup: bool
    warmup_iterations: int


@dataclass(frozen=True, slots=True)
class Monitoring:
    """Whether the Prometheus page is served, and at which path of the REST port."""

    enabled: bool = False
    path: str = DEFAULT_PROMETHEUS_PATH


@dataclass(frozen=True, slots=True)
class Ssl:
    """TLS of one port: PEM texts.  `custom_ca` empty: the system's roots.  `client_verify`: a client certificate is required."""

    server_key: str
    server_cert: str
    custom_ca: str
    client_verify: bool


class Settings(Flags):
    """A value for every flag, and what the values mean together.  Frozen; methods read files and raise TfsError."""

    def check(self) -> None:
        """Raises InvalidArgument (Unimplemented for ALTS) when the flags cannot be combined; reads no file."""
        if self.port == 0 and not self.grpc_socket_path:
            raise InvalidArgument(
                "At least one of server_options.grpc_port or server_options.grpc_socket_path must be set."
            )
        if self.use_alts_credentials and self.ssl_config_file:
            raise InvalidArgument(
                "Either use_alts_credentials must be false or ssl_config_file must be empty."
            )
        if not self.model_base_path and not self.model_config_file:
            raise InvalidArgument(
                "Both server_options.model_base_path and server_options.model_config_file are empty!"
            )
        for name in ("port", "rest_api_port"):
            if not 0 <= getattr(self, name) <= MAX_PORT:  # the kernel would take it modulo 65536
                raise InvalidArgument(f"--{name}: expected 0 to {MAX_PORT}, got {getattr(self, name)}")
        if self.use_alts_credentials:
            # Serving in the clear what was meant to be protected would be worse than not starting.
            raise Unimplemented("--use_alts_credentials is not supported; use --ssl_config_file for TLS.")

    def model_server_config(self) -> messages.ModelServerConfig:
        """The models to serve: --model_config_file, else the one model of --model_name and --model_base_path."""
        from tfs import messages

        if self.model_config_file:
            return read_text_proto(self.model_config_file, messages.ModelServerConfig)
        config = messages.ModelServerConfig()
        model = config.model_config_list.config.add()
        model.name, model.base_path, model.model_platform = self.model_name, self.model_base_path, PLATFORM
        return config

    def loading_options(self) -> LoadingOptions:
        """How versions are loaded, from --platform_config_file or else the flags that it would replace."""
        if self.platform_config_file:
            return _platform_options(self.platform_config_file)
        return LoadingOptions(
            platforms=frozenset({PLATFORM}),
            batching=self.batching(),
            per_model_batching=self.enable_batching and self.enable_per_model_batching_parameters,
            session_config=self.session_config(),
            saved_model_tags=tuple(self.saved_model_tags.split(","))
            if self.saved_model_tags
            else DEFAULT_TAGS,
            enable_model_warmup=self.enable_model_warmup,
            warmup_iterations=self.num_request_iterations_for_warmup,
        )

    def batching(self) -> BatchingParameters | None:
        """The batching parameters when --enable_batching is given, else None."""
        if not self.enable_batching:
            if self.batching_parameters_file:
                raise InvalidArgument(
                    "server_options.batching_parameters_file is set without setting server_options.enable_batching to true."
                )
            return None
        if not self.batching_parameters_file:
            return BatchingParameters(thread_pool_name="model_server_batch_threads")
        return read_batching_parameters(self.batching_parameters_file)

    def session_threads(self) -> tuple[int, int]:
        """(intra-op, inter-op) threads; 0 lets TensorFlow choose."""
        both, intra, inter = (
            self.tensorflow_session_parallelism,
            self.tensorflow_intra_op_parallelism,
            self.tensorflow_inter_op_parallelism,
        )
        if both > 0 and intra > 0 and inter > 0:
            raise InvalidArgument(
                "Either configure server_options.tensorflow_session_parallelism or "
                "(server_options.tensorflow_intra_op_parallelism, server_options.tensorflow_inter_op_parallelism) "
                "separately. You cannot configure all."
            )
        if intra > 0 or inter > 0:
            _check_threads("--tensorflow_intra_op_parallelism", intra)
            # Negative: across ops everything runs in the caller's thread.
            _check_threads("--tensorflow_inter_op_parallelism", max(inter, 0))
            return intra, max(inter, -1)
        _check_threads("--tensorflow_session_parallelism", both)
        return both, both

    def session_config(self) -> bytes:
        """A serialized tensorflow.ConfigProto: the file's, with threads and GPU memory fraction always as the flags say."""
        intra, inter = self.session_threads()
        if not intra and not inter:
            intra = intra_op_threads(cores.usable(), len(os.sched_getaffinity(0)))
        base = b""
        if self.tensorflow_session_config_file:
            base = _session_config_of_file(self.tensorflow_session_config_file)
        gpu = _fixed64(1, self.per_process_gpu_memory_fraction) + _varint(4, int(self.allow_growth))
        gpu += _bytes(5, self.visible_devices.encode())
        threads = _varint(2, intra) + _varint(5, inter)
        rewriter = _varint(_ONEDNN_BFLOAT16, _ON) if self.mixed_precision == "bfloat16" else b""
        # Serialized messages merge by concatenation, so the flags need no message classes.
        return base + threads + _bytes(6, gpu) + _bytes(10, _bytes(10, rewriter))

    def monitoring(self) -> Monitoring:
        """From --monitoring_config_file, which is read only when REST is on."""
        if not self.monitoring_config_file or self.rest_api_port == 0:
            return Monitoring()
        from tfs import messages

        config = read_text_proto(self.monitoring_config_file, messages.MonitoringConfig).prometheus_config
        return Monitoring(config.enable, config.path or DEFAULT_PROMETHEUS_PATH)

    def grpc_arguments(self) -> tuple[tuple[str, int | str], ...]:
        """--grpc_channel_arguments as (key, value); values that read as 32-bit integers are ints."""
        return tuple(_channel_argument(item) for item in _split(self.grpc_channel_arguments))

    def notices(self) -> list[str]:
        """One line for each flag that was given a value and has no effect here."""
        lines = [
            f"--{flag.name} has no effect: {flag.inert}."
            for flag in FLAGS.values()
            if flag.inert and getattr(self, flag.name) != flag.default
        ]
        if self.mixed_precision not in ("", "bfloat16"):
            lines.append(f"--mixed_precision={self.mixed_precision} has no effect: only bfloat16 is known.")
        return lines


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything that the composition root builds the server from."""

    settings: Settings
    models: messages.ModelServerConfig
    loading: LoadingOptions
    monitoring: Monitoring
    ssl: Ssl | None  # for gRPC
    rest_ssl: Ssl | None
    grpc_arguments: tuple[tuple[str, int | str], ...]


def prepare(settings: Settings) -> Prepared:
    """Checks the settings and reads their files; logs what has no effect.  Raises TfsError, the start-up error."""
    settings.check()
    for line in settings.notices():
        log.warning(line)
    models = settings.model_server_config()
    loading = settings.loading_options()
    if settings.thread_pool_factory_config_file:
        from tfs import messages

        read_text_proto(settings.thread_pool_factory_config_file, messages.ThreadPoolFactoryConfig)
    return Prepared(
        settings=settings,
        models=models,
        loading=loading,
        monitoring=settings.monitoring(),
        ssl=_ssl(settings.ssl_config_file),
        rest_ssl=_ssl(settings.rest_ssl_config_file),
        grpc_arguments=settings.grpc_arguments(),
    )


# --- text-format files --------------------------------------------------------------------------------------------------------


def _read(path: str) -> bytes:
    """The file's bytes.  The reference maps the file into memory, which a directory or an empty file does not allow."""
    try:
        with open(local_path(path), "rb") as file:
            data = file.read()
    except IsADirectoryError:
        raise os_error(path, OSError(errno.ENODEV, "")) from None
    except OSError as error:
        raise os_error(path, error) from None
    if not data:
        raise os_error(path, OSError(errno.EINVAL, ""))
    return data


_Text = TypeVar("_Text", bound="Message")


def read_text_proto(path: str, kind: type[_Text]) -> _Text:
    """The text-format file at `path` as a message of class `kind` (of tfs.messages).

    Raises the file system's error (NOT_FOUND `<path>; No such file or directory`, ...), or InvalidArgument when the text is no
    such message; then line and column are logged.
    """
    from google.protobuf import text_format

    from tfs import messages

    data = _read(path)
    message = kind()
    try:
        # Undecodable bytes are harmless in comments; in a string they are refused when the field is set.
        text = data.decode("utf-8", "surrogateescape")
        return text_format.Parse(text, message, descriptor_pool=messages.pool())
    except (text_format.ParseError, ValueError) as error:
        log.error("Error parsing text-format %s: %s", message.DESCRIPTOR.full_name, _where(error))
        raise InvalidArgument(f"Invalid protobuf file: '{path}'") from None


def _where(error: Exception) -> str:
    """`line:column: text` of a parse error."""
    return str(error).replace(" : ", ": ", 1)


def read_batching_parameters(path: str) -> BatchingParameters:
    """A BatchingParameters file.  Raises as `read_text_proto` does, and InvalidArgument when num_batch_threads is not positive."""
    from tfs import messages

    return _batching_parameters(read_text_proto(path, messages.BatchingParameters))


def _batching_parameters(message: messages.BatchingParameters) -> BatchingParameters:
    def wrapped(field: str) -> Any:
        return getattr(message, field).value if message.HasField(field) else None

    threads = wrapped("num_batch_threads")
    if threads is not None and threads < 1:
        raise InvalidArgument(f"num_batch_threads must be positive; was {threads}")
    return BatchingParameters(
        max_batch_size=wrapped("max_batch_size"),
        batch_timeout_micros=wrapped("batch_timeout_micros"),
        max_enqueued_batches=wrapped("max_enqueued_batches"),
        num_batch_threads=threads,
        thread_pool_name=wrapped("thread_pool_name"),
        allowed_batch_sizes=tuple(message.allowed_batch_sizes),
        pad_variable_length_inputs=message.pad_variable_length_inputs,
        enable_large_batch_splitting=wrapped("enable_large_batch_splitting"),
        max_execution_batch_size=wrapped("max_execution_batch_size"),
    )


def _platform_options(path: str) -> LoadingOptions:
    """What --platform_config_file says for the platform `tensorflow`; other platforms cannot be served."""
    from tfs import messages

    platforms = read_text_proto(path, messages.PlatformConfigMap).platform_configs
    adapter = messages.SavedModelBundleSourceAdapterConfig()
    if PLATFORM in platforms and not platforms[PLATFORM].source_adapter_config.Unpack(adapter):
        raise InvalidArgument(
            f"--platform_config_file: platform '{PLATFORM}' needs a source_adapter_config of type "
            f"{adapter.DESCRIPTOR.full_name}, not '{platforms[PLATFORM].source_adapter_config.type_url}'"
        )
    bundle = adapter.legacy_config
    _check_pools("--platform_config_file", bundle.session_config)
    batching = (
        _batching_parameters(bundle.batching_parameters) if bundle.HasField("batching_parameters") else None
    )
    return LoadingOptions(
        platforms=frozenset({PLATFORM} & set(platforms)),
        saved_model_tags=tuple(bundle.saved_model_tags) or DEFAULT_TAGS,
        session_config=bundle.session_config.SerializeToString(),
        batching=batching,
        per_model_batching=batching is not None and bundle.enable_per_model_batching_params,
        enable_model_warmup=bundle.enable_model_warmup,
        warmup_iterations=bundle.model_warmup_options.num_request_iterations.value,
    )


def _ssl(path: str) -> Ssl | None:
    if not path:
        return None
    from tfs import messages

    config = read_text_proto(path, messages.SSLConfig)
    for field in ("server_key", "server_cert"):
        if not getattr(config, field):
            raise InvalidArgument(
                f"SSLConfig file '{path}': {field} is empty; it should hold the PEM text itself"
            )
    return Ssl(config.server_key, config.server_cert, config.custom_ca, config.client_verify)


# --- small things -------------------------------------------------------------------------------------------------------------


def _split(text: str) -> tuple[str, ...]:
    """The non-empty items of a comma list."""
    return tuple(item for item in text.split(",") if item)


def _channel_argument(item: str) -> tuple[str, int | str]:
    key, equals, value = item.partition("=")
    if not equals or not key:
        raise InvalidArgument(f"--grpc_channel_arguments: expected key=value, got '{item}'")
    try:
        number = int(value)
    except ValueError:
        return key, value
    return key, number if -(1 << 31) <= number < 1 << 31 else value


def intra_op_threads(usable: int, seen: int) -> int:
    """Threads inside one op where no flag says: 0 lets TensorFlow take one per processor that it sees.

    On one or two processors 1, the call's own: handing pieces of small ops to a pool costs more than it gains (a small CNN under oneDNN:
    2.5 times the CPU and 2.5 times the time), and a second call is a better use of the second processor.  A container's quota, which
    TensorFlow does not see, bounds the pool on larger machines."""
    if usable <= 2:
        return 1
    return usable if usable < seen else 0


def _session_config_of_file(path: str) -> bytes:
    """The serialized ConfigProto of a text file, without the fields that flags always overwrite."""
    from tfs import messages

    config = read_text_proto(path, messages.ConfigProto)
    config.ClearField("intra_op_parallelism_threads")
    config.ClearField("inter_op_parallelism_threads")
    if config.HasField("gpu_options"):
        config.gpu_options.ClearField("per_process_gpu_memory_fraction")
    _check_pools(path, config)
    return config.SerializeToString(deterministic=True)


def _check_pools(where: str, config: messages.ConfigProto) -> None:
    """Raises InvalidArgument for thread counts that end the process inside TensorFlow."""
    _check_threads(f"{where}: intra_op_parallelism_threads", config.intra_op_parallelism_threads)
    _check_threads(f"{where}: inter_op_parallelism_threads", max(config.inter_op_parallelism_threads, 0))
    for pool in config.session_inter_op_thread_pool:
        _check_threads(f"{where}: session_inter_op_thread_pool.num_threads", pool.num_threads)


def _check_threads(what: str, count: int) -> None:
    if not 0 <= count <= _MOST_THREADS:
        raise InvalidArgument(
            f"{what} must be between 0 and {_MOST_THREADS}, not {count}, with which TensorFlow would abort"
        )


# ConfigProto.graph_options.rewrite_options.auto_mixed_precision_onednn_bfloat16 and RewriterConfig.ON
_ONEDNN_BFLOAT16: Final = 31
_ON: Final = 1


def _number(value: int) -> bytes:
    """`value` (64-bit, two's complement) as a varint."""
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _varint(field: int, value: int) -> bytes:
    """An integer field; nothing for 0, its default."""
    return _number(field << 3) + _number(value) if value else b""


def _fixed64(field: int, value: float) -> bytes:
    return _number(field << 3 | 1) + struct.pack("<d", value) if value else b""


def _bytes(field: int, value: bytes) -> bytes:
    """A string or message field; nothing when it is empty."""
    return _number(field << 3 | 2) + _number(len(value)) + value if value else b""
