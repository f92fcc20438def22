# engine.pxi: the life of a ticket, from submit to the one answer.
#
# Owns: creation, holds and the answer of a Call; the order of its stages; where it runs (inline, runner, batch); the limits of the
# queues.  Must not know: transports (they get `done`), Python.
# Strategy: submit = decode + prepare (resolve, find the plan) + dispatch (admit, choose a thread).  A call runs on the thread that has
# it only when this fetch set has been seen often enough at this size, its p99 estimate is below the transport's budget (or its mean far
# below, the p99 being the machine's doing) and far below the time left, and the graph cannot block.  A call that is somewhat longer may
# be kept by that thread until it has nothing shorter to do, when no processor is free for a runner.  Everything else goes to a runner, or
# to the batcher of its servable.

cdef enum:
    INLINE_MIN_SEEN = 4            # runs of a (fetch set, size bucket) before its time is believed; the first costs 10-30 ms
    INLINE_DEADLINE_FACTOR = 8     # the time left must be this many times the p99 estimate
    STATS_SETTLED = 16             # runs that may still be warming caches up (oneDNN: the first runs of a shape cost 1.5-3.5 x)
    KEEP_MAX_NS = 400 * NS_PER_US  # longest mean of a call that is kept: so long a short call may find its thread busy
    STRETCHED_NS = 2 * NS_PER_MS   # p99 of short runs where threads share processors: one in a hundred is interrupted, wherever it runs
    INLINE_MEAN_FACTOR = 3         # so a p99 up to that is forgiven when the budget is this many times the mean
    POOLED_FROM_NS = 2 * NS_PER_MS  # from here on TensorFlow's pool (its own timeout, inter-op parallelism) costs little: +30 us
    FEEDS_ON_STACK = 16

cdef int64_t MAX_REPLY_BYTES = 2147483647          # protobuf's own limit of a message


# -- the ticket's life

cdef Call* call_new(EngineCore* engine) noexcept nogil:
    """A ticket held once (by the consumer), all fields zero but the engine, the deadline (none) and the arena.  NULL = no memory."""
    cdef Call* call = <Call*>malloc(sizeof(Call))
    if call == NULL:
        return NULL
    memset(call, 0, <uint8_t*>&call.arena - <uint8_t*>call)
    arena_init(&call.arena)
    call.engine = engine
    call.refs = 1
    call.deadline_ns = INT64_MAX
    call.timer_index = -1
    atomic_add64(&engine.calls, 1)
    live_add(LIVE_CALL, 1)
    return call


cdef inline void call_hold(Call* call) noexcept nogil:
    atomic_add32(&call.refs, 1)


cdef inline void call_drop(Call* call) noexcept nogil:
    """Drops one reference; the last one calls `release`, whose owner ends with call_free."""
    if atomic_add32(&call.refs, -1) == 0:
        call.release(call)


cdef void call_free(Call* call) noexcept nogil:
    """Frees the ticket.  `body` is the consumer's and must be gone or its own."""
    cdef EngineCore* engine = call.engine
    result_drop(call.result)
    if call.servable != NULL:
        servable_drop(call.servable)
    status_clear(&call.status)
    arena_free(&call.arena)
    free(call)
    live_add(LIVE_CALL, -1)
    atomic_add64(&engine.calls, -1)


cdef inline int call_answer(Call* call) noexcept nogil:
    """1 for the one who may answer."""
    return atomic_swap32(&call.answered, 1) == 0


cdef void engine_finish(Call* call) noexcept nogil:
    """The winner's last step, with status or result filled: timer, counters, `done`.  The ticket may be gone afterwards."""
    cdef ModelCounters* counters = call.servable.counters if call.servable != NULL else NULL
    timer_remove(call)
    if call.status.code == OK and call.run_ns:
        counters_run(counters, call.method, call.run_ns)
    if call.method == METHOD_PREDICT:                # the services count the other methods: they know whether the answer held
        if counters == NULL:
            counters = counters_of(call.engine, call.model, True)
        counters_request(counters, call.method, call.entry, call.status.code, now_ns() - call.start_ns)
    stage_mark(call, PROFILE_SCATTER)
    call.done(call)


