# json_submit.pxi: the JSON codec as a consumer of the engine: submit a REST body, take the reply.
#
# Owns: the functions that Engine.predict_json and the mailbox call.  Must not know: JSON, HTTP.

cdef enum:
    JSON_WITHOUT_GIL = 65536       # results of so many bytes and more are printed with the GIL released


cdef void json_submit(Call* call) noexcept nogil:
    """A REST predict body in call.body, the route's model spec in the call -> one call of `done`, now or later.  Any thread."""
    if json_decode(call) != OK or (call.engine.check_method_names and plan_check_method(call) != OK):
        engine_fail(call, call.status.code)
        return
    engine_dispatch(call)


cdef bytes json_reply(Call* call):
    """The JSON reply of an answered call; raises the error of a result that cannot be printed."""
    cdef Text out
    cdef int code
    memset(&out, 0, sizeof(Text))
    if json_result_bytes(call) < JSON_WITHOUT_GIL:
        code = json_encode(call, &out)
    else:
        with nogil:
            code = json_encode(call, &out)
    try:
        if code != OK:
            raise status_error(&call.status)
        return out.ptr[:out.len]
    finally:
        text_free(&out)


cdef size_t json_result_bytes(Call* call) noexcept nogil:
    cdef size_t total = 0
    cdef int32_t i
    for i in range(call.result.count):
        total += tf.TensorByteSize((&call.result.tensors[0])[i])
    return total
