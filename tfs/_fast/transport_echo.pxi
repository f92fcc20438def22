# transport_echo.pxi: the native transport without an engine: answers made of the request, for its tests and its fuzz harness.
#
# Owns: EchoEngine.  Must not know: TensorFlow, the engine.
# Strategy: the same Consumer table that the engine fills.  The first bytes of a request say what happens:
#   hold...        answered when the test says so, from the test's thread     big:N      N bytes of answer
#   fail:CODE:text that error                                                 else       the request itself

cdef struct EchoState:
    pthread_mutex_t lock
    Call* held
    int64_t held_count             # atomic; changed under the lock
    int64_t live                   # atomic: tickets not yet released


cdef Call* transport_echo_open(void* context) noexcept nogil:
    cdef Call* call = <Call*>calloc(1, sizeof(Call))
    if call != NULL:
        call.refs = 1
        call.engine = <EngineCore*>context           # opaque here: where the state is found again
        atomic_add64(&(<EchoState*>context).live, 1)
    return call


cdef void transport_echo_drop(Call* call) noexcept nogil:
    if atomic_add32(&call.refs, -1) == 0:
        call.release(call)


cdef void transport_echo_release(Call* call) noexcept nogil:
    atomic_add64(&(<EchoState*>call.engine).live, -1)
    body_free(<Body*>(call.body.ptr - sizeof(Body)))
    status_clear(&call.status)
    free(call)


cdef void transport_echo_answer(Call* call, int code, const char* text, size_t size) noexcept nogil:
    if atomic_swap32(&call.answered, 1) == 0:
        call.status.code = code
        text_add(&call.status.text, text, size)
        call.done(call)


cdef void transport_echo_cancel(Call* call) noexcept nogil:
    transport_echo_answer(call, CANCELLED, "CANCELLED", 9)


cdef int64_t transport_echo_number(Span body, size_t at) noexcept nogil:
    cdef int64_t number = 0
    while at < body.len and c"0" <= body.ptr[at] <= c"9" and number < 100000000:
        number = number * 10 + body.ptr[at] - c"0"
        at += 1
    return number


cdef void transport_echo_submit(Call* call) noexcept nogil:
    cdef EchoState* state = <EchoState*>call.engine
    cdef const uint8_t* colon
    call.row_count = <int64_t>call.body.len
    if call.body.len >= 4 and memcmp(call.body.ptr, b"hold", 4) == 0:
        atomic_add32(&call.refs, 1)
        pthread_mutex_lock(&state.lock)
        call.next = state.held
        state.held = call
        atomic_add64(&state.held_count, 1)
        pthread_mutex_unlock(&state.lock)
        return
    if call.body.len >= 5 and memcmp(call.body.ptr, b"fail:", 5) == 0:
        colon = <const uint8_t*>memchr(call.body.ptr + 5, c":", call.body.len - 5)
        if colon != NULL:
            transport_echo_answer(call, <int>transport_echo_number(call.body, 5), <const char*>colon + 1, call.body.len - (colon + 1 - call.body.ptr))
            return
    if call.body.len >= 4 and memcmp(call.body.ptr, b"big:", 4) == 0:
        call.row_count = transport_echo_number(call.body, 4)
    transport_echo_answer(call, OK, "", 0)


cdef size_t transport_echo_size(Call* call) noexcept nogil:
    return <size_t>call.row_count


cdef uint8_t* transport_echo_write(Call* call, uint8_t* out) noexcept nogil:
    cdef size_t known = min(call.body.len, <size_t>call.row_count)
    memcpy(out, call.body.ptr, known)
    memset(out + known, c"x", call.row_count - known)
    return out + call.row_count


cdef int transport_echo_text(Call* call, Text* out) noexcept nogil:
    """The request and, longer than that, as many x as were asked for; of REST also whom it was for."""
    cdef size_t known = min(call.body.len, <size_t>call.row_count)
    cdef int64_t more = call.row_count - known
    text_span(out, call.model)
    text_str(out, ":")
    text_add(out, <const char*>call.body.ptr, known)
    while more > 0:
        text_add(out, "xxxxxxxxxxxxxxxx", <size_t>min(more, <int64_t>16))
        more -= 16
    return OK


cdef class EchoEngine:
    """Stands in for Engine in the tests of the native transport."""
    cdef EchoState state

    def __cinit__(self):
        pthread_mutex_init(&self.state.lock, NULL)

    def __dealloc__(self):
        self.answer_held()
        pthread_mutex_destroy(&self.state.lock)

    @property
    def held(self) -> int:
        return atomic_load64(&self.state.held_count)

    @property
    def live(self) -> int:
        return atomic_load64(&self.state.live)

    def answer_held(self) -> int:
        """Answers the held calls, newest first, on the calling thread; returns how many there were."""
        cdef Call* call
        cdef Call* following
        cdef int64_t count
        with nogil:
            pthread_mutex_lock(&self.state.lock)
            call = self.state.held
            self.state.held = NULL
            count = atomic_load64(&self.state.held_count)
            atomic_store64(&self.state.held_count, 0)
            pthread_mutex_unlock(&self.state.lock)
            while call != NULL:
                following = call.next
                transport_echo_answer(call, OK, "", 0)
                transport_echo_drop(call)
                call = following
        return count


cdef void transport_echo_consumer(Consumer* consumer, EchoState* state) noexcept nogil:
    consumer.context = state
    consumer.open = transport_echo_open
    consumer.submit = transport_echo_submit
    consumer.cancel = transport_echo_cancel
    consumer.drop = transport_echo_drop
    consumer.release = transport_echo_release
    consumer.size = transport_echo_size
    consumer.write = transport_echo_write
    consumer.submit_json = transport_echo_submit
    consumer.text = transport_echo_text
