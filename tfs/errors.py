"""The one exception family that crosses layers: `TfsError` with a canonical code.

Owns: the codes (TF_Code and gRPC codes are the same integers) and the class of each.  Knows nothing else of the project.
The compiled core builds these through `from_code`; transports read `.code` and `.message`, whatever the class.
"""

from __future__ import annotations

import enum


class Code(enum.IntEnum):
    """Canonical status codes; the integers are those of TF_Code, absl::StatusCode and grpc.StatusCode."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class TfsError(Exception):
    """An error with a canonical code and a text meant for the caller; `str()` of it is the text alone."""

    code: Code = Code.UNKNOWN

    def __init__(self, message: str, code: Code | int | None = None) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = Code(code)

    @property
    def status_text(self) -> str:
        """`CODE_NAME: message`, as TensorFlow prints a status inside other texts and logs."""
        return f"{self.code.name}: {self.message}"


class InvalidArgument(TfsError):
    code = Code.INVALID_ARGUMENT


class NotFound(TfsError):
    code = Code.NOT_FOUND


class FailedPrecondition(TfsError):
    code = Code.FAILED_PRECONDITION


class Unavailable(TfsError):
    code = Code.UNAVAILABLE


class Unimplemented(TfsError):
    code = Code.UNIMPLEMENTED


class Internal(TfsError):
    code = Code.INTERNAL


class DataLoss(TfsError):
    code = Code.DATA_LOSS


class DeadlineExceeded(TfsError):
    code = Code.DEADLINE_EXCEEDED


class Cancelled(TfsError):
    code = Code.CANCELLED


_CLASSES: dict[int, type[TfsError]] = {cls.code: cls for cls in TfsError.__subclasses__()}


def from_code(code: int, message: str) -> TfsError:
    """The error of class and code `code` (any of `Code` but OK) with `message`."""
    return _CLASSES.get(code, TfsError)(message, code)
