# plan.pxi: a signature resolved at load, and the admission of a call against it.
#
# Owns: Plan, its slots and its fetch sets; the order and the texts of Predict's checks (inputs, then output filter).
# Must not know: where a call came from, queues, threads.
# Strategy: slots are sorted by alias, so looking an alias up is a binary search and every printed list is in the reference's
# order.  A subset of outputs that was asked for once is remembered as a FetchSet, because TensorFlow builds (30 ms) and keeps
# (300 KB) an executor per subset; after MAX_FETCH_SETS subsets everything is fetched and filtered here.

cdef enum:
    MAX_FETCH_SETS = 8             # per signature, besides "everything": at most 9 executors, under 3 MB


cdef int slot_search(const uint8_t* slots, size_t stride, int32_t count, Span alias) noexcept nogil:
    """Index of the slot called `alias`; the alias is the first field of both slot structs.  -1 = none."""
    cdef int32_t low = 0, high = count - 1, middle
    cdef int order
    while low <= high:
        middle = (low + high) // 2
        order = span_compare(alias, (<const Span*>(slots + middle * stride))[0])
        if order == 0:
            return middle
        if order < 0:
            high = middle - 1
        else:
            low = middle + 1
    return -1


cdef inline int32_t plan_input(const Plan* plan, Span alias) noexcept nogil:
    return slot_search(<const uint8_t*>plan.inputs, sizeof(InputSlot), plan.input_count, alias)


cdef inline int32_t plan_output(const Plan* plan, Span alias) noexcept nogil:
    return slot_search(<const uint8_t*>plan.outputs, sizeof(OutputSlot), plan.output_count, alias)


cdef Plan* plan_find(Servable* servable, Span signature) noexcept nogil:
    """The plan of a signature; empty = serving_default.  NULL = no such signature."""
    cdef Plan* plan
    if signature.len == 0:
        return servable.default_plan
    plan = <Plan*>atomic_load_ptr(&servable.plans)       # define_union adds to it
    while plan != NULL:
        if span_equal(plan.signature, signature):
            return plan
        plan = <Plan*>atomic_load_ptr(&plan.next)
    return NULL


# -- admission

cdef int span_order(const void* a, const void* b) noexcept nogil:
    return span_compare((<const Span*>a)[0], (<const Span*>b)[0])


cdef void text_aliases(Text* text, const uint8_t* items, size_t stride, int32_t count, bint sort) noexcept nogil:
    """`a,b,c` of the aliases that stand first in each item."""
    cdef Span* aliases = <Span*>malloc((count + 1) * sizeof(Span))
    cdef int32_t i
    if aliases == NULL:
        return
    for i in range(count):
        aliases[i] = (<const Span*>(items + i * stride))[0]
    if sort:
        qsort(aliases, count, sizeof(Span), span_order)
    for i in range(count):
        if i:
            text_str(text, ",")
        text_span(text, aliases[i])
    free(aliases)


cdef void text_request_aliases(Text* text, Call* call) noexcept nogil:
    text_aliases(text, <const uint8_t*>call.inputs, sizeof(TensorSpan), call.input_count, True)


cdef int admit_count_error(Call* call) noexcept nogil:
    """Sizes differ: names the difference both ways."""
    cdef Plan* plan = call.plan
    cdef Text* text = &call.status.text
    cdef int32_t i, extra = 0, missing = 0
    cdef Span* aliases = <Span*>malloc((call.input_count + 1) * sizeof(Span))
    status_set(&call.status, INVALID_ARGUMENT, "input size does not match signature: ")
    text_int(text, call.input_count)
    text_str(text, "!=")
    text_int(text, plan.input_count)
    text_str(text, " len({")
    text_request_aliases(text, call)
    text_str(text, "}) != len({")
    text_aliases(text, <const uint8_t*>plan.inputs, sizeof(InputSlot), plan.input_count, False)
    text_str(text, "}). Sent extra: {")
    if aliases != NULL:
        for i in range(call.input_count):
            if plan_input(plan, call.inputs[i].alias) < 0:
                aliases[extra] = call.inputs[i].alias
                extra += 1
        text_aliases(text, <const uint8_t*>aliases, sizeof(Span), extra, True)
        free(aliases)
    text_str(text, "}. Missing but required: {")
    for i in range(plan.input_count):
        if plan.inputs[i].fallback == NULL and admit_sent(call, plan.inputs[i].alias) < 0:
            if missing:
                text_str(text, ",")
            text_span(text, plan.inputs[i].alias)
            missing += 1
    text_str(text, "}.")
    return INVALID_ARGUMENT


cdef int32_t admit_sent(Call* call, Span alias) noexcept nogil:
    """Index of the request's input `alias`, -1 = not sent.  Linear: error texts only."""
    cdef int32_t i
    for i in range(call.input_count):
        if span_equal(call.inputs[i].alias, alias):
            return i
    return -1


