# json_number.pxi: numbers of JSON text: scanning to 64-bit integers and doubles.
#
# Owns: the grammar and classes of number tokens (RapidJSON 1.1.0's, oddities included).
# Must not know: documents, dtypes, tickets.
# Strategy: one pass reads up to 19 digits into a 64-bit integer, eight at a time.  Value = digits * 10^exponent is then rounded
#   1. exactly by one double operation when both parts are exact doubles,
#   2. else by one 64 x 64 -> 128 bit product with a truncated power of ten, when the bits that were cut off cannot matter,
#   3. else by std::from_chars.
# Everything unusual (more digits, huge exponents, NaN, errors) is read again from the start by the cold json_number_slow.

cdef extern from * nogil:
    """
    #include <charconv>
    #include <system_error>
    #define TFS_LIKELY(x) __builtin_expect(!!(x), 1)
    static inline int tfs_json_zeros(uint64_t v) { return __builtin_clzll(v); }
    static inline uint64_t tfs_json_high(uint64_t a, uint64_t b) { return (uint64_t)(((unsigned __int128)a * b) >> 64); }
    /* 0, or 1 when the value is outside the range of a double (then *value is untouched). */
    static int tfs_json_from_chars(const char* first, const char* last, double* value) {
        return std::from_chars(first, last, *value).ec == std::errc::result_out_of_range;
    }
    """
    bint json_likely "TFS_LIKELY"(bint condition) noexcept
    int json_leading_zeros "tfs_json_zeros"(uint64_t v) noexcept
    uint64_t json_high_product "tfs_json_high"(uint64_t a, uint64_t b) noexcept
    int json_from_chars "tfs_json_from_chars"(const char* first, const char* last, double* value) noexcept

cdef struct JsonReader:
    const uint8_t* at
    const uint8_t* end
    const uint8_t* begin           # offsets in messages count from here

cdef enum:                         # JsonError: parse errors; texts in json_scan.pxi
    JSON_OK = 0
    JSON_EMPTY
    JSON_INVALID
    JSON_MISS_NAME
    JSON_MISS_COLON
    JSON_MISS_COMMA_OBJECT
    JSON_MISS_COMMA_ARRAY
    JSON_BAD_HEX
    JSON_BAD_SURROGATE
    JSON_BAD_ESCAPE
    JSON_MISS_QUOTE
    JSON_TOO_BIG
    JSON_MISS_FRACTION
    JSON_MISS_EXPONENT
    JSON_NO_MEMORY
    JSON_ERRORS

cdef enum:                         # JsonKind
    JSON_SIGNED                    # an integer below zero; bits are int64
    JSON_UNSIGNED                  # an integer >= 0; bits are uint64
    JSON_DOUBLE

cdef struct JsonNumber:
    int kind
    uint64_t bits
    double value                   # set for JSON_DOUBLE only

cdef enum:
    JSON_POWERS = 60               # powers of ten kept: 10^-60 .. 10^60, so that no result is subnormal or infinite
    JSON_MAX_DIGITS = 19           # as many always fit in 64 bits

cdef uint64_t json_power_bits[2 * JSON_POWERS + 1]     # 64 leading bits of 10^q, truncated
cdef int json_power_shift[2 * JSON_POWERS + 1]         # 10^q = bits * 2^shift (+ what was cut off)
cdef double json_exact_powers[23]                      # 10^0 .. 10^22, all exact
cdef double JSON_NAN = float("nan")
cdef double JSON_INFINITY = float("inf")


cdef int json_fill_powers() except -1:
    """Fills the tables above, once, when the module is imported."""
    cdef int q
    cdef object ten = 10, numerator, denominator, bits, shift
    for q in range(23):
        json_exact_powers[q] = float(ten ** q)
    for q in range(-JSON_POWERS, JSON_POWERS + 1):
        numerator = ten ** max(q, 0)
        denominator = ten ** max(-q, 0)
        shift = numerator.bit_length() - denominator.bit_length() - 64
        bits = (numerator << 512) // denominator >> (512 + shift)
        if bits >> 64:
            bits, shift = bits >> 1, shift + 1
        json_power_bits[q + JSON_POWERS] = bits
        json_power_shift[q + JSON_POWERS] = shift
    return 0


