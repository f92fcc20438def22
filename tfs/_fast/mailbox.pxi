# mailbox.pxi: how a Python event loop is a consumer of tickets.
#
# Owns: Ticket, Outputs, Mailbox.  Must not know: the stages of the engine, protocols.
# Strategy: answered calls go on a lock-free list and one eventfd write wakes the loop for all of them; the loop encodes, straight
# into the bytes object that is sent.  A call that is answered inside `submit` never touches the list: two exchanges on `phase` decide
# whether the submitter or the mailbox delivers it.

cdef extern from "<sys/eventfd.h>" nogil:
    int eventfd(unsigned int initial, int flags) noexcept
    int EFD_NONBLOCK
    int EFD_CLOEXEC

cdef extern from "<unistd.h>" nogil:
    ssize_t posix_read "read"(int fd, void* buffer, size_t size) noexcept
    ssize_t posix_write "write"(int fd, const void* buffer, size_t size) noexcept
    int posix_close "close"(int fd) noexcept

cdef enum Phase:
    PHASE_SUBMITTING = 0
    PHASE_ANSWERED = 1             # `done` came while the submitter was still inside the engine
    PHASE_RETURNED = 2             # the submitter has left: `done` goes through the mailbox

cdef enum ReplyKind:
    REPLY_PROTO = 0
    REPLY_JSON = 1
    REPLY_OUTPUTS = 2

cdef struct MailCore:              # outlives the Mailbox object while calls point to it
    Call* answered                 # lock-free stack
    Call* released
    int32_t pushing                # threads inside mail_push
    int fd

cdef enum:
    ENCODE_WITHOUT_GIL = 65536     # replies from here on are written with the GIL released


cdef void mail_push(MailCore* mail, Call** stack, Call* call) noexcept nogil:
    """The loop may take the call, and with it the last reference to the mailbox, as soon as it is on the list: hence `pushing`."""
    cdef Call* head
    cdef uint64_t one = 1
    atomic_add32(&mail.pushing, 1)
    while True:
        head = <Call*>atomic_load_ptr(stack)
        call.next = head
        if atomic_cas_ptr(stack, head, call):
            break
    if head == NULL:
        posix_write(mail.fd, &one, 8)
    atomic_add32(&mail.pushing, -1)


cdef void mail_done(Call* call) noexcept nogil:
    """Call.done of tickets that Python submitted: on any thread."""
    cdef TicketCore* core = <TicketCore*>call.owner
    if atomic_swap32(&core.phase, PHASE_ANSWERED) == PHASE_RETURNED:
        mail_push(core.mail, &core.mail.answered, call)


cdef void mail_release(Call* call) noexcept nogil:
    """Call.release when an engine thread was the last: the request bytes are Python's, so the loop frees the ticket."""
    cdef TicketCore* core = <TicketCore*>call.owner
    mail_push(core.mail, &core.mail.released, call)


cdef struct TicketCore:
    int32_t phase
    MailCore* mail
    PyObject* ticket               # counted from submit until the call is freed


cdef class Ticket:
    """A call under way."""

    cdef Call* call                # NULL once the answer was taken
    cdef Mailbox mailbox           # keeps MailCore
    cdef TicketCore core
    cdef object body               # keeps the request bytes
    cdef object done
    cdef int32_t kind              # ReplyKind

    def __init__(self):
        raise TypeError("tickets come from Engine.predict")

    def cancel(self):
        """Answers CANCELLED if nobody has answered; a queued call is skipped.  `done` is still called exactly once.  Loop thread."""
        if self.call != NULL:
            call_cancel(self.call)


cdef object ticket_take(Ticket ticket):
    """The answer as a Python object (bytes, Outputs or a TfsError, not raised); gives the consumer's reference back."""
    cdef Call* call = ticket.call
    cdef object answer
    ticket.call = NULL
    try:
        answer = call_reply(call, ticket.kind)
    except errors.TfsError as error:
        answer = error
    except MemoryError:
        answer = errors.from_code(RESOURCE_EXHAUSTED, "out of memory for the reply")
    if atomic_add32(&call.refs, -1) == 0:
        ticket_free(call)
    return answer


cdef void ticket_deliver(Ticket ticket) noexcept:
    """Calls `done`; what it raises is reported (sys.unraisablehook) and stops nobody else's delivery."""
    cdef object done = ticket.done
    ticket.done = None
    done(ticket_take(ticket))


cdef void ticket_free(Call* call) noexcept:
    """With the GIL, on the loop's thread."""
    cdef TicketCore* core = <TicketCore*>call.owner
    cdef PyObject* ticket = core.ticket
    call_free(call)
    Py_DECREF(<object>ticket)


cdef object call_reply(Call* call, int kind):
    """Encodes the answer; raises its error."""
    if call.status.code != OK:
        raise status_error(&call.status)
    if kind == REPLY_OUTPUTS:
        return Outputs.new(call)
    if kind == REPLY_JSON:
        return json_reply(call)
    return proto_reply(call)


