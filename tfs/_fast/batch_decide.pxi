# batch_decide.pxi: when a batch runs, and who goes along.  Pure: lock held, time given; stepped by hand in tests/fastpath/test_batch.py.
#
# Owns: batch_decide (one queue: run now, or not before t), batcher_take (the next batch in turn), the budget of reruns.
# Must not know: threads, sessions, transports.
# Strategy
#   * Queues with work are served in turn; within a queue batches go in order and calls in order.
#   * Calls answered while they waited (deadline, cancel) leave when their batch is taken, and those behind move up, so that
#     an overloaded queue still runs full batches.  Where others wait for the room, calls that will not be done in time go too.
#   * A client alone does not wait: after BATCH_LONE batches of one call, during none of which another came, the next starts at once,
#     until two calls are there at a time again.
#   * A queue that met a bad value takes fewer calls per batch (`narrow`) until clean runs let it grow again: a bad call then
#     costs less, and when the rerun budget is low, calls run alone, so that nobody can be spoiled.

cdef enum:
    BATCH_LONE = 16                # enough to tell a lone client from a pause between two bursts
    BATCH_SPREADS = 4              # how many spreads beyond its mean a batch is expected to end at the latest
    BATCH_REVIVE_NS = 100 * NS_PER_MS  # between two batches of calls that are all expected to be late, and are


cdef bint batch_decide(const BatchQueue* queue, const BatchParams* params, int64_t now, int64_t* when) noexcept nogil:
    """True: the first batch is to run.  False: not before `when` (INT64_MAX: nothing is queued)."""
    cdef const Batch* batch = queue.first
    when[0] = INT64_MAX
    if batch == NULL:
        return False
    if batch.next != NULL or batch.closed or batch.rows >= params.limit or batch.count >= params.limit + BATCH_EMPTY_CALLS:
        return True
    when[0] = batch.opened_ns
    if batch.count > 1 or queue.lone < BATCH_LONE:
        when[0] += params.timeout_ns
    return now >= when[0]


cdef void batch_refill(Batcher* batcher, int64_t now) noexcept nogil:
    """Reruns come back at BATCH_RERUNS_PER_S; one second's worth can be saved up.  (Before the first call all are there.)"""
    cdef int64_t each = NS_PER_S // BATCH_RERUNS_PER_S
    cdef int64_t gained = (now - batcher.tokens_at) // each
    if gained <= 0:
        return
    batcher.tokens_at += gained * each
    batcher.tokens += gained
    if batcher.tokens > BATCH_RERUNS_PER_S:
        batcher.tokens = BATCH_RERUNS_PER_S


cdef bint batch_spend(Batcher* batcher, int64_t reruns, int64_t now) noexcept nogil:
    batch_refill(batcher, now)
    if batcher.tokens < reruns:
        return False
    batcher.tokens -= reruns
    return True


cdef inline bint batch_gone(const BatchTask* task) noexcept nogil:
    return atomic_load32(&task.call.answered) != 0


cdef inline bint batch_leaves(const BatchTask* task, int64_t needed_by) noexcept nogil:
    return batch_gone(task) or task.call.deadline_ns < needed_by


cdef void batch_part(Batch* batch, int32_t first, int64_t needed_by) noexcept nogil:
    """Parts the tasks: tasks[:live] run, in order; the others are answered, or late (a deadline before `needed_by`), or before `first`."""
    cdef BatchTask* tasks = batch.tasks
    cdef BatchTask task
    cdef int32_t i, live = 0
    batch.rows = 0
    for i in range(first, batch.count):
        if batch_leaves(&tasks[i], needed_by):
            continue
        if i != live:
            task = tasks[i]
            tasks[i] = tasks[live]
            tasks[live] = task
        batch.rows += tasks[live].rows
        live += 1
    batch.live = live


cdef Batch* batch_pop(BatchQueue* queue) noexcept nogil:
    cdef Batch* batch = queue.first
    queue.first = batch.next
    if queue.first == NULL:
        queue.last = NULL
    queue.batches -= 1
    batch.next = NULL
    return batch


cdef void batch_pull(BatchQueue* queue, Batch* batch, int64_t limit, int64_t needed_by) noexcept nogil:
    """Calls of the batches behind move up into the places of those that left, in order, as far as they fit.  Who leaves of them comes
    along, to be dropped."""
    cdef Batch* behind = queue.first
    cdef BatchTask* task
    cdef bint leaves
    cdef int32_t moved
    while behind != NULL:
        moved = 0
        while moved < behind.count and batch_room(batch) == 0:
            task = &behind.tasks[moved]
            leaves = batch_leaves(task, needed_by)
            if not leaves and (batch.rows + task.rows > limit
                               or batch_times(batch.rows + task.rows, queue.width) > BATCH_MAX_ELEMENTS):
                break
            batch.tasks[batch.count] = task[0]
            if not leaves:
                batch.tasks[batch.count] = batch.tasks[batch.live]
                batch.tasks[batch.live] = task[0]
                batch.live += 1
                batch.rows += task.rows
            batch.count += 1
            moved += 1
        if moved < behind.count:
            behind.count -= moved
            memmove(behind.tasks, behind.tasks + moved, behind.count * sizeof(BatchTask))
            batch_recount(behind)
            return
        batch_recycle(queue.batcher, batch_pop(queue))
        behind = queue.first


