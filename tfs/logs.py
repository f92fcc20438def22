"""The process's log: one line per event on stderr, as text or as JSON.

Owns: the formats and where they are installed.  Must not know: who logs what.
"""

from __future__ import annotations

import json
import logging
import sys
import time

_LETTERS = {"DEBUG": "D", "INFO": "I", "WARNING": "W", "ERROR": "E", "CRITICAL": "F"}


class TextFormatter(logging.Formatter):
    """`2026-01-31 12:00:00.123456: I tfs.lifecycle.loader] message`, close to what TensorFlow prints beside it."""

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        micros = int(record.created % 1 * 1e6)
        line = f"{clock}.{micros:06d}: {_LETTERS.get(record.levelname, 'I')} {record.name}] {record.getMessage()}"
        return line if record.exc_info is None else f"{line}\n{self.formatException(record.exc_info)}"


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time (seconds since the epoch), level, logger, message, and exception when there is one."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": round(record.created, 6),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info is not None:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False)


def install(style: str, level: str) -> None:
    """Sends every logger's lines from `level` ("debug" … "error") up to stderr; `style` is "text" or "json"."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
