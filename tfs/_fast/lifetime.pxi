# lifetime.pxi: the engine's start and stop, and the blocking consumer of tickets.
#
# Owns: engine_start/engine_stop; Waiter, for callers that have a thread to spare (warm-up, tools).  Must not know: Python objects.

cdef enum:
    PYTHON_INLINE_NS = 150 * NS_PER_US         # an event loop may run models itself up to this p99: a hand-over costs it 20-40 us

cdef struct Waiter:                # owns the copy of the request; freed with its ticket
    Call* call
    pthread_mutex_t lock
    pthread_cond_t answered
    int32_t done
    uint8_t body[1]


cdef int engine_start(EngineCore* engine) noexcept nogil:
    """Locks and the timer's thread.  OK or INTERNAL."""
    counters_init()
    pthread_mutex_init(&engine.lock, NULL)
    pthread_mutex_init(&engine.timer_lock, NULL)
    pthread_mutex_init(&engine.counters_lock, NULL)
    cond_init(&engine.work)
    cond_init(&engine.quiet)
    cond_init(&engine.timer_wake)
    engine.growth_check_ns = INT64_MAX
    return OK if thread_start(&engine.timer_thread, timer_body, engine, "tfs-timer") == 0 else INTERNAL


cdef void engine_stop(EngineCore* engine) noexcept nogil:
    """Joins the timer's thread and frees the engine.  After runners_stop; nobody may submit any more."""
    pthread_mutex_lock(&engine.timer_lock)
    engine.timer_stopping = 1
    pthread_cond_signal(&engine.timer_wake)
    pthread_mutex_unlock(&engine.timer_lock)
    pthread_join(engine.timer_thread, NULL)
    map_publish(engine, NULL)
    counters_free(engine)
    free(engine.heap)
    pthread_cond_destroy(&engine.work)
    pthread_cond_destroy(&engine.quiet)
    pthread_cond_destroy(&engine.timer_wake)
    pthread_mutex_destroy(&engine.lock)
    pthread_mutex_destroy(&engine.timer_lock)
    pthread_mutex_destroy(&engine.counters_lock)
    if atomic_load64(&engine.calls) == 0:
        free(engine)                           # a ticket that its consumer has not given back still points here


# -- a thread that waits for its call

cdef void waiter_done(Call* call) noexcept nogil:
    cdef Waiter* waiter = <Waiter*>call.owner
    pthread_mutex_lock(&waiter.lock)
    waiter.done = 1
    pthread_cond_signal(&waiter.answered)
    pthread_mutex_unlock(&waiter.lock)


cdef void waiter_release(Call* call) noexcept nogil:
    cdef Waiter* waiter = <Waiter*>call.owner
    pthread_mutex_destroy(&waiter.lock)
    pthread_cond_destroy(&waiter.answered)
    free(waiter)
    call_free(call)


cdef Waiter* waiter_new(EngineCore* engine, Span body) noexcept nogil:
    """A ticket with its own copy of `body`; NULL = no memory."""
    cdef Waiter* waiter = <Waiter*>calloc(1, sizeof(Waiter) + body.len)
    cdef Call* call = call_new(engine) if waiter != NULL else NULL
    if call == NULL:
        free(waiter)
        return NULL
    pthread_mutex_init(&waiter.lock, NULL)
    cond_init(&waiter.answered)
    memcpy(waiter.body, body.ptr, body.len)
    waiter.call = call
    call.owner = waiter
    call.done = waiter_done
    call.release = waiter_release
    call.body.ptr = waiter.body
    call.body.len = body.len
    return waiter


cdef void waiter_wait(Waiter* waiter) noexcept nogil:
    """Until the answer: the engine's timer keeps the deadline."""
    pthread_mutex_lock(&waiter.lock)
    while not waiter.done:
        pthread_cond_wait(&waiter.answered, &waiter.lock)
    pthread_mutex_unlock(&waiter.lock)
