"""A run moved to another mesh, and what a step may and may not do, on eight fake devices."""

import io
import re
import shutil

import jax
import numpy as np
import pytest
from rich.console import Console

from helpers.tiny_task import Batches, Regression, settings
from mirage_jax import parallel, training
from mirage_jax.parallel import specs
from mirage_jax.training.runner import Runner

pytestmark = pytest.mark.devices(8)


def fit(workdir, steps, task=None, *, data=1, fsdp=1, **changes):
    """Trains on the first data x fsdp devices, with one checkpoint at the end."""
    mesh = parallel.make_mesh(data, fsdp, devices=jax.devices()[: data * fsdp])
    options = settings(steps, **{"save_every": 0, **changes})
    return training.fit(task or Regression(), Batches, workdir=workdir, mesh=mesh, **options)


def bits(state):
    """The bytes of every leaf by its path."""

    def raw(leaf):
        is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if is_key else leaf)

    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    return {jax.tree_util.keystr(p): (raw(x).dtype, raw(x).tobytes()) for p, x in leaves}


def remember(losses):
    return lambda step, values: losses.update({step: values["loss"]})


def test_a_run_goes_on_on_another_mesh(tmp_path):
    losses = {}
    saved = bits(fit(tmp_path / "four", 7, data=4))
    names = {name.split("[")[0].split(".")[1] for name in saved}
    assert {"params", "ema", "opt_state", "key"} <= names
    fit(tmp_path / "unbroken", 14, data=4, on_step=remember(losses))
    for sizes in ({"data": 2, "fsdp": 2}, {"data": 1}):
        workdir = tmp_path / "-".join(sizes)
        shutil.copytree(tmp_path / "four", workdir)
        restored = fit(workdir, 7, **sizes)  # nothing to do: what was restored comes back
        assert bits(restored) == saved
        for tree in (restored.params, restored.ema):
            place = tree["Dense_1"]["kernel"].sharding
            assert len(place.device_set) == (4 if "fsdp" in sizes else 1)
            assert place.shard_shape((8, 8)) == (4 if "fsdp" in sizes else 8, 8)
        ours = {}
        fit(workdir, 14, on_step=remember(ours), **sizes)
        assert list(ours) == list(range(8, 15))
        expected = [losses[step] for step in ours]
        np.testing.assert_allclose(list(ours.values()), expected, rtol=0, atol=1e-5)


def test_a_step_takes_over_the_memory_of_the_state_before(monkeypatch, tmp_path):
    step, checked = Runner.step, []

    def watched(runner, state, batch):
        after = step(runner, state, batch)
        alive = [p for p, x in jax.tree_util.tree_flatten_with_path(state)[0] if not x.is_deleted()]
        assert not [jax.tree_util.keystr(path) for path in alive]
        checked.append(int(after[0].step))
        return after

    monkeypatch.setattr(Runner, "step", watched)
    fit(tmp_path, 3, data=2, fsdp=2)
    assert checked == [1, 2, 3]


def test_a_step_brings_nothing_from_the_host(monkeypatch, tmp_path):
    # As if the loop forgot to place a batch, which a jitted function would do unasked.
    monkeypatch.setattr(Runner, "place", lambda runner, batch: batch)
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        fit(tmp_path, 1)


def test_a_run_refuses_parameters_that_are_not_split_as_promised(monkeypatch, tmp_path):
    monkeypatch.setattr(specs, "SMALL", 0)  # else it takes a large model
    with pytest.raises(ValueError, match=r"% of parameter bytes repeated .* 'Dense_1/kernel'"):
        fit(tmp_path, 1, Regression(width=7), fsdp=2)
    assert not (tmp_path / "parameters.txt").exists()


def test_frozen_parameters_are_listed_and_must_be_split_too(tmp_path):
    gain = {"gain": np.float32(1.0)}
    fit(tmp_path / "few", 1, Regression(frozen=gain), fsdp=2)
    listed = (tmp_path / "few" / "parameters.txt").read_text()
    assert "\n\n1 parameters frozen, 100% of their bytes on every device\n" in listed
    ballast = np.zeros(2**22 + 1, np.float32)  # more than 16 MiB
    with pytest.raises(ValueError, match=r"% of parameter bytes repeated .* 'ballast'"):
        fit(tmp_path / "much", 1, Regression(frozen={**gain, "ballast": ballast}), fsdp=2)


def test_a_run_says_where_its_parameters_lie_and_what_a_step_takes(tmp_path):
    console = Console(record=True, file=io.StringIO(), width=200)
    fit(tmp_path, 1, data=2, fsdp=2, console=console)
    lines = [line.split() for line in (tmp_path / "parameters.txt").read_text().splitlines()]
    assert lines[0][:3] == ["121", "parameters", "trained,"]
    assert lines[1][:2] == ["parameter", "shape"] and len(lines) == 8
    # 8 x 8 numbers of four bytes, half of them on each device.
    assert ["Dense_1/kernel", "8x8", "float32", "fsdp,tensor", "128"] in lines
    said = console.export_text()
    assert "mesh data=2 fsdp=2\n" in said
    share = r"121 parameters trained, [\d.]+% of their bytes on every device"
    assert re.search(share, said), said
    memory = r"a step takes [\d.]+k?FLOP in matrix products; [\d.e-]+ GiB on a device"
    assert re.search(memory, said), said