json_fill_powers()


cdef inline bint json_is_digit(uint8_t c) noexcept nogil:
    return <uint8_t>(c - 48) < 10


cdef inline bint json_round(uint64_t digits, int q, double* value) noexcept nogil:
    """digits * 10^q correctly rounded; False when this quick way cannot tell."""
    cdef uint64_t high, low, half, bits
    cdef int zeros, cut
    if digits <= (<uint64_t>1 << 53) and -22 <= q <= 22:
        value[0] = <double>digits * json_exact_powers[q] if q >= 0 else <double>digits / json_exact_powers[-q]
        return True
    if q < -JSON_POWERS or q > JSON_POWERS or digits == 0:
        return False
    zeros = json_leading_zeros(digits)
    high = json_high_product(digits << zeros, json_power_bits[q + JSON_POWERS])
    cut = 10 + <int>(high >> 63)                       # leaves 53 bits
    low = high & ((<uint64_t>1 << cut) - 1)
    half = <uint64_t>1 << (cut - 1)
    if low == half or low == half - 1:                 # the true product is in [high, high + 2): a tie or nearly one
        return False
    bits = (high >> cut) + (low > half)
    # A carry into the 54th bit adds one to the exponent field by itself.
    bits += (<uint64_t>(1022 + 52 + cut + 64 + json_power_shift[q + JSON_POWERS] - zeros)) << 52
    memcpy(value, &bits, 8)
    return True


cdef inline bint json_eight_digits(const uint8_t* at, uint64_t* number) noexcept nogil:
    """Whether the eight bytes at `at` are digits; if so appends them to `number`."""
    cdef uint64_t chunk
    memcpy(&chunk, at, 8)
    if ((chunk & 0xF0F0F0F0F0F0F0F0ULL) | (((chunk + 0x0606060606060606ULL) & 0xF0F0F0F0F0F0F0F0ULL) >> 4)) != 0x3333333333333333ULL:
        return False
    chunk -= 0x3030303030303030ULL
    chunk = chunk * 10 + (chunk >> 8)                  # pairs, then fours, then eight
    chunk = ((chunk & 0x000000FF000000FFULL) * 0x000F424000000064ULL + ((chunk >> 16) & 0x000000FF000000FFULL) * 0x0000271000000001ULL) >> 32
    number[0] = number[0] * 100000000 + chunk
    return True


cdef inline int json_number(JsonReader* reader, JsonNumber* number) noexcept nogil:
    """Reads the number at `reader.at` (the caller has seen that no other token starts there).  JSON_OK, or a JsonError with `at`
    where the reference reports it."""
    cdef const uint8_t* at = reader.at
    cdef const uint8_t* end = reader.end
    cdef const uint8_t* start
    cdef uint64_t digits = 0
    cdef int64_t count
    cdef int exponent = 0, power = 0
    cdef bint minus = at < end and at[0] == 45
    cdef bint below = False
    at += minus
    if at >= end or not json_is_digit(at[0]):
        return json_number_slow(reader, number)
    start = at
    if at[0] == 48:
        at += 1
    else:
        while at < end and json_is_digit(at[0]):
            digits = digits * 10 + (at[0] - 48)
            at += 1
    count = at - start if start[0] != 48 else 0        # a 0 before the point takes no room
    if at >= end or (at[0] != 46 and (at[0] | 32) != 101):
        if count > JSON_MAX_DIGITS or (minus and digits > <uint64_t>1 << 63):
            return json_number_slow(reader, number)
        reader.at = at
        number.kind = JSON_SIGNED if minus and digits else JSON_UNSIGNED
        number.bits = 0 - digits if minus else digits
        return JSON_OK
    if at[0] == 46:
        at += 1
        start = at
        while end - at >= 8 and json_eight_digits(at, &digits):
            at += 8
        while at < end and json_is_digit(at[0]):
            digits = digits * 10 + (at[0] - 48)
            at += 1
        if at == start:
            return json_number_slow(reader, number)
        count += at - start
        power = -<int>(at - start) if count <= JSON_MAX_DIGITS else 0
    if at < end and (at[0] | 32) == 101:
        at += 1
        if at < end and (at[0] == 43 or at[0] == 45):
            below = at[0] == 45
            at += 1
        start = at
        while at < end and json_is_digit(at[0]) and at - start < 4:
            exponent = exponent * 10 + (at[0] - 48)
            at += 1
        if at == start or at - start == 4 or exponent > 280:
            return json_number_slow(reader, number)
        power += -exponent if below else exponent
    if count > JSON_MAX_DIGITS or not json_round(digits, power, &number.value):
        return json_number_slow(reader, number)
    if minus:
        number.value = -number.value
    number.kind = JSON_DOUBLE
    reader.at = at
    return JSON_OK


