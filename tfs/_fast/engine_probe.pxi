# engine_probe.pxi: the bench's entrance to the engine: calls from request bytes to reply bytes, and bare runs, without Python between.
#
# Owns: the two loops and nothing else.  Must not know: transports; it stands in for one.

cdef struct ProbeLoop:
    int64_t answered               # atomic
    int64_t failed                 # atomic
    int64_t inlined                # answered on the submitting thread
    uint64_t submitter
    int32_t as_content


cdef void probe_loop_done(Call* call) noexcept nogil:
    """What a transport does: encodes the reply, sends it (here: forgets it), gives the ticket back."""
    cdef ProbeLoop* loop = <ProbeLoop*>call.owner
    cdef uint8_t* reply
    cdef size_t size
    if call.status.code != OK:
        atomic_add64(&loop.failed, 1)
    else:
        size = response_size(call, loop.as_content)
        reply = <uint8_t*>malloc(size)
        response_write(call, loop.as_content, reply)
        probe_keep(reply)
        free(reply)
    if thread_ident() == loop.submitter:
        loop.inlined += 1
    call_drop(call)
    atomic_add64(&loop.answered, 1)


cdef int probe_loop_run(EngineCore* engine, Span request, int64_t times, int64_t timeout_ns, ProbeLoop* loop) noexcept nogil:
    """One call after the other; what goes to a runner is waited for.  0, or -1 without memory."""
    cdef uint64_t mode = denormals_flush()
    cdef Call* call
    cdef int64_t i
    for i in range(times):
        call = call_new(engine)
        if call == NULL:
            return -1
        call.owner = loop
        call.done = probe_loop_done
        call.release = call_free
        call.body = request
        call.inline_budget_ns = NS_PER_S
        call.start_ns = now_ns()
        if timeout_ns > 0:
            call.deadline_ns = call.start_ns + timeout_ns
        engine_submit(call)
        while atomic_load64(&loop.answered) <= i:
            sched_yield()
    denormals_restore(mode)
    return 0


def _probe_engine_loop(Engine engine not None, bytes request not None, int64_t times, int64_t timeout_ns=0) -> int:
    """Bench: `times` calls of the engine from this thread, one after the other, replies encoded; returns how many ran on this thread.

    Without the GIL.  Raises Internal when a call fails.
    """
    cdef ProbeLoop loop
    cdef Span body = bytes_span(request)
    cdef int rc
    engine.check_open()
    memset(&loop, 0, sizeof(ProbeLoop))
    loop.submitter = thread_ident()
    loop.as_content = engine.core.as_content
    with nogil:
        rc = probe_loop_run(engine.core, body, times, timeout_ns, &loop)
    if rc < 0:
        raise MemoryError
    if loop.failed:
        raise errors.Internal(f"{loop.failed} of {times} calls failed")
    return loop.inlined


def _probe_bare_run(Engine engine not None, LoadedServable servable not None, bytes request not None, int64_t times) -> None:
    """Bench baseline: `times` inline runs of the request's signature with feeds made once; outputs are deleted.  Without the GIL.

    Nothing of the engine but its decoder is used.  Raises the error of the request or of a run.
    """
    cdef Call* call
    cdef TF_Tensor** feeds
    cdef Status status
    cdef int64_t done = 0
    engine.check_open()
    servable.check_open()
    call = call_new(engine.core)
    memset(&status, 0, sizeof(Status))
    servable_hold(servable.core)
    call.servable = servable.core
    call.body = bytes_span(request)
    try:
        if request_decode(call) != OK or engine_prepare(call) != OK or plan_admit(call) != OK:
            raise status_error(&call.status)
        if call.fetch.count > FEEDS_ON_STACK:
            raise errors.InvalidArgument(f"{call.fetch.count} outputs; the probe has room for {FEEDS_ON_STACK}")
        feeds = <TF_Tensor**>calloc(call.plan.input_count + 1, sizeof(TF_Tensor*))
        if engine_assemble(call, feeds, &status) == OK:
            with nogil:
                done = probe_bare_loop(call, feeds, times, &status)
            engine_feeds_delete(call, feeds)
        free(feeds)
        if done < times:
            raise_status(&status)
    finally:
        call_free(call)


cdef int64_t probe_bare_loop(Call* call, TF_Tensor** feeds, int64_t times, Status* status) noexcept nogil:
    """Runs done before one failed."""
    cdef uint64_t mode = denormals_flush()
    cdef uint8_t room[RUN_OPTIONS_MAX_BYTES]
    cdef TF_Buffer options = run_options(room, 0, False)
    cdef TF_Tensor* few[FEEDS_ON_STACK]
    cdef TF_Status* from_tf = tf.NewStatus()
    cdef int64_t i
    cdef int32_t k
    for i in range(times):
        call.servable.run(call.servable.session, &options, call.plan.feeds, feeds, call.plan.input_count, call.fetch.fetches, few,
                          call.fetch.count, from_tf)
        if status_from_tf(status, from_tf) != OK:
            times = i
            break
        for k in range(call.fetch.count):
            tf.DeleteTensor(few[k])
    tf.DeleteStatus(from_tf)
    denormals_restore(mode)
    return times