cdef void engine_fail(Call* call, int code) noexcept nogil:
    """Answers with the error already written in call.status (code given again for clarity at the call site)."""
    if call_answer(call):
        call.status.code = code
        engine_finish(call)


cdef void engine_refuse(Call* call, int code, const char* message) noexcept nogil:
    """Answers with this error unless somebody has answered."""
    if call_answer(call):
        status_set(&call.status, code, message)
        engine_finish(call)


cdef void engine_expire(Call* call) noexcept nogil:
    """The timer: the deadline passed while the call was queued or running elsewhere."""
    engine_refuse(call, DEADLINE_EXCEEDED, "Timed out waiting for notification")


cdef void call_cancel(Call* call) noexcept nogil:
    """The consumer lost interest: answers CANCELLED if nobody has; a queued call is then skipped."""
    engine_refuse(call, CANCELLED, "CANCELLED")


# -- limits of the queues

cdef int engine_queue(Call* call) noexcept nogil:
    """Counts the call against the limits of the process, or refuses it."""
    cdef EngineCore* engine = call.engine
    cdef Text* text = &call.status.text
    if atomic_add64(&engine.queued_calls, 1) > engine.max_queued_calls:
        atomic_add64(&engine.queued_calls, -1)
        status_set(&call.status, UNAVAILABLE, "too many calls are waiting: --max_queued_calls=")
        text_int(text, engine.max_queued_calls)
        return UNAVAILABLE
    if atomic_add64(&engine.queued_bytes, call.payload_bytes) > engine.max_queued_bytes:
        atomic_add64(&engine.queued_calls, -1)
        atomic_add64(&engine.queued_bytes, -call.payload_bytes)
        status_set(&call.status, UNAVAILABLE, "too many request bytes are waiting: --max_queued_bytes=")
        text_int(text, engine.max_queued_bytes)
        return UNAVAILABLE
    call.queued_calls = 1
    return OK


cdef void engine_unqueue(Call* call) noexcept nogil:
    """A runner or a batch has taken the call."""
    if call.queued_calls:
        call.queued_calls = 0
        atomic_add64(&call.engine.queued_calls, -1)
        atomic_add64(&call.engine.queued_bytes, -call.payload_bytes)


# -- run-time estimates

cdef inline RunStats* engine_stats(Call* call) noexcept nogil:
    """The statistics of this fetch set at this size: one bucket per power of two of request bytes."""
    cdef int bucket = 0
    cdef uint64_t size = <uint64_t>call.payload_bytes >> 4
    while size and bucket < SIZE_BUCKETS - 1:
        size >>= 1
        bucket += 1
    return &call.fetch.stats[bucket]


cdef inline void stats_update(RunStats* stats, int64_t run_ns) noexcept nogil:
    """Races lose a sample, never more.  The first run builds the executor and is forgotten; the next few start from the fastest;
    then a quantile walk: up by an eighth, down by an 800th, so that it rests where one run in a hundred is above."""
    cdef int64_t seen = atomic_load64(&stats.seen)
    cdef int64_t p99 = atomic_load64(&stats.p99_ns)
    cdef int64_t mean = atomic_load64(&stats.mean_ns)
    cdef int64_t step
    if seen < STATS_SETTLED:
        if seen <= 1 or run_ns * 2 < p99:
            p99 = run_ns * 2
            mean = run_ns
    else:
        mean += (run_ns - mean) // 16
        if run_ns > p99:
            step = p99 // 8 + NS_PER_US
            p99 += step if run_ns - p99 > step else run_ns - p99
        else:
            p99 -= p99 // 800 + 1
    atomic_store64(&stats.p99_ns, p99)
    atomic_store64(&stats.mean_ns, mean)
    atomic_store64(&stats.seen, seen + 1)


cdef inline bint engine_inline(Call* call, int64_t now) noexcept nogil:
    """Whether the submitting thread runs the model itself."""
    cdef RunStats* stats
    cdef int64_t p99
    if call.inline_budget_ns <= 0 or call.plan.traits & (GRAPH_MAY_BLOCK | GRAPH_MANY_DEVICES):
        return False
    stats = engine_stats(call)
    if atomic_load64(&stats.seen) < INLINE_MIN_SEEN:
        return False
    p99 = atomic_load64(&stats.p99_ns)
    if p99 > call.inline_budget_ns and (
            p99 > STRETCHED_NS or atomic_load64(&stats.mean_ns) * INLINE_MEAN_FACTOR > call.inline_budget_ns):
        return False
    return call.deadline_ns == INT64_MAX or call.deadline_ns - now > p99 * INLINE_DEADLINE_FACTOR


