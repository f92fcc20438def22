"""Typed face of `tfs.messages`: the classes and fields that the project uses.  `protos/` is the source of truth.

Message, list and map fields are Final: they are changed in place, never assigned.  Fields that nobody here touches are left out;
the classes made at run time have them all.
"""

from typing import Any as _PyAny
from typing import Final

from google.protobuf.internal.containers import MessageMap as _Map
from google.protobuf.internal.containers import RepeatedCompositeFieldContainer as _Messages
from google.protobuf.internal.containers import RepeatedScalarFieldContainer as _Scalars
from google.protobuf.internal.containers import ScalarMap as _ScalarMap
from google.protobuf.message import Message as _Base

class _Message(_Base):
    def __init__(self, **fields: _PyAny) -> None: ...

class _Enum:
    """An enum type; values are plain ints."""

    def Name(self, number: int) -> str: ...
    def Value(self, name: str) -> int: ...
    def keys(self) -> list[str]: ...
    def values(self) -> list[int]: ...
    def items(self) -> list[tuple[str, int]]: ...
    def __getattr__(self, name: str) -> int: ...

def pool() -> _PyAny: ...

# google.protobuf
class Any(_Message):
    type_url: str
    value: bytes
    def Pack(self, msg: _Message, type_url_prefix: str = ..., deterministic: bool | None = ...) -> None: ...
    def Unpack(self, msg: _Message) -> bool: ...
    def Is(self, descriptor: _PyAny) -> bool: ...

class Int64Value(_Message):
    value: int

class Int32Value(_Message):
    value: int

class BoolValue(_Message):
    value: bool

class StringValue(_Message):
    value: str

# tensorflow
DataType: _Enum
Code: _Enum

class TensorShapeProto(_Message):
    class Dim(_Message):
        size: int
        name: str

    dim: Final[_Messages[TensorShapeProto.Dim]]
    unknown_rank: bool

class TensorProto(_Message):
    dtype: int
    tensor_shape: Final[TensorShapeProto]
    version_number: int
    tensor_content: bytes
    float8_val: bytes
    float_val: Final[_Scalars[float]]
    double_val: Final[_Scalars[float]]
    int_val: Final[_Scalars[int]]
    string_val: Final[_Scalars[bytes]]
    scomplex_val: Final[_Scalars[float]]
    int64_val: Final[_Scalars[int]]
    bool_val: Final[_Scalars[bool]]
    dcomplex_val: Final[_Scalars[float]]
    half_val: Final[_Scalars[int]]
    uint32_val: Final[_Scalars[int]]
    uint64_val: Final[_Scalars[int]]

class NamedTensorProto(_Message):
    name: str
    tensor: Final[TensorProto]

class BytesList(_Message):
    value: Final[_Scalars[bytes]]

class FloatList(_Message):
    value: Final[_Scalars[float]]

class Int64List(_Message):
    value: Final[_Scalars[int]]

class Feature(_Message):
    bytes_list: Final[BytesList]
    float_list: Final[FloatList]
    int64_list: Final[Int64List]

class Features(_Message):
    feature: Final[_Map[str, Feature]]

class Example(_Message):
    features: Final[Features]

class TensorInfo(_Message):
    class CooSparse(_Message):
        values_tensor_name: str
        indices_tensor_name: str
        dense_shape_tensor_name: str

    class CompositeTensor(_Message):
        components: Final[_Messages[TensorInfo]]

    name: str
    coo_sparse: Final[TensorInfo.CooSparse]
    composite_tensor: Final[TensorInfo.CompositeTensor]
    dtype: int
    tensor_shape: Final[TensorShapeProto]

class SignatureDef(_Message):
    inputs: Final[_Map[str, TensorInfo]]
    outputs: Final[_Map[str, TensorInfo]]
    method_name: str
    defaults: Final[_Map[str, TensorProto]]

class AssetFileDef(_Message):
    tensor_info: Final[TensorInfo]
    filename: str

class OpDef(_Message):
    name: str

class OpList(_Message):
    op: Final[_Messages[OpDef]]

class SaverDef(_Message):
    filename_tensor_name: str
    save_tensor_name: str
    restore_op_name: str

class CollectionDef(_Message): ...
class GraphDef(_Message): ...

