# streams.pxi: the life of a Stream: pooled, complete, handed out, answered, recycled.
#
# Owns: the lists a stream moves through, the budget of inline runs per turn, the calls that a thread keeps for itself.
# Must not know: sockets, frames, messages.
# Strategy: ready streams wait for the end of the turn's reading, so their number is known when it is decided which may run here.  An
# answer given on this thread goes to a plain list; one from elsewhere to an atomic stack, with one eventfd write when this thread sleeps.

cdef enum:
    POOL_STREAMS = 4096            # recycled Stream structs kept per thread
    INLINE_TURN_NS = 500 * NS_PER_US   # calls run on this thread per turn: what a neighbour on the thread may wait at most
    TURN_MAX_NS = 2 * NS_PER_MS    # decoding and what else handing out takes: the rest of the ready streams waits for the next turn
    HAND_OVER_NS = 20 * NS_PER_US  # a hand-over costs about this (wake-up, cold cache, wake-up back): shorter runs stay here
    KEPT_ROOM_NS = 2 * NS_PER_MS   # predicted time of all calls that a thread keeps: what they may wait although a runner becomes free
    KEPT_TURN_NS = 250 * NS_PER_US     # of them per turn, one at least: short calls come in between


cdef Stream* stream_new(Conn* conn, int32_t stream_id) noexcept nogil:
    """A zeroed stream in the connection's list; NULL = no memory."""
    cdef IoThread* t = conn.thread
    cdef Stream* st = t.pool
    if st != NULL:
        t.pool = st.next
        t.pool_count -= 1
    else:
        st = <Stream*>malloc(sizeof(Stream))
        if st == NULL:
            return NULL
    memset(st, 0, sizeof(Stream))
    st.thread = t
    st.conn = conn
    st.id = stream_id
    st.route = -1
    st.timeout_ns = -1
    st.after = conn.streams
    if st.after != NULL:
        st.after.before = st
    conn.streams = st
    conn.open_streams += 1
    atomic_bump64(&t.stats.streams, 1)
    return st


cdef void stream_closed(Stream* st) noexcept nogil:
    """The stream is no more.  The struct stays until nobody outside may answer it."""
    cdef Conn* conn = st.conn
    http2_received(st)
    if st.before != NULL:
        st.before.after = st.after
    else:
        conn.streams = st.after
    if st.after != NULL:
        st.after.before = st.before
    conn.open_streams -= 1
    if conn.open_streams == 0:
        conn.idle_ns = st.thread.now
    if st.answered and st.code == OK:
        conn.reply_bytes -= st.reply_len - st.reply_sent
    st.conn = NULL
    atomic_store32(&st.closed, 1)
    if st.stage == STAGE_CALL:
        st.thread.core.consumer.cancel(st.call)
    elif st.stage == STAGE_IDLE:
        stream_recycle(st)


cdef void stream_recycle(Stream* st) noexcept nogil:
    """Back to the pool.  A reply may still be named by the write in progress: it is freed after it."""
    cdef IoThread* t = st.thread
    body_free(st.body)
    st.body = NULL
    if st.reply != NULL:
        st.next = t.grave
        t.grave = st
    else:
        stream_pool(st)


cdef void stream_pool(Stream* st) noexcept nogil:
    cdef IoThread* t = st.thread
    if t.pool_count >= POOL_STREAMS:
        free(st)
        return
    st.next = t.pool
    t.pool = st
    t.pool_count += 1


cdef void stream_bury(IoThread* t) noexcept nogil:
    cdef Stream* st
    while t.grave != NULL:
        st = t.grave
        t.grave = st.next
        free(st.reply)
        st.reply = NULL
        stream_pool(st)


cdef void stream_ready(Stream* st) noexcept nogil:
    """A complete request waits for the end of the reading."""
    cdef IoThread* t = st.thread
    st.stage = STAGE_READY
    st.next = NULL
    if t.ready_last == NULL:
        t.ready_first = st
    else:
        t.ready_last.next = st
    t.ready_last = st
    t.ready_count += 1


