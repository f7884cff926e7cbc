"""Every test runs on the CPU, with the jaxtyping signatures of both packages checked.

Tests marked `devices(n)` see n fake devices: JAX cannot change their number once it has started, so
the marked tests of a file run in a pytest of their own and report from there. It checks signatures
of what works on several devices only: all else runs in other tests, and to check it costs seconds
in each of these processes.
"""

import ast
import functools
import gc
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("GLIBC_TUNABLES", "")  # or `mirage` would start pytest once more
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # there is a worker for each core

import jax
import pytest
from jaxtyping import _import_hook, install_import_hook

from helpers.exhaustive import LONG

ON_DEVICES = ["mirage_jax.memory.sharded", "mirage_jax.nn.attention", "mirage_jax.parallel"]
CHECKED = ON_DEVICES if "MIRAGE_TEST_DEVICES" in os.environ else ["mirage_jax", "data_pipelines"]


class _OuterFunctions(_import_hook.JaxtypingTransformer):
    """Leaves functions within functions alone, which would be wrapped and compiled anew by every
    call of those around them: a third of the time of tests that trace much."""

    def visit_FunctionDef(self, node):
        within = any(isinstance(parent, ast.FunctionDef) for parent in self._parents)
        return node if within else super().visit_FunctionDef(node)


_import_hook.JaxtypingTransformer = _OuterFunctions
install_import_hook(CHECKED, "beartype.beartype")

from mirage_jax.cli.helpers.compilation import compile_fast  # noqa: E402, after the hook

compile_fast()  # compiling is most of what tests do
if jax.__version__.startswith("0.10."):  # XLA ends a process for a flag that it does not know
    # In one part, as there is a worker for each core.
    os.environ["XLA_FLAGS"] += " --xla_cpu_parallel_codegen_split_count=1"

# Programs that tests start find `helpers` and this checkout.
FOLDERS = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
os.environ["PYTHONPATH"] = os.pathsep.join([*FOLDERS, os.environ.get("PYTHONPATH", "")])

# Begun first, so that no worker is left with one of them when the others are done.
LONGEST = (
    "test_end_to_end.py",
    "test_loop.py",
    "test_denoiser.py",
    "test_cli.py",
    "test_generate_preset.py",
    "test_compile.py",
    "test_presets.py",
    "test_context_parallel.py",
)


def pytest_collection_modifyitems(items):
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(LONGEST)))
    for item in items:
        if item.get_closest_marker("long") and not LONG:
            item.add_marker(pytest.mark.skip(reason="of make test-long: MIRAGE_TEST_LONG=1"))


def pytest_collection_finish():
    # What was imported stays: no need to look through it again and again. Tracing makes so many
    # objects that by default a tenth of the time goes into looking which of them are left.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def pytest_configure(config):
    config.addinivalue_line("markers", "devices(n): run on n fake CPU devices")
    config.addinivalue_line("markers", "long: exhaustive, run with MIRAGE_TEST_LONG=1 alone")


MOST_RESIDENT = 5 << 30
"""Bytes of a worker above which compiled programs are let go: all of them take 8 GiB."""


@pytest.fixture(autouse=True, scope="module")
def _bounded_memory():
    yield
    pages = int(Path("/proc/self/statm").read_text().split()[1]) if sys.platform == "linux" else 0
    if pages * resource.getpagesize() > MOST_RESIDENT:
        jax.clear_caches()
        gc.collect()


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
    results = _run_on(marker.args[0], pyfuncitem.config.rootpath, together)
    assert pyfuncitem.name in results, f"did not run: {results}"
    failed, skipped = results[pyfuncitem.name]
    if failed:
        pytest.fail(failed, pytrace=False)
    if skipped:
        pytest.skip(skipped)
    return True


@functools.cache
def _run_on(devices: int, root: Path, tests: tuple[str, ...]) -> dict[str, tuple[str, str]]:
    """Test name -> why it failed, why it was skipped; empty if it was not."""
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

    def why(case: ElementTree.Element, *kinds: str) -> str:
        return "\n".join(found.text or kind for kind in kinds for found in case.findall(kind))

    return {
        str(case.get("name")): (why(case, "failure", "error"), why(case, "skipped"))
        for case in cases
    }
