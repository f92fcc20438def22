# probe.pxi: the test bench's entrance to the codec; nothing in the server calls it.
#
# Owns: Python functions that run one codec stage and show what it found.  Must not know: more than the seams of tensor, request, response.
# Needs a filled `tf` table: call fake_runtime() (or load_runtime) first.

cdef extern from * nogil:
    """
    /* Makes the compiler believe that somebody reads the memory: else a copy that is freed at once is never made. */
    static inline void probe_keep(const void* data) { __asm__ __volatile__("" : : "r"(data) : "memory"); }
    """
    void probe_keep(const void* data) noexcept


cdef class _ProbeCall:
    """A Call outside the engine; freed with the object. Its body lies in a block of exactly its size, so that an address
    sanitizer sees a read beyond the end (a bytes object has one byte more)."""

    cdef Call* c_call
    cdef void* c_body

    def __cinit__(self, bytes body not None):
        self.c_call = <Call*>calloc(1, sizeof(Call))
        self.c_body = malloc(len(body))
        if self.c_call == NULL or (self.c_body == NULL and body):
            raise MemoryError()
        arena_init(&self.c_call.arena)
        self.c_call.body = probe_span(body)
        memcpy(self.c_body, self.c_call.body.ptr, self.c_call.body.len)
        self.c_call.body.ptr = <const uint8_t*>self.c_body

    def __dealloc__(self):
        if self.c_call != NULL:
            status_clear(&self.c_call.status)
            arena_free(&self.c_call.arena)
            free(self.c_call)
        free(self.c_body)

    cdef int decode(self) except -1:
        if request_decode(self.c_call) != OK:
            raise status_error(&self.c_call.status)
        return 0


cdef Span probe_span(bytes data):
    cdef Span span
    span.ptr = <const uint8_t*><const char*>data
    span.len = len(data)
    return span


cdef bytes probe_bytes(Span span):
    return (<const char*>span.ptr)[:span.len] if span.len else b""


cdef object probe_tensor(const TensorSpan* span):
    """(dtype, shape, raw bytes or list of strings), or 'bad'."""
    cdef TF_Tensor* tensor
    cdef TF_TString* strings
    cdef int64_t i
    if span.bad:
        return "bad"
    tensor = tensor_make(span)
    if tensor == NULL:
        raise MemoryError()
    try:
        if span.dtype == DTYPE_STRING:
            strings = <TF_TString*>tf.TensorData(tensor)
            data = [tf.StringGetDataPointer(&strings[i])[:tf.StringGetSize(&strings[i])] for i in range(span.elements)]
        else:
            data = (<const char*>tf.TensorData(tensor))[:span.elements * tensor_size(span.dtype)]
        return span.dtype, tuple([span.dims[i] for i in range(span.rank)]), data
    finally:
        tf.DeleteTensor(tensor)


def _probe_decode(request: bytes, make: bool = True) -> dict:
    """Decodes a PredictRequest. `make` False: shapes only (elements, values) in place of tensors. Raises TfsError."""
    cdef _ProbeCall probe = _ProbeCall(request)
    cdef Call* call = probe.c_call
    cdef const TensorSpan* span
    cdef int32_t i
    probe.decode()
    inputs = {}
    for i in range(call.input_count):
        span = &call.inputs[i]
        shown = probe_tensor(span) if make else ("bad" if span.bad else (span.dtype, span.elements, span.values))
        inputs[probe_bytes(span.alias).decode()] = shown
    return {
        "model": probe_bytes(call.model).decode() if call.has_spec else None,
        "version": call.version if call.version_choice == VERSION_NUMBER else None,
        "label": probe_bytes(call.label).decode() if call.version_choice == VERSION_LABEL else None,
        "signature": probe_bytes(call.signature).decode(),
        "filter": [probe_bytes(call.filter[i]).decode() for i in range(call.filter_count)],
        "inputs": inputs,
        "payload_bytes": call.payload_bytes,
    }


