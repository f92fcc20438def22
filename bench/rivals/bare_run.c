/* The least that any server must do for a Predict: TF_SessionRun in the calling thread, nothing around it.
 *
 *     bare_run TENSORFLOW_DIR SAVED_MODEL FEED_OP FEED_INDEX FETCH_OP FETCH_INDEX THREADS RUNS ROUNDS DIM... < float32 values
 *
 * Loads the model through TensorFlow's C API (resolved with dlopen, RTLD_LOCAL) with THREADS threads inside an op (0: TensorFlow's
 * choice), feeds the same float tensor every time and prints, per round, CPU microseconds per run by getrusage and elapsed
 * microseconds per run, as a JSON list of pairs.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

typedef struct { void* operation; int index; } Output;
typedef struct { const void* data; size_t length; void (*free)(void*, size_t); } Buffer;

/* RunOptions { inter_op_thread_pool: -1 }: run in the calling thread. */
static const char INLINE[] = "\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01";

static void* library;

static void* symbol(const char* name) {
    void* found = dlsym(library, name);
    if (!found) { fprintf(stderr, "bare_run: %s: %s\n", name, dlerror()); exit(1); }
    return found;
}

static void* open_library(const char* directory, const char* name) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    void* opened = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!opened) { fprintf(stderr, "bare_run: %s\n", dlerror()); exit(1); }
    return opened;
}

static double cpu_us(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1e6 + usage.ru_utime.tv_usec + usage.ru_stime.tv_usec;
}

static double now_us(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1e6 + now.tv_nsec / 1e3;
}

int main(int argc, char** argv) {
    if (argc < 10) { fprintf(stderr, "bare_run: see the comment in bare_run.c for its arguments\n"); return 2; }
    open_library(argv[1], "libtensorflow_framework.so.2");
    library = open_library(argv[1], "libtensorflow_cc.so.2");
    void* (*make_status)(void) = symbol("TF_NewStatus");
    int (*code)(void*) = symbol("TF_GetCode");
    const char* (*message)(void*) = symbol("TF_Message");
    void* (*make_options)(void) = symbol("TF_NewSessionOptions");
    void (*set_config)(void*, const void*, size_t, void*) = symbol("TF_SetConfig");
    void* (*make_graph)(void) = symbol("TF_NewGraph");
    void* (*load)(void*, void*, const char*, const char* const*, int, void*, void*, void*) = symbol("TF_LoadSessionFromSavedModel");
    void* (*operation)(void*, const char*) = symbol("TF_GraphOperationByName");
    void* (*allocate)(int, const int64_t*, int, size_t) = symbol("TF_AllocateTensor");
    void* (*data)(void*) = symbol("TF_TensorData");
    void (*delete)(void*) = symbol("TF_DeleteTensor");
    void (*run)(void*, const Buffer*, const Output*, void* const*, int, const Output*, void**, int, const void* const*, int, void*, void*) =
        symbol("TF_SessionRun");

    void *status = make_status(), *graph = make_graph();
    const char* tags[] = {"serve"};
    int threads = atoi(argv[7]);
    char config[] = {0x10, (char)(threads & 127 | 128), (char)(threads >> 7)}; /* ConfigProto { intra_op_parallelism_threads } */
    void* session_options = make_options();
    set_config(session_options, config, sizeof config, status);
    if (code(status)) { fprintf(stderr, "bare_run: %s\n", message(status)); return 1; }
    void* session = load(session_options, NULL, argv[2], tags, 1, graph, NULL, status);
    if (code(status)) { fprintf(stderr, "bare_run: %s\n", message(status)); return 1; }

    int64_t dims[8], values = 1;
    int rank = 0;
    for (int i = 10; i < argc && rank < 8; i++) values *= dims[rank++] = atoll(argv[i]);
    void* input = allocate(1, dims, rank, values * sizeof(float));
    if (fread(data(input), sizeof(float), values, stdin) != (size_t)values) { fprintf(stderr, "bare_run: too few values\n"); return 1; }
    Output feed = {operation(graph, argv[3]), atoi(argv[4])}, fetch = {operation(graph, argv[5]), atoi(argv[6])};
    if (!feed.operation || !fetch.operation) { fprintf(stderr, "bare_run: no such operation\n"); return 1; }
    Buffer options = {INLINE, sizeof INLINE - 1, NULL};

    int runs = atoi(argv[8]), rounds = atoi(argv[9]);
    printf("[");
    for (int round = -1; round < rounds; round++) { /* the first is not counted */
        double cpu = cpu_us(), clock = now_us();
        for (int i = 0; i < runs; i++) {
            void* output = NULL;
            run(session, &options, &feed, &input, 1, &fetch, &output, 1, NULL, 0, NULL, status);
            if (code(status)) { fprintf(stderr, "bare_run: %s\n", message(status)); return 1; }
            delete(output);
        }
        if (round >= 0) printf("%s[%.3f, %.3f]", round ? ", " : "", (cpu_us() - cpu) / runs, (now_us() - clock) / runs);
    }
    printf("]\n");
    return 0;
}