class MetaGraphDef(_Message):
    class MetaInfoDef(_Message):
        meta_graph_version: str
        stripped_op_list: Final[OpList]
        tags: Final[_Scalars[str]]
        tensorflow_version: str
        tensorflow_git_version: str

    meta_info_def: Final[MetaGraphDef.MetaInfoDef]
    graph_def: Final[GraphDef]
    saver_def: Final[SaverDef]
    collection_def: Final[_Map[str, CollectionDef]]
    signature_def: Final[_Map[str, SignatureDef]]
    asset_file_def: Final[_Messages[AssetFileDef]]

class SavedModel(_Message):
    saved_model_schema_version: int
    meta_graphs: Final[_Messages[MetaGraphDef]]

class GPUOptions(_Message):
    per_process_gpu_memory_fraction: float
    allow_growth: bool
    visible_device_list: str

class OptimizerOptions(_Message):
    global_jit_level: int

class RewriterConfig(_Message):
    ON: int
    OFF: int
    auto_mixed_precision_onednn_bfloat16: int
    disable_meta_optimizer: bool

class GraphOptions(_Message):
    optimizer_options: Final[OptimizerOptions]
    rewrite_options: Final[RewriterConfig]

class ThreadPoolOptionProto(_Message):
    num_threads: int
    global_name: str

class ConfigProto(_Message):
    intra_op_parallelism_threads: int
    inter_op_parallelism_threads: int
    use_per_session_threads: bool
    session_inter_op_thread_pool: Final[_Messages[ThreadPoolOptionProto]]
    gpu_options: Final[GPUOptions]
    allow_soft_placement: bool
    graph_options: Final[GraphOptions]

class RunOptions(_Message):
    trace_level: int
    timeout_in_ms: int
    inter_op_thread_pool: int

class RunMetadata(_Message): ...

# tensorflow.serving
class ModelSpec(_Message):
    name: str
    version: Final[Int64Value]
    version_label: str
    signature_name: str

class ExampleList(_Message):
    examples: Final[_Messages[Example]]

class ExampleListWithContext(_Message):
    examples: Final[_Messages[Example]]
    context: Final[Example]

class Input(_Message):
    example_list: Final[ExampleList]
    example_list_with_context: Final[ExampleListWithContext]

class SerializedExampleList(_Message):
    examples: Final[_Scalars[bytes]]

class SerializedExampleListWithContext(_Message):
    examples: Final[_Scalars[bytes]]
    context: bytes

class SerializedInput(_Message):
    example_list: Final[SerializedExampleList]
    example_list_with_context: Final[SerializedExampleListWithContext]

class PredictRequest(_Message):
    model_spec: Final[ModelSpec]
    inputs: Final[_Map[str, TensorProto]]
    output_filter: Final[_Scalars[str]]

class PredictResponse(_Message):
    outputs: Final[_Map[str, TensorProto]]
    model_spec: Final[ModelSpec]

class Class(_Message):
    label: str
    score: float

class Classifications(_Message):
    classes: Final[_Messages[Class]]

class ClassificationResult(_Message):
    classifications: Final[_Messages[Classifications]]

class ClassificationRequest(_Message):
    model_spec: Final[ModelSpec]
    input: Final[Input]

class ClassificationResponse(_Message):
    result: Final[ClassificationResult]
    model_spec: Final[ModelSpec]

class Regression(_Message):
    value: float

class RegressionResult(_Message):
    regressions: Final[_Messages[Regression]]

class RegressionRequest(_Message):
    model_spec: Final[ModelSpec]
    input: Final[Input]

class RegressionResponse(_Message):
    result: Final[RegressionResult]
    model_spec: Final[ModelSpec]

class InferenceTask(_Message):
    model_spec: Final[ModelSpec]
    method_name: str

class InferenceResult(_Message):
    model_spec: Final[ModelSpec]
    classification_result: Final[ClassificationResult]
    regression_result: Final[RegressionResult]

class MultiInferenceRequest(_Message):
    tasks: Final[_Messages[InferenceTask]]
    input: Final[Input]

class MultiInferenceResponse(_Message):
    results: Final[_Messages[InferenceResult]]

class SignatureDefMap(_Message):
    signature_def: Final[_Map[str, SignatureDef]]

class GetModelMetadataRequest(_Message):
    model_spec: Final[ModelSpec]
    metadata_field: Final[_Scalars[str]]

class GetModelMetadataResponse(_Message):
    model_spec: Final[ModelSpec]
    metadata: Final[_Map[str, Any]]

class StatusProto(_Message):
    error_code: int
    error_message: str

class GetModelStatusRequest(_Message):
    model_spec: Final[ModelSpec]