cdef void stream_run_ready(IoThread* t) noexcept nogil:
    """Hands out the complete requests; those that may run here do so until the turn's budget is spent."""
    cdef Stream* st
    cdef int64_t began, ended, allowed, until
    if t.ready_first == NULL:
        return
    t.turn_left_ns = INLINE_TURN_NS
    began = now_ns()
    until = began + TURN_MAX_NS
    while t.ready_first != NULL and began < until:
        st = t.ready_first
        t.ready_first = st.next
        if t.ready_first == NULL:
            t.ready_last = NULL
        st.stage = STAGE_IDLE
        if st.conn == NULL:
            stream_recycle(st)
        elif not st.answered:
            allowed = max(<int64_t>0, t.turn_left_ns)
            if t.turn_left_ns < INLINE_TURN_NS and st.conn.inline_ns * t.ready_count > t.turn_left_ns:
                allowed = min(allowed, <int64_t>HAND_OVER_NS)      # more than this turn can do: leave the long ones to runners
            stream_hand_out(t, st, allowed)
            ended = now_ns()
            t.turn_left_ns -= ended - began
            if st.conn != NULL:
                st.conn.inline_ns += (ended - began - st.conn.inline_ns) // 8
            began = ended
        t.ready_count -= 1


cdef void stream_hand_out(IoThread* t, Stream* st, int64_t allowed) noexcept nogil:
    cdef Stream* before = t.local_done
    cdef Call* kept = t.kept_last
    if st.conn.http1:
        rest_dispatch(st, allowed)
    else:
        grpc_dispatch(st, allowed)
    if t.local_done != before:
        atomic_bump64(&t.stats.inlined, 1)
    elif t.kept_last != kept:
        atomic_bump64(&t.stats.kept, 1)
    else:
        atomic_bump64(&t.stats.handed_over, 1)


cdef bint stream_keep(Call* call, int64_t predicted_ns, int64_t busy) noexcept nogil:
    """Call.keep: this thread runs the call itself, soon.  Not while a processor is free: `busy` of them have runners, others are ours."""
    cdef IoThread* t = (<Stream*>call.owner).thread
    cdef NativeCore* core = t.core
    cdef int32_t index
    if t.kept_ns + predicted_ns > KEPT_ROOM_NS:
        return False
    for index in range(core.thread_count):
        busy += not atomic_load32(&core.threads[index].sleeping)
    if busy < core.processors:
        return False
    call.queue_next = NULL
    if t.kept_first == NULL:
        t.kept_first = call
    else:
        t.kept_last.queue_next = call
    t.kept_last = call
    t.kept_ns += predicted_ns
    return True


cdef void stream_run_kept(IoThread* t) noexcept nogil:
    """Runs kept calls until the turn's share is used up."""
    cdef int64_t until = now_ns() + KEPT_TURN_NS
    cdef Call* call
    while t.kept_first != NULL and now_ns() < until:
        call = t.kept_first
        t.kept_first = call.queue_next
        if t.kept_first == NULL:
            t.kept_last = NULL
        t.kept_ns -= call.kept_ns
        t.core.consumer.resume(call)


cdef void stream_complete(Stream* st) noexcept nogil:
    """The answer stands in the stream.  Any thread; the caller may not touch the stream afterwards."""
    cdef IoThread* t = st.thread
    if io_current == t:
        st.done_next = t.local_done
        t.local_done = st
        return
    transport_push(&t.done, st)
    stream_wake(t)


cdef void stream_wake(IoThread* t) noexcept nogil:
    atomic_fence()
    if atomic_swap32(&t.sleeping, 0):
        event_write(t.wake_fd)


cdef void stream_take_done(IoThread* t) noexcept nogil:
    """Answers from this thread and from others."""
    cdef Stream* st
    if atomic_load_ptr(&t.done) != NULL:
        stream_completed(t, transport_take(&t.done))
    while t.local_done != NULL:
        st = transport_reverse(t.local_done)
        t.local_done = NULL
        stream_completed(t, st)


cdef void stream_completed(IoThread* t, Stream* st) noexcept nogil:
    cdef Stream* following
    cdef int32_t stage
    while st != NULL:
        following = st.done_next
        stage = st.stage
        st.stage = STAGE_IDLE
        if stage == STAGE_CALL:
            t.outstanding -= 1
            t.core.consumer.drop(st.call)
            st.call = NULL
        elif stage == STAGE_INFLATE:
            t.outstanding -= 1
        if st.conn == NULL:
            stream_recycle(st)
        elif st.conn.http1:
            http1_respond(st)
        elif stage == STAGE_INFLATE and st.code == OK:
            stream_ready(st)
        else:
            grpc_respond(st)
        st = following
