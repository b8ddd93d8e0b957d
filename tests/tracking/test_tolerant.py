"""A logger that fails is said once and called again, since it may recover."""

from purejaxppo.tracking.tolerant import never_raises


def test_errors_draw_one_warning_and_later_calls_are_made():
    seen, said = [], []

    def log(value):
        seen.append(value)
        if value % 2:
            raise RuntimeError(f"no network for {value}")

    call = never_raises(log, "the tracker", said.append)
    for value in range(5):
        call(value)
    assert seen == [0, 1, 2, 3, 4]
    assert said == ["the tracker failed: RuntimeError: no network for 1; training continues"]