class ModelVersionStatus(_Message):
    State: _Enum
    UNKNOWN: int
    START: int
    LOADING: int
    AVAILABLE: int
    UNLOADING: int
    END: int
    version: int
    state: int
    status: Final[StatusProto]

class GetModelStatusResponse(_Message):
    model_version_status: Final[_Messages[ModelVersionStatus]]

class Metric(_Message):
    name: str
    int64_value_increase: int

class ReloadConfigRequest(_Message):
    config: Final[ModelServerConfig]
    metric_names: Final[_Scalars[str]]

class ReloadConfigResponse(_Message):
    status: Final[StatusProto]
    metric: Final[_Messages[Metric]]

class SessionRunRequest(_Message):
    model_spec: Final[ModelSpec]

class SessionRunResponse(_Message):
    model_spec: Final[ModelSpec]

class ClassifyLog(_Message):
    request: Final[ClassificationRequest]

class RegressLog(_Message):
    request: Final[RegressionRequest]

class PredictLog(_Message):
    request: Final[PredictRequest]

class PredictStreamedLog(_Message):
    request: Final[_Messages[PredictRequest]]

class MultiInferenceLog(_Message):
    request: Final[MultiInferenceRequest]

class SessionRunLog(_Message):
    request: Final[SessionRunRequest]

class LogMetadata(_Message):
    model_spec: Final[ModelSpec]

class PredictionLog(_Message):
    log_metadata: Final[LogMetadata]
    classify_log: Final[ClassifyLog]
    regress_log: Final[RegressLog]
    predict_log: Final[PredictLog]
    predict_streamed_log: Final[PredictStreamedLog]
    multi_inference_log: Final[MultiInferenceLog]
    session_run_log: Final[SessionRunLog]

ModelType: _Enum

class FileSystemStoragePathSourceConfig(_Message):
    class ServableVersionPolicy(_Message):
        class Latest(_Message):
            num_versions: int

        class All(_Message): ...

        class Specific(_Message):
            versions: Final[_Scalars[int]]

        latest: Final[FileSystemStoragePathSourceConfig.ServableVersionPolicy.Latest]
        all: Final[FileSystemStoragePathSourceConfig.ServableVersionPolicy.All]
        specific: Final[FileSystemStoragePathSourceConfig.ServableVersionPolicy.Specific]

class LoggingConfig(_Message): ...

class ModelConfig(_Message):
    name: str
    base_path: str
    model_type: int
    model_platform: str
    logging_config: Final[LoggingConfig]
    model_version_policy: Final[FileSystemStoragePathSourceConfig.ServableVersionPolicy]
    version_labels: Final[_ScalarMap[str, int]]

class ModelConfigList(_Message):
    config: Final[_Messages[ModelConfig]]

class ModelServerConfig(_Message):
    model_config_list: Final[ModelConfigList]
    custom_model_config: Final[Any]

class PrometheusConfig(_Message):
    enable: bool
    path: str

class MonitoringConfig(_Message):
    prometheus_config: Final[PrometheusConfig]

class SSLConfig(_Message):
    server_key: str
    server_cert: str
    custom_ca: str
    client_verify: bool

class PlatformConfig(_Message):
    source_adapter_config: Final[Any]

class PlatformConfigMap(_Message):
    platform_configs: Final[_Map[str, PlatformConfig]]

class ThreadPoolFactoryConfig(_Message): ...

class BatchingParameters(_Message):
    max_batch_size: Final[Int64Value]
    batch_timeout_micros: Final[Int64Value]
    max_enqueued_batches: Final[Int64Value]
    num_batch_threads: Final[Int64Value]
    thread_pool_name: Final[StringValue]
    allowed_batch_sizes: Final[_Scalars[int]]
    pad_variable_length_inputs: bool
    enable_large_batch_splitting: Final[BoolValue]
    max_execution_batch_size: Final[Int64Value]

class ModelWarmupOptions(_Message):
    num_request_iterations: Final[Int32Value]

class SessionBundleConfig(_Message):
    session_config: Final[ConfigProto]
    batching_parameters: Final[BatchingParameters]
    saved_model_tags: Final[_Scalars[str]]
    enable_model_warmup: bool
    model_warmup_options: Final[ModelWarmupOptions]
    enable_per_model_batching_params: bool

class SavedModelBundleSourceAdapterConfig(_Message):
    legacy_config: Final[SessionBundleConfig]

class SavedModelConfig(_Message): ...
