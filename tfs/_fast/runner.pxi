# runner.pxi: the threads that run calls which their own thread must not run.
#
# Owns: one queue per servable, the ring of servables that have work and room, the runner threads and their number.
# Must not know: how a call is run (engine_run) or answered.
# Strategy: one FIFO per servable, servables served in turn, so a busy model cannot starve another.  As many runners as cores start
# without question; more only when nothing ends any more although calls wait (blocked kernels: a dequeue, a barrier), quickly if some
# model has no runner at all, slowly otherwise, and never more than `max_runners_per_model` for one servable.  As soon as runs end again
# the surplus ends, too: with more runners than cores every call and every I/O thread waits for more turns of others.

cdef enum:
    DEFAULT_MAX_RUNNERS = 512               # threads that wait cost a stack each, not CPU
    DEFAULT_MAX_RUNNERS_PER_MODEL = 64
    DEFAULT_MAX_QUEUED_CALLS = 65536        # in the process; a burst of 5,000 must pass, an endless one must not
    GROWTH_STARVED_NS = 2 * NS_PER_MS       # a model without any runner waits this long for the others' runs to end
    GROWTH_BUSY_NS = 50 * NS_PER_MS         # a model with runners waits this long for one of them
    RUN_LONG_NS = 10 * NS_PER_MS            # a run that began longer ago may be blocked: its runner does not count as one of enough

cdef int64_t DEFAULT_MAX_QUEUED_BYTES = 4LL << 30


cdef inline void ring_append(EngineCore* engine, Servable* servable) noexcept nogil:
    servable.in_ring = 1
    servable.ring_next = NULL
    if engine.ring_tail == NULL:
        engine.ring_head = servable
    else:
        engine.ring_tail.ring_next = servable
    engine.ring_tail = servable


cdef Servable* ring_take(EngineCore* engine) noexcept nogil:
    """The next servable to serve: the first without a runner, else the first."""
    cdef Servable* at = engine.ring_head
    cdef Servable* before = NULL
    while at != NULL and at.running:
        before = at
        at = at.ring_next
    if at == NULL:
        before = NULL
        at = engine.ring_head
    if at == NULL:
        return NULL
    if before == NULL:
        engine.ring_head = at.ring_next
    else:
        before.ring_next = at.ring_next
    if engine.ring_tail == at:
        engine.ring_tail = before
    at.in_ring = 0
    return at


cdef inline void ring_update(EngineCore* engine, Servable* servable) noexcept nogil:
    """Puts a servable in the ring when it has work and room."""
    if not servable.in_ring and servable.queue_head != NULL and servable.running < engine.max_runners_per_model:
        ring_append(engine, servable)


cdef Call* runner_take(EngineCore* engine) noexcept nogil:
    """The next call, its servable counted as running; NULL = no work.  With the lock."""
    cdef Servable* servable = ring_take(engine)
    cdef Call* call
    if servable == NULL:
        return NULL
    call = servable.queue_head
    servable.queue_head = call.queue_next
    if call.queue_next == NULL:
        servable.queue_tail = NULL
    engine.waiting -= 1
    servable.running += 1
    ring_update(engine, servable)
    return call


cdef bint runner_surplus(EngineCore* engine) noexcept nogil:
    """Whether more runners than the base number are between runs or in short ones.  With the lock."""
    cdef Runner* at = engine.first_runner
    cdef int64_t begun
    cdef int32_t able = 0
    if engine.runners <= engine.base_runners:
        return False
    begun = now_ns() - RUN_LONG_NS
    while at != NULL and able <= engine.base_runners:
        able += at.since_ns == 0 or at.since_ns > begun
        at = at.next
    return able > engine.base_runners


cdef void runner_run(EngineCore* engine, Runner* self, Call* call) noexcept nogil:
    """Runs what `runner_take` gave.  With the lock, which is not held meanwhile."""
    cdef Servable* servable = call.servable
    self.since_ns = now_ns()
    pthread_mutex_unlock(&engine.lock)
    engine_unqueue(call)
    servable_hold(servable)                # the call may be the last holder, and the queue lives in the servable
    engine_run(call, True)
    atomic_add64(&engine.on_runners, -1)
    pthread_mutex_lock(&engine.lock)
    self.since_ns = 0
    servable.running -= 1
    engine.completed += 1
    ring_update(engine, servable)
    pthread_mutex_unlock(&engine.lock)
    servable_drop(servable)
    pthread_mutex_lock(&engine.lock)


cdef void runner_leave(EngineCore* engine, Runner* self) noexcept nogil:
    """With the lock.  What the runner would have taken next is another's now: nobody was signalled for a servable that just got room."""
    cdef Runner** at = &engine.first_runner
    cdef bint watch = False
    while at[0] != self:
        at = &at[0].next
    at[0] = self.next
    if engine.ring_head != NULL:
        runner_wake(engine, &watch)
    if watch:
        timer_arm_growth(engine, now_ns() + GROWTH_STARVED_NS)
    engine.runners -= 1                        # from here on the engine may go
    pthread_cond_broadcast(&engine.quiet)


