# serving_map.pxi: model name, version or label -> a held servable.
#
# Owns: the map as the data path reads it, its publication, and the count of holders of a servable.
# Must not know: how versions come and go (tfs/lifecycle) or what a call does with its servable.
# Strategy: the map is immutable; a new one is swapped in whole.  A reader announces itself in its thread's slot, loads the pointer,
# looks up, adds a hold, and leaves; the publisher swaps the pointer and waits until each slot has been seen empty once (it waits for
# look-ups, a few hundred nanoseconds, never for calls), then frees the old map and takes back the map's holds.

cdef inline int32_t map_enter(EngineCore* engine) noexcept nogil:
    cdef int32_t slot = thread_number() % READER_SLOTS
    atomic_add32(&engine.readers[slot].active, 1)
    atomic_fence()                 # the announcement comes before the load of the pointer, on every architecture
    return slot


cdef inline void map_leave(EngineCore* engine, int32_t slot) noexcept nogil:
    atomic_add32(&engine.readers[slot].active, -1)


cdef MapModel* map_model(ServingMap* map, Span name) noexcept nogil:
    cdef uint32_t at
    cdef int32_t index
    if map == NULL or map.count == 0:
        return NULL
    at = <uint32_t>span_hash(name) & map.mask
    while True:
        index = map.buckets[at]
        if index < 0:
            return NULL
        if span_equal(map.models[index].name, name):
            return &map.models[index]
        at = (at + 1) & map.mask


cdef Servable* map_version(MapModel* model, int64_t version) noexcept nogil:
    cdef int32_t low = 0, high = model.version_count - 1, middle
    while low <= high:
        middle = (low + high) // 2
        if model.versions[middle].version == version:
            return model.versions[middle]
        if model.versions[middle].version < version:
            low = middle + 1
        else:
            high = middle - 1
    return NULL


cdef int map_label_error(Call* call, ServingMap* map) noexcept nogil:
    if map == NULL or not map.labels_known:
        return status_quote(&call.status, UNAVAILABLE, "Model labels does not init yet.", call.label, "")
    return status_quote(&call.status, INVALID_ARGUMENT, "Unrecognized servable version label: ", call.label, "")


cdef int map_absent_error(Call* call, int64_t version, bint latest) noexcept nogil:
    status_quote(&call.status, NOT_FOUND, "Servable not found for request: Latest(" if latest else
                 "Servable not found for request: Specific(", call.model, "" if latest else ", ")
    if not latest:
        text_int(&call.status.text, version)
    text_str(&call.status.text, ")")
    return NOT_FOUND


cdef int map_look(Call* call, ServingMap* map) noexcept nogil:
    """The look-up proper, inside map_enter/map_leave."""
    cdef MapModel* model = map_model(map, call.model)
    cdef Servable* found = NULL
    cdef int64_t version = call.version
    cdef int32_t i
    if call.version_choice == VERSION_LABEL:
        i = 0 if model != NULL else -1
        while i >= 0 and i < model.label_count and not span_equal(model.labels[i], call.label):
            i += 1
        if i < 0 or i == model.label_count:
            return map_label_error(call, map)
        version = model.label_versions[i]
    if model != NULL and model.version_count:
        found = (model.versions[model.version_count - 1] if call.version_choice == VERSION_LATEST
                 else map_version(model, version))
    if found == NULL:
        return map_absent_error(call, version, call.version_choice == VERSION_LATEST)
    servable_hold(found)
    call.servable = found
    return OK


cdef int map_resolve(Call* call) noexcept nogil:
    """model, version, label -> call.servable, held; or the reference's code and text."""
    cdef int32_t slot
    cdef int code
    if not call.has_spec:
        return status_set(&call.status, INVALID_ARGUMENT, "Missing ModelSpec")
    if call.model.len == 0:
        return status_set(&call.status, INVALID_ARGUMENT, "ModelSpec has no name specified.")
    slot = map_enter(call.engine)
    code = map_look(call, <ServingMap*>atomic_load_ptr(&call.engine.map))
    map_leave(call.engine, slot)
    return code


# -- holds

cdef inline void servable_hold(Servable* servable) noexcept nogil:
    """Only by somebody who knows that it is held already (the map, another call)."""
    atomic_add64(&servable.holds, 1)


cdef void servable_drop(Servable* servable) noexcept nogil:
    """The last drop happens under the servable's lock, so that whoever waits for it may free it as soon as the lock is free."""
    cdef int64_t seen = atomic_load64(&servable.holds)
    while seen > 1:
        if atomic_cas64(&servable.holds, seen, seen - 1):
            return
        seen = atomic_load64(&servable.holds)
    pthread_mutex_lock(&servable.lock)
    if atomic_add64(&servable.holds, -1) == 0:
        pthread_cond_broadcast(&servable.unused)
    pthread_mutex_unlock(&servable.lock)


