"""The file system as the life cycle sees it: names of children, existence, and errors with TensorFlow's codes and texts.

Owns: the errno table and the local reading of base paths (`file://` is the only scheme understood).
Knows nothing of versions, policies or states. Blocking; any thread.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from typing import Final

from tfs.errors import Code, InvalidArgument, NotFound, TfsError

_CODES: Final[dict[int, Code]] = {
    errno.ENOENT: Code.NOT_FOUND,
    errno.ENODEV: Code.NOT_FOUND,
    errno.ENXIO: Code.NOT_FOUND,
    errno.EACCES: Code.PERMISSION_DENIED,
    errno.EPERM: Code.PERMISSION_DENIED,
    errno.EROFS: Code.PERMISSION_DENIED,
    errno.ENOTDIR: Code.FAILED_PRECONDITION,
    errno.EISDIR: Code.FAILED_PRECONDITION,
    errno.EBUSY: Code.FAILED_PRECONDITION,
    errno.EINVAL: Code.INVALID_ARGUMENT,
    errno.ENAMETOOLONG: Code.INVALID_ARGUMENT,
    errno.ENOSPC: Code.RESOURCE_EXHAUSTED,
    errno.EMFILE: Code.RESOURCE_EXHAUSTED,
    errno.ENFILE: Code.RESOURCE_EXHAUSTED,
    errno.ENOMEM: Code.RESOURCE_EXHAUSTED,
    errno.ETIMEDOUT: Code.DEADLINE_EXCEEDED,
    errno.EAGAIN: Code.UNAVAILABLE,
    errno.EHOSTUNREACH: Code.UNAVAILABLE,
    errno.ESTALE: Code.UNAVAILABLE,
}
_SCHEME: Final = re.compile(r"([a-zA-Z][0-9a-zA-Z.]*)://")


def os_error(path: str, error: OSError) -> TfsError:
    """The error TensorFlow's file system would give for `path`: `<path>; <strerror>`."""
    number = error.errno or 0
    return TfsError(f"{path}; {os.strerror(number)}", _CODES.get(number, Code.UNKNOWN))


def is_uri(path: str) -> bool:
    """True when `path` names a scheme (`gs://...`), which makes it absolute."""
    return _SCHEME.match(path) is not None


def local_path(path: str) -> str:
    """`path` without `file://`; other schemes stay, and are then simply not found on the local file system."""
    return path[len("file://") :] if path.startswith("file://") else path


def require(path: str) -> None:
    """Raises TfsError when nothing can be reached at `path`."""
    try:
        os.stat(local_path(path))
    except FileNotFoundError:
        raise NotFound(f"{path} not found") from None
    except OSError as e:
        raise os_error(path, e) from None
    except ValueError as e:  # a NUL character inside
        raise InvalidArgument(f"{path!r}; {e}") from None


def children(path: str) -> list[str]:
    """The sorted names in directory `path`; raises TfsError."""
    try:
        return sorted(os.listdir(local_path(path)))
    except OSError as e:
        raise os_error(path, e) from None
    except ValueError as e:
        raise InvalidArgument(f"{path!r}; {e}") from None


def probe_tree(path: str) -> int:
    """Total bytes of all files below `path`. Raises TfsError at the first directory or file that cannot be read about
    (unreadable, dangling link, not a directory): such a version is refused before TensorFlow is asked."""
    total = 0
    directories = [local_path(path)]
    seen: set[tuple[int, int]] = set()  # links may lead in circles
    while directories:
        directory = directories.pop()
        for name in children(directory):
            child = os.path.join(directory, name)
            try:
                found = os.stat(child)
            except OSError as e:
                raise os_error(child, e) from None
            if not stat.S_ISDIR(found.st_mode):
                total += found.st_size
            elif (found.st_dev, found.st_ino) not in seen:
                seen.add((found.st_dev, found.st_ino))
                directories.append(child)
    return total
