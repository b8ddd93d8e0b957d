"""Count what XLA compiles."""

import logging
import re
from collections import Counter
from contextlib import contextmanager

import jax


@contextmanager
def count_compiles():
    """Yield a Counter of the programs compiled so far, by the name of the function."""
    counts = Counter()

    class Handler(logging.Handler):
        def emit(self, record):
            found = re.match(r"Finished XLA compilation of (?:jit\()?([\w<>.]+)", record.getMessage())
            if found:
                counts[found[1]] += 1

    logger, handler = logging.getLogger("jax._src.dispatch"), Handler()
    propagates = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        with jax.log_compiles():
            yield counts
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagates
