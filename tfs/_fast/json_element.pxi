# json_element.pxi: what JSON each dtype takes, and numbers as the bytes of one tensor element.
#
# Owns: the classes of the dtypes and the narrowing rules.  Must not know: text, shapes, tickets.
# Strategy: the table says the class, dtype_table the width; one function stores a scanned number or says that it is of another class.

cdef extern from * nogil:
    """
    /* What JSON a dtype takes. */
    enum {
        JSON_NOTHING,              /* no conversion: UNIMPLEMENTED */
        JSON_FLOATS,               /* any number */
        JSON_INT32S,               /* an integer within int32, cut to the width */
        JSON_INT64S, JSON_UINT32S, JSON_UINT64S, JSON_BOOLS, JSON_STRINGS
    };
    /* Indexed by DataType, up to DT_UINT64. */
    static const unsigned char tfs_json_classes[24] = {
        JSON_NOTHING,
        JSON_FLOATS, JSON_FLOATS, JSON_INT32S, JSON_INT32S, JSON_INT32S, JSON_INT32S,    /* float double int32 uint8 int16 int8 */
        JSON_STRINGS, JSON_NOTHING, JSON_INT64S, JSON_BOOLS,                             /* string complex64 int64 bool */
        JSON_NOTHING, JSON_NOTHING, JSON_NOTHING, JSON_FLOATS,                           /* qint8 quint8 qint32 bfloat16 */
        JSON_NOTHING, JSON_NOTHING, JSON_INT32S, JSON_NOTHING, JSON_FLOATS,              /* qint16 quint16 uint16 complex128 half */
        JSON_NOTHING, JSON_NOTHING, JSON_UINT32S, JSON_UINT64S,                          /* resource variant uint32 uint64 */
    };
    """
    enum:
        JSON_NOTHING
        JSON_FLOATS
        JSON_INT32S
        JSON_INT64S
        JSON_UINT32S
        JSON_UINT64S
        JSON_BOOLS
        JSON_STRINGS
    const uint8_t* json_classes "tfs_json_classes"

cdef enum:
    JSON_DTYPES = 24
    DTYPE_FLOAT = 1
    DTYPE_DOUBLE = 2
    DTYPE_HALF = 19


cdef inline int json_class(int dtype) noexcept nogil:
    return json_classes[dtype] if 0 <= dtype < JSON_DTYPES else JSON_NOTHING


cdef inline uint16_t json_half(float value) noexcept nogil:
    """The nearest float16, ties to even."""
    cdef uint32_t bits, sign, magnitude, rest, tie
    cdef int shift
    memcpy(&bits, &value, 4)
    sign = (bits >> 16) & 0x8000
    magnitude = bits & 0x7FFFFFFF
    if magnitude > 0x7F800000:
        return <uint16_t>(sign | 0x7E00)
    if magnitude >= 0x47800000:                        # 65536 and above
        return <uint16_t>(sign | 0x7C00)
    if magnitude >= 0x38800000:                        # normal: rebias, round the 13 bits that go
        magnitude += 0xC8000FFFU + ((magnitude >> 13) & 1)
        return <uint16_t>(sign | (magnitude >> 13))
    if magnitude < 0x33000000:
        return <uint16_t>sign
    shift = 126 - <int>(magnitude >> 23)               # subnormal: 14 .. 24 bits go
    rest = (magnitude & 0x7FFFFF) | 0x800000
    magnitude = rest >> shift
    rest &= (<uint32_t>1 << shift) - 1
    tie = <uint32_t>1 << (shift - 1)
    if rest > tie or (rest == tie and magnitude & 1):
        magnitude += 1
    return <uint16_t>(sign | magnitude)


cdef inline uint16_t json_bfloat16(float value) noexcept nogil:
    cdef uint32_t bits
    memcpy(&bits, &value, 4)
    if (bits & 0x7FFFFFFF) > 0x7F800000:
        return <uint16_t>((bits >> 16) & 0x8000 | 0x7FC0)
    return <uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16)


cdef inline void json_store_float(int dtype, double value, uint8_t* out) noexcept nogil:
    """Subnormal doubles and floats become zeros of the same sign, as the reference's do."""
    cdef float narrow
    cdef uint32_t bits
    cdef uint64_t wide
    cdef uint16_t word
    if dtype == DTYPE_DOUBLE:
        memcpy(&wide, &value, 8)
        if wide & 0x7FF0000000000000ULL == 0:
            wide &= <uint64_t>1 << 63
        memcpy(out, &wide, 8)
        return
    narrow = <float>value
    memcpy(&bits, &narrow, 4)
    if bits & 0x7F800000 == 0:
        bits &= 0x80000000U
        memcpy(&narrow, &bits, 4)
    if dtype == DTYPE_FLOAT:
        memcpy(out, &bits, 4)
    else:
        word = json_half(narrow) if dtype == DTYPE_HALF else json_bfloat16(narrow)
        memcpy(out, &word, 2)


cdef inline bint json_store_number(int dtype, int kind, int width, const JsonNumber* number, uint8_t* out) noexcept nogil:
    """Writes the element (`width` bytes); False when the number is not of the dtype's class."""
    cdef int64_t value = <int64_t>number.bits
    if kind == JSON_FLOATS:
        if json_likely(number.kind == JSON_DOUBLE):
            json_store_float(dtype, number.value, out)
        else:
            json_store_float(dtype, <double>value if number.kind == JSON_SIGNED else <double>number.bits, out)
        return True
    if number.kind == JSON_DOUBLE:
        return False
    if kind == JSON_INT32S:
        if (number.kind == JSON_UNSIGNED and number.bits > 0x7FFFFFFF) or (number.kind == JSON_SIGNED and value < -<int64_t>0x80000000U):
            return False
    elif kind == JSON_INT64S:
        if number.kind == JSON_UNSIGNED and value < 0:
            return False
    elif kind == JSON_UINT32S:
        if number.kind == JSON_SIGNED or number.bits > 0xFFFFFFFFU:
            return False
    elif kind != JSON_UINT64S or number.kind == JSON_SIGNED:
        return False
    memcpy(out, &number.bits, width)              # little-endian: cutting to the width is modulo 2^n
    return True
