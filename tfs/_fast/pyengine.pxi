# pyengine.pxi: Engine, the Python face of EngineCore.
#
# Owns: the birth and the end of the engine; the three ways Python submits a call.  Must not know: transports, routes.

# The enums as Python sees them (a name cannot be both a C constant and an attribute of the module).
globals().update({
    "METHOD_PREDICT": <int>METHOD_PREDICT, "METHOD_CLASSIFY": <int>METHOD_CLASSIFY, "METHOD_REGRESS": <int>METHOD_REGRESS,
    "METHOD_MULTI": <int>METHOD_MULTI, "METHOD_WARMUP": <int>METHOD_WARMUP, "METHOD_OTHER": <int>METHOD_OTHER,
    "ENTRY_GRPC": <int>ENTRY_GRPC, "ENTRY_REST": <int>ENTRY_REST,
})


cdef class Engine:
    """Runners, timer, serving map, limits and counters: one per process.  Any thread unless a method says otherwise."""

    cdef EngineCore* core
    cdef object publish_lock
    cdef object published          # the LoadedServables in the map, kept alive
    cdef BatchThreads batch_threads
    cdef int64_t inside            # threads inside a submit without the GIL; guarded by the GIL

    def __cinit__(self, *, int max_runners=0, int max_runners_per_model=0, int64_t max_queued_calls=0, int64_t max_queued_bytes=0,
                  bint tensor_content=False, bint check_method_names=False, BatchThreads batch_threads=None):
        self.core = <EngineCore*>calloc(1, sizeof(EngineCore))
        if self.core == NULL:
            raise MemoryError
        self.publish_lock = threading.Lock()
        self.batch_threads = batch_threads
        self.published = []
        self.core.max_runners = max_runners or DEFAULT_MAX_RUNNERS
        self.core.max_runners_per_model = max_runners_per_model or DEFAULT_MAX_RUNNERS_PER_MODEL
        self.core.max_queued_calls = max_queued_calls or DEFAULT_MAX_QUEUED_CALLS
        self.core.max_queued_bytes = max_queued_bytes or DEFAULT_MAX_QUEUED_BYTES
        self.core.as_content = tensor_content
        self.core.check_method_names = check_method_names
        self.core.base_runners = min(len(os.sched_getaffinity(0)), self.core.max_runners)
        if engine_start(self.core) != OK:
            free(self.core)                          # there is no timer to stop
            self.core = NULL
            raise errors.Internal("cannot start the engine's timer thread")

    def __dealloc__(self):
        if self.core != NULL:
            self.stop()

    cdef int check_open(self) except -1:
        if self.core == NULL:
            raise errors.Unavailable("the server is shutting down")
        return 0

    def publish(self, models, labels):
        """Swaps the serving map: name -> version -> servable, name -> label -> version (None: label map not initialised)."""
        cdef ServingMap* map
        kept = [servable for versions in models.values() for servable in versions.values()]
        with self.publish_lock:
            self.check_open()
            map = map_build(self.core, models, labels)
            self.published = [*self.published, *kept]    # `resolve` may see either map until the swap is done
            self.inside += 1
            with nogil:
                map_publish(self.core, map)
            self.inside -= 1
            self.published = kept

    def mailbox(self):
        """A new mailbox for one event loop."""
        return Mailbox()

    cdef Ticket ticket(self, Mailbox mailbox, bytes body, timeout_ns, object done, int method, int entry, int kind):
        cdef Ticket ticket = Ticket.__new__(Ticket)
        cdef int64_t start = now_ns()
        cdef int64_t deadline = deadline_after(start, timeout_ns)
        cdef Call* call
        self.check_open()
        call = call_new(self.core)
        if call == NULL:
            raise MemoryError
        ticket.call = call
        ticket.mailbox = mailbox
        ticket.body = body
        ticket.done = done
        ticket.kind = kind
        ticket.core.phase = PHASE_SUBMITTING
        ticket.core.mail = mailbox.core
        ticket.core.ticket = <PyObject*>ticket
        Py_INCREF(ticket)
        call.owner = &ticket.core
        call.done = mail_done
        call.release = mail_release
        call.body = bytes_span(body)
        call.method = method
        call.entry = entry
        call.inline_budget_ns = PYTHON_INLINE_NS
        call.start_ns = start
        call.deadline_ns = deadline
        return ticket

    cdef object settle(self, Ticket ticket):
        """After submit, which counted itself in `inside`: the answer if it is there (errors raised), else the ticket."""
        cdef object answer
        self.inside -= 1
        if atomic_swap32(&ticket.core.phase, PHASE_RETURNED) != PHASE_ANSWERED:
            return ticket
        answer = ticket_take(ticket)
        if isinstance(answer, errors.TfsError):
            raise answer
        return answer

    def predict(self, Mailbox mailbox not None, bytes request not None, timeout_ns, done, int entry=ENTRY_GRPC):
        """A serialized PredictRequest -> serialized PredictResponse, at once (inline run) or through `done`; see _fastpath.pyi."""
        cdef Ticket ticket = self.ticket(mailbox, request, timeout_ns, done, METHOD_PREDICT, entry, REPLY_PROTO)
        cdef Call* call = ticket.call
        cdef uint64_t mode
        self.inside += 1
        with nogil:
            mode = denormals_flush()
            engine_submit(call)
            denormals_restore(mode)
        return self.settle(ticket)

    def predict_json(self, Mailbox mailbox not None, bytes body not None, str model, version, label, timeout_ns, done):
        """REST predict: JSON body -> JSON reply; otherwise as `predict`."""
        cdef Ticket ticket = self.ticket(mailbox, body, timeout_ns, done, METHOD_PREDICT, ENTRY_REST, REPLY_JSON)
        cdef Call* call = ticket.call
        cdef uint64_t mode
        try:
            call_set_spec(call, model, version, label)
        except BaseException:
            ticket.call = NULL
            ticket_free(call)
            raise
        self.inside += 1
        with nogil:
            mode = denormals_flush()
            json_submit(call)
            denormals_restore(mode)
        return self.settle(ticket)

    def run(self, Mailbox mailbox, bytes request not None, timeout_ns, done, int method=METHOD_WARMUP, int entry=ENTRY_GRPC):
        """As `predict`, but the answer is Outputs; with `mailbox` None it blocks."""
        cdef Ticket ticket
        cdef Call* call
        cdef uint64_t mode
        if mailbox is None:
            return self.run_blocking(None, request, timeout_ns, method)
        ticket = self.ticket(mailbox, request, timeout_ns, done, method, entry, REPLY_OUTPUTS)
        call = ticket.call
        self.inside += 1
        with nogil:
            mode = denormals_flush()
            engine_submit(call)
            denormals_restore(mode)
        return self.settle(ticket)

    def run_on(self, LoadedServable servable not None, bytes request not None, int method=METHOD_WARMUP):
        """Blocking run on a servable that need not be published: model_spec's name and version are ignored."""
        servable.check_open()
        return self.run_blocking(servable, request, None, method)

    cdef object run_blocking(self, LoadedServable servable, bytes request, timeout_ns, int method):
        cdef int64_t start = now_ns()
        cdef int64_t deadline = deadline_after(start, timeout_ns)
        cdef Waiter* waiter
        cdef Call* call
        self.check_open()
        waiter = waiter_new(self.core, bytes_span(request))
        if waiter == NULL:
            raise MemoryError
        call = waiter.call
        call.method = method
        call.start_ns = start
        call.deadline_ns = deadline
        if servable is not None:
            servable_hold(servable.core)
            call.servable = servable.core
        self.inside += 1
        with nogil:
            engine_submit(call)
            waiter_wait(waiter)
        self.inside -= 1
        try:
            return call_reply(call, REPLY_OUTPUTS)
        finally:
            call_drop(call)

    def resolve(self, str model, version, label):
        """The published LoadedServable for a model spec; raises the reference's errors."""
        cdef Call* call
        cdef LoadedServable found
        self.check_open()
        call = call_new(self.core)
        if call == NULL:
            raise MemoryError
        try:
            call_set_spec(call, model, version, label)
            if map_resolve(call) != OK:
                raise status_error(&call.status)
            for found in self.published:
                if found.core == call.servable:
                    return found
            raise errors.NotFound(f"model {model} was just unloaded")
        finally:
            call_free(call)

    def counters(self):
        """A snapshot of all counters and histograms."""
        cdef dict requests = {}, latency = {}, run = {}
        cdef ModelCounters* at
        self.check_open()
        pthread_mutex_lock(&self.core.counters_lock)
        at = self.core.models
        pthread_mutex_unlock(&self.core.counters_lock)
        while at != NULL:                            # entries are only ever prepended, and freed with the engine
            counters_snapshot(at, requests, latency, run)
            at = at.next
        return {
            "requests": requests, "latency": latency, "run": run,
            "queued_calls": atomic_load64(&self.core.queued_calls), "queued_bytes": atomic_load64(&self.core.queued_bytes),
            "running": atomic_load64(&self.core.running), **batch_counters(self.batch_threads),
        }

    def profile(self, bint on):
        """Starts (from zero) or stops adding up where the time of calls goes."""
        self.check_open()
        if on:
            memset(self.core.stage_ns, 0, sizeof(self.core.stage_ns))
            self.core.profiled_calls = 0
        self.core.profiling = on

    def stages(self):
        """{stage: nanoseconds spent} and, under "calls", the number of calls that began, since `profile(True)`."""
        cdef dict found
        cdef int i
        self.check_open()
        found = {"calls": atomic_load64(&self.core.profiled_calls)}
        for i, name in enumerate(PROFILE_STAGES):
            found[name] = atomic_load64(&self.core.stage_ns[i])
        return found

    def count_request(self, str model, int method, int entry, int code, int64_t latency_ns):
        """Counts a request that did not come through `predict` or `predict_json`."""
        cdef bytes name = model.encode("utf-8", "surrogateescape")
        self.check_open()
        counters_request(counters_of(self.core, bytes_span(name), True), method, entry, code, latency_ns)

    def close(self):
        """Refuses new calls (UNAVAILABLE), waits for those under way, joins all core threads.  Idempotent."""
        if self.core != NULL:
            self.stop()

    cdef void stop(self) noexcept:
        cdef EngineCore* core = self.core
        self.core = NULL
        with nogil:
            runners_stop(core)
        while self.inside:                           # found it open, and are now refused or run their call themselves
            with nogil:
                sched_yield()
        if self.batch_threads is not None:
            self.batch_threads.close()
        with nogil:
            engine_stop(core)
        self.published = []


cdef int64_t deadline_after(int64_t start_ns, timeout_ns) except? -1:
    """The deadline on the engine's clock; INT64_MAX = none, which is also what lies beyond the clock."""
    if timeout_ns is None or timeout_ns >= INT64_MAX - start_ns:
        return INT64_MAX
    return start_ns + <int64_t>max(timeout_ns, 0)


cdef int call_set_spec(Call* call, str model, version, label) except -1:
    """The model spec of a REST route, copied into the call's arena."""
    call.has_spec = 1
    call.model = arena_copy(&call.arena, model.encode("utf-8", "surrogateescape"))
    if version is not None:
        call.version_choice = VERSION_NUMBER
        call.version = version
    elif label is not None:
        call.version_choice = VERSION_LABEL
        call.label = arena_copy(&call.arena, label.encode("utf-8", "surrogateescape"))
    return 0


cdef Span arena_copy(Arena* arena, bytes data):
    cdef Span span = bytes_span(data)
    cdef uint8_t* copy = <uint8_t*>arena_take(arena, span.len + 1)
    if copy == NULL:
        raise MemoryError
    memcpy(copy, span.ptr, span.len)
    span.ptr = copy
    return span