cdef int admit_missing_error(Call* call, InputSlot* slot) noexcept nogil:
    cdef Plan* plan = call.plan
    cdef Text* text = &call.status.text
    cdef int32_t i, listed = 0
    status_quote(&call.status, INVALID_ARGUMENT, "Signature input alias: ", slot.alias, "(feed name: ")
    text_span(text, slot.tensor)
    text_str(text, ") not found in request and no default value provided. Inputs expected to be in the request {")
    text_request_aliases(text, call)
    text_str(text, "}, or default input alias set: ")
    for i in range(plan.input_count):
        if plan.inputs[i].fallback != NULL:
            if listed:
                text_str(text, ",")
            text_span(text, plan.inputs[i].alias)
            listed += 1
    return INVALID_ARGUMENT


cdef int admit_extra_error(Call* call) noexcept nogil:
    """A request alias that the signature does not have, while a default filled the place of another."""
    cdef Text* text = &call.status.text
    cdef int32_t i, used = 0
    cdef Span* aliases = <Span*>malloc((call.input_count + 1) * sizeof(Span))
    status_set(&call.status, INVALID_ARGUMENT, "Inputs contains invalid name. Used request inputs: ")
    if aliases != NULL:
        for i in range(call.input_count):
            if plan_input(call.plan, call.inputs[i].alias) >= 0:
                aliases[used] = call.inputs[i].alias
                used += 1
        text_aliases(text, <const uint8_t*>aliases, sizeof(Span), used, True)
        free(aliases)
    text_str(text, ", request input: ")
    text_request_aliases(text, call)
    return INVALID_ARGUMENT


cdef int admit_rank_error(Call* call, InputSlot* slot, int32_t rank) noexcept nogil:
    status_quote(&call.status, INVALID_ARGUMENT, "input \"", slot.alias, "\" must have rank ")
    text_int(&call.status.text, slot.rank)
    text_str(&call.status.text, " as the signature says, has rank ")
    text_int(&call.status.text, rank)
    return INVALID_ARGUMENT


cdef int admit_inputs(Call* call) noexcept nogil:
    """Fills call.slot_input, or refuses: count, then each signature input in alias order, then request aliases left over."""
    cdef Plan* plan = call.plan
    cdef int32_t i, slot, matched = 0
    if call.input_count > plan.input_count or (call.input_count < plan.input_count and not plan.has_defaults):
        return admit_count_error(call)
    call.slot_input = <int32_t*>arena_take(&call.arena, (plan.input_count + 1) * sizeof(int32_t))
    if call.slot_input == NULL:
        return status_set(&call.status, RESOURCE_EXHAUSTED, "out of memory")
    for i in range(plan.input_count):
        call.slot_input[i] = -1
    for i in range(call.input_count):
        slot = plan_input(plan, call.inputs[i].alias)
        if slot >= 0:
            call.slot_input[slot] = i
            matched += 1
    for slot in range(plan.input_count):
        i = call.slot_input[slot]
        if i < 0:
            if plan.inputs[slot].fallback == NULL:
                return admit_missing_error(call, &plan.inputs[slot])
        elif call.inputs[i].bad:
            return status_quote(&call.status, INVALID_ARGUMENT, "tensor parsing error: ", call.inputs[i].alias, "")
        elif plan.traits & GRAPH_ABORTS_ON_RANK and call.inputs[i].rank != plan.inputs[slot].rank >= 0:
            return admit_rank_error(call, &plan.inputs[slot], call.inputs[i].rank)
    return OK if matched == call.input_count else admit_extra_error(call)


cdef int admit_filter(Call* call) noexcept nogil:
    """Chooses call.fetch (and call.wanted) from the output filter; unknown or repeated aliases are refused in request order."""
    cdef Plan* plan = call.plan
    cdef int32_t* wanted
    cdef int32_t i, k, output
    if call.filter_count == 0:
        call.fetch = plan.everything
        return OK
    wanted = <int32_t*>arena_take(&call.arena, call.filter_count * sizeof(int32_t))
    if wanted == NULL:
        return status_set(&call.status, RESOURCE_EXHAUSTED, "out of memory")
    for i in range(call.filter_count):
        output = plan_output(plan, call.filter[i])
        if output < 0:
            status_quote(&call.status, INVALID_ARGUMENT, "output tensor alias not found in signature: ", call.filter[i],
                         " Outputs expected to be in the set {")
            text_aliases(&call.status.text, <const uint8_t*>plan.outputs, sizeof(OutputSlot), plan.output_count, False)
            text_str(&call.status.text, "}.")
            return INVALID_ARGUMENT
        k = i                                       # insertion into the sorted list; duplicates end the call, so it stays short
        while k > 0 and wanted[k - 1] > output:
            k -= 1
        if k > 0 and wanted[k - 1] == output:
            return status_quote(&call.status, INVALID_ARGUMENT, "duplicate output tensor alias: ", call.filter[i], "")
        memmove(wanted + k + 1, wanted + k, (i - k) * sizeof(int32_t))
        wanted[k] = output
    call.fetch = plan_fetch_set(plan, wanted, call.filter_count)
    if call.fetch == plan.everything and call.filter_count < plan.output_count:
        call.wanted = wanted                        # everything.index is the identity, so outputs are their own places
        call.wanted_count = call.filter_count
    return OK


