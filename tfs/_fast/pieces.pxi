# pieces.pxi: the allocator of nghttp2's sessions: what one call gives back is kept by its I/O thread for the next.
#
# Owns: Pieces.  Must not know: what the memory holds, connections.
# Strategy: nghttp2 takes and gives back some ten small pieces for each call.  With sixteen calls of a connection open at a time that
# is more of a size than malloc's thread cache keeps (7), and most go through its locked lists.  Here every size class has a list of its
# own and no lock, because a session lives and dies on one thread.  A piece has its class before it; large ones are malloc's.

from libc.stdint cimport SIZE_MAX
from tfs._nghttp2 cimport nghttp2_mem

cdef extern from * nogil:
    """
    #if defined(__SANITIZE_ADDRESS__)
    #define TFS_PIECES_KEPT 0      /* every piece is malloc's own, of its exact size: the sanitizer sees it come and go */
    #else
    #define TFS_PIECES_KEPT 256    /* of each class: about 2 MiB for a thread if all lists were full */
    #endif
    """
    int PIECES_KEPT "TFS_PIECES_KEPT"

cdef enum:
    PIECE_STEP = 64                # bytes between classes
    PIECE_CLASSES = 16             # pieces of up to 1 KiB are kept: a stream takes 0.3, a queued frame 0.2

cdef union Piece:                  # stands before the memory that is handed out, and leaves it aligned as malloc's is
    Piece* next                    # while in a list
    size_t kind                    # while in use: its class; PIECE_CLASSES = large
    uint8_t aligned[16]

cdef struct Pieces:                # one of each I/O thread
    nghttp2_mem mem
    Piece* first[PIECE_CLASSES]
    int32_t kept[PIECE_CLASSES]


cdef void* piece_malloc(size_t size, void* pieces) noexcept nogil:
    cdef Pieces* own = <Pieces*>pieces
    cdef size_t kind = (size - 1) // PIECE_STEP if size else 0
    cdef Piece* piece
    if kind >= PIECE_CLASSES or PIECES_KEPT == 0:
        kind = PIECE_CLASSES
        piece = <Piece*>malloc(sizeof(Piece) + size) if size <= SIZE_MAX - sizeof(Piece) else NULL
    elif own.first[kind] != NULL:
        piece = own.first[kind]
        own.first[kind] = piece.next
        own.kept[kind] -= 1
    else:
        piece = <Piece*>malloc(sizeof(Piece) + (kind + 1) * PIECE_STEP)
    if piece == NULL:
        return NULL
    piece.kind = kind
    return piece + 1


cdef void piece_free(void* held, void* pieces) noexcept nogil:
    cdef Pieces* own = <Pieces*>pieces
    cdef Piece* piece
    cdef size_t kind
    if held == NULL:
        return
    piece = <Piece*>held - 1
    kind = piece.kind
    if kind == PIECE_CLASSES or own.kept[kind] >= PIECES_KEPT:
        free(piece)
        return
    piece.next = own.first[kind]
    own.first[kind] = piece
    own.kept[kind] += 1


cdef void* piece_calloc(size_t count, size_t size, void* pieces) noexcept nogil:
    cdef void* made
    if size and count > SIZE_MAX // size:
        return NULL
    made = piece_malloc(count * size, pieces)
    if made != NULL:
        memset(made, 0, count * size)
    return made


cdef void* piece_realloc(void* held, size_t size, void* pieces) noexcept nogil:
    """As realloc: NULL leaves `held` as it was.  A large piece stays large."""
    cdef Piece* piece
    cdef size_t room
    cdef void* made
    if held == NULL:
        return piece_malloc(size, pieces)
    piece = <Piece*>held - 1
    if piece.kind == PIECE_CLASSES:
        piece = <Piece*>realloc(piece, sizeof(Piece) + size) if size <= SIZE_MAX - sizeof(Piece) else NULL
        return NULL if piece == NULL else <void*>(piece + 1)
    room = (piece.kind + 1) * PIECE_STEP
    if size <= room:
        return held
    made = piece_malloc(size, pieces)
    if made != NULL:
        memcpy(made, held, room)
        piece_free(held, pieces)
    return made


cdef void pieces_open(Pieces* pieces) noexcept nogil:
    """`pieces` is zeroed and stays where it is while sessions use it."""
    pieces.mem.mem_user_data = pieces
    pieces.mem.malloc = piece_malloc
    pieces.mem.free = piece_free
    pieces.mem.calloc = piece_calloc
    pieces.mem.realloc = piece_realloc


cdef void pieces_close(Pieces* pieces) noexcept nogil:
    """After the last session has gone."""
    cdef Piece* piece
    cdef int kind
    for kind in range(PIECE_CLASSES):
        while pieces.first[kind] != NULL:
            piece = pieces.first[kind]
            pieces.first[kind] = piece.next
            free(piece)
