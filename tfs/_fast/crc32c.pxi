# crc32c.pxi: the checksum of TFRecord files (warm-up), CRC-32C with the reflected polynomial of Castagnoli.
#
# Owns: its tables, written once at import.  Must not know records or masks.
# Strategy: eight tables, eight bytes a step (about 1 GB/s): warm-up files of images are hundreds of megabytes.

cdef uint32_t[8][256] CRC32C_TABLE


cdef void crc32c_fill() noexcept nogil:
    cdef uint32_t value, byte
    cdef int bit, k
    for byte in range(256):
        value = byte
        for bit in range(8):
            value = (value >> 1) ^ (<uint32_t>0x82F63B78 if value & 1 else 0)
        CRC32C_TABLE[0][byte] = value
    for k in range(1, 8):  # table k: the byte followed by k zero bytes
        for byte in range(256):
            value = CRC32C_TABLE[k - 1][byte]
            CRC32C_TABLE[k][byte] = (value >> 8) ^ CRC32C_TABLE[0][value & 0xFF]


cdef uint32_t crc32c_of(const uint8_t* at, size_t length) noexcept nogil:
    """The checksum of `length` bytes at `at`; reads byte by byte in memory order, so alignment and endianness do not matter."""
    cdef uint32_t crc = ~(<uint32_t>0)
    cdef uint32_t low
    while length >= 8:
        low = crc ^ (at[0] | (<uint32_t>at[1] << 8) | (<uint32_t>at[2] << 16) | (<uint32_t>at[3] << 24))
        crc = (
            CRC32C_TABLE[7][low & 0xFF] ^ CRC32C_TABLE[6][(low >> 8) & 0xFF]
            ^ CRC32C_TABLE[5][(low >> 16) & 0xFF] ^ CRC32C_TABLE[4][low >> 24]
            ^ CRC32C_TABLE[3][at[4]] ^ CRC32C_TABLE[2][at[5]] ^ CRC32C_TABLE[1][at[6]] ^ CRC32C_TABLE[0][at[7]]
        )
        at += 8
        length -= 8
    while length > 0:
        crc = (crc >> 8) ^ CRC32C_TABLE[0][(crc ^ at[0]) & 0xFF]
        at += 1
        length -= 1
    return ~crc


crc32c_fill()


def crc32c(bytes data not None):
    """CRC-32C of `data`, unmasked."""
    return crc32c_of(<const uint8_t*><const char*>data, <size_t>len(data))
