# batch_run.pxi: a taken batch -> one run -> an answer for each call.  Without the batcher's lock but for the budget of reruns.
#
# Owns: the run of a batch, its repetition in halves when a value spoiled it, the answers.  Must not know: queues, threads.
# Strategy: every task ends exactly once in batch_task_end (result, or none because the call was answered with an error), and gives
# back its hold on the call at the very end.  Outputs are shared by count; each call gets its range of rows.

cdef enum:
    # Codes that a value in the input can cause; the others (no memory, timeout, session closed) would come again, or are nobody's fault.
    BATCH_VALUE_CODES = (1 << UNKNOWN | 1 << INVALID_ARGUMENT | 1 << NOT_FOUND | 1 << ALREADY_EXISTS | 1 << FAILED_PRECONDITION
                         | 1 << OUT_OF_RANGE | 1 << UNIMPLEMENTED | 1 << INTERNAL | 1 << DATA_LOSS)


# -- answers

cdef void batch_answer(Call* call, RunResult* result, int64_t begin, int64_t rows, int64_t run_ns) noexcept nogil:
    """The call's rows of `result`, unless somebody has answered."""
    if call_answer(call):
        status_clear(&call.status)
        result_hold(result)
        call.result = result
        call.row_begin = begin
        call.row_count = rows
        call.run_ns = run_ns
        engine_finish(call)


cdef void batch_answer_error(Call* call, const Status* status) noexcept nogil:
    if call_answer(call):
        status_set(&call.status, status.code, "")
        if status.text.len:
            text_add(&call.status.text, status.text.ptr, status.text.len)
        engine_finish(call)


cdef void batch_gather_end(BatchGather* gather, Call* call) noexcept nogil:
    """The last piece is done: answers if all succeeded (an error was answered when it came)."""
    cdef RunResult* result = NULL
    cdef Status status
    cdef int64_t rows = 0
    cdef int32_t i
    for i in range(gather.count):
        if gather.parts[i].result == NULL:
            batch_gather_free(gather)
            return
        rows += gather.parts[i].rows
    memset(&status, 0, sizeof(Status))
    result = batch_join(gather, &status)
    if result != NULL:
        result.rows = rows
        batch_answer(call, result, 0, rows, gather.run_ns)
        result_drop(result)
    else:
        batch_answer_error(call, &status)
        status_clear(&status)
    batch_gather_free(gather)


cdef void batch_task_end(BatchTask* task, RunResult* result, int64_t begin, int64_t run_ns) noexcept nogil:
    """Once per task.  `result` NULL: the call has been answered."""
    cdef BatchGather* gather = task.gather
    if gather == NULL:
        if result != NULL:
            batch_answer(task.call, result, begin, task.rows, run_ns)
        return
    if result != NULL:
        result_hold(result)
        gather.parts[task.piece].result = result
        gather.parts[task.piece].begin = begin
        gather.parts[task.piece].rows = task.rows
        atomic_add64(&gather.run_ns, run_ns)
    if atomic_add32(&gather.missing, -1) == 0:
        batch_gather_end(gather, task.call)


cdef void batch_fail(BatchTask* tasks, int32_t count, const Status* status) noexcept nogil:
    cdef int32_t i
    for i in range(count):
        batch_answer_error(tasks[i].call, status)
        batch_task_end(&tasks[i], NULL, 0, 0)


# -- one run

cdef void batch_mark(BatchTask* tasks, int32_t count, int stage) noexcept nogil:
    """stage_mark for every call of a batch."""
    cdef int32_t i
    if tasks[0].call.engine.profiling:
        for i in range(count):
            stage_book(tasks[i].call, stage)


