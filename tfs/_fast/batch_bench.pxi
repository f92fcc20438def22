# batch_bench.pxi: the scheduler under load with C threads, TensorFlow not needed; also what the thread sanitizer runs.
#
# Owns: _bench_batcher.  Must not know: more than the seams of the batch parts.
# Strategy: each producer thread keeps its share of calls in flight: it submits what came back, checks that every answer holds its own
# value, and sleeps when nothing came back (until all of its calls are).  The session copies one float per row.
# What producers take to fall asleep and to be woken is theirs and not the batcher's: `apart` measures it (`waiting_ns`), for half a
# microsecond each time.
# `cancel_every` n > 0: each n-th call is cancelled right after it was submitted, so that answers race.

from posix.time cimport CLOCK_THREAD_CPUTIME_ID, clock_gettime, timespec
from posix.unistd cimport usleep

cdef struct BenchBatch:
    Servable* servable
    EngineCore* engine
    Plan* plan
    int64_t run_ns                 # the session's time, spent asleep
    int64_t cancel_every
    bint apart
    int64_t wrong                  # atomic: answers that were not the call's own
    int64_t finished               # atomic
    int64_t cancelled              # atomic
    int64_t runs                   # atomic
    int64_t waiting_ns             # atomic: CPU time that producers took to fall asleep and to be woken

cdef struct BenchProducer:
    BenchBatch* bench
    pthread_t thread
    pthread_mutex_t lock
    pthread_cond_t wake
    Call* back                     # atomic stack of answered calls
    int32_t back_count             # atomic: answered calls not yet collected
    int32_t need                   # atomic: asleep until so many are back; 0 = awake
    int64_t in_flight
    int64_t left                   # calls still to be submitted

cdef struct BenchCall:             # `owner` of a call
    BenchProducer* producer
    int64_t dims[2]
    TensorSpan span
    int32_t slot
    float value


cdef int64_t bench_batch_cpu_ns(const BenchBatch* bench) noexcept nogil:
    """What this thread has used; 0 when nobody asks."""
    cdef timespec now
    if not bench.apart:
        return 0
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now)
    return <int64_t>now.tv_sec * NS_PER_S + now.tv_nsec