cdef bint engine_offer(Call* call, int64_t now) noexcept nogil:
    """Whether the submitting thread keeps the call; it then owes us engine_resume.  A hand-over costs two wake-ups and cold caches, and
    gains nothing while every processor is at work."""
    cdef RunStats* stats
    if call.keep == NULL or call.plan.traits & (GRAPH_MAY_BLOCK | GRAPH_MANY_DEVICES):
        return False
    stats = engine_stats(call)
    call.kept_ns = atomic_load64(&stats.mean_ns)
    if atomic_load64(&stats.seen) < INLINE_MIN_SEEN or call.kept_ns > KEEP_MAX_NS or atomic_load64(&stats.p99_ns) > STRETCHED_NS:
        return False
    if call.deadline_ns != INT64_MAX and call.deadline_ns - now <= STRETCHED_NS * INLINE_DEADLINE_FACTOR:
        return False                                 # no timer looks after a kept call
    call_hold(call)
    if call.keep(call, call.kept_ns, atomic_load64(&call.engine.on_runners)):
        return True
    call_drop(call)
    return False


cdef void engine_resume(Call* call) noexcept nogil:
    """Runs a kept call on the thread that kept it, unless it was answered or is too late."""
    stage_mark(call, PROFILE_QUEUE)
    if atomic_load32(&call.answered) or call.deadline_ns <= now_ns():
        engine_expire(call)                          # nothing when it was answered
    else:
        engine_run(call, False)
    call_drop(call)


# -- running

cdef int engine_assemble(Call* call, TF_Tensor** feeds, Status* status) noexcept nogil:
    """One tensor per plan input, fresh (a fed tensor belongs to TensorFlow for ever); defaults are fed as they are.

    The error goes to `status`: the ticket's own belongs to whoever answers, and the timer may be doing so.
    """
    cdef Plan* plan = call.plan
    cdef TensorSpan* span
    cdef int32_t i, k
    if feeds == NULL:
        return status_set(status, RESOURCE_EXHAUSTED, "out of memory")
    for i in range(plan.input_count):
        if call.slot_input[i] < 0:
            feeds[i] = plan.inputs[i].fallback
            continue
        span = &call.inputs[call.slot_input[i]]
        feeds[i] = tensor_make(span)
        if feeds[i] == NULL:
            for k in range(i):
                if call.slot_input[k] >= 0:
                    tf.DeleteTensor(feeds[k])
            return status_quote(status, INVALID_ARGUMENT, "tensor parsing error: ", span.alias, "")
    return OK


cdef void engine_feeds_delete(Call* call, TF_Tensor** feeds) noexcept nogil:
    cdef int32_t i
    for i in range(call.plan.input_count):
        if call.slot_input[i] >= 0:
            tf.DeleteTensor(feeds[i])


cdef int64_t engine_time_left_ms(Call* call, int64_t now) noexcept nogil:
    """For RunOptions.timeout_in_ms; 0 = no deadline, else at least 1.  Rounded up: TensorFlow must not end a run before its time."""
    cdef int64_t left
    if call.deadline_ns == INT64_MAX:
        return 0
    left = (call.deadline_ns - now + NS_PER_MS - 1) // NS_PER_MS
    return left if left > 0 else 1