cdef int64_t batch_timeout_ms(const BatchTask* tasks, int32_t count, int64_t now) noexcept nogil:
    """Until the latest deadline; 0 = somebody has none."""
    cdef int64_t latest = 0
    cdef int32_t i
    for i in range(count):
        if tasks[i].call.deadline_ns > latest:
            latest = tasks[i].call.deadline_ns
    if latest == INT64_MAX:
        return 0
    return (latest - now) // NS_PER_MS if latest - now >= NS_PER_MS else 1


cdef void batch_count_run(BatchQueue* queue, int64_t rows, int64_t padded, bint again) noexcept nogil:
    cdef BatchCounters* counters = queue.batcher.counters
    pthread_mutex_lock(&counters.lock)
    counters.batches += 1
    size_histogram_add(&counters.processed, padded)
    batch_count_padding(counters, padded, padded - rows)
    if queue.series != NULL:
        queue.series.padding_rows += padded - rows
        queue.series.reruns += again
    pthread_mutex_unlock(&counters.lock)


cdef int batch_attempt(Batch* batch, BatchTask* tasks, int32_t count, bint again, RunResult** result, int64_t* run_ns, Status* status,
                       bint* hopeless) noexcept nogil:
    """Assembles and runs `count` tasks; OK with *result held once, or code and text."""
    cdef BatchQueue* queue = batch.queue
    cdef Plan* plan = tasks[0].call.plan
    cdef TF_Tensor* few[FEEDS_ON_STACK]
    cdef TF_Tensor** feeds = few
    cdef int64_t rows = 0, padded, began
    cdef int32_t i
    cdef int code
    cdef bint pooled = (plan.traits & GRAPH_MAY_BLOCK) != 0 or batch.expected_ns == 0 or batch.expected_ns > POOLED_FROM_NS
    batch_mark(tasks, count, PROFILE_QUEUE)
    for i in range(count):
        rows += tasks[i].rows
    pthread_mutex_lock(&queue.batcher.lock)                      # the settings may change under way
    padded = batch_round_up(&queue.batcher.params, rows)
    pthread_mutex_unlock(&queue.batcher.lock)
    if plan.input_count > FEEDS_ON_STACK:
        feeds = <TF_Tensor**>malloc(plan.input_count * sizeof(TF_Tensor*))
    if feeds == NULL or batch_assemble(tasks, count, rows, padded, feeds) < 0:
        if feeds != few:
            free(feeds)
        return status_set(status, RESOURCE_EXHAUSTED, "out of memory")
    batch_count_run(queue, rows, padded, again)
    batch_mark(tasks, count, PROFILE_ASSEMBLE)
    began = now_ns()
    code = session_run(queue.batcher.servable, plan, tasks[0].call.fetch, feeds, batch_timeout_ms(tasks, count, began), pooled,
                       result, status)
    run_ns[0] = now_ns() - began
    batch_feeds_delete(feeds, plan.input_count)
    batch_mark(tasks, count, PROFILE_RUN)
    if feeds != few:
        free(feeds)
    if code == OK:
        result[0].rows = padded
        code = batch_check_outputs(result[0], padded, status, hopeless)
        if code != OK:
            result_drop(result[0])
            result[0] = NULL
    return code


cdef bint batch_may_rerun(Batch* batch, int code, int32_t halves) noexcept nogil:
    """Whether a failed run may be repeated in parts: a value's code, a graph without state, and room in the budget."""
    cdef Batcher* batcher = batch.queue.batcher
    cdef bint room
    if not (BATCH_VALUE_CODES >> code) & 1 or not batch.tasks[0].call.plan.traits & GRAPH_STATELESS:
        return False
    pthread_mutex_lock(&batcher.lock)
    room = batch_spend(batcher, halves, batch.taken_ns)
    pthread_mutex_unlock(&batcher.lock)
    return room


cdef int32_t batch_still_wanted(BatchTask* tasks, int32_t count) noexcept nogil:
    """Ends the tasks whose calls were answered meanwhile; the others come to the front, in order."""
    cdef int32_t i, live = 0
    cdef BatchTask task
    for i in range(count):
        if batch_gone(&tasks[i]):
            batch_task_end(&tasks[i], NULL, 0, 0)
            continue
        if i != live:
            task = tasks[i]
            tasks[i] = tasks[live]
            tasks[live] = task
        live += 1
    return live


