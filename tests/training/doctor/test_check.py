"""An exception of a check is a failure with its class and the first lines of its message."""

import pytest

from purejaxppo.training.doctor.check import MAX_LINES, Check, failed, guarded, not_seen, passed, what_happened


def raising(error):
    def check():
        raise error

    return check


def test_the_result_of_a_check_is_passed_on():
    for check in (passed("a", "remark"), failed("b", "advice"), not_seen("c", "remark")):
        assert guarded("other", lambda check=check: check) is check
    assert [check.passed for check in (passed("a"), failed("a", "x"), not_seen("a", "x"))] == [True, False, None]


def test_an_exception_fails_the_check_that_raised_it():
    assert guarded("poles", raising(KeyError("pole"))) == Check("poles", False, "KeyError: 'pole'")


def test_an_interruption_is_no_failure():
    with pytest.raises(KeyboardInterrupt):
        guarded("poles", raising(KeyboardInterrupt()))


def test_only_the_first_lines_are_quoted_and_empty_ones_are_left_out():
    text = "\n\n".join(f"  line {i}  " for i in range(MAX_LINES + 3))
    quoted = " ".join(f"line {i}" for i in range(MAX_LINES))
    assert what_happened(ValueError(text)) == f"ValueError: {quoted}"
