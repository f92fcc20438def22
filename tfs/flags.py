"""The flags, as data: one field of `Flags` for each, with its type, default, group and help text.

Owns: names, types, defaults and words.  Must not know how a command line is split (cli.py) or what a value leads to (config.py).

The first 48 are the reference's, in its order, with its types and defaults; the rest are our own.  A flag with an `inert` text is
accepted because start scripts carry it, and changes nothing here: giving it a value other than its default logs that text once.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any, Final

_CPUS: Final = os.cpu_count() or 1

GRPC: Final = "gRPC"
REST: Final = "REST"
MODELS: Final = "Models and versions"
BATCHING: Final = "Batching"
SESSION: Final = "TensorFlow session"
WARMUP: Final = "Warm-up"
LIMITS: Final = "Threads and limits"
OPERATION: Final = "Operation"
GROUPS: Final = (MODELS, GRPC, REST, BATCHING, SESSION, WARMUP, LIMITS, OPERATION)

REFERENCE_FLAGS: Final = 48
MAX_PORT: Final = 65535


@dataclasses.dataclass(frozen=True, slots=True)
class Flag:
    """What is known about one flag.

    `kind`: bool, int32, int64, float or string; `choices`: all allowed texts, if few; `minimum`: the least number allowed;
    `shown`: the default in words where it depends on the machine.
    """

    name: str
    kind: str
    default: Any
    group: str
    help: str
    choices: tuple[str, ...]
    inert: str
    shown: str
    minimum: int | None

    @property
    def default_text(self) -> str:
        """The default as documentation shows it."""
        return self.shown or (str(self.default).lower() if self.kind == "bool" else str(self.default))


def _flag(
    default: object,
    kind: str,
    group: str,
    text: str,
    *,
    inert: str = "",
    choices: tuple[str, ...] = (),
    shown: str = "",
    minimum: int | None = None,
) -> Any:
    facts = {
        "kind": kind,
        "group": group,
        "help": text,
        "inert": inert,
        "choices": choices,
        "shown": shown,
        "minimum": minimum,
    }
    return dataclasses.field(default=default, metadata=facts)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Flags:
    """A value for every flag; the attribute is the flag's name."""

    port: int = _flag(8500, "int32", GRPC, "TCP port for gRPC; 0 opens none.")
    grpc_socket_path: str = _flag(
        "", "string", GRPC, "Path of a UNIX socket for gRPC, beside or instead of the TCP port."
    )
    rest_api_port: int = _flag(0, "int32", REST, "TCP port for REST; 0 opens none.")
    rest_api_num_threads: int = _flag(
        4 * _CPUS,
        "int32",
        REST,
        "Threads of the reference's REST server.",
        shown="4 × CPUs",
        inert="REST has the I/O threads (--grpc_io_threads) and one event loop, runs of models have threads of their own (--max_runners)",
    )
    rest_api_timeout_in_ms: int = _flag(30000, "int32", REST, "Milliseconds that a REST request may take.")
    rest_api_enable_cors_support: bool = _flag(
        False, "bool", REST, "Sends CORS headers, so that browsers may call from other sites."
    )
    enable_batching: bool = _flag(False, "bool", BATCHING, "Joins concurrent requests to batches.")
    allow_version_labels_for_unavailable_models: bool = _flag(
        False,
        "bool",
        MODELS,
        "Lets a new label point at a version that is not loaded yet; needed to use labels at start-up.",
    )
    batching_parameters_file: str = _flag(
        "", "string", BATCHING, "Text file with BatchingParameters; only together with --enable_batching."
    )
    enable_per_model_batching_parameters: bool = _flag(
        False,
        "bool",
        BATCHING,
        "Takes batching parameters from batching_params.pbtxt in each version directory; models without are not batched.",
    )
    model_config_file: str = _flag(
        "",
        "string",
        MODELS,
        "Text file with a ModelServerConfig that lists the models; replaces --model_name and --model_base_path.",
    )
    model_config_file_poll_wait_seconds: int = _flag(
        0, "int32", MODELS, "Seconds between readings of --model_config_file; 0 reads it once."
    )
    model_name: str = _flag(
        "default", "string", MODELS, "Name of the one model, when there is no --model_config_file."
    )
    model_base_path: str = _flag(
        "",
        "string",
        MODELS,
        "Absolute path of the directory that holds the model's numbered version directories.",
    )
    num_load_threads: int = _flag(0, "int32", MODELS, "Threads that load versions after start-up; 0 chooses.")
    num_unload_threads: int = _flag(0, "int32", MODELS, "Threads that unload versions; 0 chooses.")
    max_num_load_retries: int = _flag(5, "int32", MODELS, "How often a failed load is tried again.")
    load_retry_interval_micros: int = _flag(
        60_000_000, "int64", MODELS, "Microseconds between two tries; 0 or less: none."
    )
    file_system_poll_wait_seconds: int = _flag(
        1, "int32", MODELS, "Seconds between looks for new versions; 0 looks once, a negative number never."
    )
    flush_filesystem_caches: bool = _flag(
        True,
        "bool",
        MODELS,
        "Drops file system caches after loading.",
        inert="local files need no such cache",
    )
    tensorflow_session_parallelism: int = _flag(
        0,
        "int64",
        SESSION,
        "Threads both inside and across ops, unless set separately; 0: see --tensorflow_intra_op_parallelism.",
    )
    tensorflow_session_config_file: str = _flag(
        "",
        "string",
        SESSION,
        "Text file with a ConfigProto. Thread counts and GPU memory fraction in it give way to the flags.",
    )
    tensorflow_intra_op_parallelism: int = _flag(
        0,
        "int64",
        SESSION,
        "Threads inside one op; 0: 1 on one or two processors, as many as a container's quota grants, else TensorFlow's choice.",
    )
    tensorflow_inter_op_parallelism: int = _flag(
        0, "int64", SESSION, "Threads across ops; 0 lets TensorFlow choose."
    )
    use_alts_credentials: bool = _flag(
        False, "bool", GRPC, "ALTS instead of TLS; not supported, so that true is an error."
    )
    ssl_config_file: str = _flag("", "string", GRPC, "Text file with an SSLConfig (PEM texts); turns TLS on.")
    platform_config_file: str = _flag(
        "",
        "string",
        SESSION,
        "Text file with a PlatformConfigMap; replaces what the batching, session, tag and warm-up flags say.",
    )
    per_process_gpu_memory_fraction: float = _flag(
        0.0, "float", SESSION, "Share of each GPU's memory, 0 to 1; 0 lets TensorFlow choose."
    )
    saved_model_tags: str = _flag(
        "serve", "string", SESSION, "Comma list of the tags of the graph to load from a SavedModel."
    )
    grpc_channel_arguments: str = _flag(
        "",
        "string",
        GRPC,
        "Comma list of key=value settings of the gRPC server, such as grpc.max_connection_age_ms=2000.",
    )
    grpc_max_threads: int = _flag(
        4 * _CPUS,
        "int32",
        GRPC,
        "Threads of the reference's gRPC server.",
        shown="4 × CPUs",
        inert="calls do not hold a thread each; see --grpc_io_threads and --max_queued_calls",
    )
    enable_model_warmup: bool = _flag(
        True, "bool", WARMUP, "Replays the model's warm-up file before a version becomes available."
    )
    num_request_iterations_for_warmup: int = _flag(
        0, "int32", WARMUP, "How often each warm-up record is replayed; 0 or less: once."
    )
    version: bool = _flag(
        False, "bool", OPERATION, "Prints the versions of the server and of TensorFlow, and ends."
    )
    monitoring_config_file: str = _flag(
        "", "string", OPERATION, "Text file with a MonitoringConfig (Prometheus page); read when REST is on."
    )
    remove_unused_fields_from_bundle_metagraph: bool = _flag(
        True,
        "bool",
        SESSION,
        "Keeps only the signatures of a graph in memory.",
        inert="only the signatures are ever kept",
    )
    prefer_tflite_model: bool = _flag(
        False,
        "bool",
        SESSION,
        "Serves model.tflite where there is one.",
        inert="TFLite is not supported; the SavedModel is served",
    )
    num_tflite_pools: int = _flag(
        _CPUS,
        "int32",
        SESSION,
        "Pools of TFLite interpreters.",
        shown="CPUs",
        inert="TFLite is not supported",
    )
    num_tflite_interpreters_per_pool: int = _flag(
        1, "int32", SESSION, "TFLite interpreters in each pool.", inert="TFLite is not supported"
    )
    enable_signature_method_name_check: bool = _flag(
        False, "bool", MODELS, "Refuses calls whose signature was exported for another method."
    )
    xla_cpu_compilation_enabled: bool = _flag(
        False, "bool", SESSION, "Allows XLA on CPU.", inert="functions marked for XLA are always compiled"
    )
    xla_gpu_compilation_enabled: bool = _flag(
        False, "bool", SESSION, "Allows XLA on GPU.", inert="functions marked for XLA are always compiled"
    )
    enable_profiler: bool = _flag(
        True,
        "bool",
        OPERATION,
        "Offers the profiler service.",
        inert="the profiler service always answers UNIMPLEMENTED",
    )
    thread_pool_factory_config_file: str = _flag(
        "",
        "string",
        SESSION,
        "Text file with a ThreadPoolFactoryConfig.",
        inert="there are no thread pool factories to configure",
    )
    mixed_precision: str = _flag(
        "", "string", SESSION, "bfloat16 runs suitable ops in that precision; other values only warn."
    )
    skip_initialize_tpu: bool = _flag(
        False, "bool", SESSION, "Leaves TPUs alone.", inert="there is no TPU support"
    )
    enable_grpc_healthcheck_service: bool = _flag(
        False, "bool", GRPC, "Offers the standard gRPC health service."
    )
    enable_serialization_as_tensor_content: bool = _flag(
        False, "bool", GRPC, "Answers with raw tensor_content instead of the typed lists."
    )

    bind_address: str = _flag(
        "0.0.0.0",
        "string",
        OPERATION,
        "Address that both TCP ports listen on; the default is every interface.",
    )
    grpc_transport: str = _flag(
        "auto",
        "string",
        GRPC,
        "native serves inside the compiled core; grpcio has every feature; auto takes native where it can serve the settings.",
        choices=("auto", "native", "grpcio"),
    )
    grpc_io_threads: int = _flag(
        0,
        "int32",
        GRPC,
        "I/O threads of the native transport, REST's too; 0 takes one for each core.",
        minimum=0,
    )
    rest_transport: str = _flag(
        "auto",
        "string",
        REST,
        "native answers Predict on the core's I/O threads and leaves the rest to uvicorn; uvicorn serves everything; "
        "auto takes native where it can serve the settings.",
        choices=("auto", "native", "uvicorn"),
    )
    grpc_max_message_bytes: int = _flag(
        -1, "int64", GRPC, "Largest request in bytes; -1 sets no limit, as in the reference.", minimum=-1
    )
    max_connections: int = _flag(
        0,
        "int32",
        LIMITS,
        "Open connections of the native gRPC transport, and as many of REST; 0 takes the built-in limit (20,000).",
        minimum=0,
    )
    max_held_request_bytes: int = _flag(
        0,
        "int64",
        LIMITS,
        "Bytes of requests that the native gRPC transport holds at once, and as many that REST holds; "
        "0 takes the built-in limit (512 MiB).",
        minimum=0,
    )
    rest_max_body_bytes: int = _flag(
        1 << 30,
        "int64",
        REST,
        "Largest request body in bytes, after gunzip (413 beyond); 0 sets no limit.",
        minimum=0,
    )
    rest_ssl_config_file: str = _flag(
        "", "string", REST, "Text file with an SSLConfig (PEM texts); turns TLS on for REST."
    )
    rest_header_timeout_seconds: float = _flag(
        10.0, "float", REST, "Seconds that a client may take to send a request's headers; 0: any.", minimum=0
    )
    rest_body_timeout_seconds: float = _flag(
        60.0,
        "float",
        REST,
        "Seconds that a client may pause while sending a body or fetching an answer; 0: any.",
        minimum=0,
    )
    max_queued_calls: int = _flag(
        0, "int32", LIMITS, "Calls that may wait in the process; 0 takes the built-in limit.", minimum=0
    )
    max_queued_bytes: int = _flag(
        0, "int64", LIMITS, "Bytes of waiting requests in the process; 0 takes the built-in limit.", minimum=0
    )
    max_runners: int = _flag(
        0, "int32", LIMITS, "Threads that run models; 0 takes the built-in limit.", minimum=0
    )
    max_runners_per_model: int = _flag(
        0, "int32", LIMITS, "Threads that one version may occupy; 0 takes the built-in limit.", minimum=0
    )
    aspired_version_policy: str = _flag(
        "availability_preserving",
        "string",
        MODELS,
        "availability_preserving loads the new version before it unloads the old one; resource_preserving unloads first.",
        choices=("availability_preserving", "resource_preserving"),
    )
    allow_partial_startup: bool = _flag(
        False, "bool", MODELS, "Serves the models that loaded, instead of ending when one did not."
    )
    unload_grace_seconds: float = _flag(
        300.0,
        "float",
        MODELS,
        "Seconds that an unload waits for calls under way before it cancels them.",
        minimum=0,
    )
    synthetic_warmup: bool = _flag(
        False,
        "bool",
        WARMUP,
        "Runs one made-up request for each stateless signature with known shapes when there is no warm-up file.",
    )
    op_libraries: str = _flag(
        "", "string", SESSION, "Comma list of shared libraries with custom ops to load at start-up."
    )
    allow_growth: bool = _flag(False, "bool", SESSION, "Takes GPU memory as needed instead of all at once.")
    visible_devices: str = _flag("", "string", SESSION, "Comma list of the GPUs that sessions may use.")
    shutdown_grace_seconds: float = _flag(
        30.0,
        "float",
        OPERATION,
        "Seconds after SIGTERM for calls under way to finish; then they are cancelled.",
        minimum=0,
    )
    log_format: str = _flag("text", "string", OPERATION, "How log lines look.", choices=("text", "json"))
    log_level: str = _flag(
        "info",
        "string",
        OPERATION,
        "Least severity that is logged.",
        choices=("debug", "info", "warning", "error"),
    )


def _described() -> dict[str, Flag]:
    return {
        field.name: Flag(name=field.name, default=field.default, **field.metadata)
        for field in dataclasses.fields(Flags)
    }


FLAGS: Final[dict[str, Flag]] = _described()
