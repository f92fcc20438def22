# types.pxi: the nouns of the core.  Every struct that more than one part touches is declared here, with who writes it.
#
# Owns: layouts and the lifetime rules written beside them.  No behaviour.
#
# The life of a ticket (Call), the one rule to know:
#   * `answered` goes 0 -> 1 exactly once (call_answer).  Whoever wins that exchange fills status/result and calls `done`,
#     exactly once, on its own thread: an I/O thread, a runner, a batch thread or the engine's timer.
#   * `refs` starts at 1 (the consumer's); the engine adds one for as long as a queue, a runner or a batch may touch the ticket.
#     The consumer drops its own when it has taken the answer.  Whoever drops the last one calls `release`, which frees.
#   So a call whose deadline passes during a run is answered by the timer at once and released when TensorFlow is done with it.
#   * `body` (the request bytes) must stay valid until `release`; the spans below point into it.

cdef struct EngineCore
cdef struct ModelCounters          # counters.pxi
cdef struct ReplyTensor            # response.pxi
cdef struct FetchSet
cdef struct Plan
cdef struct Servable
cdef struct Call

cdef struct Span:
    const uint8_t* ptr
    size_t len

cdef struct Text:                  # a growing string for error texts; cold (status.pxi)
    char* ptr
    size_t len
    size_t cap

cdef struct Status:                # code 0 = OK; `text` is owned (malloc), absent when OK
    int code
    Text text

cdef struct ArenaBlock:             # its bytes lie behind it, 8-aligned
    ArenaBlock* next

cdef struct Arena:                 # bump allocator of one call; freed whole with the ticket (wire.pxi)
    uint8_t* at
    uint8_t* end
    ArenaBlock* blocks
    uint8_t first[384]             # enough for three-input requests without a malloc

cdef struct TensorSpan:            # one decoded TensorProto: where its values lie, not the values (tensor.pxi)
    Span alias                     # the map key
    Span proto                     # the whole TensorProto (absent for tensors that did not come from protobuf)
    Span content                   # tensor_content, when not empty: wins over the typed field
    Span packed                    # the typed field, when it is exactly one packed chunk of fixed-width values
    int64_t* dims                  # arena; `rank` entries
    int64_t elements               # product of dims, verified not to overflow
    int64_t rows                   # dims[0], or -1 for a scalar
    int64_t values                 # how many values the typed field of the dtype holds (0 = fill with zeros)
    int32_t rank
    int32_t dtype
    int32_t bad                    # 1: parsed, but cannot become a tensor -> "tensor parsing error: <alias>" at admit

cdef enum VersionChoice:
    VERSION_LATEST = 0
    VERSION_NUMBER = 1
    VERSION_LABEL = 2

cdef enum Method:                  # the API label of the metrics
    METHOD_PREDICT = 0
    METHOD_CLASSIFY = 1
    METHOD_REGRESS = 2
    METHOD_MULTI = 3
    METHOD_WARMUP = 4              # not counted
    METHOD_OTHER = 5               # counted only: REST status, metadata, malformed requests

cdef enum Entry:
    ENTRY_GRPC = 0
    ENTRY_REST = 1

cdef struct RunResult:             # the output tensors of one run, shared by all calls of a batch
    int32_t refs
    int32_t count                  # tensors, in the order of the FetchSet that ran
    int64_t rows                   # rows of the batch incl. padding; -1: not a batch, each call takes whole tensors
    TF_Tensor* tensors[1]          # `count` entries

cdef struct InputSlot:             # one input of a signature
    Span alias                     # owned by the plan
    Span tensor                    # tensor name "node:0"
    int32_t dtype                  # as the signature declares it (REST converts by it; gRPC never checks it)
    int32_t rank                   # as the signature declares it, -1: any (see rank.pxi); looked at only under GRAPH_ABORTS_ON_RANK
    TF_Tensor* fallback            # SignatureDef.defaults, else NULL

cdef struct OutputSlot:            # one output of a signature
    Span alias
    Span tensor
    TF_Output fetch                # oper NULL: the graph has no such node

cdef enum:
    SIZE_BUCKETS = 24              # run-time statistics per log2(elements fed)

