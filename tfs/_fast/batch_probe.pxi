# batch_probe.pxi: the batcher's test bench: calls, clock and session in the test's hands; nothing in the server calls it.
#
# Owns: _ProbeBatcher.  Must not know: more than the seams of the batch parts.
# Strategy: a pool without threads, a servable whose session is a Python function, and a time that the test gives.  Each method is one
# step of the real code: batch_enqueue behind the door, batcher_take, batch_execute, batcher_done.

cdef class _ProbeBatcher:
    """One batched servable, stepped by hand.

    `signatures`: name -> (number of inputs, number of outputs, first tensor of the graph).  `session(feeds)` gets and returns lists of
    (dtype, shape, bytes or list of strings), or raises TfsError.
    """

    cdef readonly BatchThreads threads
    cdef readonly dict answers     # id -> [(code, text) or list of (dtype, shape, data) per output]: one entry per answer
    cdef object session
    cdef list keep
    cdef dict plans
    cdef dict live                 # id -> address of the call; gone when released
    cdef Servable* servable
    cdef EngineCore* engine
    cdef int64_t next_id

    def __cinit__(self, dict parameters, object session, dict signatures=None, int traits=GRAPH_STATELESS, str model="probe"):
        cdef Plan* plan
        self.threads = BatchThreads(0)
        self.answers = {}
        self.session = session
        self.keep = []
        self.plans = {}
        self.live = {}
        self.engine = <EngineCore*>calloc(1, sizeof(EngineCore))
        pthread_mutex_init(&self.engine.timer_lock, NULL)
        self.servable = <Servable*>calloc(1, sizeof(Servable))
        pthread_mutex_init(&self.servable.lock, NULL)
        cond_init(&self.servable.unused)
        self.keep.append(model.encode())
        self.servable.name = probe_span(self.keep[0])
        self.servable.session = <void*>self
        self.servable.run = batch_probe_run
        for name, (inputs, outputs, first) in (signatures or {"serving_default": (1, 1, 1)}).items():
            self.plans[name] = <size_t>batch_probe_plan(self, name, inputs, outputs, first, traits)
        batch_enable(self.servable, self.threads, parameters)

    def __dealloc__(self):
        cdef Plan* plan
        if self.servable == NULL:
            return
        batch_disable(self.servable)
        for address in self.plans.values():
            plan = <Plan*><size_t>address
            plan_free(plan)
        free(self.servable)
        free(self.engine)

    def set_default(self, str signature, int index, int dtype, tuple shape, object data) -> None:
        """A default value for an input of the signature."""
        cdef Plan* plan = <Plan*><size_t>self.plans[signature]
        plan.inputs[index].fallback = probe_make(dtype, shape, data)

    def update(self, **parameters) -> None:
        cdef BatchParams params
        batch_params_make(parameters, &params)
        batch_update(self.servable, &params)

    def submit(self, int64_t now, list inputs, str signature="serving_default", object deadline=None, object outputs=None) -> int:
        """A call with `inputs` in plan order ((dtype, shape, tensor_content) or None: the default).  Returns its id."""
        cdef Plan* plan = <Plan*><size_t>self.plans[signature]
        cdef Call* call = call_new(self.engine)
        cdef int32_t wanted[16]
        cdef int32_t i
        self.next_id += 1
        call.method = METHOD_WARMUP
        call.owner = <void*>self
        call.start_ns = self.next_id             # its name, for done and release
        call.done = batch_probe_done
        call.release = batch_probe_release
        call.servable = self.servable
        servable_hold(self.servable)
        call.plan = plan
        call.fetch = plan.everything
        if deadline is not None:
            call.deadline_ns = deadline
        if outputs is not None:
            for i, index in enumerate(outputs):
                wanted[i] = index
            call.fetch = plan_fetch_set(plan, wanted, len(outputs))
        call.inputs = <TensorSpan*>arena_take(&call.arena, (len(inputs) + 1) * sizeof(TensorSpan))
        call.slot_input = <int32_t*>arena_take(&call.arena, (len(inputs) + 1) * sizeof(int32_t))
        for i, given in enumerate(inputs):
            call.slot_input[i] = -1 if given is None else i
            if given is not None:
                batch_probe_span(self, call, &call.inputs[i], given)
        self.live[self.next_id] = <size_t>call
        self.answers[self.next_id] = []
        call_hold(call)
        batch_submit_at(call, now)
        call_drop(call)
        return self.next_id

    def cancel(self, int64_t call) -> None:
        call_cancel(<Call*><size_t>self.live[call])

    def expire(self, int64_t call) -> None:
        """What the engine's timer does at the deadline."""
        engine_expire(<Call*><size_t>self.live[call])

    def drop(self, int64_t call) -> None:
        """The consumer gives its ticket back."""
        call_drop(<Call*><size_t>self.live[call])

    def due(self) -> int:
        """When the next batch can run, as the threads see it; INT64_MAX: never."""
        return atomic_load64(&(<Batcher*>self.servable.batcher).due_ns)

    def step(self, int64_t now, int64_t run_ns=0) -> list | None:
        """Takes one batch and runs it; the ids that were to run, in order (empty: all were answered before).  None: nothing is due.
        `run_ns`: how long the run is said to have taken (0: as measured)."""
        cdef Batcher* batcher = <Batcher*>self.servable.batcher
        cdef Batch* batch
        cdef int64_t due, took
        cdef bint failed
        batch = batcher_take(batcher, now, &due)
        atomic_store64(&batcher.due_ns, due)
        if batch == NULL:
            return None
        ids = [batch.tasks[i].call.start_ns for i in range(batch.live)]
        with nogil:
            took = batch_execute(batch, now, &failed)
            batcher_done(batcher, batch, run_ns if run_ns and took else took, failed)
        return ids

    def state(self) -> dict:
        """What is queued: rows, queues with work, queues known, live calls, reruns left."""
        cdef Batcher* batcher = <Batcher*>self.servable.batcher
        return {"rows": batcher.rows, "busy": batcher.ring_count, "queues": batcher.queue_count, "calls": len(self.live),
                "tokens": batcher.tokens, "holds": self.servable.holds}


