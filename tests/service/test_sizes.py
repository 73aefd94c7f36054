"""Numbers of bytes as a person reads them."""

import pytest

from service.sizes import size_text


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1 kB"),
        (2_140, "2.1 kB"),
        (20_971_520, "21 MB"),
        (26_253_102, "26.3 MB"),
        (1_500_000_000, "1.5 GB"),
    ],
)
def test_size_is_read_at_a_glance(num_bytes: int, text: str) -> None:
    assert size_text(num_bytes) == text