cdef class _ProbeResult:
    """A Call's answer outside the engine: tensors, plan and servable as the response needs them."""

    cdef RunResult* c_result
    cdef Plan c_plan
    cdef FetchSet c_fetch
    cdef Servable c_servable
    cdef OutputSlot* c_outputs
    cdef int32_t* c_index

    def __cinit__(self, int count, int64_t version):
        cdef int i
        self.c_result = <RunResult*>calloc(1, sizeof(RunResult) + count * sizeof(TF_Tensor*))
        self.c_outputs = <OutputSlot*>calloc(count + 1, sizeof(OutputSlot))
        self.c_index = <int32_t*>calloc(count + 1, sizeof(int32_t))
        if self.c_result == NULL or self.c_outputs == NULL or self.c_index == NULL:
            raise MemoryError()
        for i in range(count):
            self.c_index[i] = i
        self.c_result.count = count
        self.c_result.rows = -1
        self.c_plan.outputs = self.c_outputs
        self.c_fetch.index = self.c_index
        self.c_servable.version = version

    def __dealloc__(self):
        cdef int i
        if self.c_result != NULL:
            for i in range(self.c_result.count):
                if self.c_result.tensors[i] != NULL:
                    tf.DeleteTensor(self.c_result.tensors[i])
        free(self.c_result)
        free(self.c_outputs)
        free(self.c_index)

    cdef void attach(self, Call* call) noexcept:
        call.result = self.c_result
        call.plan = &self.c_plan
        call.fetch = &self.c_fetch
        call.servable = &self.c_servable


cdef TF_Tensor* probe_make(int dtype, tuple shape, object data) except NULL:
    cdef int64_t dims[TENSOR_MAX_RANK]
    cdef TF_Tensor* tensor
    cdef TF_TString* strings
    cdef bytes item
    cdef Py_ssize_t i
    for i, size in enumerate(shape):
        dims[i] = size
    tensor = tf.AllocateTensor(dtype, dims, len(shape), len(data)) if tensor_size(dtype) == 0 else tensor_allocate(dtype, dims, len(shape))
    if tensor == NULL:
        raise MemoryError()
    if dtype == DTYPE_STRING:
        strings = <TF_TString*>tf.TensorData(tensor)
        for i, item in enumerate(data):
            tf.StringCopy(&strings[i], item, len(item))
    else:
        memcpy(tf.TensorData(tensor), <const char*><bytes>data, len(data))
    return tensor


cdef bytes probe_reply(Call* call, bint as_content):
    """The reply, written into a block of exactly the size that was announced."""
    cdef size_t size = response_size(call, as_content)
    cdef uint8_t* reply
    if size == 0:
        raise status_error(&call.status)
    reply = <uint8_t*>malloc(size)
    try:
        if reply == NULL:
            raise MemoryError()
        if response_write(call, as_content, reply) != reply + size:
            raise errors.Internal("response_write and response_size disagree")
        return (<const char*>reply)[:size]
    finally:
        free(reply)


def _probe_encode(
    model: bytes, version: int, signature: bytes, outputs: list, as_content: bool = False, rows: tuple | None = None,
    wanted: list | None = None,
) -> bytes:
    """PredictResponse bytes for `outputs`: (alias, dtype, shape, raw bytes or list of strings). `rows`: (rows of the batch, begin, count)."""
    cdef _ProbeCall probe = _ProbeCall(b"")
    cdef _ProbeResult result = _ProbeResult(len(outputs), version)
    cdef Call* call = probe.c_call
    cdef Py_ssize_t i
    aliases = [alias for alias, _, _, _ in outputs]
    result.attach(call)
    call.model = probe_span(model)
    call.signature = probe_span(signature)
    for i, (_, dtype, shape, data) in enumerate(outputs):
        result.c_outputs[i].alias = probe_span(aliases[i])
        result.c_result.tensors[i] = probe_make(dtype, shape, data)
    if rows is not None:
        result.c_result.rows, call.row_begin, call.row_count = rows
    if wanted is not None:
        call.wanted_count = len(wanted)
        call.wanted = <int32_t*>arena_take(&call.arena, len(wanted) * sizeof(int32_t))
        for i in range(call.wanted_count):
            call.wanted[i] = wanted[i]
    return probe_reply(call, as_content)


