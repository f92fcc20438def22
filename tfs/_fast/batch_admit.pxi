# batch_admit.pxi: validated settings, and the door of a queue: join, split or refuse.  Pure, as batch_queue.pxi is.
#
# Owns: the texts of refusals and of wrong settings.  Must not know: threads, sessions, transports.
# Strategy: batch_params_make is the only validation of settings; batch_enqueue either queues the whole call or changes
# nothing and leaves numbers in BatchRefusal, so that a refusal costs the lock's other users no text.


cdef int64_t batch_field(dict given, str name, int64_t default) except? -1:
    value = given.get(name)
    return default if value is None else <int64_t>value


cdef int batch_params_make(dict given, BatchParams* params) except -1:
    """`given`: fields of BatchingParameters, None or absent = the reference's default.  Raises InvalidArgument with the reference's
    texts, in its order.  `params.allowed` is then owned by the caller.

    The reference dies on some of these (its own checks come too late); here they are all errors of the load.
    """
    cdef int64_t size = batch_field(given, "max_batch_size", 1000)
    cdef int64_t timeout_us = batch_field(given, "batch_timeout_micros", 0)
    cdef int64_t enqueued = batch_field(given, "max_enqueued_batches", 10)
    cdef int64_t execution = batch_field(given, "max_execution_batch_size", size)
    cdef bint splitting = bool(given.get("enable_large_batch_splitting"))
    cdef tuple allowed = tuple(given.get("allowed_batch_sizes") or ())
    cdef Py_ssize_t i
    cdef object last = allowed[len(allowed) - 1] if allowed else size
    if last != size:
        raise errors.InvalidArgument(
            f"Last entry in allowed_batch_sizes must match max_batch_size; last entry was {last}; expected {size}")
    if size == 0:
        raise errors.InvalidArgument(f"input_batch_size_limit must be positive; was {size}")
    if timeout_us < 0:
        raise errors.InvalidArgument(f"batch_timeout_micros must be non-negative; was {timeout_us}")
    if splitting and enqueued == 0:
        raise errors.InvalidArgument(f"max_enqueued_batches must be positive; was {enqueued}")
    if splitting and execution == 0:
        raise errors.InvalidArgument(f"max_execution_batch_size must be positive; was {execution}")
    if splitting and 0 <= size and (execution > size or execution < 0):
        raise errors.InvalidArgument(
            "When enable_large_batch_splitting is true, input_batch_size_limit must be greater than or equal to "
            f"max_execution_batch_size.1{size}{execution}")
    memset(params, 0, sizeof(BatchParams))
    params.max_batch_size = size if 0 < size < BATCH_UNLIMITED else BATCH_UNLIMITED
    params.limit = execution if splitting and 0 < execution < BATCH_UNLIMITED else params.max_batch_size
    params.timeout_ns = timeout_us * NS_PER_US if timeout_us < INT64_MAX // (4 * NS_PER_US) else INT64_MAX // 4
    params.max_enqueued = BATCH_UNLIMITED if enqueued < 0 or enqueued > BATCH_UNLIMITED else (enqueued or 1)
    params.splitting = splitting
    params.pad = bool(given.get("pad_variable_length_inputs"))
    if allowed:
        params.allowed = <int64_t*>malloc(len(allowed) * sizeof(int64_t))
        if params.allowed == NULL:
            raise MemoryError
        params.allowed_count = <int32_t>len(allowed)
        for i in range(len(allowed)):
            params.allowed[i] = allowed[i]
    return 0


cdef int64_t batch_round_up(const BatchParams* params, int64_t rows) noexcept nogil:
    """The smallest allowed size that holds `rows`; `rows` itself when none does, or when there is no row to copy."""
    cdef int64_t best = 0
    cdef int i
    if rows == 0:
        return 0
    for i in range(params.allowed_count):
        if params.allowed[i] >= rows and (best == 0 or params.allowed[i] < best):
            best = params.allowed[i]
    return best if best > 0 else rows


# -- the door

cdef int batch_refuse(Batcher* batcher, BatchQueue* queue, BatchRefusal* refusal, int reason) noexcept nogil:
    refusal.reason = reason
    refusal.params = batcher.params
    refusal.batches = queue.batches if queue != NULL and queue.batches > 1 else 1     # the reference counts its empty open batch
    refusal.open_rows = queue.last.rows if queue != NULL and queue.last != NULL else 0
    return reason


