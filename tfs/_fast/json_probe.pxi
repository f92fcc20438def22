# json_probe.pxi: the test bench's entrance to the JSON codec; nothing in the server calls it.
#
# Owns: a servable of one signature made from a dict, and Python functions that run one direction and show what came out.
# Needs a filled `tf` table: call fake_runtime() (or load_runtime) first.

cdef class _JsonProbe:
    """A Call with a servable of one plan; the aliases are kept alive here."""

    cdef _ProbeCall call
    cdef Servable c_servable
    cdef Plan c_plan
    cdef InputSlot* c_inputs
    cdef list aliases

    def __cinit__(self, bytes body, dict inputs, bytes signature):
        cdef int i
        self.call = _ProbeCall(body)
        self.aliases = sorted(alias.encode() for alias in inputs) + [signature]
        self.c_inputs = <InputSlot*>calloc(len(inputs) + 1, sizeof(InputSlot))
        if self.c_inputs == NULL:
            raise MemoryError()
        for i in range(len(inputs)):
            self.c_inputs[i].alias = probe_span(self.aliases[i])
            self.c_inputs[i].dtype = inputs[self.aliases[i].decode()]
        self.c_plan.inputs = self.c_inputs
        self.c_plan.input_count = len(inputs)
        self.c_plan.broken_input = -1
        self.c_plan.signature = probe_span(signature)
        self.c_servable.plans = &self.c_plan
        self.c_servable.default_plan = &self.c_plan if signature == b"serving_default" else NULL
        self.call.c_call.servable = &self.c_servable

    def __dealloc__(self):
        free(self.c_inputs)


def _probe_json_decode(body: bytes, inputs: dict, signature: bytes = b"serving_default", show: bool = True) -> object:
    """Decodes a REST predict body for a signature with inputs {alias: dtype}: {alias: (dtype, shape, raw bytes or list of strings)}, "row"
    or "column" under the key None. Raises TfsError. `show` False: nothing is made of the tensors, None is returned (bench)."""
    cdef _JsonProbe probe = _JsonProbe(body, inputs, signature)
    cdef Call* call = probe.call.c_call
    cdef void* copy = NULL
    cdef int rc
    if show:                                           # an exact copy, so that a sanitizer sees a read beyond the end
        copy = malloc(call.body.len + (call.body.len == 0))
        memcpy(copy, call.body.ptr, call.body.len)
        call.body.ptr = <const uint8_t*>copy
    try:
        with nogil:
            rc = json_decode(call)
        if rc != OK:
            raise status_error(&call.status)
        if not show:
            return None
        found = {probe_bytes(call.inputs[i].alias).decode(): probe_tensor(&call.inputs[i]) for i in range(call.input_count)}
        found[None] = "row" if call.json_format == JSON_ROWS else "column"
        return found
    finally:
        free(copy)


def _probe_json_encode(outputs: dict, row: bool, rows: tuple | None = None, times: int = 1) -> bytes:
    """The reply for outputs {alias: (dtype, shape, raw bytes or list of strings)}. `rows`: (rows of the batch, begin, count). Raises TfsError.
    `times` > 1 writes it again and again (bench)."""
    cdef _ProbeCall probe = _ProbeCall(b"")
    cdef _ProbeResult result = _ProbeResult(len(outputs), 1)
    cdef Call* call = probe.c_call
    cdef Text out
    cdef int rc
    cdef Py_ssize_t i, count = times
    aliases = [alias.encode() for alias in outputs]
    result.attach(call)
    call.json_format = JSON_ROWS if row else JSON_COLUMNS
    for i, (dtype, shape, data) in enumerate(outputs.values()):
        result.c_outputs[i].alias = probe_span(aliases[i])
        result.c_result.tensors[i] = probe_make(dtype, shape, data)
    if rows is not None:
        result.c_result.rows, call.row_begin, call.row_count = rows
    memset(&out, 0, sizeof(out))
    try:
        for i in range(count):
            text_free(&out)
            with nogil:
                rc = json_encode(call, &out)
            if rc != OK:
                raise status_error(&call.status)
        return out.ptr[:out.len]
    finally:
        text_free(&out)
