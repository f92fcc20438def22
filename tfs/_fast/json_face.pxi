# json_face.pxi: the grammar of JSON text for Python: the bodies of classify and regress are taken apart there.
#
# Owns: nothing; shows `json_validate` and `json_dump` to Python.  Must not know: tickets, routes.

def json_bounds(bytes body):
    """(begin, end) of the first value of `body`.  Raises InvalidArgument with the reference's parse error."""
    cdef JsonReader first, reader = json_open(bytes_span(body))
    cdef int rc
    if not body:
        raise errors.InvalidArgument("JSON Parse error: The document is empty")
    first = reader
    json_space(&first)
    with nogil:
        rc = json_validate(&reader)
    if rc == JSON_NO_MEMORY:
        raise MemoryError
    if rc != JSON_OK:
        text = json_error_texts[rc].decode()
        raise errors.InvalidArgument(f"JSON Parse error: {text} at offset: {reader.at - reader.begin}")
    return first.at - first.begin, reader.at - reader.begin


def json_excerpt(bytes body):
    """The value of a body that `json_bounds` has passed, as the reference's messages show it; bytes that are no text are surrogates."""
    cdef JsonReader reader = json_open(bytes_span(body))
    cdef Text out
    memset(&out, 0, sizeof(out))
    try:
        json_dump(reader, &out)
        return out.ptr[:out.len].decode("utf-8", "surrogateescape") if out.len else ""
    finally:
        text_free(&out)