cdef void bench_batch_session(void* session, const TF_Buffer* run_options, const TF_Output* feeds, TF_Tensor* const* values,
                              int feed_count, const TF_Output* fetches, TF_Tensor** results, int fetch_count,
                              TF_Status* status) noexcept nogil:
    cdef BenchBatch* bench = <BenchBatch*>session
    cdef int64_t dims[2]
    dims[0] = tf.Dim(values[0], 0)
    dims[1] = 1
    results[0] = tensor_allocate(FAKE_FLOAT, dims, 2)
    memcpy(tf.TensorData(results[0]), tf.TensorData(values[0]), tf.TensorByteSize(values[0]))
    atomic_add64(&bench.runs, 1)
    if bench.run_ns:
        usleep(bench.run_ns // NS_PER_US)


cdef void bench_batch_done(Call* call) noexcept nogil:
    """Gives the call back to its producer.  The producer holds the only reference that counts; the batch drops its own later."""
    cdef BenchCall* own = <BenchCall*>call.owner
    cdef BenchProducer* producer = own.producer
    cdef void* head = atomic_load_ptr(&producer.back)
    cdef int32_t count, need
    cdef int64_t began
    while True:
        call.next = <Call*>head
        if atomic_cas_ptr(&producer.back, head, call):
            break
        head = atomic_load_ptr(&producer.back)
    count = atomic_add32(&producer.back_count, 1)
    atomic_fence()
    need = atomic_load32(&producer.need)
    if need and count >= need and atomic_swap32(&producer.need, 0):
        began = bench_batch_cpu_ns(producer.bench)
        pthread_mutex_lock(&producer.lock)       # it is about to wait, or waits
        pthread_mutex_unlock(&producer.lock)
        pthread_cond_signal(&producer.wake)
        atomic_add64(&producer.bench.waiting_ns, bench_batch_cpu_ns(producer.bench) - began)


cdef void bench_batch_release(Call* call) noexcept nogil:
    free(call.owner)
    call_free(call)


cdef Call* bench_batch_call(BenchProducer* producer) noexcept nogil:
    cdef BenchBatch* bench = producer.bench
    cdef Call* call = call_new(bench.engine)
    cdef BenchCall* own = <BenchCall*>calloc(1, sizeof(BenchCall))
    own.producer = producer
    own.dims[0] = 1
    own.dims[1] = 1
    own.span.dims = own.dims
    own.span.rank = 2
    own.span.rows = 1
    own.span.elements = 1
    own.span.dtype = FAKE_FLOAT
    own.span.content.ptr = <uint8_t*>&own.value
    own.span.content.len = sizeof(float)
    call.owner = own
    call.method = METHOD_WARMUP
    call.done = bench_batch_done
    call.release = bench_batch_release
    call.servable = bench.servable
    call.plan = bench.plan
    call.fetch = bench.plan.everything
    call.inputs = &own.span
    call.input_count = 1
    call.slot_input = &own.slot
    servable_hold(bench.servable)
    return call


cdef void bench_batch_send(BenchProducer* producer, int64_t number) noexcept nogil:
    cdef BenchBatch* bench = producer.bench
    cdef Call* call = bench_batch_call(producer)
    (<BenchCall*>call.owner).value = <float>(number % 1000003)
    call_hold(call)
    batch_submit(call)
    if bench.cancel_every and number % bench.cancel_every == 0:
        call_cancel(call)
    call_drop(call)


cdef void bench_batch_check(BenchProducer* producer, Call* call) noexcept nogil:
    cdef BenchCall* own = <BenchCall*>call.owner
    if call.status.code == CANCELLED:
        atomic_add64(&producer.bench.cancelled, 1)
    elif call.status.code != OK or (<float*>tf.TensorData(call.result.tensors[0]))[call.row_begin] != own.value:
        atomic_add64(&producer.bench.wrong, 1)
    atomic_add64(&producer.bench.finished, 1)
    call_drop(call)


cdef void bench_batch_sleep(BenchProducer* producer, int64_t flying) noexcept nogil:
    """Until all calls in flight are back: eight producers of eight calls each would otherwise be woken for every four."""
    cdef int32_t need = <int32_t>flying
    cdef int64_t began = bench_batch_cpu_ns(producer.bench)
    pthread_mutex_lock(&producer.lock)
    atomic_store32(&producer.need, need)
    atomic_fence()
    while atomic_load32(&producer.back_count) < need and atomic_load32(&producer.need):
        pthread_cond_wait(&producer.wake, &producer.lock)
    atomic_store32(&producer.need, 0)
    pthread_mutex_unlock(&producer.lock)
    atomic_add64(&producer.bench.waiting_ns, bench_batch_cpu_ns(producer.bench) - began)


cdef void* bench_batch_producer(void* argument) noexcept nogil:
    cdef BenchProducer* producer = <BenchProducer*>argument
    cdef int64_t flying = 0
    cdef Call* call
    cdef Call* following
    while producer.left or flying:
        while producer.left and flying < producer.in_flight:
            bench_batch_send(producer, producer.left)
            producer.left -= 1
            flying += 1
        call = <Call*>atomic_swap_ptr(&producer.back, NULL)
        if call == NULL:
            bench_batch_sleep(producer, flying)
        while call != NULL:
            following = call.next
            bench_batch_check(producer, call)
            atomic_add32(&producer.back_count, -1)
            flying -= 1
            call = following
    return NULL


cdef Span bench_batch_name() noexcept nogil:
    cdef Span name
    name.ptr = <const uint8_t*>b"bench"
    name.len = 5
    return name


def _bench_batcher(BatchThreads threads, dict parameters, int64_t calls, int producers=1, int64_t in_flight=64, int64_t run_us=0,
                   int64_t cancel_every=0, bint apart=False) -> dict:
    """Runs `calls` calls through the batcher from `producers` threads; wrong answers, cancelled calls, runs of the session,
    and with `apart` the CPU time that producers spent on waiting.

    The caller measures time and CPU.  Needs fake_runtime() first.
    """
    cdef BenchBatch bench
    cdef BenchProducer* all_producers = <BenchProducer*>calloc(producers, sizeof(BenchProducer))
    cdef BenchProducer* producer
    cdef int32_t index = 0
    cdef int i
    memset(&bench, 0, sizeof(bench))
    bench.engine = <EngineCore*>calloc(1, sizeof(EngineCore))
    bench.servable = <Servable*>calloc(1, sizeof(Servable))
    pthread_mutex_init(&bench.servable.lock, NULL)
    cond_init(&bench.servable.unused)
    bench.plan = plan_new(1, 1)
    bench.plan.everything = fetch_new(bench.plan, &index, 1)
    bench.servable.name = bench.plan.signature = bench_batch_name()
    bench.servable.session = &bench
    bench.servable.run = bench_batch_session
    bench.run_ns = run_us * NS_PER_US
    bench.cancel_every = cancel_every
    bench.apart = apart
    batch_enable(bench.servable, threads, parameters)
    with nogil:
        for i in range(producers):
            producer = &all_producers[i]
            producer.bench = &bench
            producer.in_flight = in_flight // producers
            producer.left = calls // producers
            pthread_mutex_init(&producer.lock, NULL)
            cond_init(&producer.wake)
            thread_start(&producer.thread, bench_batch_producer, producer, "producer")
        for i in range(producers):
            pthread_join(all_producers[i].thread, NULL)
        servable_wait_unused(bench.servable, INT64_MAX)
        batch_disable(bench.servable)
    plan_free(bench.plan)
    free(bench.servable)
    free(bench.engine)
    free(all_producers)
    return {"finished": bench.finished, "wrong": bench.wrong, "cancelled": bench.cancelled, "runs": bench.runs,
            "waiting_ns": bench.waiting_ns}
