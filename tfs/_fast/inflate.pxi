# inflate.pxi: compressed gRPC requests and REST answers, on a thread of their own: a megabyte takes milliseconds, which no I/O thread
# may lose.
#
# Owns: the inflater thread and its list.  Must not know: tickets.
# Strategy: the I/O thread lends the stream (STAGE_INFLATE); the inflater replaces its body by the inflated one, or its answer by the
# packed one (rest.pxi), and hands it back like an answer.  Inflated bytes grow by doubling as they are made, never beyond the message
# limit, and not at all when the byte budget is used up.

cdef enum:
    INFLATE_FIRST = 16384          # room for output at the start
    INFLATE_FREE = 1048576         # output that is made even when the byte budget is used up


cdef void inflate_submit(Stream* st) noexcept nogil:
    """I/O thread: lends a stream whose message is complete, or whose answer is to be packed."""
    cdef NativeCore* core = st.thread.core
    st.stage = STAGE_INFLATE
    st.thread.outstanding += 1
    st.done_next = NULL
    pthread_mutex_lock(&core.lock)
    if core.inflate_last == NULL:
        core.inflate_first = st
    else:
        core.inflate_last.done_next = st
    core.inflate_last = st
    pthread_cond_signal(&core.inflate_work)
    pthread_mutex_unlock(&core.lock)


cdef Stream* inflate_next(NativeCore* core) noexcept nogil:
    """Waits for a stream; NULL when the server stops.  (I/O threads stop first, so nothing is left behind.)"""
    cdef Stream* st
    pthread_mutex_lock(&core.lock)
    while core.inflate_first == NULL and not core.inflater_ends:
        pthread_cond_wait(&core.inflate_work, &core.lock)
    st = inflate_pop(core)
    pthread_mutex_unlock(&core.lock)
    return st


cdef Stream* inflate_pop(NativeCore* core) noexcept nogil:
    """The oldest of the list, or NULL.  Under the lock."""
    cdef Stream* st = core.inflate_first
    if st != NULL:
        core.inflate_first = st.done_next
        if core.inflate_first == NULL:
            core.inflate_last = NULL
    return st


cdef void inflate_one(Stream* st, z_stream* z, bint able) noexcept nogil:
    if st.packing:
        if not atomic_load32(&st.closed):
            rest_pack(st)
        stream_complete(st)
        return
    st.code = OK
    if not atomic_load32(&st.closed):
        if able:
            inflate_message(st, z)
        else:
            grpc_set_error(st, RESOURCE_EXHAUSTED, "no memory to inflate the request", 32)
    stream_complete(st)


cdef void* inflate_main(void* argument) noexcept nogil:
    cdef NativeCore* core = <NativeCore*>argument
    cdef z_stream z
    cdef Stream* st
    cdef bint able
    memset(&z, 0, sizeof(z))
    able = inflate_init(&z) == Z_OK
    while True:
        st = inflate_next(core)
        if st == NULL:
            inflateEnd(&z)
            return NULL
        inflate_one(st, &z, able)


cdef void inflate_message(Stream* st, z_stream* z) noexcept nogil:
    """Replaces st.body by what it inflates to, or writes the error."""
    cdef NativeCore* core = st.thread.core
    cdef size_t limit = <size_t>core.limits.max_message_bytes
    cdef size_t made = 0
    cdef Body* grown
    cdef Body* out = NULL
    cdef int rc = Z_OK
    inflateReset(z)
    z.next_in = body_bytes(st.body)
    z.avail_in = <unsigned int>st.body_len
    while rc != Z_STREAM_END:
        if out == NULL or made == out.cap:
            if made >= limit and out != NULL:
                inflate_fail(st, out, RESOURCE_EXHAUSTED, "SERVER: Received message larger than max after decompression")
                return
            if made >= INFLATE_FREE and http2_pressed(core):
                inflate_fail(st, out, RESOURCE_EXHAUSTED, "no room to inflate the request: the byte budget is used up")
                return
            grown = body_room(out, core.budget, min(limit, made + INFLATE_FIRST), limit)
            if grown == NULL:
                inflate_fail(st, out, RESOURCE_EXHAUSTED, "no memory to inflate the request")
                return
            out = grown
        z.next_out = body_bytes(out) + made
        z.avail_out = <unsigned int>(out.cap - made)
        rc = inflate(z, Z_NO_FLUSH)
        made = out.cap - z.avail_out
        if rc != Z_OK and rc != Z_STREAM_END and not (rc == Z_BUF_ERROR and z.avail_out == 0):
            inflate_fail(st, out, INTERNAL, "the message does not inflate: damaged or cut short")
            return
    body_free(st.body)
    st.body = out
    st.body_len = made


cdef void inflate_fail(Stream* st, Body* out, int code, const char* text) noexcept nogil:
    body_free(out)
    grpc_set_error(st, code, text, strlen(text))
