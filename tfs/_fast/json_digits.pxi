# json_digits.pxi: doubles as the reference reads them and writes them into its error texts (RapidJSON 1.1.0 in fast mode).
#
# Owns: that reading (plain double steps, so the last bits may be off) and that writing (Grisu2 with 64-bit powers of ten, which
# does not always end on the nearest digits).  Clients see both in texts such as `JSON Value: 18446744073709553000.0 ...`.
# Must not know: documents, texts around a number.  Cold: nothing here runs for a request that succeeds.

cdef enum:
    JSON_GRISU_FIRST = -348        # the powers kept are 10^-348, 10^-340 ... 10^340
    JSON_GRISU_STEP = 8
    JSON_GRISU_POWERS = 87
    JSON_BIG_POWER = 308           # the largest power of ten that is a double

cdef uint64_t json_grisu_bits[JSON_GRISU_POWERS]       # 64 leading bits, rounded to the nearest
cdef int json_grisu_shift[JSON_GRISU_POWERS]           # power = bits * 2^shift
cdef double json_power_doubles[JSON_BIG_POWER + 1]


cdef int json_fill_grisu() except -1:
    """Fills the tables above, once, when the module is imported."""
    cdef int i, q
    cdef object ten = 10, numerator, denominator, bits, shift
    for i in range(JSON_BIG_POWER + 1):
        json_power_doubles[i] = float(f"1e{i}")
    for i in range(JSON_GRISU_POWERS):
        q = JSON_GRISU_FIRST + i * JSON_GRISU_STEP
        numerator = ten ** max(q, 0) << 1300
        denominator = ten ** max(-q, 0)
        bits = numerator // denominator
        shift = bits.bit_length() - 64
        bits = (bits + (1 << (shift - 1))) >> shift
        if bits >> 64:
            bits, shift = bits >> 1, shift + 1
        json_grisu_bits[i] = bits
        json_grisu_shift[i] = shift - 1300
    return 0


json_fill_grisu()


cdef double json_scaled(double value, int64_t power) noexcept nogil:
    """value * 10^power by one operation."""
    if power < -JSON_BIG_POWER:
        return 0.0
    return value * json_power_doubles[power] if power >= 0 else value / json_power_doubles[-power]


cdef double json_fast_digits(const uint8_t** at_, const uint8_t* end, uint64_t limit, int64_t* counted) noexcept nogil:
    """The digits before and after the point as one number; `counted`: how many after the point went into it.  `limit` is the
    largest integer that is kept as one."""
    cdef const uint8_t* at = at_[0]
    cdef uint64_t number = 0
    cdef double value = 0
    cdef int significant = 0
    cdef bint real = False, started = False
    while at < end and json_is_digit(at[0]):
        if not real and number > (limit - (at[0] - 48)) // 10:
            real = True
            value = <double>number
        if real:
            value = value * 10 + (at[0] - 48)
        else:
            number = number * 10 + (at[0] - 48)
            significant += started
        started = True
        at += 1
    if at < end and at[0] == 46:
        at += 1
        while not real and at < end and json_is_digit(at[0]) and number <= 0x1FFFFFFFFFFFFFULL:
            number = number * 10 + (at[0] - 48)
            counted[0] += 1
            significant += number != 0
            at += 1
        if not real:
            value = <double>number
        real = True
        while at < end and json_is_digit(at[0]):
            if significant < 17:
                value = value * 10 + (at[0] - 48)
                counted[0] += 1
                significant += value > 0
            at += 1
    at_[0] = at
    return value if real else <double>number


cdef double json_fast_double(const uint8_t* at, const uint8_t* end) noexcept nogil:
    """The value of a number token without its sign that begins with a digit and that json_number took for a double."""
    cdef bint minus = at < end and at[0] == 45
    cdef int64_t counted = 0, power = 0
    cdef bint below
    cdef double value
    at += minus
    value = json_fast_digits(&at, end, <uint64_t>1 << 63 if minus else <uint64_t>-1, &counted)
    if at < end and (at[0] | 32) == 101:
        at += 1
        below = at < end and at[0] == 45
        at += below or (at < end and at[0] == 43)
        while at < end and json_is_digit(at[0]):
            if power < 214748364:
                power = power * 10 + (at[0] - 48)
            at += 1
        power = -power if below else power
    power -= counted
    if power < -JSON_BIG_POWER:
        value = json_scaled(json_scaled(value, -JSON_BIG_POWER), power + JSON_BIG_POWER)
    else:
        value = json_scaled(value, power)
    return -value if minus else value