cdef int64_t batch_settle(Batch* batch, BatchTask* tasks, int32_t count, bint again, bint* failed) noexcept nogil:
    """Runs the tasks and ends each of them; when a value fails them, both halves by themselves, down to the calls that hold it.
    Returns the time of the run; `failed`: whether it was a value that failed."""
    cdef RunResult* result = NULL
    cdef Status status
    cdef int64_t run_ns = 0, begin = 0
    cdef bint hopeless = False, ignored = False
    cdef int32_t i
    cdef int code
    if again:
        count = batch_still_wanted(tasks, count)
    if count == 0:
        return 0
    memset(&status, 0, sizeof(Status))
    code = batch_attempt(batch, tasks, count, again, &result, &run_ns, &status, &hopeless)
    if code == OK:
        for i in range(count):
            if batch.revived:
                batch.in_time += not batch_gone(&tasks[i])
            batch_task_end(&tasks[i], result, begin, run_ns)
            begin += tasks[i].rows
        result_drop(result)
        return run_ns
    failed[0] = (BATCH_VALUE_CODES >> code) & 1
    if count > 1 and not hopeless and batch_may_rerun(batch, code, 2):
        batch_settle(batch, tasks, count // 2, True, &ignored)
        batch_settle(batch, tasks + count // 2, count - count // 2, True, &ignored)
    else:
        if count > 1:
            batch_count_spoiled(batch.queue, count)
        batch_fail(tasks, count, &status)
    status_clear(&status)
    return run_ns


# -- a whole batch

cdef void batch_count_spoiled(BatchQueue* queue, int32_t calls) noexcept nogil:
    pthread_mutex_lock(&queue.batcher.counters.lock)
    if queue.series != NULL:
        queue.series.spoiled += calls
    pthread_mutex_unlock(&queue.batcher.counters.lock)


cdef void batch_count_start(Batch* batch, int64_t now) noexcept nogil:
    """Waiting times and sizes, once per call."""
    cdef BatchCounters* counters = batch.queue.batcher.counters
    cdef BatchSeries* series = batch.queue.series
    cdef int64_t wait
    cdef int32_t i
    cdef int bucket
    pthread_mutex_lock(&counters.lock)
    for i in range(batch.live):
        if batch.tasks[i].piece:
            continue
        wait = now - batch.tasks[i].queued_ns
        bucket = wait_bucket(wait)
        wait_histogram_add(&counters.queuing, bucket, wait)
        if series != NULL:
            wait_histogram_add(&series.wait, bucket, wait)
            series.calls += 1
    if series != NULL:
        series.skipped += batch.count - batch.live
        series.rows += batch.rows
        if batch.live:
            size_histogram_add(&series.size, batch.rows)
    pthread_mutex_unlock(&counters.lock)


cdef int64_t batch_execute(Batch* batch, int64_t now, bint* failed) noexcept nogil:
    """Runs the live tasks, ends all, and gives back their holds: afterwards the servable may have no holder.  Returns the run's time."""
    cdef BatchTask* tasks = batch.tasks
    cdef int64_t run_ns = 0
    cdef int32_t i
    failed[0] = False
    for i in range(batch.count):
        if tasks[i].piece == 0:
            engine_unqueue(tasks[i].call)
    batch_count_start(batch, now)
    if batch.live:
        run_ns = batch_settle(batch, tasks, batch.live, False, failed)
    for i in range(batch.live, batch.count):
        engine_expire(tasks[i].call)             # too late to be done in time; nothing when it has been answered
        batch_task_end(&tasks[i], NULL, 0, 0)
    for i in range(batch.count):
        call_drop(tasks[i].call)
    return run_ns
