# batch_face.pxi: the Python face of batching: the threads as an object, settings of a servable, the snapshot of the counters.
#
# Owns: BatchThreads; batch_enable, batch_update and batch_disable, which LoadedServable calls.  Must not know: files, flags (tfs/batching.py).

cdef class BatchThreads:
    """The threads that run batches, shared by all servables that are enabled with them."""

    cdef BatchPool* pool

    def __cinit__(self, int threads, str name="batch_threads"):
        """`threads` 0: none, batches are taken by hand (tests).  Raises InvalidArgument, or Unavailable when no thread could be started."""
        cdef bytes c_name = name.encode()[:15]
        if threads < 0:
            raise errors.InvalidArgument(f"num_batch_threads must be positive; was {threads}")
        self.pool = pool_new(threads if threads < BATCH_MAX_THREADS else BATCH_MAX_THREADS, c_name)
        if self.pool == NULL:
            raise errors.Unavailable(f"cannot start {threads} batch threads")

    def close(self) -> None:
        """Runs what is queued and joins the threads.  After the engine was closed; idempotent.  Blocks without the GIL."""
        with nogil:
            pool_stop(self.pool)

    def __dealloc__(self):
        if self.pool != NULL:
            with nogil:
                pool_stop(self.pool)
                pool_drop(self.pool)

    def counters(self) -> dict:
        """The batching part of `Engine.counters`: queuing, batches, input_size, processed_size, padding, batching.  Any thread."""
        cdef BatchPool* pool = self.pool
        cdef BatchHistogram input_size
        cdef BatchPadding* padding
        cdef BatchSeries* series
        cdef dict shown = {}
        cdef dict found
        pthread_mutex_lock(&pool.counters.lock)
        input_size = pool.counters.input_size
        found = {
            "queuing": wait_histogram_show(&pool.counters.queuing),
            "batches": pool.counters.batches,
            "processed_size": size_histogram_show(&pool.counters.processed),
            "padding": {},
            "batching": shown,
        }
        padding = pool.counters.paddings
        while padding != NULL:
            found["padding"][padding.size] = size_histogram_show(&padding.rows)
            padding = padding.next
        series = pool.counters.series
        while series != NULL:
            shown[batch_series_key(series)] = batch_series_show(series)
            series = series.next
        pthread_mutex_unlock(&pool.counters.lock)
        face_depths(pool, &input_size, shown)
        found["input_size"] = size_histogram_show(&input_size)
        return found


cdef tuple batch_series_key(const BatchSeries* series):
    """(model, signature); the NULs in the name of a union of signatures (LoadedServable.define_union) become "+"."""
    model = span_bytes(series.model).decode("utf-8", "replace")
    return model, span_bytes(series.signature).decode("utf-8", "replace").strip("\0").replace("\0", "+")


cdef int face_depths(BatchPool* pool, BatchHistogram* input_size, dict shown) except -1:
    """Adds what lies in the batchers: sizes at the door, and what is queued now."""
    cdef Batcher* batcher
    cdef list users = []
    cdef int32_t i
    pthread_mutex_lock(&pool.lock)
    for i in range(pool.count):
        pool.ring[i].users += 1                  # nobody frees it meanwhile
        users.append(<size_t>pool.ring[i])
    pthread_mutex_unlock(&pool.lock)
    for address in users:
        batcher = <Batcher*><size_t>address
        pthread_mutex_lock(&batcher.lock)
        size_histogram_merge(input_size, &batcher.input_size)
        face_depth(batcher, shown)
        pthread_mutex_unlock(&batcher.lock)
    pthread_mutex_lock(&pool.lock)
    for address in users:
        batcher = <Batcher*><size_t>address
        batcher.users -= 1
    pthread_cond_broadcast(&pool.left)
    pthread_mutex_unlock(&pool.lock)
    return 0


cdef int face_depth(Batcher* batcher, dict shown) except -1:
    cdef BatchQueue* queue = batcher.ring
    cdef int32_t i
    for i in range(batcher.ring_count):
        if queue.series != NULL:
            entry = shown.get(batch_series_key(queue.series))
            if entry is not None:
                entry["queued_calls"] += queue.calls
                entry["queued_rows"] += queue.rows
        queue = queue.ring_next
    return 0


cdef int batch_enable(Servable* servable, BatchThreads threads, dict given) except -1:
    """Before the servable is published.  Raises InvalidArgument with the reference's texts (batch_params_make)."""
    cdef BatchParams params
    cdef Batcher* batcher
    batch_params_make(given, &params)
    batcher = batcher_new(servable, threads.pool, &params)
    if batcher == NULL:
        free(params.allowed)
        raise MemoryError
    servable.batcher = batcher
    return 0


cdef int batch_update(Servable* servable, const BatchParams* params) except -1:
    """New settings (batch_params_make, taken over) for the batches to come; a servable that is not batched stays so.  With the GIL
    throughout: nobody closes the servable meanwhile."""
    cdef Batcher* batcher = <Batcher*>servable.batcher
    cdef BatchParams old
    if batcher == NULL:
        free(params.allowed)
        return 0
    pthread_mutex_lock(&batcher.lock)
    old = batcher.params
    batcher.params = params[0]
    atomic_store32(&batcher.pad, params.pad)
    pthread_mutex_unlock(&batcher.lock)
    free(old.allowed)
    return 0


cdef void batch_disable(Servable* servable) noexcept nogil:
    """When no call holds the servable any more (LoadedServable.close).  Idempotent; waits for the threads to leave the batcher."""
    if servable.batcher != NULL:
        batcher_free(<Batcher*>servable.batcher)
        servable.batcher = NULL


cdef dict batch_counters(BatchThreads threads):
    """The batching part of `Engine.counters`; without batching all is zero."""
    cdef BatchHistogram size
    cdef WaitHistogram wait
    if threads is not None:
        return threads.counters()
    memset(&size, 0, sizeof(size))
    memset(&wait, 0, sizeof(wait))
    none = size_histogram_show(&size)
    return {"queuing": wait_histogram_show(&wait), "batches": 0, "input_size": none, "processed_size": none, "padding": {}, "batching": {}}
