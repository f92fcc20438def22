# platform.pxi: what the core asks of the machine: atomics, the clock, locks, threads, large pages, denormal mode.
#
# Owns: the thin C++ shims below and nothing with a meaning of its own.  Must not know: tickets, TensorFlow, protocols.
# Strategy: GCC/Clang __atomic builtins (the same code on x86-64 and arm64), CLOCK_MONOTONIC, plain pthreads.  Every
# shim is static inline, cannot fail, and may be called from any thread without the GIL.

cdef extern from * nogil:
    """
    #include <pthread.h>
    #include <stdarg.h>
    #include <stdint.h>
    #include <stdio.h>
    #include <stdlib.h>
    #include <string.h>
    #include <time.h>
    #include <errno.h>
    #include <sched.h>
    #include <signal.h>
    #include <sys/mman.h>
    #include <sys/syscall.h>
    #include <unistd.h>
    #if defined(__x86_64__)
    #include <xmmintrin.h>
    #endif

    static inline int32_t tfs_add32(int32_t* p, int32_t v) { return __atomic_add_fetch(p, v, __ATOMIC_ACQ_REL); }
    static inline int64_t tfs_add64(int64_t* p, int64_t v) { return __atomic_add_fetch(p, v, __ATOMIC_ACQ_REL); }
    static inline int32_t tfs_load32(const int32_t* p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
    static inline int64_t tfs_load64(const int64_t* p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
    static inline void tfs_store32(int32_t* p, int32_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
    static inline void tfs_store64(int64_t* p, int64_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
    /* Counters written by one thread and read by any: no ordering, no lock prefix. */
    static inline void tfs_bump64(int64_t* p, int64_t v) {
        __atomic_store_n(p, __atomic_load_n(p, __ATOMIC_RELAXED) + v, __ATOMIC_RELAXED);
    }
    static inline int32_t tfs_swap32(int32_t* p, int32_t v) { return __atomic_exchange_n(p, v, __ATOMIC_ACQ_REL); }
    static inline int tfs_cas64(int64_t* p, int64_t want, int64_t v) {
        return __atomic_compare_exchange_n(p, &want, v, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
    }
    static inline void* tfs_load_ptr(void* p) { return __atomic_load_n((void**)p, __ATOMIC_ACQUIRE); }
    static inline void* tfs_swap_ptr(void* p, void* v) { return __atomic_exchange_n((void**)p, v, __ATOMIC_SEQ_CST); }
    static inline int tfs_cas_ptr(void* p, void* want, void* v) {
        return __atomic_compare_exchange_n((void**)p, &want, v, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
    }
    static inline void tfs_fence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

    static inline int64_t tfs_now_ns(void) {
        struct timespec ts;
        clock_gettime(CLOCK_MONOTONIC, &ts);
        return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
    }
    static inline struct timespec tfs_timespec(int64_t ns) {
        struct timespec ts;
        ts.tv_sec = (time_t)(ns / 1000000000);
        ts.tv_nsec = (long)(ns % 1000000000);
        return ts;
    }
    /* Condition variables that wait on CLOCK_MONOTONIC, so that a change of the wall clock moves no deadline. */
    static inline void tfs_cond_init(pthread_cond_t* cond) {
        pthread_condattr_t attr;
        pthread_condattr_init(&attr);
        pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
        pthread_cond_init(cond, &attr);
        pthread_condattr_destroy(&attr);
    }
    static inline void tfs_cond_wait_until(pthread_cond_t* cond, pthread_mutex_t* mutex, int64_t when_ns) {
        struct timespec ts = tfs_timespec(when_ns);
        pthread_cond_timedwait(cond, mutex, &ts);
    }
    /* A core thread takes no signal: they belong to the main thread (Python's handlers run there). 0 on success. */
    static inline int tfs_thread_start(pthread_t* thread, void* (*body)(void*), void* arg, const char* name) {
        sigset_t all, before;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        int rc = pthread_create(thread, NULL, body, arg);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
    #if defined(__linux__)
        if (rc == 0) pthread_setname_np(*thread, name);
    #endif
        return rc;
    }

    /* Asks for huge pages under a buffer of 32 MiB and more.  Those glibc maps anew where its heap has no room (smaller ones lie on the
       heap, whose pages are kept: lifecycle/memory.py), and 8,192 page faults for 32 MiB cost more than the copy that causes them. */
    static inline void tfs_advise_huge(void* data, size_t size) {
    #if defined(MADV_HUGEPAGE)
        const uintptr_t page = (uintptr_t)2 << 20;
        uintptr_t from = ((uintptr_t)data + page - 1) & ~(page - 1), to = ((uintptr_t)data + size) & ~(page - 1);
        int kept = errno;
        if (size >= (size_t)32 << 20) madvise((void*)from, to - from, MADV_HUGEPAGE);   /* refused by kernels that have none */
        errno = kept;
    #else
        (void)data; (void)size;
    #endif
    }

    /* The calling thread will go before threads that compute when it has something to do.  Turns of 0.1 ms, the shortest there are (Linux
       6.12 and newer; older ones ignore it), let it interrupt theirs of milliseconds; three steps of niceness, where the process may take
       them, keep it from owing time after a burst: a thread that owes 40 us waits for the next tick, up to 4 ms. */
    static inline void tfs_go_first(void) {
    #if defined(SYS_sched_setattr) && defined(SYS_sched_getattr)
        struct { uint32_t size, policy; uint64_t flags; int32_t nice; uint32_t priority; uint64_t runtime, deadline, period; } attr;
        memset(&attr, 0, sizeof attr);
        int kept = errno;
        if (syscall(SYS_sched_getattr, 0, &attr, (unsigned)sizeof attr, 0u) == 0 && attr.policy == SCHED_OTHER) {
            int32_t before = attr.nice;
            attr.flags |= 1;                               /* SCHED_FLAG_RESET_ON_FORK: runners that it starts are like others */
            attr.runtime = 100000;
            attr.nice = before < -17 ? -20 : before - 3;
            if (syscall(SYS_sched_setattr, 0, &attr, 0u) != 0) {
                attr.nice = before;
                syscall(SYS_sched_setattr, 0, &attr, 0u);  /* refused where a sandbox forbids it: then as without */
            }
        }
        errno = kept;
    #endif
    }

    /* TensorFlow's pool threads flush denormals; a thread that runs kernels inline must do the same, or the same
       request gives other bits inline than pooled.  Returns the mode to hand back to tfs_denormals_restore. */
    static inline uint64_t tfs_denormals_flush(void) {
    #if defined(__x86_64__)
        unsigned before = _mm_getcsr();
        _mm_setcsr(before | 0x8040);                       /* FTZ (bit 15) and DAZ (bit 6) */
        return before;
    #elif defined(__aarch64__)
        uint64_t before;
        __asm__ __volatile__("mrs %0, fpcr" : "=r"(before));
        __asm__ __volatile__("msr fpcr, %0" : : "r"(before | (1ull << 24)));   /* FZ */
        return before;
    #else
        return 0;
    #endif
    }
    static inline void tfs_denormals_restore(uint64_t mode) {
    #if defined(__x86_64__)
        _mm_setcsr((unsigned)mode);
    #elif defined(__aarch64__)
        __asm__ __volatile__("msr fpcr, %0" : : "r"(mode));
    #else
        (void)mode;
    #endif
    }
    """
    int32_t atomic_add32 "tfs_add32"(int32_t* p, int32_t v) noexcept
    int64_t atomic_add64 "tfs_add64"(int64_t* p, int64_t v) noexcept
    int32_t atomic_load32 "tfs_load32"(const int32_t* p) noexcept
    int64_t atomic_load64 "tfs_load64"(const int64_t* p) noexcept
    void atomic_store32 "tfs_store32"(int32_t* p, int32_t v) noexcept
    void atomic_store64 "tfs_store64"(int64_t* p, int64_t v) noexcept
    void atomic_bump64 "tfs_bump64"(int64_t* p, int64_t v) noexcept
    int32_t atomic_swap32 "tfs_swap32"(int32_t* p, int32_t v) noexcept
    bint atomic_cas64 "tfs_cas64"(int64_t* p, int64_t want, int64_t v) noexcept
    void* atomic_load_ptr "tfs_load_ptr"(void* p) noexcept
    void* atomic_swap_ptr "tfs_swap_ptr"(void* p, void* v) noexcept
    bint atomic_cas_ptr "tfs_cas_ptr"(void* p, void* want, void* v) noexcept
    void atomic_fence "tfs_fence"() noexcept
    int64_t now_ns "tfs_now_ns"() noexcept
    void advise_huge "tfs_advise_huge"(void* data, size_t size) noexcept
    void go_first "tfs_go_first"() noexcept
    uint64_t denormals_flush "tfs_denormals_flush"() noexcept
    void denormals_restore "tfs_denormals_restore"(uint64_t mode) noexcept

    ctypedef struct pthread_t:
        pass
    ctypedef struct pthread_mutex_t:
        pass
    ctypedef struct pthread_cond_t:
        pass
    int pthread_mutex_init(pthread_mutex_t* mutex, void* attr) noexcept
    int pthread_mutex_lock(pthread_mutex_t* mutex) noexcept
    int pthread_mutex_unlock(pthread_mutex_t* mutex) noexcept
    int pthread_mutex_destroy(pthread_mutex_t* mutex) noexcept
    int pthread_cond_signal(pthread_cond_t* cond) noexcept
    int pthread_cond_broadcast(pthread_cond_t* cond) noexcept
    int pthread_cond_wait(pthread_cond_t* cond, pthread_mutex_t* mutex) noexcept
    int pthread_cond_destroy(pthread_cond_t* cond) noexcept
    int sched_yield() noexcept
    int pthread_detach(pthread_t thread) noexcept
    int pthread_join(pthread_t thread, void** result) noexcept
    void cond_init "tfs_cond_init"(pthread_cond_t* cond) noexcept
    void cond_wait_until "tfs_cond_wait_until"(pthread_cond_t* cond, pthread_mutex_t* mutex, int64_t when_ns) noexcept
    int thread_start "tfs_thread_start"(pthread_t* thread, void* (*body)(void*) noexcept nogil, void* arg, const char* name) noexcept

cdef enum:
    NS_PER_US = 1000
    NS_PER_MS = 1000000
    NS_PER_S = 1000000000