cdef struct RunStats:              # one size bucket of a fetch set; written without a lock, estimates only
    int64_t seen                   # completed runs
    int64_t p99_ns                 # slowly falling, fast rising estimate
    int64_t mean_ns

cdef struct FetchSet:              # one subset of a plan's outputs that has been run
    FetchSet* next
    int32_t count
    int32_t* index                 # sorted indexes into Plan.outputs
    TF_Output* fetches
    RunStats stats[SIZE_BUCKETS]

cdef struct Plan:                  # one signature, resolved at load; immutable but for the list of fetch sets
    Plan* next
    Span signature
    Span method_name
    int32_t input_count
    int32_t output_count
    int32_t has_defaults
    InputSlot* inputs              # sorted by alias
    OutputSlot* outputs            # sorted by alias
    TF_Output* feeds               # by input index; oper NULL: the graph has no such node
    FetchSet* everything           # all outputs
    FetchSet* subsets              # others seen so far, newest first; at most MAX_FETCH_SETS (plan.pxi)
    int32_t subset_count
    int32_t broken_input           # index of a slot whose node the graph lacks, or -1
    uint32_t traits                # GraphTrait bits of what this signature reaches
    pthread_mutex_t lock           # guards writes to `subsets`

cdef enum GraphTrait:              # what a signature's part of the graph may do, found at load (graph.pxi)
    GRAPH_MAY_BLOCK = 1            # loops, queues, tf.data, py_function ... : never on an I/O thread
    GRAPH_STATELESS = 2            # all ops on the allow-list: a failed batch may be run again member by member
    GRAPH_MANY_DEVICES = 4         # an accelerator is present: runs wait for it
    GRAPH_ABORTS_ON_RANK = 8       # kernels that end the process when an input's rank is not the declared one

ctypedef void (*SessionRunFn)(
    void* session, const TF_Buffer* run_options, const TF_Output* feeds, TF_Tensor* const* values, int feed_count,
    const TF_Output* fetches, TF_Tensor** results, int fetch_count, TF_Status* status) noexcept nogil

cdef struct Servable:              # one loaded version
    Span name
    int64_t version
    void* session                  # TF_Session*, or the fake's
    SessionRunFn run
    Plan* plans
    Plan* default_plan             # "serving_default", or NULL
    int64_t holds                  # calls that use it, + 1 while it is in the serving map (atomic; see serving_map.pxi)
    pthread_mutex_t lock           # guards the last drop of `holds`
    pthread_cond_t unused          # signalled when `holds` reaches zero
    void* batcher                  # Batcher (batch_queue.pxi); NULL = batching off for this version
    ModelCounters* counters        # counters.pxi; the engine's, shared by all versions of the name; NULL until the first publish
    # -- its queue for runners, guarded by EngineCore.lock (runner.pxi)
    Call* queue_head
    Call* queue_tail
    Servable* ring_next
    int32_t in_ring
    int32_t running                # runners that run it now

