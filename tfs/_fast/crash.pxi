# crash.pxi: what was running when the process died.
#
# Owns: one slot per core thread with the plan that it runs now, and the handler of fatal signals that prints them.
# Must not know: tickets.  Why: a CHECK failure inside a kernel aborts the process with every model in it; TensorFlow's own line says
# which check failed, but not who called.  The handler uses only write(2) and the slots; then the signal takes its default course.

cdef extern from * nogil:
    """
    enum { TFS_CRASH_SLOTS = 256 };
    typedef struct { const uint8_t* model; size_t model_len; int64_t version; const uint8_t* signature; size_t signature_len; } TfsRunning;
    static TfsRunning tfs_running[TFS_CRASH_SLOTS];

    static inline TfsRunning* tfs_crash_slot(void) { return &tfs_running[tfs_thread_number() % TFS_CRASH_SLOTS]; }

    static size_t tfs_crash_add(char* line, size_t at, size_t room, const void* text, size_t size) {
        if (size > room - at) size = room - at;
        memcpy(line + at, text, size);
        return at + size;
    }
    static size_t tfs_crash_number(char* line, size_t at, size_t room, int64_t value) {
        char digits[24];
        int n = 0;
        uint64_t rest = value < 0 ? (uint64_t)-value : (uint64_t)value;
        do { digits[n++] = (char)('0' + rest % 10); rest /= 10; } while (rest);
        if (value < 0) digits[n++] = '-';
        while (n > 0) at = tfs_crash_add(line, at, room, &digits[--n], 1);
        return at;
    }
    static void tfs_crash_handler(int number) {
        char line[512];
        size_t at;
        for (int i = 0; i < TFS_CRASH_SLOTS; i++) {
            TfsRunning* slot = &tfs_running[i];
            const uint8_t* model = __atomic_load_n(&slot->model, __ATOMIC_ACQUIRE);
            if (!model) continue;
            at = tfs_crash_add(line, 0, sizeof line - 1, "tfs: fatal signal ", 18);
            at = tfs_crash_number(line, at, sizeof line - 1, number);
            at = tfs_crash_add(line, at, sizeof line - 1, " while running model ", 21);
            at = tfs_crash_add(line, at, sizeof line - 1, model, slot->model_len);
            at = tfs_crash_add(line, at, sizeof line - 1, " version ", 9);
            at = tfs_crash_number(line, at, sizeof line - 1, slot->version);
            at = tfs_crash_add(line, at, sizeof line - 1, " signature ", 11);
            at = tfs_crash_add(line, at, sizeof line - 1, slot->signature, slot->signature_len);
            line[at++] = '\\n';
            if (write(2, line, at) < 0) break;
        }
        signal(number, SIG_DFL);
        raise(number);
    }
    static void tfs_crash_install(void) {
        static const int fatal[] = {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL};
        for (size_t i = 0; i < sizeof fatal / sizeof fatal[0]; i++) signal(fatal[i], tfs_crash_handler);
    }
    """
    ctypedef struct RunningSlot "TfsRunning":
        const uint8_t* model
        size_t model_len
        int64_t version
        const uint8_t* signature
        size_t signature_len
    RunningSlot* crash_slot "tfs_crash_slot"() noexcept
    void crash_install "tfs_crash_install"() noexcept


cdef inline RunningSlot* crash_enter(Servable* servable, Plan* plan) noexcept nogil:
    """Says that this thread runs `plan`; the model pointer goes last, so that a slot with one is complete."""
    cdef RunningSlot* slot = crash_slot()
    slot.model_len = servable.name.len
    slot.version = servable.version
    slot.signature = plan.signature.ptr
    slot.signature_len = plan.signature.len
    atomic_swap_ptr(&slot.model, <void*>servable.name.ptr)
    return slot


cdef inline void crash_leave(RunningSlot* slot) noexcept nogil:
    slot.model = NULL


def report_crashes():
    """Prints, on a fatal signal, which models were being run.  Once per process, by the composition root."""
    crash_install()