cdef bint servable_wait_unused(Servable* servable, int64_t until_ns) noexcept nogil:
    """Whether nobody holds it, waiting until `until_ns` at most."""
    cdef bint unused
    pthread_mutex_lock(&servable.lock)
    while atomic_load64(&servable.holds) > 0 and now_ns() < until_ns:
        cond_wait_until(&servable.unused, &servable.lock, until_ns)
    unused = atomic_load64(&servable.holds) == 0
    pthread_mutex_unlock(&servable.lock)
    return unused


# -- publication

cdef void map_free(ServingMap* map) noexcept nogil:
    """Frees the map and drops its holds."""
    cdef int32_t i, k
    if map == NULL:
        return
    for i in range(map.count):
        for k in range(map.models[i].version_count):
            servable_drop(map.models[i].versions[k])
        for k in range(map.models[i].label_count):
            free(<void*>map.models[i].labels[k].ptr)
        free(<void*>map.models[i].name.ptr)
        free(map.models[i].versions)
        free(map.models[i].labels)
        free(map.models[i].label_versions)
    free(map.models)
    free(map.buckets)
    free(map)
    live_add(LIVE_MAP, -1)


cdef void map_publish(EngineCore* engine, ServingMap* map) noexcept nogil:
    """Swaps the map in.  One publisher at a time (the manager)."""
    cdef ServingMap* old = <ServingMap*>atomic_swap_ptr(&engine.map, map)
    cdef int32_t i
    atomic_fence()
    for i in range(READER_SLOTS):
        while atomic_load32(&engine.readers[i].active) != 0:
            sched_yield()
    map_free(old)


cdef Span span_copy(bytes data):
    """A malloc'ed copy."""
    cdef Span span
    cdef uint8_t* copy = <uint8_t*>malloc(len(data) + 1)
    if copy == NULL:
        raise MemoryError
    memcpy(copy, <const char*>data, len(data))
    span.ptr = copy
    span.len = len(data)
    return span


cdef ServingMap* map_build(EngineCore* engine, object models, object labels) except NULL:
    """A new map from {name: {version: LoadedServable}} and {name: {label: version}} (or None).  Holds each servable once."""
    cdef ServingMap* map
    cdef uint32_t size = 4, at
    cdef int32_t i
    names = sorted(set(models) | set(labels or ()))
    while size < 2 * len(names):
        size *= 2
    map = <ServingMap*>calloc(1, sizeof(ServingMap))
    if map == NULL:
        raise MemoryError
    live_add(LIVE_MAP, 1)
    map.mask = size - 1
    map.models = <MapModel*>calloc(len(names) + 1, sizeof(MapModel))
    map.buckets = <int32_t*>malloc(size * sizeof(int32_t))
    if map.models == NULL or map.buckets == NULL:
        map_free(map)
        raise MemoryError
    memset(map.buckets, 0xFF, size * sizeof(int32_t))
    map.labels_known = labels is not None
    for i, name in enumerate(names):
        map.count += 1
        try:
            map_build_model(engine, &map.models[i], name, models.get(name, {}), (labels or {}).get(name, {}))
        except BaseException:
            map_free(map)                        # gives back the holds taken so far
            raise
        at = <uint32_t>span_hash(map.models[i].name) & map.mask
        while map.buckets[at] >= 0:
            at = (at + 1) & map.mask
        map.buckets[at] = i
    return map


cdef int map_build_model(EngineCore* engine, MapModel* model, str name, object versions, object labels) except -1:
    cdef LoadedServable loaded
    cdef ModelCounters* counters
    model.name = span_copy(name.encode())
    model.versions = <Servable**>calloc(len(versions) + 1, sizeof(Servable*))
    model.labels = <Span*>calloc(len(labels) + 1, sizeof(Span))
    model.label_versions = <int64_t*>calloc(len(labels) + 1, sizeof(int64_t))
    if model.versions == NULL or model.labels == NULL or model.label_versions == NULL:
        raise MemoryError
    counters = counters_of(engine, model.name, False)
    for version in sorted(versions):
        loaded = versions[version]
        loaded.check_open()
        if loaded.core.counters != counters:     # those of another engine are gone with it
            loaded.core.counters = counters
        servable_hold(loaded.core)
        model.versions[model.version_count] = loaded.core
        model.version_count += 1
    for label, version in labels.items():
        model.labels[model.label_count] = span_copy(label.encode())
        model.label_versions[model.label_count] = version
        model.label_count += 1
    return 0
