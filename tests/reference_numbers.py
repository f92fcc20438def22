"""Doubles as RapidJSON 1.1.0 reads them in fast mode and shows them: plain steps that may end a few units beside the nearest.

Owns: the twin of `_fast/json_digits.pxi`, written with Python's integers.  Must not know: the compiled module.
"""

from __future__ import annotations

import math
import re
import sys

MASK = 2**64 - 1
LARGEST = int(math.log10(sys.float_info.max))


def scaled(value: float, power: int) -> float:
    """value * 10^power by one operation."""
    if power < -LARGEST:
        return 0.0
    return value * float(f"1e{power}") if power >= 0 else value / float(f"1e{-power}")


def fast(text: str) -> float:
    """The double of a number token that is no integer, or an integer beyond 64 bits."""
    minus, whole, fraction, exponent = re.fullmatch(
        r"(-?)(\d+)(?:\.(\d+))?(?:[eE]([+-]?\d+))?", text
    ).groups()  # type: ignore[union-attr]
    limit, number, significant, counted = 2**63 if minus else 2**64 - 1, 0, -1, 0
    value: float | None = None
    for digit in map(int, whole):
        if value is None and number * 10 + digit > limit:
            value = float(number)
        if value is None:
            number, significant = number * 10 + digit, significant + 1
        else:
            value = value * 10 + digit
    for digit in map(int, fraction or ""):
        if value is None and number < 2**53:
            number, counted = number * 10 + digit, counted + 1
            significant += number != 0
            continue
        value = float(number) if value is None else value
        if significant < 17:
            value, counted = value * 10 + digit, counted + 1
            significant += value > 0
    value = float(number) if value is None else value
    power = int(exponent or 0) - counted
    if power < -LARGEST:
        value, power = scaled(value, -LARGEST), power + LARGEST
    value = scaled(value, power)
    return -value if minus else value


def rounded(numerator: int, denominator: int) -> tuple[int, int]:
    """The quotient as `bits * 2^shift` with 64 bits, rounded to the nearest."""
    quotient = (numerator << 1300) // denominator
    shift = quotient.bit_length() - 64
    bits = (quotient + (1 << (shift - 1))) >> shift
    return (bits, shift - 1300) if bits <= MASK else (bits >> 1, shift - 1299)


def nearer(digit: int, room: int, rest: int, unit: int, far: int) -> int:
    """The last digit, lowered while that comes nearer to the value `far` below the upper bound."""
    while rest < far and room - rest >= unit and (rest + unit < far or far - rest > rest + unit - far):
        digit, rest = digit - 1, rest + unit
    return digit


def grisu(value: float) -> tuple[list[int], int]:
    """Digits of a value > 0, and the power of ten of the last one."""
    exponent = max(math.frexp(value)[1] - 53, -1074)
    middle = int(math.ldexp(value, -exponent)) * 4
    below = middle - (1 if middle == 2**54 and exponent > -1074 else 2)
    shift = 64 - (middle + 2).bit_length()
    scale = exponent - 2 - shift
    index = (math.ceil((-61 - scale) * 0.30102999566398114 + 347) // 8) + 1
    power = -348 + index * 8
    bits, places = rounded(10 ** max(power, 0), 10 ** max(-power, 0))
    upper, lower, middle = (((n << shift) * bits + 2**63) >> 64 for n in (middle + 2, below, middle))
    upper, lower, cut, power = upper - 1, lower + 1, -(scale + places + 64), -power
    room, far, digits = upper - lower, upper - middle, []
    whole, part = upper >> cut, upper & ((1 << cut) - 1)
    for place in reversed(range(len(str(whole)))):
        digits.append(whole // 10**place)
        whole %= 10**place
        left = (whole << cut) + part
        if left <= room:
            digits[-1] = nearer(digits[-1], room, left, 10**place << cut, far)
            return digits, power + place
    for place in range(-1, -30, -1):
        part, room = part * 10, room * 10 & MASK
        digits.append(part >> cut)
        part &= (1 << cut) - 1
        if part < room:
            unit = 10**-place if place > -9 else 0  # from the ninth place on it rounds no more
            digits[-1] = nearer(digits[-1], room, part, 1 << cut, far * unit & MASK)
            return digits[digits[0] == 0 :], power + place
    raise AssertionError(value)


def shown(value: float) -> str:
    """A finite value; a plain point for 10^-6 … 10^21."""
    sign = "-" if math.copysign(1, value) < 0 else ""
    numbers, power = grisu(abs(value)) if value else ([0], 0)
    digits = "".join(map(str, numbers))
    point = len(digits) + power
    if 0 < point <= 21:
        text = digits.ljust(point, "0")
        return f"{sign}{text[:point]}.{text[point:] or '0'}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    return f"{sign}{digits[0]}{'.' if len(digits) > 1 else ''}{digits[1:]}e{point - 1}"