cdef int batch_check_room(Batcher* batcher, BatchQueue* queue, const BatchKey* key, const Call* call, BatchRefusal* refusal) noexcept nogil:
    """Whether the call may be queued; a BatchReason.  `queue` NULL: none with this key yet."""
    cdef BatchParams* params = &batcher.params
    cdef int64_t batches = queue.batches if queue != NULL and queue.batches > 1 else 1
    cdef int64_t open_rows = queue.last.rows if queue != NULL and queue.last != NULL else 0
    cdef int64_t most = batch_times(params.max_enqueued, params.limit)
    refusal.size = key.rows
    if key.rows > params.max_batch_size:
        return batch_refuse(batcher, queue, refusal, BATCH_TOO_LARGE)
    if (queue == NULL or queue.batches == 0) and batcher.ring_count >= BATCH_MAX_QUEUES:
        return batch_refuse(batcher, queue, refusal, BATCH_MANY_QUEUES)
    if batcher.rows + key.rows > (most if most > BATCH_MAX_ROWS else BATCH_MAX_ROWS):
        return batch_refuse(batcher, queue, refusal, BATCH_MANY_ROWS)
    if params.splitting:
        refusal.capacity = batch_times(params.max_enqueued - batches, params.limit) + params.limit - open_rows
        if key.rows > refusal.capacity:
            return batch_refuse(batcher, queue, refusal, BATCH_NO_CAPACITY)
    elif queue != NULL and queue.last != NULL and queue.batches >= params.max_enqueued:
        if not batch_fits(queue.last, key, call, key.rows, params.limit):
            return batch_refuse(batcher, queue, refusal, BATCH_FULL)
    return BATCH_OK


cdef BatchGather* batch_gather_new(int32_t pieces) noexcept nogil:
    cdef BatchGather* gather = <BatchGather*>calloc(1, sizeof(BatchGather) + pieces * sizeof(BatchPart))
    if gather != NULL:
        pthread_mutex_init(&gather.lock, NULL)
        gather.count = pieces
        gather.missing = pieces
    return gather


cdef void batch_gather_free(BatchGather* gather) noexcept nogil:
    cdef int32_t i
    for i in range(gather.count):
        result_drop(gather.parts[i].result)
    for i in range(gather.inputs):
        if gather.wholes[i] != NULL:
            tf.DeleteTensor(gather.wholes[i])
    free(gather.wholes)
    pthread_mutex_destroy(&gather.lock)
    free(gather)


cdef Batch* batch_open(Batcher* batcher, BatchQueue* queue, const BatchKey* key, const Call* call, int64_t rows, int64_t now) noexcept nogil:
    """The open batch if `rows` more fit in, else a new one; with a place for one more task.  NULL: no memory."""
    cdef Batch* batch = queue.last
    if batch == NULL or not batch_fits(batch, key, call, rows, batcher.params.limit):
        batch = batch_new(batcher, queue, now)
        if batch == NULL:
            return NULL
        if queue.last == NULL:
            queue.first = batch
            batch_ring_join(queue)
        else:
            queue.last.next = batch
        queue.last = batch
        queue.batches += 1
    if batch_room(batch) < 0 or batch_widen(batch, key, call) < 0:
        return NULL
    return batch


