"""What RosettaSciIO has to say goes into the log of this package, not as coloured lines onto stdout."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager

_log = logging.getLogger(__name__)


@contextmanager
def rosetta_log() -> Iterator[None]:
    """Pass on what RosettaSciIO logs within; afterwards its log is as it was."""
    # At its import it gives its log a handler that writes to stdout, where results belong.
    importlib.import_module("rsciio")
    theirs = logging.getLogger("rsciio")
    handlers, propagate = theirs.handlers, theirs.propagate
    theirs.handlers, theirs.propagate = [_PassingOn()], False
    try:
        yield
    finally:
        theirs.handlers, theirs.propagate = handlers, propagate


class _PassingOn(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if _log.isEnabledFor(record.levelno):
            _log.handle(record)