cdef uint64_t json_grisu_product(uint64_t a, uint64_t b) noexcept nogil:
    """The upper half of the product, rounded by the first bit below it."""
    return json_high_product(a, b) + (a * b >> 63)


cdef void json_grisu_nearer(char* last, uint64_t room, uint64_t rest, uint64_t unit, uint64_t far) noexcept nogil:
    """Lowers the last digit while that comes nearer to the value, which lies `far` below the upper bound."""
    while rest < far and room - rest >= unit and (rest + unit < far or far - rest > rest + unit - far):
        last[0] -= 1
        rest += unit


cdef int json_grisu_digits(uint64_t value, uint64_t upper, uint64_t room, int shift, char* digits, int* power) noexcept nogil:
    """Digits of `upper` (scaled by 2^-shift) until what is left fits into `room`, then towards `value`; how many they are.
    `power` grows by the place of the last one."""
    cdef uint64_t one = <uint64_t>1 << shift
    cdef uint64_t whole = upper >> shift, part = upper & (one - 1)
    cdef uint64_t far = upper - value, unit = 1, left
    cdef int count = 0, place = 1, i
    while unit * 10 <= whole:
        unit *= 10
        place += 1
    while place > 0:
        if count or whole // unit:
            digits[count] = <char>(48 + whole // unit)
            count += 1
        whole %= unit
        place -= 1
        left = (whole << shift) + part
        if left <= room:
            power[0] += place
            json_grisu_nearer(digits + count - 1, room, left, unit << shift, far)
            return count
        unit //= 10
    while True:
        part *= 10
        room *= 10
        if count or part >> shift:
            digits[count] = <char>(48 + (part >> shift))
            count += 1
        part &= one - 1
        place -= 1
        if part < room:
            power[0] += place
            unit = 1 if place > -9 else 0              # from the ninth place on the reference rounds no more
            for i in range(-place):
                unit *= 10
            json_grisu_nearer(digits + count - 1, room, part, one, far * unit)
            return count


cdef int json_grisu(double value, char* digits, int* power) noexcept nogil:
    """Decimal digits (at most 18) of a finite value > 0, and the power of ten of the last one; returns how many."""
    cdef uint64_t bits, fraction, upper, lower
    cdef int exponent, shift, index
    cdef bint even_step
    cdef double place
    memcpy(&bits, &value, 8)
    fraction = bits & ((<uint64_t>1 << 52) - 1)
    exponent = <int>(bits >> 52)
    even_step = fraction == 0 and exponent != 0         # the neighbour below is half as far as the one above
    if exponent:
        fraction |= <uint64_t>1 << 52
    else:
        exponent = 1
    exponent -= 1075
    shift = json_leading_zeros(2 * fraction + 1)
    upper = (2 * fraction + 1) << shift                # all three on the scale 2^(exponent - 1 - shift)
    if even_step:
        lower = (4 * fraction - 1) << (shift - 1)
    else:
        lower = (2 * fraction - 1) << shift
    fraction = (2 * fraction) << shift
    exponent -= 1 + shift
    place = (-61 - exponent) * 0.30102999566398114 - (JSON_GRISU_FIRST + 1)
    index = <int>place
    index = ((index + (place > index)) // JSON_GRISU_STEP) + 1
    power[0] = -(JSON_GRISU_FIRST + index * JSON_GRISU_STEP)
    upper = json_grisu_product(upper, json_grisu_bits[index]) - 1
    lower = json_grisu_product(lower, json_grisu_bits[index]) + 1
    fraction = json_grisu_product(fraction, json_grisu_bits[index])
    return json_grisu_digits(fraction, upper, upper - lower, -(exponent + json_grisu_shift[index] + 64), digits, power)
