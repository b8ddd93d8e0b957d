"""Run the command line many times from one process that has imported everything, so that each run starts quickly.

Each line of the standard input is a JSON list: seconds after which the run is killed (null: never), then the words of
the command. The answer is a line with the exit code (negative: the signal) and the seconds it took.
"""

import json
import os
import signal
import sys
import time

from purejaxppo.analysis import report  # noqa: F401
from purejaxppo.cli.main import dispatch
from purejaxppo.sweeps import session, studies  # noqa: F401


def answer(line: str) -> tuple[int, float]:
    seconds, *words = json.loads(line)
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os._exit(dispatch(words))
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), time.monotonic() - began


if __name__ == "__main__":
    for line in sys.stdin:
        code, spent = answer(line)
        print(code, spent, flush=True)
