"""The package as it is met at a prompt."""

import mirage_jax


def test_what_completion_offers_is_public_and_there():
    offered = [name for name in dir(mirage_jax) if not name.startswith("__")]
    assert offered == sorted(mirage_jax.__all__)
    for name in offered:
        assert getattr(mirage_jax, name) is not None