cdef Plan* batch_probe_plan(_ProbeBatcher self, str name, int inputs, int outputs, int64_t first, int traits) except NULL:
    """Input i feeds graph tensor `first` + i, output i fetches 1000 + `first` + i."""
    cdef Plan* plan = plan_new(inputs, outputs)
    cdef int32_t index[16]
    cdef int32_t i
    self.keep.append(name.encode())
    plan.signature = probe_span(self.keep[len(self.keep) - 1])
    plan.traits = traits
    for i in range(inputs):
        plan.feeds[i].oper = <TF_Operation*><size_t>(first + i)
    for i in range(outputs):
        plan.outputs[i].fetch.oper = <TF_Operation*><size_t>(1000 + first + i)
        index[i] = i
    plan.everything = fetch_new(plan, index, outputs)
    return plan


cdef int batch_probe_span(_ProbeBatcher self, Call* call, TensorSpan* span, tuple given) except -1:
    cdef int i
    dtype, shape, content = given
    memset(span, 0, sizeof(TensorSpan))
    self.keep.append(content)
    span.content = probe_span(content)
    span.dtype = dtype
    span.rank = len(shape)
    span.dims = <int64_t*>arena_take(&call.arena, (len(shape) + 1) * sizeof(int64_t))
    span.elements = 1
    for i in range(span.rank):
        span.dims[i] = shape[i]
        span.elements *= shape[i]
    span.rows = shape[0] if shape else -1
    return 0


cdef tuple batch_probe_show(TF_Tensor* tensor, int64_t begin, int64_t rows):
    """(dtype, shape, data) of a range of rows; `rows` -1: all."""
    cdef int dtype = tf.TensorType(tensor)
    cdef int rank = tf.NumDims(tensor)
    cdef list shape = [tf.Dim(tensor, d) for d in range(rank)]
    cdef TF_TString* strings
    cdef int64_t width = 1, i
    for size in shape[1:]:
        width *= size
    if rows < 0:
        begin = 0
        rows = shape[0] if rank else 1
    elif rank:
        shape[0] = rows
    if dtype == DTYPE_STRING:
        strings = <TF_TString*>tf.TensorData(tensor) + begin * width
        return dtype, tuple(shape), [tf.StringGetDataPointer(&strings[i])[:tf.StringGetSize(&strings[i])] for i in range(rows * width)]
    size = tensor_size(dtype)
    return dtype, tuple(shape), (<const char*>tf.TensorData(tensor))[begin * width * size:(begin + rows) * width * size]


cdef void batch_probe_run(void* session, const TF_Buffer* run_options, const TF_Output* feeds, TF_Tensor* const* values, int feed_count,
                          const TF_Output* fetches, TF_Tensor** results, int fetch_count, TF_Status* status) noexcept with gil:
    cdef _ProbeBatcher self = <_ProbeBatcher>session
    cdef bytes text
    cdef int i
    try:
        made = self.session([batch_probe_show(values[i], 0, -1) for i in range(feed_count)])
        for i in range(fetch_count):
            dtype, shape, data = made[i]
            results[i] = probe_make(dtype, shape, data)
    except errors.TfsError as error:
        text = str(error).encode()
        fake_set_status(status, error.code, text)
    except BaseException as error:
        text = repr(error).encode()
        fake_set_status(status, UNKNOWN, text)


cdef void batch_probe_done(Call* call) noexcept with gil:
    cdef _ProbeBatcher self = <_ProbeBatcher>call.owner
    cdef int32_t i
    if call.status.code != OK:
        text = b"" if call.status.text.ptr == NULL else (<const char*>call.status.text.ptr)[:call.status.text.len]
        self.answers[call.start_ns].append((call.status.code, text.decode()))
    else:
        self.answers[call.start_ns].append(
            [batch_probe_show((&call.result.tensors[0])[i], call.row_begin, call.row_count) for i in range(call.result.count)])


cdef void batch_probe_release(Call* call) noexcept with gil:
    cdef _ProbeBatcher self = <_ProbeBatcher>call.owner
    del self.live[call.start_ns]
    call_free(call)
