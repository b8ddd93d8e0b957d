"""Exit codes of the commands; a signal adds 128."""

FINISHED = 0
FAILED = 1
USAGE_ERROR = 2
