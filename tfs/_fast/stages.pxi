# stages.pxi: where the time of a call goes, for `python -m bench profile`.
#
# Owns: one sum of nanoseconds per stage, in the engine.  Must not know: what the stages do.
# Strategy: a call carries the time of its last mark; stage_mark books the time since then under a stage and moves the mark.  Off (the
# normal state) a mark is one predictable branch on a field that is in the cache anyway.  A clock read costs about 20 ns per mark.

cdef enum ProfileStage:
    PROFILE_DECODE = 0             # request bytes -> spans
    PROFILE_RESOLVE = 1            # servable, plan, admission
    PROFILE_QUEUE = 2              # waiting for a runner or a batch
    PROFILE_ASSEMBLE = 3           # spans -> tensors
    PROFILE_RUN = 4                # inside TensorFlow
    PROFILE_SCATTER = 5            # the answer is given; with batching: rows back to their calls
    PROFILE_WAKE = 6               # until the consumer begins to encode
    PROFILE_ENCODE = 7             # tensors -> reply bytes

PROFILE_STAGES = ("decode", "resolve", "queue", "assemble", "run", "scatter", "wake", "encode")


cdef void stage_book(Call* call, int stage) noexcept nogil:
    cdef int64_t now
    if call.mark_ns:                                 # 0: it began before profiling did
        now = now_ns()
        count_add(&call.engine.stage_ns[stage], now - call.mark_ns)
        call.mark_ns = now


cdef inline void stage_mark(Call* call, int stage) noexcept nogil:
    """The time since the last mark was spent in `stage`."""
    if call.engine.profiling:
        stage_book(call, stage)


cdef inline void stage_begin(Call* call) noexcept nogil:
    if call.engine.profiling:
        count_add(&call.engine.profiled_calls, 1)
        call.mark_ns = now_ns()
