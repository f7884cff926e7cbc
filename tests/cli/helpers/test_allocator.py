"""`mirage` starts itself once more with the allocator set up, and only once."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import os, sys
from mirage_jax.cli.helpers.allocator import restart_with_large_pages
print("start", sys.argv[1:], os.getpid(), flush=True)
restart_with_large_pages()
print("go on", os.environ["GLIBC_TUNABLES"])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
@pytest.mark.parametrize("chosen", [None, "", "glibc.malloc.perturb=3"])
def test_restarts_once_with_the_same_arguments_unless_the_user_has_chosen(chosen):
    environment = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    if chosen is not None:
        environment["GLIBC_TUNABLES"] = chosen
    command = [sys.executable, "-X", "utf8", "-c", PROGRAM, "--config.x=(1, 2)", "a b"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    *starts, last = done.stdout.splitlines()
    assert len(starts) == (2 if chosen is None else 1)
    assert len(set(starts)) == 1 and "['--config.x=(1, 2)', 'a b']" in starts[0]
    assert ("hugetlb=1" in last) == (chosen is None)