cdef bytes proto_reply(Call* call):
    cdef bint as_content = call.engine.as_content
    cdef size_t size = response_size(call, as_content)
    cdef bytes reply
    cdef uint8_t* at
    stage_mark(call, PROFILE_WAKE)
    if size == 0:
        raise status_error(&call.status)
    if size > <size_t>MAX_REPLY_BYTES:
        raise errors.Internal(f"the reply has {size} bytes; a protobuf message holds at most {MAX_REPLY_BYTES}")
    reply = PyBytes_FromStringAndSize(NULL, size)
    at = <uint8_t*>PyBytes_AS_STRING(reply)
    advise_huge(at, size)
    if size < ENCODE_WITHOUT_GIL:
        response_write(call, as_content, at)
    else:
        with nogil:
            response_write(call, as_content, at)
    stage_mark(call, PROFILE_ENCODE)
    return reply


cdef class Outputs:
    """Output tensors of a finished `Engine.run`; keeps them alive."""

    cdef RunResult* result
    cdef int64_t row_begin
    cdef int64_t row_count
    cdef dict places               # alias -> index into result
    cdef readonly list aliases
    cdef readonly int64_t version

    def __init__(self):
        raise TypeError("outputs come from Engine.run")

    def __dealloc__(self):
        result_drop(self.result)

    @staticmethod
    cdef Outputs new(Call* call):
        cdef Outputs self = Outputs.__new__(Outputs)
        cdef FetchSet* fetch = call.fetch
        cdef int32_t i, place
        cdef int32_t count = call.wanted_count if call.wanted != NULL else fetch.count
        result_hold(call.result)
        self.result = call.result
        self.row_begin = call.row_begin
        self.row_count = call.row_count if call.result.rows >= 0 else -1
        self.version = call.servable.version
        self.places = {}
        for i in range(count):
            place = call.wanted[i] if call.wanted != NULL else i
            self.places[span_bytes(call.plan.outputs[fetch.index[place]].alias).decode("utf-8", "replace")] = place
        self.aliases = list(self.places)
        return self

    cdef TF_Tensor* tensor(self, str alias) except NULL:
        return (&self.result.tensors[0])[<int32_t>self.places[alias]]

    def dtype(self, str alias):
        """The DataType number."""
        return tf.TensorType(self.tensor(alias))

    def shape(self, str alias):
        """Its dimensions, with this call's rows only."""
        cdef TF_Tensor* tensor = self.tensor(alias)
        cdef list dims = [tf.Dim(tensor, i) for i in range(tf.NumDims(tensor))]
        if self.row_count >= 0:
            dims[0] = self.row_count
        return tuple(dims)

    cdef (int64_t, int64_t) extent(self, str alias):
        """(first element, number of elements)."""
        cdef TF_Tensor* tensor = self.tensor(alias)
        cdef int64_t per_row = 1
        cdef int i
        for i in range(1, tf.NumDims(tensor)):
            per_row *= tf.Dim(tensor, i)
        if self.row_count >= 0:
            return self.row_begin * per_row, self.row_count * per_row
        return 0, per_row * (tf.Dim(tensor, 0) if tf.NumDims(tensor) else 1)

    def strings(self, str alias):
        """The elements of a DT_STRING tensor, row-major."""
        cdef TF_TString* data = <TF_TString*>tf.TensorData(self.tensor(alias))
        cdef int64_t begin, count, i
        begin, count = self.extent(alias)
        return [tf.StringGetDataPointer(&data[i])[:tf.StringGetSize(&data[i])] for i in range(begin, begin + count)]

    def numbers(self, str alias):
        """A copy of the raw little-endian bytes of a numeric tensor."""
        cdef TF_Tensor* tensor = self.tensor(alias)
        cdef size_t size = tensor_size(tf.TensorType(tensor))
        cdef int64_t begin, count
        begin, count = self.extent(alias)
        return memoryview((<const char*>tf.TensorData(tensor) + begin * size)[:count * size])


cdef class Mailbox:
    """Completions for one event loop: an eventfd and a list."""

    cdef MailCore* core

    def __cinit__(self):
        self.core = <MailCore*>calloc(1, sizeof(MailCore))
        if self.core == NULL:
            raise MemoryError
        self.core.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
        if self.core.fd < 0:
            raise OSError("eventfd failed")

    def __dealloc__(self):
        if self.core != NULL:
            while atomic_load32(&self.core.pushing):     # about to write to the eventfd: a microsecond
                sched_yield()
            if self.core.fd >= 0:
                posix_close(self.core.fd)
            free(self.core)

    def fileno(self):
        """Becomes readable when completions wait: `loop.add_reader(mailbox.fileno(), mailbox.drain)`."""
        return self.core.fd

    def drain(self):
        """Encodes the waiting answers and calls their `done`.  Loop thread."""
        cdef uint64_t ignored
        cdef Call* call
        cdef Call* following
        cdef Ticket ticket
        posix_read(self.core.fd, &ignored, 8)
        call = mail_in_order(<Call*>atomic_swap_ptr(&self.core.answered, NULL))
        while call != NULL:
            following = call.next
            ticket = <Ticket>(<TicketCore*>call.owner).ticket
            ticket_deliver(ticket)
            call = following
        call = <Call*>atomic_swap_ptr(&self.core.released, NULL)
        while call != NULL:
            following = call.next
            ticket_free(call)
            call = following

    def close(self):
        """Delivers what is there.  The eventfd is closed with the object."""
        self.drain()


cdef Call* mail_in_order(Call* newest) noexcept nogil:
    """Reverses the stack: oldest answer first."""
    cdef Call* ordered = NULL
    cdef Call* following
    while newest != NULL:
        following = newest.next
        newest.next = ordered
        ordered = newest
        newest = following
    return ordered