cdef inline bint json_take(JsonReader* reader, uint8_t c) noexcept nogil:
    if reader.at < reader.end and reader.at[0] == c:
        reader.at += 1
        return True
    return False


cdef bint json_take_word(JsonReader* reader, const char* word) noexcept nogil:
    """Takes as many letters of `word` as match; True when all did.  `at` is left at the first that differs."""
    while word[0] != 0:
        if not json_take(reader, <uint8_t>word[0]):
            return False
        word += 1
    return True


cdef int json_special(JsonReader* reader, bint minus, double* value) noexcept nogil:
    """NaN, Inf and Infinity.  A broken NaN may still go on as Inf: that is how the reference reads `NInf`."""
    if json_take_word(reader, "NaN"):
        value[0] = JSON_NAN
        return JSON_OK
    if not json_take_word(reader, "Inf"):
        return JSON_INVALID
    value[0] = -JSON_INFINITY if minus else JSON_INFINITY
    if reader.at < reader.end and reader.at[0] == 105 and not json_take_word(reader, "inity"):
        return JSON_INVALID
    return JSON_OK


cdef const uint8_t* json_skip_digits(const uint8_t* at, const uint8_t* end) noexcept nogil:
    while at < end and json_is_digit(at[0]):
        at += 1
    return at


cdef int64_t json_fraction_digits(const uint8_t* at, const uint8_t* point, const uint8_t* end) noexcept nogil:
    """How many digits after the point the reference counts into its exponent: those it reads as integer below 2^53, then up to 17
    significant ones.  `at` is the first digit of the number, `point` the point, `end` the end of the fraction."""
    cdef uint64_t number = 0
    cdef int64_t counted = 0
    cdef int significant = 0
    cdef bint started = False, integer = True
    while at < point:
        if integer and (number > 1844674407370955161ULL or (number == 1844674407370955161ULL and at[0] > 53)):
            integer = False                            # beyond 64 bits the reference goes on with a double
        if integer:
            number = number * 10 + (at[0] - 48)
            significant += started
            started = True
        at += 1
    at += 1
    while at < end and integer and number <= 0x1FFFFFFFFFFFFFULL:
        number = number * 10 + (at[0] - 48)
        counted += 1
        significant += number != 0
        at += 1
    while at < end and significant < 17:
        counted += 1
        significant += number != 0 or at[0] != 48
        number |= at[0] != 48
        at += 1
    return counted


cdef bint json_integer_too_big(const uint8_t* at, const uint8_t* end, bint minus) noexcept nogil:
    """Whether the reference gives up within the digits before the point (from the 310th on, roughly)."""
    cdef double value = 0
    if end - at < 300:
        return False
    while at < end:
        if value >= 1.7976931348623157e307:
            return True
        value = value * 10 + (at[0] - 48)
        at += 1
    return False