cdef void engine_run(Call* call, bint on_runner) noexcept nogil:
    """Assembles, runs, answers.  Drops the queue's reference when called by a runner."""
    cdef TF_Tensor* few[FEEDS_ON_STACK]
    cdef TF_Tensor** feeds = few
    cdef RunResult* result = NULL
    cdef RunStats* stats
    cdef Status status
    cdef int64_t began
    cdef bint pooled
    cdef int code
    if on_runner:
        stage_mark(call, PROFILE_QUEUE)
    if on_runner and (atomic_load32(&call.answered) or call.deadline_ns <= now_ns()):
        engine_expire(call)                          # nothing when it was answered
        call_drop(call)
        return
    if call.plan.input_count > FEEDS_ON_STACK:
        feeds = <TF_Tensor**>malloc(call.plan.input_count * sizeof(TF_Tensor*))
    memset(&status, 0, sizeof(Status))
    code = engine_assemble(call, feeds, &status)
    stage_mark(call, PROFILE_ASSEMBLE)
    if code == OK:
        stats = engine_stats(call)
        # Known and short: on this thread. Unknown, long or able to block: TensorFlow's pool, whose timeout can end it.
        pooled = on_runner and (atomic_load64(&stats.seen) < INLINE_MIN_SEEN or atomic_load64(&stats.mean_ns) > POOLED_FROM_NS
                                or call.plan.traits & GRAPH_MAY_BLOCK)
        atomic_add64(&call.engine.running, 1)
        began = now_ns()
        code = session_run(call.servable, call.plan, call.fetch, feeds, engine_time_left_ms(call, began), pooled, &result, &status)
        began = now_ns() - began
        atomic_add64(&call.engine.running, -1)
        if code == OK:
            stats_update(stats, began)
        engine_feeds_delete(call, feeds)
        stage_mark(call, PROFILE_RUN)
        engine_deliver(call, result, &status, began)
    else:
        engine_deliver(call, NULL, &status, 0)
    if feeds != few:
        free(feeds)
    if on_runner:
        call_drop(call)


cdef void engine_deliver(Call* call, RunResult* result, Status* status, int64_t run_ns) noexcept nogil:
    """Answers with a run's outcome, taking over `result` and the text of `status`; drops both when somebody was faster."""
    if not call_answer(call):
        result_drop(result)
        status_clear(status)
        return
    status_clear(&call.status)
    call.status = status[0]
    call.result = result
    call.run_ns = run_ns
    engine_finish(call)


# -- the stages

cdef int engine_prepare(Call* call) noexcept nogil:
    """Resolves the servable and finds the plan.  OK, or the code with the text in call.status."""
    if call.servable == NULL and map_resolve(call) != OK:
        return call.status.code
    return engine_find_plan(call)


cdef int engine_find_plan(Call* call) noexcept nogil:
    call.plan = plan_find(call.servable, call.signature)
    if call.plan == NULL:
        if call.signature.len == 0:
            return status_set(&call.status, FAILED_PRECONDITION, "Serving signature key \"serving_default\" not found.")
        return status_quote(&call.status, FAILED_PRECONDITION, "Serving signature key \"", call.signature, "\" not found.")
    if call.engine.check_method_names and call.method == METHOD_PREDICT:
        return plan_check_method(call)
    return OK


cdef void engine_dispatch(Call* call) noexcept nogil:
    """Admits the call and gives it to a thread; or answers at once."""
    cdef int64_t now
    if plan_admit(call) != OK:
        engine_fail(call, call.status.code)
        return
    stage_mark(call, PROFILE_RESOLVE)
    if call.servable.batcher == NULL:
        now = now_ns()
        if engine_inline(call, now):
            engine_run(call, False)
            return
        if call.deadline_ns <= now:
            engine_expire(call)
            return
        if engine_offer(call, now):
            return
    if engine_queue(call) != OK:
        engine_fail(call, call.status.code)
        return
    call_hold(call)                                  # it may be answered and dropped while it is being handed over
    if timer_add(call) != OK:
        engine_unqueue(call)
        engine_refuse(call, RESOURCE_EXHAUSTED, "out of memory")
    elif call.servable.batcher != NULL:
        batch_submit(call)
    else:
        runner_push(call)
    call_drop(call)


cdef void engine_submit(Call* call) noexcept nogil:
    """PredictRequest bytes in call.body -> one call of `done`, now or later.  Any thread."""
    if call.start_ns == 0:
        call.start_ns = now_ns()
    stage_begin(call)
    if request_decode(call) != OK:
        engine_fail(call, call.status.code)
        return
    stage_mark(call, PROFILE_DECODE)
    if engine_prepare(call) != OK:
        engine_fail(call, call.status.code)
        return
    engine_dispatch(call)
