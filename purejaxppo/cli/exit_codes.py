"""Exit codes of the commands. A run that a signal stopped exits with 128 + the number of the signal."""

FINISHED = 0
FAILED = 1
USAGE_ERROR = 2
OUT_OF_MEMORY = 3
