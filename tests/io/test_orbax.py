"""What is said of a failed save."""

import errno

from mirage_jax.io.orbax import reason_of


def test_the_reason_of_a_full_disk_is_found_however_it_is_wrapped():
    try:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as cause:
            raise ValueError("save failed") from cause
    except ValueError as error:
        assert reason_of(error) == "no space left on the device"