cdef BatchQueue* batch_enqueue(Batcher* batcher, Call* call, const BatchKey* key, int64_t now, BatchRefusal* refusal) noexcept nogil:
    """Queues the call whole or in pieces (each holds the call); NULL: refused, see `refusal.reason`.  Lock held."""
    cdef BatchParams* params = &batcher.params
    cdef BatchQueue* queue = batch_queue_find(batcher, key, call)
    cdef Batch* batch
    cdef BatchTask task
    cdef int64_t space = 0, chunk, left = key.rows
    cdef int32_t i, pieces = 1
    for i in range(call.plan.input_count):
        size_histogram_add(&batcher.input_size, key.rows)
    if batch_check_room(batcher, queue, key, call, refusal) != BATCH_OK:
        return NULL
    if queue == NULL:
        queue = batch_queue_new(batcher, key, call)
        if queue == NULL:
            refusal.reason = BATCH_NO_MEMORY
            return NULL
    if queue.calls > 0 or queue.running > 0:     # or the same client was faster than the end of its own batch: hence not 0
        queue.lone //= 2
    memset(&task, 0, sizeof(task))
    task.call = call
    task.queued_ns = now
    if params.splitting:
        if queue.last != NULL and batch_fits(queue.last, key, call, 1, params.limit):
            space = params.limit - queue.last.rows
        if left > space:
            pieces = <int32_t>((space > 0) + (left - space + params.limit - 1) // params.limit)
    if pieces > 1:
        task.gather = batch_gather_new(pieces)
        if task.gather == NULL:
            refusal.reason = BATCH_NO_MEMORY
            return NULL
    while task.piece < pieces:
        task.rows = left
        if pieces > 1:                           # first fill the open batch, then whole batches, the rest last
            chunk = space if space > 0 else params.limit
            task.rows = chunk if chunk < left else left
            space = 0
        batch = batch_open(batcher, queue, key, call, task.rows, now)
        if batch == NULL:
            batch_abandon(&task, refusal)
            return NULL
        call_hold(call)
        batch_append(batch, &task)
        queue.calls += 1
        queue.rows += task.rows
        batcher.rows += task.rows
        task.begin += task.rows
        left -= task.rows
        task.piece += 1
    return queue


cdef void batch_abandon(BatchTask* task, BatchRefusal* refusal) noexcept nogil:
    """Memory ran out before piece `task.piece` was queued.  The call is refused; pieces queued before are then dropped unrun."""
    if task.gather != NULL:
        task.gather.missing = task.piece         # none has been taken yet: the lock is held since the first one
        refusal.partly = task.piece > 0
        if task.piece == 0:
            batch_gather_free(task.gather)
    refusal.reason = BATCH_NO_MEMORY


cdef void batch_text_numbers(Text* text, const char* before, int64_t number, const char* after) noexcept nogil:
    text_str(text, before)
    text_int(text, number)
    text_str(text, after)


cdef int batch_refusal_status(const BatchRefusal* refusal, const Servable* servable, Status* status) noexcept nogil:
    """The reference's code and text where it has one (spec 8.1, 8.2); without the lock."""
    cdef Text* text = &status.text
    cdef const char* full = "The batch scheduling queue to which this task was submitted is full; "
    if refusal.reason == BATCH_NO_INPUT:
        return status_set(status, INVALID_ARGUMENT, "Batching Run() must have at least one input tensor")
    if refusal.reason == BATCH_SCALAR:
        return status_set(status, INVALID_ARGUMENT, "Batching Run() input tensors must have at least one dimension")
    if refusal.reason == BATCH_UNEQUAL:
        return status_set(status, INVALID_ARGUMENT, "Batching Run() input tensors must have equal 0th-dimension size")
    if refusal.reason == BATCH_NO_MEMORY:
        return status_set(status, RESOURCE_EXHAUSTED, "out of memory")
    if refusal.reason == BATCH_TOO_LARGE:
        status_set(status, INVALID_ARGUMENT, "Task size ")
        batch_text_numbers(text, "", refusal.size, " is larger than maximum input batch size ")
        text_int(text, refusal.params.max_batch_size)
    elif refusal.reason == BATCH_FULL:
        status_set(status, UNAVAILABLE, full)
        batch_text_numbers(text, "currently ", refusal.batches, " batches enqueued and max_enqueued_batches is ")
        text_int(text, refusal.params.max_enqueued)
    elif refusal.reason == BATCH_NO_CAPACITY:
        status_set(status, UNAVAILABLE, full)
        batch_text_numbers(text, "task size is ", refusal.size, " but scheduling capacity is only ")
        batch_text_numbers(text, "", refusal.capacity, " (num_enqueued_batches=")
        batch_text_numbers(text, "", refusal.batches, ", max_enqueued_batches=")
        batch_text_numbers(text, "", refusal.params.max_enqueued, ", open_batch_size=")
        batch_text_numbers(text, "", refusal.open_rows, ", max_execution_batch_size=")
        batch_text_numbers(text, "", refusal.params.limit, ")")
    else:
        status_quote(status, UNAVAILABLE, "The batch scheduling queues of model ", servable.name, " are full; ")
        if refusal.reason == BATCH_MANY_QUEUES:
            batch_text_numbers(text, "at most ", BATCH_MAX_QUEUES, " different input shapes can wait at a time")
        else:
            batch_text_numbers(text, "too many rows are waiting: the limit over all input shapes is ", BATCH_MAX_ROWS, "")
    return status.code