cdef void* runner_body(void* argument) noexcept nogil:
    """A runner's thread: takes calls until the engine stops or there are enough others."""
    cdef EngineCore* engine = <EngineCore*>argument
    cdef Runner self
    cdef Call* call
    denormals_flush()
    self.since_ns = 0
    pthread_mutex_lock(&engine.lock)
    self.next = engine.first_runner
    engine.first_runner = &self
    while True:
        call = runner_take(engine)
        if call != NULL:
            runner_run(engine, &self, call)
            if runner_surplus(engine):
                break
            continue
        if engine.stopping:
            break
        engine.idle += 1
        pthread_cond_wait(&engine.work, &engine.lock)
        engine.idle -= 1
    runner_leave(engine, &self)
    pthread_mutex_unlock(&engine.lock)
    return NULL


cdef bint runner_spawn(EngineCore* engine) noexcept nogil:
    """With the lock.  False when there are enough or the system refuses a thread: the others must do, the growth check tries again."""
    cdef pthread_t thread
    if engine.runners >= engine.max_runners:
        return False
    engine.runners += 1
    if thread_start(&thread, runner_body, engine, "tfs-runner") != 0:
        engine.runners -= 1
        return False
    pthread_detach(thread)                     # engine_stop waits for `runners` to reach zero instead
    return True


cdef void runner_wake(EngineCore* engine, bint* watch) noexcept nogil:
    """After a call was queued, with the lock: an idle runner, a new one, or (`watch`) the timer's eye on those that are busy.

    Two calls may be waiting for one idle runner that was signalled and has not run yet: the second needs more than the signal.
    """
    if engine.idle:
        pthread_cond_signal(&engine.work)
    if engine.waiting <= engine.idle or (engine.runners < engine.base_runners and runner_spawn(engine)):
        return
    if not engine.growth_watch:
        watch[0] = True
        engine.growth_watch = 1
        engine.growth_seen = engine.completed
        engine.growth_since_ns = now_ns()


cdef void runner_push(Call* call) noexcept nogil:
    """Queues an admitted call, or refuses it while the engine stops.  The queue holds the ticket."""
    cdef EngineCore* engine = call.engine
    cdef Servable* servable = call.servable
    cdef bint watch = False
    call.queue_next = NULL
    pthread_mutex_lock(&engine.lock)
    if engine.stopping:                        # the runners may have ended already
        pthread_mutex_unlock(&engine.lock)
        engine_unqueue(call)
        engine_refuse(call, UNAVAILABLE, "the server is shutting down")
        return
    call_hold(call)
    atomic_add64(&engine.on_runners, 1)
    if servable.queue_tail == NULL:
        servable.queue_head = call
    else:
        servable.queue_tail.queue_next = call
    servable.queue_tail = call
    engine.waiting += 1
    ring_update(engine, servable)
    runner_wake(engine, &watch)
    pthread_mutex_unlock(&engine.lock)
    if watch:
        timer_arm_growth(engine, now_ns() + GROWTH_STARVED_NS)


cdef bint ring_starved(EngineCore* engine) noexcept nogil:
    """Whether a servable with work has no runner at all.  With the lock."""
    cdef Servable* at = engine.ring_head
    while at != NULL and at.running:
        at = at.ring_next
    return at != NULL


cdef void runners_check_growth(EngineCore* engine) noexcept nogil:
    """The timer's look: calls wait that a runner could take; did any run end since the last change?"""
    cdef int64_t now = now_ns()
    cdef bint again
    pthread_mutex_lock(&engine.lock)
    again = engine.ring_head != NULL           # also with idle runners: they may just be waking up for other calls
    engine.growth_watch = again
    if again and engine.completed != engine.growth_seen:
        engine.growth_seen = engine.completed
        engine.growth_since_ns = now
    elif again and engine.idle == 0 and now - engine.growth_since_ns >= (GROWTH_STARVED_NS if ring_starved(engine) else GROWTH_BUSY_NS):
        engine.growth_since_ns = now
        runner_spawn(engine)
    pthread_mutex_unlock(&engine.lock)
    if again:
        timer_arm_growth(engine, now + GROWTH_STARVED_NS)


cdef void runners_stop(EngineCore* engine) noexcept nogil:
    """Lets the runners finish what is queued, then waits until all have ended."""
    pthread_mutex_lock(&engine.lock)
    engine.stopping = 1
    pthread_cond_broadcast(&engine.work)
    while engine.runners:
        pthread_cond_wait(&engine.quiet, &engine.lock)
    pthread_mutex_unlock(&engine.lock)
