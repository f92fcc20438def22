# body.pxi: the bytes of one request, as they come and as long as somebody needs them.
#
# Owns: Body and what it counts against the process's byte budget.  Must not know: where bytes come from, what they mean.

cdef enum:
    CALL_OVERHEAD = 1024           # a ticket and its stream, counted so that empty requests are not free


cdef void body_charge(Body* body, int64_t bytes) noexcept nogil:
    """Raises what the body counts against the budget to `bytes` + overhead; never lowers it."""
    cdef int64_t more = bytes + CALL_OVERHEAD - body.charged
    if more > 0:
        atomic_add64(&body.budget.used, more)
        body.charged += more


cdef void body_free(Body* body) noexcept nogil:
    """Any thread.  The last user of a budget whose server has ended frees it."""
    cdef Budget* budget
    if body == NULL:
        return
    budget = body.budget
    if atomic_add64(&budget.used, -body.charged) == 0:
        free(budget)                   # the server had ended: it takes BUDGET_OPEN away when it does
    free(body)


cdef inline uint8_t* body_bytes(Body* body) noexcept nogil:
    return <uint8_t*>body + sizeof(Body)


cdef Body* body_room(Body* body, Budget* budget, size_t need, size_t most) noexcept nogil:
    """A body with room for `need` bytes: doubled as bytes arrive, never beyond `most`.  NULL when memory is out (the old one stays)."""
    cdef Body* grown
    cdef size_t cap = need
    if body != NULL:
        if need <= body.cap:
            return body
        cap = max(need, min(body.cap * 2, most))
    grown = <Body*>realloc(body, sizeof(Body) + cap)
    if grown == NULL:
        return NULL
    advise_huge(grown, sizeof(Body) + cap)
    if body == NULL:
        grown.budget = budget
        grown.charged = 0
    grown.cap = cap
    body_charge(grown, cap)
    return grown
