"""How many bytes of request bodies all REST connections may hold together.

Owns: the count and who may go on when it is full.  Must not know: HTTP, sockets.  Loop thread only.

What a connection holds anyway (the protocol's own buffer) is free, so that small requests are answered however full the budget is.  One body
at a time may go beyond it: a body that is larger than the budget comes in too, and half-received bodies never wait for each other.
"""

from __future__ import annotations

from typing import Final, Protocol

# A body of at most so many bytes counts nothing: it fits what a connection may hold unasked.
FREE_BYTES: Final = 1 << 16


class Holder(Protocol):
    """One connection; it serves one request at a time. `held`: bytes counted for that request, 0 at first."""

    held: int


class ByteBudget:
    """`limit` bytes; 0: any number."""

    def __init__(self, limit: int) -> None:
        self.limit, self.used = limit, 0
        self._beyond: Holder | None = None  # who goes on although the budget is full
        self._refused = False

    def take(self, holder: Holder, size: int) -> bool:
        """Raises what `holder` counts to `size` bytes; False, and nothing is counted, when there is no room."""
        more = size - holder.held
        if size <= FREE_BYTES or more <= 0:
            return True
        if self.limit and self.used + more > self.limit and self._beyond is not holder:
            if self._beyond is not None:
                self._refused = True
                return False
            self._beyond = holder
        holder.held = size
        self.used += more
        return True

    def give_back(self, holder: Holder) -> None:
        """The request is over."""
        self.used -= holder.held
        holder.held = 0
        if self._beyond is holder:
            self._beyond = None

    def was_full(self) -> bool:
        """Whether somebody was refused since the last time this was asked."""
        refused, self._refused = self._refused, False
        return refused
