"""A function for a subprocess, which imports it by name; `tests` itself may be a package that a suite has installed."""


def speaks(word, log):
    log(word)
    log("bye")
    return len(word)
