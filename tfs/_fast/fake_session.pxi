# fake_session.pxi: a session for tests, stepped by hand, so that engine and batcher run without TensorFlow.
#
# Owns: FakeSession: output i is input i modulo the number of inputs (same tensor contents); it can be told to wait, to fail, to take
# time.  Must not know: tickets.

cdef extern from * nogil:
    """
    static inline uint64_t tfs_thread_ident(void) { return (uint64_t)pthread_self(); }
    """
    uint64_t thread_ident "tfs_thread_ident"() noexcept

cdef enum:
    FAKE_FLOAT = 1                 # DT_FLOAT

cdef struct FakeSessionCore:
    pthread_mutex_t lock
    pthread_cond_t change
    int64_t gate                   # runs that may pass; -1 = open
    int64_t started
    int64_t finished
    int32_t fail_code
    double poison                  # a float input that holds this value fails the run (NaN = nothing does)
    int64_t spin_ns                # CPU time to burn per run
    int64_t rows_seen              # dim 0 of the first feed of the last run
    int64_t fetches_seen           # outputs asked for in the last run
    uint64_t thread_seen           # the thread of the last run, as Python's threading.get_ident()


cdef class FakeSession:
    """Test double of a TF session.  `gate` -1: runs pass at once; n >= 0: n runs pass, others wait for `step`."""

    cdef FakeSessionCore* core

    def __cinit__(self, int64_t gate=-1, int64_t spin_ns=0):
        self.core = <FakeSessionCore*>calloc(1, sizeof(FakeSessionCore))
        if self.core == NULL:
            raise MemoryError
        pthread_mutex_init(&self.core.lock, NULL)
        cond_init(&self.core.change)
        self.core.gate = gate
        self.core.spin_ns = spin_ns
        self.core.poison = float("nan")

    def __dealloc__(self):
        free(self.core)

    def step(self, int64_t runs=1):
        """Lets `runs` more runs pass; -1 opens the gate."""
        pthread_mutex_lock(&self.core.lock)
        self.core.gate = -1 if runs < 0 else self.core.gate + runs
        pthread_cond_broadcast(&self.core.change)
        pthread_mutex_unlock(&self.core.lock)

    def fail(self, int code):
        """Every run from now on ends with `code` (0 = none)."""
        pthread_mutex_lock(&self.core.lock)
        self.core.fail_code = code
        pthread_mutex_unlock(&self.core.lock)

    def poison(self, double value):
        """Runs whose float input holds `value` fail with INVALID_ARGUMENT."""
        pthread_mutex_lock(&self.core.lock)
        self.core.poison = value
        pthread_mutex_unlock(&self.core.lock)

    def wait_started(self, int64_t runs, double timeout_s=10.0):
        """Whether `runs` runs have started within the time."""
        cdef int64_t until = now_ns() + <int64_t>(timeout_s * NS_PER_S)
        cdef bint reached
        with nogil:
            pthread_mutex_lock(&self.core.lock)
            while self.core.started < runs and now_ns() < until:
                cond_wait_until(&self.core.change, &self.core.lock, until)
            reached = self.core.started >= runs
            pthread_mutex_unlock(&self.core.lock)
        return reached

    def spin(self, int64_t ns):
        """CPU time that later runs burn; while none is under way."""
        self.core.spin_ns = ns

    @property
    def started(self):
        return atomic_load64(&self.core.started)

    @property
    def finished(self):
        return atomic_load64(&self.core.finished)

    @property
    def rows_seen(self):
        return atomic_load64(&self.core.rows_seen)

    @property
    def fetches_seen(self):
        return atomic_load64(&self.core.fetches_seen)

    @property
    def thread_seen(self):
        return <uint64_t>atomic_load64(<int64_t*>&self.core.thread_seen)


cdef TF_Tensor* fake_copy(TF_Tensor* source) noexcept nogil:
    """A tensor with the same dtype, shape and contents."""
    cdef int64_t dims[16]
    cdef int rank = tf.NumDims(source)
    cdef int dtype = tf.TensorType(source)
    cdef TF_Tensor* made
    cdef TF_TString* strings
    cdef TF_TString* copies
    cdef int64_t count = 1
    cdef int i
    for i in range(rank):
        dims[i] = tf.Dim(source, i)
        count *= dims[i]
    made = tensor_allocate(dtype, dims, rank)
    if made == NULL:
        return NULL
    if dtype != DTYPE_STRING:
        memcpy(tf.TensorData(made), tf.TensorData(source), tf.TensorByteSize(source))
        return made
    strings = <TF_TString*>tf.TensorData(source)
    copies = <TF_TString*>tf.TensorData(made)
    for i in range(<int>count):
        tf.StringCopy(&copies[i], tf.StringGetDataPointer(&strings[i]), tf.StringGetSize(&strings[i]))
    return made


cdef bint fake_poisoned(double poison, TF_Tensor* value) noexcept nogil:
    cdef float* numbers
    cdef size_t i
    if poison != poison or tf.TensorType(value) != FAKE_FLOAT:
        return False
    numbers = <float*>tf.TensorData(value)
    for i in range(tf.TensorByteSize(value) // sizeof(float)):
        if numbers[i] == poison:
            return True
    return False


cdef void fake_session_run(void* session, const TF_Buffer* run_options, const TF_Output* feeds, TF_Tensor* const* values, int feed_count,
                           const TF_Output* fetches, TF_Tensor** results, int fetch_count, TF_Status* status) noexcept nogil:
    """The SessionRunFn of a FakeSession."""
    cdef FakeSessionCore* core = <FakeSessionCore*>session
    cdef int64_t until
    cdef int i, code
    cdef double poison
    pthread_mutex_lock(&core.lock)
    code = core.fail_code
    poison = core.poison
    atomic_add64(&core.started, 1)
    atomic_store64(&core.fetches_seen, fetch_count)
    atomic_store64(<int64_t*>&core.thread_seen, <int64_t>thread_ident())
    if feed_count and tf.NumDims(values[0]):
        atomic_store64(&core.rows_seen, tf.Dim(values[0], 0))
    pthread_cond_broadcast(&core.change)
    while core.gate == 0:
        pthread_cond_wait(&core.change, &core.lock)
    if core.gate > 0:
        core.gate -= 1
    pthread_mutex_unlock(&core.lock)
    until = now_ns() + core.spin_ns
    while core.spin_ns and now_ns() < until:
        pass
    for i in range(feed_count):
        if fake_poisoned(poison, values[i]):
            code = INVALID_ARGUMENT
    if code:
        fake_set_status(status, code, "the fake session was told to fail")
    else:
        for i in range(fetch_count):
            results[i] = fake_copy(values[fetches[i].index % feed_count])
    atomic_add64(&core.finished, 1)


def fake_servable(str name, int64_t version, FakeSession session not None, dict signatures, bint may_block=False, bint stateless=True):
    """A LoadedServable over a fake session.  `signatures`: name -> serialized SignatureDef; output tensors are named "out:<input index>"."""
    cdef LoadedServable self = LoadedServable.new(name, version)
    cdef Plan* plan
    self.session_owner = session
    self.core.session = session.core
    self.core.run = fake_session_run
    for signature, definition in signatures.items():
        self.signature_defs[signature] = definition
        plan = plan_from_signature(NULL, signature.encode(), definition, self.keep)
        plan.traits = (GRAPH_MAY_BLOCK if may_block else 0) | (GRAPH_STATELESS if stateless else 0)
        self.add_plan(plan)
    return self
