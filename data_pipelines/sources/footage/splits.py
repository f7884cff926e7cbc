"""Which scenes of footage are held out."""

import zlib

from data_pipelines.sources.footage.files import released_tests


def held_out(names: tuple[str, ...], share: float) -> tuple[str, ...]:
    """The scenes of the evaluation: by a hash of the name, so that more footage moves few.

    Of a data set with folders train/ and test/ side by side, what lies in test/.
    """
    if len(names) < 2 or not share:
        return ()
    if released := released_tests(names):
        return released
    count = min(max(1, round(share * len(names))), len(names) - 1)
    chosen = set(sorted(names, key=lambda name: (zlib.crc32(name.encode()), name))[:count])
    return tuple(name for name in names if name in chosen)