cdef int json_exponent(JsonReader* reader, int64_t max_exponent, const uint8_t* token, int64_t* exponent) noexcept nogil:
    """The digits after `e`, with the reference's limit on positive exponents."""
    cdef bint below = False
    cdef int64_t value = 0
    if not json_take(reader, 43):
        below = json_take(reader, 45)
    if reader.at >= reader.end or not json_is_digit(reader.at[0]):
        return JSON_MISS_EXPONENT
    value = reader.at[0] - 48
    reader.at += 1
    while reader.at < reader.end and json_is_digit(reader.at[0]):
        if value < 214748364:
            value = value * 10 + (reader.at[0] - 48)
        if not below and value > max_exponent:
            reader.at = token
            return JSON_TOO_BIG
        reader.at += 1
    exponent[0] = -value if below else value
    return JSON_OK


cdef double json_out_of_range(const uint8_t* at, const uint8_t* end, int64_t exponent) noexcept nogil:
    """Infinity or zero for digits whose value no double holds, by the place of the first digit that is not 0."""
    cdef int64_t place = exponent
    cdef const uint8_t* point = json_skip_digits(at, end)
    place += point - at
    while at < end and (at[0] == 48 or at[0] == 46):
        place -= at[0] == 48
        at += 1
    return JSON_INFINITY if place > 0 else 0.0


cdef int json_number_slow(JsonReader* reader, JsonNumber* number) noexcept nogil:
    """json_number for everything the quick scan passes on: the whole grammar, step by step."""
    cdef const uint8_t* token = reader.at
    cdef const uint8_t* first
    cdef const uint8_t* point
    cdef bint minus, special = False, real = False
    cdef int64_t max_exponent = 308, exponent = 0
    cdef int rc
    minus = json_take(reader, 45)
    first = reader.at
    if json_take(reader, 48):
        pass
    elif first < reader.end and json_is_digit(first[0]):
        reader.at = json_skip_digits(first, reader.end)
    else:
        special = True
        if json_special(reader, minus, &number.value) != JSON_OK:
            return JSON_INVALID
        first = reader.at
    point = reader.at
    if json_integer_too_big(first, point, minus):
        reader.at = token
        return JSON_TOO_BIG
    if json_take(reader, 46):
        real = True
        if reader.at >= reader.end or not json_is_digit(reader.at[0]):
            return JSON_MISS_FRACTION
        reader.at = json_skip_digits(reader.at, reader.end)
        max_exponent += json_fraction_digits(first, point, reader.at)
    if json_take(reader, 101) or json_take(reader, 69):
        real = True
        rc = json_exponent(reader, max_exponent, token, &exponent)
        if rc != JSON_OK:
            return rc
    if not real and json_integer_number(first, reader.at, minus, special, number):
        return JSON_OK
    number.kind = JSON_DOUBLE
    if special and not real:
        return JSON_OK
    json_slow_value(first, reader.at, minus, exponent, number)
    return JSON_OK


cdef bint json_integer_number(const uint8_t* at, const uint8_t* end, bint minus, bint special, JsonNumber* number) noexcept nogil:
    """Digits alone that fit in int64 or uint64: an integer.  False: a double."""
    cdef uint64_t digits = 0
    cdef uint64_t limit = <uint64_t>1 << 63 if minus else <uint64_t>-1
    if special:
        return False
    while at < end:
        if digits > (limit - (at[0] - 48)) // 10:
            return False
        digits = digits * 10 + (at[0] - 48)
        at += 1
    number.kind = JSON_SIGNED if minus and digits else JSON_UNSIGNED
    number.bits = 0 - digits if minus else digits
    return True


cdef void json_slow_value(const uint8_t* first, const uint8_t* end, bint minus, int64_t exponent, JsonNumber* number) noexcept nogil:
    if first < end and json_is_digit(first[0]):
        if json_from_chars(<const char*>first, <const char*>end, &number.value):
            number.value = json_out_of_range(first, end, exponent)
    elif first[0] == 46:                               # `NaN.5` and `Inf.5`: the reference forgets the word
        json_from_chars(<const char*>first, <const char*>end, &number.value)
    else:
        number.value = 0.0                             # `NaNe1`
    if minus:
        number.value = -number.value
