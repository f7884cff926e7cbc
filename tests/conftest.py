"""Every test runs on the CPU, with the jaxtyping signatures of both packages checked.

Tests marked `devices(n)` see n fake devices: JAX cannot change their number once it has started, so
the marked tests of a file run in a pytest of their own and report from there.
"""

import functools
import gc
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("GLIBC_TUNABLES", "")  # or `mirage` would start pytest once more
# Compiling is most of what tests do, and XLA's passes are not what they test.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
if version("jaxlib").startswith("0.10."):  # a flag that XLA does not know ends the process
    # Compiles twice as fast as with the emitters that go through MLIR.
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")

import pytest
from jaxtyping import install_import_hook

install_import_hook(["mirage_jax", "data_pipelines"], "beartype.beartype")

# Begun first, so that no worker is left with one of them when the others are done.
LONGEST = ("test_end_to_end.py", "test_presets.py", "test_context_parallel.py", "test_loop.py")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.name not in LONGEST)


def pytest_collection_finish():
    # What was imported stays: no need to look through it again and again.
    gc.collect()
    gc.freeze()


def pytest_configure(config):
    config.addinivalue_line("markers", "devices(n): run on n fake CPU devices")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    marker = pyfuncitem.get_closest_marker("devices")
    if marker is None or "MIRAGE_TEST_DEVICES" in os.environ:
        return None
    together = tuple(
        item.nodeid
        for item in pyfuncitem.session.items
        if item.path == pyfuncitem.path and item.get_closest_marker("devices") == marker
    )
    failures = _run_on(marker.args[0], pyfuncitem.config.rootpath, together)
    assert pyfuncitem.name in failures, f"did not run: {failures}"
    if failures[pyfuncitem.name]:
        pytest.fail(failures[pyfuncitem.name], pytrace=False)
    return True


@functools.cache
def _run_on(devices: int, root: Path, tests: tuple[str, ...]) -> dict[str, str]:
    """Test name -> why it failed, empty if it did not."""
    env = {**os.environ, "JAX_NUM_CPU_DEVICES": str(devices), "MIRAGE_TEST_DEVICES": str(devices)}
    env = {name: value for name, value in env.items() if not name.startswith("PYTEST_XDIST")}
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder, "results.xml")
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            f"--junitxml={results}",
        ]
        done = subprocess.run([*command, *tests], cwd=root, env=env, capture_output=True, text=True)
        assert results.exists(), done.stdout + done.stderr
        cases = ElementTree.parse(results).iter("testcase")
    return {
        str(case.get("name")): "\n".join(
            found.text or "" for kind in ("failure", "error") for found in case.findall(kind)
        )
        for case in cases
    }
