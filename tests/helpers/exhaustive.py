"""Whether all that could be tried is tried (`make test-long`), or a sample of it (`make test`)."""

import os

LONG = os.environ.get("MIRAGE_TEST_LONG", "") == "1"