cdef int plan_admit(Call* call) noexcept nogil:
    """Checks the call's inputs and filter against its plan.  OK, or the code with the text in call.status."""
    cdef Plan* plan = call.plan
    cdef int32_t i
    if admit_inputs(call) != OK or admit_filter(call) != OK:
        return call.status.code
    if plan.broken_input >= 0:
        return admit_absent_error(call, plan.inputs[plan.broken_input].tensor)
    for i in range(call.fetch.count):
        if plan.outputs[call.fetch.index[i]].fetch.oper == NULL:
            return admit_absent_error(call, plan.outputs[call.fetch.index[i]].tensor)
    return OK


cdef int admit_absent_error(Call* call, Span tensor) noexcept nogil:
    return status_quote(&call.status, INVALID_ARGUMENT, "Tensor ", tensor,
                        ", specified in either feed_devices or fetch_devices was not found in the Graph")


cdef int plan_check_method(Call* call) noexcept nogil:
    """--enable_signature_method_name_check for Predict."""
    cdef Span method = call.plan.method_name
    cdef const char* prefix = "tensorflow/serving/"
    cdef size_t size = strlen(prefix)
    if method.len > size and memcmp(method.ptr, prefix, size) == 0:
        method.ptr += size
        method.len -= size
        if (span_is(method, "predict") or span_is(method, "classify") or span_is(method, "regress")):
            return OK
    return status_quote(
        &call.status, INTERNAL, "Expected prediction signature method_name to be one of {tensorflow/serving/predict, "
        "tensorflow/serving/classify, tensorflow/serving/regress}. Was: ", call.plan.method_name, "")


# -- fetch sets

cdef FetchSet* fetch_search(FetchSet* at, const int32_t* wanted, int32_t count) noexcept nogil:
    while at != NULL:
        if at.count == count and memcmp(at.index, wanted, count * sizeof(int32_t)) == 0:
            return at
        at = at.next
    return NULL


cdef FetchSet* fetch_new(Plan* plan, const int32_t* wanted, int32_t count) noexcept nogil:
    """`wanted` is copied; NULL = no memory."""
    cdef FetchSet* made = <FetchSet*>calloc(1, sizeof(FetchSet))
    cdef int32_t i
    if made == NULL:
        return NULL
    made.count = count
    made.index = <int32_t*>malloc((count + 1) * sizeof(int32_t))
    made.fetches = <TF_Output*>malloc((count + 1) * sizeof(TF_Output))
    if made.index == NULL or made.fetches == NULL:
        fetch_free(made)
        return NULL
    for i in range(count):
        made.index[i] = wanted[i]
        made.fetches[i] = plan.outputs[wanted[i]].fetch
    return made


cdef void fetch_free(FetchSet* fetch) noexcept nogil:
    if fetch != NULL:
        free(fetch.index)
        free(fetch.fetches)
        free(fetch)


cdef FetchSet* plan_fetch_set(Plan* plan, const int32_t* wanted, int32_t count) noexcept nogil:
    """The remembered set for these outputs, a new one while there is room, else `everything`."""
    cdef FetchSet* found
    if count == plan.output_count:
        return plan.everything
    found = fetch_search(<FetchSet*>atomic_load_ptr(&plan.subsets), wanted, count)
    if found != NULL:
        return found
    pthread_mutex_lock(&plan.lock)
    found = fetch_search(plan.subsets, wanted, count)
    if found == NULL and plan.subset_count < MAX_FETCH_SETS:
        found = fetch_new(plan, wanted, count)
        if found != NULL:
            plan.subset_count += 1
            found.next = plan.subsets
            atomic_swap_ptr(&plan.subsets, found)
    pthread_mutex_unlock(&plan.lock)
    return found if found != NULL else plan.everything


cdef void plan_free(Plan* plan) noexcept nogil:
    """Frees everything but the text that its spans point to (the owner of the servable keeps it)."""
    cdef FetchSet* fetch
    cdef int32_t i
    if plan.inputs != NULL:
        for i in range(plan.input_count):
            if plan.inputs[i].fallback != NULL:
                tf.DeleteTensor(plan.inputs[i].fallback)
    while plan.subsets != NULL:
        fetch = plan.subsets
        plan.subsets = fetch.next
        fetch_free(fetch)
    fetch_free(plan.everything)
    free(plan.inputs)
    free(plan.outputs)
    free(plan.feeds)
    pthread_mutex_destroy(&plan.lock)
    free(plan)
    live_add(LIVE_PLAN, -1)
