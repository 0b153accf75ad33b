"""JSON lines on standard output: one wide line a webhook, attempt, delivery; nothing that people wrote."""

import asyncio
import logging
import os
import re
import sys
import traceback
from datetime import UTC, datetime
from select import PIPE_BUF

import msgspec

FLUSH_AFTER_S = 0.05
MAX_FIELD_CHARACTERS = 1024
# Control and bidirectional-override characters: a terminal or a viewer must not be steered by a log line.
_STEERING = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")

_encode = msgspec.json.Encoder().encode
_pending: list[bytes] = []
_wide = logging.getLogger("ingress.wide")


def setup(level: str) -> None:
    """Send all logging to standard output as JSON lines of *level* and above."""
    handler = _JsonHandler()
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # Their lines at info repeat ours and name addresses.
    for chatty in ("uvicorn", "uvicorn.error", "aiohttp", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def wide(event: str, **fields: object) -> None:
    """One line that says everything about one thing that happened. Values: ids, numbers, words of closed sets."""
    if is_wide():
        put({"at": datetime.now(UTC), "event": event, **fields})


def is_wide() -> bool:
    """Whether such lines are written."""
    return _wide.isEnabledFor(logging.INFO)


def put(fields: object) -> None:
    """Such a line: a mapping, or a struct with the same first two fields, for what happens most, in half the time."""
    line = _encode(fields)
    # Words of our own are ASCII. A plug-in's need not be, and JSON escapes only the control characters among them.
    _pending.append(line if line.isascii() else _STEERING.sub("�", line.decode()).encode())
    if len(_pending) == 1:
        try:
            asyncio.get_running_loop().call_later(FLUSH_AFTER_S, flush)
        except RuntimeError:
            flush()


def flush() -> None:
    """Write what is pending. Called by itself; at exit by the application.

    In pieces that a pipe takes whole: what other processes write to it comes between lines, not in the middle of one.
    """
    lines, _pending[:] = [*_pending], []
    piece = b""
    for line in lines:
        if piece and len(piece) + len(line) >= PIPE_BUF:
            _write(piece)
            piece = b""
        piece += line + b"\n"
    if piece:
        _write(piece)


def _write(data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(sys.stdout.fileno(), view) :]
        except BlockingIOError:
            continue
        except OSError:  # nobody reads our output any more; that must not stop the service
            return


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _message(record: logging.LogRecord) -> str:
    message = record.getMessage()
    # What follows asyncio's first line is the repr of a task, and with it that of its exception.
    return message.partition("\n")[0] if record.name == "asyncio" else message


def _error(record: logging.LogRecord) -> dict[str, str]:
    """Its type and where, if there is one; the text of an exception may hold what a person wrote."""
    if not record.exc_info or record.exc_info[1] is None:
        return {}
    _, error, trace = record.exc_info
    places = [
        f"{os.path.basename(frame.f_code.co_filename)}:{line} {frame.f_code.co_name}"
        for frame, line in traceback.walk_tb(trace)
    ]
    return {"error": type(error).__name__, "trace": " < ".join(reversed(places))}


class _JsonHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        entry = {"at": _now(), "level": record.levelname.lower(), "logger": record.name, "message": _message(record)}
        entry |= _error(record)
        clean = {name: _STEERING.sub("�", value)[:MAX_FIELD_CHARACTERS] for name, value in entry.items()}
        flush()
        _write(_encode(clean) + b"\n")
