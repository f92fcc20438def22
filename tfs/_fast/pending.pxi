# pending.pxi: what the part still to come (json) gives to the engine.  It leaves this file as the part lands.

cdef void json_submit(Call* call) noexcept nogil:
    engine_refuse(call, UNIMPLEMENTED, "JSON is not in this build")


cdef bytes json_reply(Call* call):
    return b""