cdef struct Call:
    # -- owned by the consumer (transport), set before submit
    Call* next                     # the consumer's list link, from `done` on
    void (*done)(Call* call) noexcept nogil
    void (*release)(Call* call) noexcept nogil
    void* owner
    EngineCore* engine             # set by call_new
    Span body
    int64_t start_ns
    int64_t deadline_ns            # monotonic; INT64_MAX = none
    int32_t method                 # Method
    int32_t entry                  # Entry
    int64_t inline_budget_ns       # the submitting thread may run the model itself if its predicted time is below; 0 = never
    # Whether that thread keeps the call, to run it a little later (engine_offer); NULL = never.
    bint (*keep)(Call* call, int64_t predicted_ns, int64_t busy) noexcept nogil
    # -- lifetime (atomic)
    int32_t refs
    int32_t answered
    # -- decode (request.pxi, json_decode.pxi)
    int32_t has_spec
    int32_t version_choice         # VersionChoice
    int64_t version
    Span model
    Span signature                 # empty = serving_default
    Span label
    TensorSpan* inputs             # arena; request order, one per alias (a later duplicate key replaces the earlier)
    Span* filter                   # arena; request order, as sent
    int32_t input_count
    int32_t filter_count
    int32_t json_format            # JsonFormat of a REST predict body: the reply has the same
    int64_t payload_bytes          # what it counts against the byte limits
    # -- resolve and admit (serving_map.pxi, plan.pxi)
    Servable* servable             # held
    Plan* plan
    FetchSet* fetch                # the set that is run; `wanted` narrows it when the cap forces "fetch all"
    int32_t* wanted                # arena; indexes into fetch->index in reply order, or NULL = all
    int32_t wanted_count
    int32_t* slot_input            # arena; for each plan input: index into `inputs`, or -1 = the fallback
    # -- answer
    Status status
    RunResult* result              # counted
    int64_t row_begin              # its rows of result (result.rows >= 0), else ignored
    int64_t row_count
    ReplyTensor* reply             # arena; what response_size measured, for response_write
    int64_t mark_ns                # when the last stage ended (stages.pxi); only while profiling
    int64_t run_ns                 # time inside the session, for the metrics
    # -- the engine's own
    Call* queue_next               # link of the runners' queue, or of who keeps it: a call may be answered (in the consumer's list) and still there
    int64_t kept_ns                # predicted time of a kept call
    int32_t timer_index            # place in the timer's heap, -1 = not in it
    int32_t queued_calls           # 1 while counted against the queue limits
    Arena arena

# -- the engine: one per process, made by the composition root

cdef struct MapModel:              # one model name in the serving map
    Span name
    int32_t version_count
    int32_t label_count
    Servable** versions            # ascending by version; the last one is "latest"
    Span* labels
    int64_t* label_versions

cdef struct ServingMap:            # immutable once published; freed when no reader can see it (serving_map.pxi)
    MapModel* models
    int32_t count
    int32_t labels_known           # 0: the label map was never initialised
    int32_t* buckets               # hash of name -> index, -1 = free
    uint32_t mask

cdef enum:
    READER_SLOTS = 64

cdef struct ReaderSlot:            # how many threads read the map now, one cache line per slot
    int32_t active
    uint8_t padding[60]

cdef struct Runner:                # on its thread's stack; guarded by EngineCore.lock
    int64_t since_ns               # when its run began; 0 = between runs
    Runner* next

cdef struct EngineCore:
    # -- serving map
    ReaderSlot readers[READER_SLOTS]
    ServingMap* map
    # -- settings, fixed at birth
    int32_t max_runners
    int32_t max_runners_per_model
    int32_t check_method_names
    int32_t as_content
    int64_t max_queued_calls
    int64_t max_queued_bytes
    # -- runners (guarded by `lock`)
    pthread_mutex_t lock
    pthread_cond_t work            # a queue became ready, or stop
    pthread_cond_t quiet           # a runner ended
    Servable* ring_head            # servables with queued calls and room for one more runner
    Servable* ring_tail
    Runner* first_runner
    int32_t runners
    int32_t idle
    int32_t base_runners           # started without waiting: one per core
    int32_t stopping
    int64_t completed              # runs ended, ever
    int64_t growth_seen            # `completed` at the last look of the growth check
    int64_t growth_since_ns        # since when it has not changed
    int32_t growth_watch           # the timer looks at the runners
    int64_t waiting                # calls in the queues
    int64_t queued_calls           # atomic
    int64_t queued_bytes           # atomic
    int64_t running                # atomic
    int64_t on_runners             # atomic: calls that wait for a runner or have one
    int64_t calls                  # tickets alive (atomic)
    # -- timer (guarded by `timer_lock`)
    pthread_mutex_t timer_lock
    pthread_cond_t timer_wake
    pthread_t timer_thread
    Call** heap
    int32_t heap_size
    int32_t heap_capacity
    int32_t timer_stopping
    int64_t growth_check_ns        # when to look whether all runners are blocked; INT64_MAX = not armed
    # -- counters
    int32_t profiling              # stages.pxi
    int64_t profiled_calls
    int64_t stage_ns[8]
    pthread_mutex_t counters_lock
    ModelCounters* models
    int32_t strangers              # counters of names that were never loaded
