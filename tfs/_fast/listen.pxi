# listen.pxi: an address -> a listening socket.
#
# Owns: the forms of an address, what is done about files and ports that are in the way.  Must not know: who accepts.

import errno as _errno
import os as _os
import socket as _socket

cdef enum:
    LISTEN_BACKLOG = 1024


def native_socket(address: str) -> _socket.socket:
    """A listening, non-blocking socket for "host:port", "[v6]:port" or "unix:path".  Raises TfsError UNAVAILABLE, naming the address."""
    if address.startswith("unix:"):
        family, name = _socket.AF_UNIX, address[5:]
    else:
        host, _, port = address.rpartition(":")
        host = host.strip("[]") or "0.0.0.0"
        family, name = (_socket.AF_INET6 if ":" in host else _socket.AF_INET), (host, port)
    try:
        if family == _socket.AF_UNIX:
            native_remove_stale(name)
            return native_bound(family, name)
        if not 0 <= int(port) <= 65535:                         # getaddrinfo takes any number, modulo 65536
            raise ValueError("a port is a number from 0 to 65535")
        name = _socket.getaddrinfo(name[0], int(name[1]), family, _socket.SOCK_STREAM)[0][4]
        try:
            return native_bound(family, name)
        except OSError as error:
            if family != _socket.AF_INET6 or error.errno != _errno.EADDRINUSE:
                raise
            return native_bound(family, name, only_v6=1)        # "[::]" takes IPv4 too, unless that port is taken there
    except (OSError, ValueError) as error:
        raise errors.Unavailable(f"cannot listen on {address}: {error}") from None


def native_bound(family: int, name: object, only_v6: int = 0) -> _socket.socket:
    """A listening, non-blocking socket.  Raises OSError."""
    sock = _socket.socket(family, _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK)
    try:
        if family != _socket.AF_UNIX:
            sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
        if family == _socket.AF_INET6:
            sock.setsockopt(_socket.IPPROTO_IPV6, _socket.IPV6_V6ONLY, only_v6)
        sock.bind(name)
        sock.listen(LISTEN_BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def native_remove_stale(path: str) -> None:
    """Removes a socket file that nobody listens on any more."""
    if not _os.path.exists(path):
        return
    with _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            _os.unlink(path)