cdef int64_t probe_echo(Span request, Call* call, Plan* plan, FetchSet* fetch, Servable* servable, RunResult* result, bint as_content) noexcept nogil:
    """One journey without a model: decode, make the first input's tensor, encode it as the only output. Bytes of the reply, or -1."""
    cdef uint8_t* reply
    cdef size_t size
    memset(call, 0, sizeof(Call) - sizeof(Arena))
    arena_init(&call.arena)
    call.body = request
    if request_decode(call) != OK or call.input_count == 0:
        return -1
    result.tensors[0] = tensor_make(&call.inputs[0])
    if result.tensors[0] == NULL:
        return -1
    call.result = result
    call.plan = plan
    call.fetch = fetch
    call.servable = servable
    size = response_size(call, as_content)
    reply = <uint8_t*>malloc(size)
    response_write(call, as_content, reply)
    probe_keep(reply)
    free(reply)
    tf.DeleteTensor(result.tensors[0])
    result.tensors[0] = NULL
    arena_free(&call.arena)
    return <int64_t>size


def _probe_codec_loop(request: bytes, times: int, as_content: bool = False) -> int:
    """Bench: decode + tensor + encode, `times` times without the GIL; returns the bytes of one reply."""
    cdef _ProbeCall probe = _ProbeCall(b"")
    cdef _ProbeResult result = _ProbeResult(1, 1)
    cdef Span body = probe_span(request)
    cdef bint content = as_content
    cdef int64_t i, count = times, size = 0
    result.c_outputs[0].alias = probe_span(b"y")
    with nogil:
        for i in range(count):
            size = probe_echo(body, probe.c_call, &result.c_plan, &result.c_fetch, &result.c_servable, result.c_result, content)
            if size < 0:
                break
    if size < 0:
        raise status_error(&probe.c_call.status)
    return size


def _probe_copy_loop(data: bytes, times: int) -> None:
    """Bench baseline: two copies of `data` into fresh memory, `times` times without the GIL."""
    cdef Span body = probe_span(data)
    cdef int64_t i, count = times
    cdef void* first
    cdef void* second
    with nogil:
        for i in range(count):
            first = malloc(body.len)
            memcpy(first, body.ptr, body.len)
            probe_keep(first)
            second = malloc(body.len)
            memcpy(second, first, body.len)
            probe_keep(second)
            free(second)
            free(first)


def _probe_dtypes() -> list:
    """The dtype table: (number, name, enum name, bytes per element, typed field)."""
    return [
        (i, dtype_table[i].name.decode(), dtype_table[i].enum_name.decode(), dtype_table[i].size, dtype_table[i].field)
        for i in range(TENSOR_DTYPES)
    ]


def _probe_fields() -> dict:
    """The field numbers that the codec was built with: message -> field -> number."""
    return {
        "PredictRequest": {"model_spec": REQUEST_FIELD_SPEC, "inputs": REQUEST_FIELD_INPUTS, "output_filter": REQUEST_FIELD_FILTER},
        "PredictResponse": {"outputs": RESPONSE_FIELD_OUTPUTS, "model_spec": RESPONSE_FIELD_SPEC},
        "ModelSpec": {
            "name": SPEC_FIELD_NAME, "version": SPEC_FIELD_VERSION, "signature_name": SPEC_FIELD_SIGNATURE, "version_label": SPEC_FIELD_LABEL,
        },
        "TensorProto": {
            "dtype": TENSOR_FIELD_DTYPE, "tensor_shape": TENSOR_FIELD_SHAPE, "tensor_content": TENSOR_FIELD_CONTENT,
            "float_val": TENSOR_FIELD_FLOAT, "double_val": TENSOR_FIELD_DOUBLE, "int_val": TENSOR_FIELD_INT, "string_val": TENSOR_FIELD_STRING,
            "scomplex_val": TENSOR_FIELD_SCOMPLEX, "int64_val": TENSOR_FIELD_INT64, "bool_val": TENSOR_FIELD_BOOL,
            "dcomplex_val": TENSOR_FIELD_DCOMPLEX, "half_val": TENSOR_FIELD_HALF, "uint32_val": TENSOR_FIELD_UINT32,
            "uint64_val": TENSOR_FIELD_UINT64, "float8_val": TENSOR_FIELD_FLOAT8,
        },
        "TensorShapeProto": {"dim": SHAPE_FIELD_DIM},
        "Dim": {"size": DIM_FIELD_SIZE, "name": DIM_FIELD_NAME},
        "Int64Value": {"value": INT64VALUE_FIELD_VALUE},
        "InputsEntry": {"key": ENTRY_FIELD_KEY, "value": ENTRY_FIELD_VALUE},
    }