cdef void batch_revive(Batch* batch, int64_t limit, int64_t now) noexcept nogil:
    """All are late, or the estimate is wrong: then the newest run, as many as fit, so that there is a newer estimate.  If nobody waited
    for their results, it was right, and the next ones are not run for a while (see batcher_done)."""
    cdef int32_t i = batch.count
    while i > 0 and batch.rows + (0 if batch_leaves(&batch.tasks[i - 1], now) else batch.tasks[i - 1].rows) <= limit:
        i -= 1
        if not batch_leaves(&batch.tasks[i], now):
            batch.rows += batch.tasks[i].rows
    batch_part(batch, i, now)
    batch.revived = batch.live > 0


cdef void batch_recount(Batch* batch) noexcept nogil:
    cdef int32_t i
    batch.rows = 0
    for i in range(batch.count):
        batch.rows += batch.tasks[i].rows


cdef void batch_narrow(BatchQueue* queue, Batch* batch, int32_t most) noexcept nogil:
    """Keeps the first `most` live tasks; the others go back to the head of the queue, to run next.  Without memory nothing happens."""
    cdef Batch* rest = batch_new(queue.batcher, queue, batch.opened_ns)
    cdef int32_t i
    if rest == NULL:
        return
    for i in range(most, batch.live):
        if batch_room(rest) < 0:
            batch_recycle(queue.batcher, rest)
            return
        batch_append(rest, &batch.tasks[i])
    rest.closed = 1
    rest.next = queue.first
    queue.first = rest
    if queue.last == NULL:
        queue.last = rest
    queue.batches += 1
    batch.count -= rest.count
    memmove(batch.tasks + most, batch.tasks + batch.live, (batch.count - most) * sizeof(BatchTask))
    batch.live = most
    batch.rows -= rest.rows


cdef Batch* batch_queue_take(BatchQueue* queue, int64_t now) noexcept nogil:
    """Pops the first batch and settles who goes along.  It may have no live task left: then its calls only wait to be dropped."""
    cdef Batcher* batcher = queue.batcher
    cdef Batch* batch = batch_pop(queue)
    cdef int64_t rows = 0, needed_by = now
    cdef int32_t most = queue.narrow
    cdef int32_t i
    if queue.first != NULL:                      # others want the room: who will probably not be done in time goes
        needed_by = now + queue.run_ns + BATCH_SPREADS * queue.spread_ns
    batch_part(batch, 0, needed_by)
    if batch.live < batch.count and not queue.word[0]:           # padded rows have no one width: no moving up
        batch_pull(queue, batch, batcher.params.limit, needed_by)
    if batch.live == 0 and now >= queue.revive_ns:
        batch_revive(batch, batcher.params.limit, now)
    if most > 0:
        batch_refill(batcher, now)
        if batcher.tokens < BATCH_RERUN_RESERVE:
            most = 1
        if batch.live > most:
            batch_narrow(queue, batch, most)
    for i in range(batch.count):
        rows += batch.tasks[i].rows
    queue.rows -= rows
    queue.calls -= batch.count
    batcher.rows -= rows
    queue.lone = queue.lone + (queue.lone < BATCH_LONE) if batch.count == 1 else 0
    batch.expected_ns = queue.run_ns
    batch.taken_ns = now
    queue.running += 1
    if queue.first == NULL:
        batch_ring_leave(queue)
    return batch


cdef Batch* batcher_take(Batcher* batcher, int64_t now, int64_t* due) noexcept nogil:
    """The batch whose turn it is, or NULL; `due`: when the next one can run (`now` or before: at once; INT64_MAX: nothing waits)."""
    cdef BatchQueue* queue = batcher.ring
    cdef BatchQueue* found = NULL
    cdef Batch* batch = NULL
    cdef int64_t when
    cdef int32_t i
    due[0] = INT64_MAX
    for i in range(batcher.ring_count):
        if not batch_decide(queue, &batcher.params, now, &when):
            due[0] = when if when < due[0] else due[0]
        elif found == NULL:
            found = queue
        else:
            due[0] = 0
            break
        queue = queue.ring_next
    if found != NULL:
        batcher.ring = found.ring_next
        batch = batch_queue_take(found, now)
        if batch_decide(found, &batcher.params, now, &when):
            due[0] = 0
        elif when < due[0]:
            due[0] = when
    return batch


cdef void batch_time(BatchQueue* queue, int64_t run_ns) noexcept nogil:
    """One more batch took `run_ns`.  The first builds TensorFlow's executor, which takes far longer: forgotten with the second."""
    cdef int64_t off = run_ns - queue.run_ns
    queue.seen += 1
    if queue.seen <= 2:
        queue.run_ns = run_ns
        queue.spread_ns = 0
        return
    queue.run_ns += off // 8
    queue.spread_ns += ((off if off > 0 else -off) - queue.spread_ns) // 4


cdef void batcher_done(Batcher* batcher, Batch* batch, int64_t run_ns, bint failed) noexcept nogil:
    """A taken batch has ended.  `run_ns`: time of its first run, 0 = none; `failed`: that run met a bad value."""
    cdef BatchQueue* queue = batch.queue
    if run_ns > 0:
        batch_time(queue, run_ns)
    if batch.revived:
        queue.revive_ns = 0 if batch.in_time else batch.taken_ns + run_ns + BATCH_REVIVE_NS
    if failed and batch.live > 1:
        if queue.narrow == 0 or batch.live > queue.narrow_until:
            queue.narrow_until = batch.live
        queue.narrow = batch.live // 2
    elif run_ns > 0 and not failed and queue.narrow > 0 and batcher.tokens >= BATCH_RERUN_RESERVE:
        queue.narrow += 1
        if queue.narrow > queue.narrow_until:
            queue.narrow = 0
    queue.running -= 1
    batch_recycle(batcher, batch)
    if queue.running == 0 and queue.first == NULL and batcher.queue_count > BATCH_KEEP_QUEUES:
        batch_queue_free(queue)
