# pending.pxi: what the parts still to come (batch) give to the engine.  Each leaves this file as its part lands.

cdef void batch_submit(Call* call) noexcept nogil:
    engine_refuse(call, UNIMPLEMENTED, "batching is not in this build")


cdef void batch_disable(Servable* servable) noexcept nogil:
    pass


cdef dict batch_counters():
    return {}
