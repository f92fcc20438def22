# pending.pxi: what the parts still to come (batch, json) give to the engine.  Each leaves this file as its part lands.

cdef void batch_submit(Call* call) noexcept nogil:
    engine_refuse(call, UNIMPLEMENTED, "batching is not in this build")


cdef void batch_disable(Servable* servable) noexcept nogil:
    pass


cdef dict batch_counters():
    return {}


cdef void json_submit(Call* call) noexcept nogil:
    engine_refuse(call, UNIMPLEMENTED, "JSON is not in this build")


cdef bytes json_reply(Call* call):
    return b""
