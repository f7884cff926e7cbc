"""The loop: one compilation, exact resume, what it writes, and how it ends."""

import contextlib
import errno
import functools
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from PIL import Image
from rich.console import Console

from helpers import paths, tiny_denoiser, tiny_world
from helpers.tiny_task import Batches, Regression, loaded, settings
from mirage_jax import parallel, training, trajectories
from mirage_jax.io.lock import LockedError, locked
from mirage_jax.io.video import read_video
from mirage_jax.training import checkpoints, initialisation, latent_cache
from mirage_jax.training.metrics import read_metrics
from mirage_jax.training.task import Samples

PROGRAM = paths.HELPERS / "tiny_task.py"
ROOT = paths.ROOT


def environment():
    return {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(str(p) for p in (ROOT, *PROGRAM.parents[:2])),
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def fit(workdir, steps=6, task=None, batches=Batches, **changes):
    return training.fit(
        task or Regression(), batches, workdir=workdir, **settings(steps, **changes)
    )


def lines_without_time(workdir):
    return [
        {name: value for name, value in line.items() if not name.startswith("time/")}
        for line in read_metrics(workdir / "metrics.jsonl")
    ]


def bits(state):
    """Every leaf of the state as (name, dtype, bytes)."""
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]

    def raw(leaf):
        is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if is_key else leaf)

    return [(jax.tree_util.keystr(p), raw(x).dtype, raw(x).tobytes()) for p, x in leaves]


def start_program(workdir, delay, *more, **options):
    command = [sys.executable, "-u", PROGRAM, workdir, "20", str(delay), *map(str, more)]
    return subprocess.Popen(
        command,
        env=environment(),
        cwd=ROOT,
        stderr=subprocess.STDOUT,
        text=True,
        **{"stdout": subprocess.PIPE, **options},
    )


def read_until_step(process, step):
    for line in process.stdout:
        if line.strip() == f"step {step}":
            return
    pytest.fail(f"the program ended before step {step}")


def kill_moment():
    """A generator for the moment at which a run is killed, and how to repeat it."""
    given = os.environ.get("MIRAGE_TEST_KILL_SEED")
    seed = int(given) if given else random.SystemRandom().randrange(2**32)
    return random.Random(seed), f"repeat with MIRAGE_TEST_KILL_SEED={seed}"


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("unbroken")
    return workdir, fit(workdir, 20)


def test_loss_falls_and_the_step_is_traced_once(tmp_path):
    task = Regression()
    # Tracing is what precedes a compilation; no other part of this run traces the loss.
    state = fit(tmp_path, 60, task, log_every=10, save_every=0)
    losses = [line["loss"] for line in read_metrics(tmp_path / "metrics.jsonl")]
    assert task.traces == 1
    assert losses[-1] < 0.5 * losses[0]
    assert int(state.step) == 60


@pytest.fixture(scope="module")
def unbroken_loaded(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("loaded")
    return workdir, fit(workdir, 20, batches=loaded)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_killed_and_resumed_equals_unbroken(workers, tmp_path, unbroken_loaded):
    reference, expected = unbroken_loaded
    # The save of step 8 waits for that of step 4, so one is complete when step 9 is reported. Then
    # at a moment that may fall into a step, a save or between them.
    rng, repeat = kill_moment()
    delay = rng.uniform(0, 0.6)
    moment = f"{workers} workers, killed {delay:.3f} s after step 9; {repeat}"
    with (tmp_path / "output").open("w+") as output:
        # The loader's processes outlive it: a pipe to them would stay open.
        how = {"stdout": output, "start_new_session": True}
        process = start_program(tmp_path, 0.15, workers, delay, **how)
        code = process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        output.seek(0)
        assert code == -signal.SIGKILL, f"{moment}: {output.read()}"
    saved = checkpoints.saved_steps(tmp_path / "checkpoints")
    assert saved and saved[-1] < 20, moment
    state = fit(tmp_path, 20, batches=functools.partial(loaded, workers=workers))
    assert bits(state) == bits(expected), moment
    assert lines_without_time(tmp_path) == lines_without_time(reference), moment


def test_a_denoiser_killed_and_resumed_equals_an_unbroken_one(tmp_path):
    """The same with what is trained in earnest: memory in the loop, clips read and shuffled."""
    cache = tmp_path / "clips.array_record"
    clips = tiny_world.latent_clips(5, trajectories.make("look_and_walk", 9, angle=60))
    latent_cache.write_cache(cache, [clips])
    expected = tiny_denoiser.fit(tmp_path / "unbroken", cache)
    # The save of step 6 waits for that of step 3; one more is perhaps under way.
    rng, repeat = kill_moment()
    last = rng.randint(7, tiny_denoiser.STEPS - 1)
    moment = f"killed at step {last}; {repeat}"
    broken = tmp_path / "broken"
    done = subprocess.run(
        [sys.executable, tiny_denoiser.__file__, broken, cache, str(last)],
        env=environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == -signal.SIGKILL, f"{moment}: {done.stderr}"
    saved = checkpoints.saved_steps(broken / "checkpoints")
    assert saved and saved[-1] <= last, moment
    state = tiny_denoiser.fit(broken, cache)
    assert bits(state) == bits(expected), moment
    names = {name.split("[")[0].split(".")[1] for name, *_ in bits(state)}
    assert {"params", "ema", "opt_state"} <= names
    lines = lines_without_time(broken)
    assert lines == lines_without_time(tmp_path / "unbroken"), moment
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 10, 12]


def test_sigterm_saves_the_step_it_was_at_and_leaves_with_143(tmp_path, unbroken):
    reference, expected = unbroken
    process = start_program(tmp_path, delay=0.05)
    read_until_step(process, 5)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 143, output
    (last,) = checkpoints.saved_steps(tmp_path / "checkpoints")[-1:]
    assert 5 <= last < 20 and last % 4
    state = fit(tmp_path, 20)
    assert bits(state) == bits(expected)
    assert lines_without_time(tmp_path) == lines_without_time(reference)


def test_resuming_on_other_batches_is_noticed_by_the_comparison(tmp_path, unbroken):
    # Guards the two tests above: they must not pass for a loop that forgets the data position.
    fit(tmp_path, 8)
    state = fit(tmp_path, 20, batches=lambda start: Batches(0))
    assert bits(state) != bits(unbroken[1])


@pytest.fixture(scope="module")
def eight_steps(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("eight")
    fit(workdir, 8)
    assert checkpoints.saved_steps(workdir / "checkpoints") == [4, 8]
    return workdir


@pytest.mark.parametrize(
    ("part", "how"), [("params", "flipped"), ("optimizer", "flipped"), ("optimizer", "cut")]
)
def test_a_run_goes_on_from_before_a_damaged_checkpoint(part, how, eight_steps, tmp_path, unbroken):
    reference, expected = unbroken
    shutil.copytree(eight_steps, tmp_path, dirs_exist_ok=True)
    files = (tmp_path / "checkpoints" / "8" / part).rglob("d/*")
    file = max(files, key=lambda path: path.stat().st_size)
    data = bytearray(file.read_bytes())
    if how == "flipped":
        data[len(data) // 2] ^= 0x10
    else:
        del data[len(data) // 2 :]
    file.write_bytes(data)
    console = Console(record=True, file=io.StringIO(), width=200)
    state = fit(tmp_path, 20, console=console)
    said = console.export_text()
    assert "training: checkpoint 8 is damaged" in said
    assert "training: resuming from step 4" in said
    assert bits(state) == bits(expected)
    assert lines_without_time(tmp_path) == lines_without_time(reference)
    (aside,) = (tmp_path / "damaged_checkpoints").iterdir()
    assert aside.name.startswith("8-")


def test_a_read_error_or_want_of_memory_never_costs_the_run(
    eight_steps, tmp_path, unbroken, monkeypatch
):
    shutil.copytree(eight_steps, tmp_path, dirs_exist_ok=True)
    load = checkpoints.reading.ocp.load_checkpointables
    out_of_memory = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9123456789 bytes."
    for fault, words in (
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
        (jax.errors.JaxRuntimeError(out_of_memory), "8: could not be read: out of memory: RES"),
    ):

        def fails(path, abstract, fault=fault):
            if "params" in abstract:
                raise fault
            return load(path, abstract)

        with monkeypatch.context() as patch:
            patch.setattr(checkpoints.reading.ocp, "load_checkpointables", fails)
            for _ in range(2):  # as a scheduler repeats it
                with pytest.raises(checkpoints.CheckpointError, match=re.escape(words)):
                    fit(tmp_path, 20)
    assert checkpoints.saved_steps(tmp_path / "checkpoints") == [4, 8]
    assert bits(fit(tmp_path, 20)) == bits(unbroken[1])


def test_a_run_that_has_lost_its_optimizer_goes_on_from_its_parameters(eight_steps, tmp_path):
    shutil.copytree(eight_steps, tmp_path, dirs_exist_ok=True)
    for step in (4, 8):
        shutil.rmtree(tmp_path / "checkpoints" / str(step) / "optimizer")
    for changes in ({}, {}, {"init_from": tmp_path}):
        with pytest.raises(checkpoints.CheckpointError, match=f"init_from={tmp_path}"):
            fit(tmp_path, 20, **changes)
    ours = checkpoints.load_params(tmp_path)
    console = Console(record=True, file=io.StringIO(), width=200)
    first = {"start_over": True, "init_from": tmp_path, "console": console}
    state = fit(tmp_path, 1, optimizer=training.adamw(lambda _: 0.0), **first)
    assert f"training: starting from {tmp_path}: 6 tensors loaded" in console.export_text()
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state.params), ours)


def test_a_second_run_in_a_folder_is_told_of_the_first(tmp_path, unbroken):
    def intrude(step, _):
        if step == 5:
            with pytest.raises(LockedError, match=rf"process {os.getpid()} on .* \(training\) is"):
                fit(tmp_path, 20)

    # Which takes no notice.
    assert bits(fit(tmp_path, 20, on_step=intrude)) == bits(unbroken[1])
    assert lines_without_time(tmp_path) == lines_without_time(unbroken[0])
    with locked(tmp_path / "lock", "training"):  # those who read are not kept out
        assert checkpoints.load_params(tmp_path)


def test_a_mesh_of_two_devices_computes_the_same(tmp_path, unbroken):
    code = f"""
import jax, numpy as np
jax.config.update("jax_num_cpu_devices", 2)
from mirage_jax import parallel, training
from helpers.tiny_task import *
task = Regression()
for steps in (8, 20):
    state = training.fit(task, Batches, workdir={str(tmp_path)!r}, mesh=parallel.make_mesh(data=2),
                         **settings(steps))
print(len(state.params["Dense_0"]["kernel"].sharding.device_set), task.traces)
"""
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True
    )
    assert run.stdout.split() == ["2", "2"], run.stderr
    ours = checkpoints.load_params(tmp_path, ema=False)
    expected = jax.device_get(unbroken[1].params)
    for name in expected:
        np.testing.assert_allclose(ours[name]["kernel"], expected[name]["kernel"], atol=1e-6)


def test_what_a_run_leaves_behind(tmp_path):
    class Drawing(Regression):
        def samples(self, params, step):
            assert set(params) == {"Dense_0", "Dense_1", "Dense_2"}
            sheet = np.full((8, 12, 3), step, np.uint8)
            video = np.full((step, 16, 32, 3), 20 * step, np.uint8)
            return Samples(sheet, video, fps=5.0)

    console = Console(record=True, file=io.StringIO(), width=200)
    fit(
        tmp_path,
        7,
        Drawing(),
        console=console,
        sample_every=4,
        eval_batches=lambda: [next(Batches(100)), next(Batches(101))],
        eval_every=4,
        config={"width": 8},
    )
    lines = read_metrics(tmp_path / "metrics.jsonl")
    trained = [line for line in lines if "loss" in line]
    assert [line["step"] for line in trained] == [3, 6, 7]
    assert {"absolute", "grad_norm", "learning_rate", "time/step", "time/data"} < set(trained[0])
    held_out = [line for line in lines if "eval/loss" in line]
    assert [line["step"] for line in held_out] == [4, 7]
    assert {p.name for p in (tmp_path / "samples").iterdir()} == {
        *("step_00000004.png", "step_00000004.mp4"),
        *("step_00000007.png", "step_00000007.mp4"),
    }
    video, fps = read_video(tmp_path / "samples" / "step_00000004.mp4")
    assert (len(video), fps) == (4, 5) and abs(video.astype(int) - 80).max() < 5
    picture = np.asarray(Image.open(tmp_path / "samples" / "step_00000004.png"))
    assert picture.shape == (8, 12, 3) and (picture == 4).all()
    assert list((tmp_path / "tensorboard").glob("events*"))
    assert json.loads((tmp_path / "config.json").read_text()) == {"width": 8}
    meta = checkpoints.read_meta(tmp_path / "checkpoints" / "7")
    assert meta["config"] == {"width": 8}
    assert (meta["step"], meta["batches"]) == (7, 7)
    assert {"git", "jax", "mesh", "tensors"} < set(meta)
    said = console.export_text()
    line = r"training  3/7  43%  loss [\d.e-]+  [\d.]+ m?s/step  ETA \d+:\d\d:\d\d  "
    assert re.search(line, said), said
    phases = re.search(r"training: step 7, \d+:\d\d:\d\d \((.*)\)", said)
    assert phases, said
    seconds = {part.rsplit(" ", 2)[0] for part in phases[1].split(", ")}
    assert {"compile", "data", "step", "evaluate", "samples", "save"} < seconds


def test_the_best_checkpoint_by_a_metric_is_kept(tmp_path):
    class Judged(Regression):
        def evaluate(self, params, batch, key, *, frozen=None):
            return {"error": jnp.abs(batch["x"]).sum()}

    scale = iter((3.0, 1.0, 2.0, 4.0, 5.0))
    held_out = lambda: [{"x": np.full((4, 4), next(scale), np.float32)}]  # noqa: E731
    options = {"save_every": 2, "eval_every": 2, "keep": 1}
    fit(tmp_path, 10, Judged(), eval_batches=held_out, keep_best="error", **options)
    assert checkpoints.saved_steps(tmp_path / "checkpoints") == [4, 10]
    scale = iter((1.0,))
    with pytest.raises(ValueError, match="keep_best: found 'psnr', expected one of error"):
        fit(tmp_path / "b", 2, Judged(), eval_batches=held_out, keep_best="psnr", **options)


def test_lines_are_means_over_their_interval(tmp_path):
    each = {}
    fit(tmp_path, 6, on_step=lambda step, values: each.update({step: values["loss"]}))
    first, second = read_metrics(tmp_path / "metrics.jsonl")
    assert list(each) == [1, 2, 3, 4, 5, 6]
    assert first["loss"] == pytest.approx(np.mean([each[s] for s in (1, 2, 3)]))
    assert second["loss"] == pytest.approx(np.mean([each[s] for s in (4, 5, 6)]))


def test_frozen_arrays_reach_the_loss_and_are_not_trained(tmp_path):
    gain = np.float32(0.0)
    fit(tmp_path, 40, Regression(frozen={"gain": gain}), log_every=40, save_every=0)
    doubled = tmp_path / "plain"
    fit(doubled, 40, Regression(), log_every=40, save_every=0)
    zero, plain = (read_metrics(d / "metrics.jsonl")[-1]["loss"] for d in (tmp_path, doubled))
    assert zero < plain


def test_max_seconds_stops_early_saves_and_says_so(tmp_path):
    console = Console(record=True, file=io.StringIO(), width=200)
    state = fit(tmp_path, 10_000, max_seconds=0.0, console=console)
    assert int(state.step) == 1
    assert checkpoints.saved_steps(tmp_path / "checkpoints") == [1]
    assert "stopped after 0 s at step 1 of 10000" in console.export_text()


def test_a_resumed_run_says_what_has_changed_in_its_config(tmp_path):
    before = {"rate": 0.1, "size": (3, 4), "model": {"width": 8, "old": 1}}
    after = {"rate": 0.1, "size": (3, 4), "model": {"width": 9, "new": "a"}}
    fit(tmp_path, 1, config=before)
    console = Console(record=True, file=io.StringIO(), width=200)
    fit(tmp_path, 1, config=after, console=console)
    said = [line for line in console.export_text().splitlines() if "config: " in line]
    assert [line.split("config: ")[1] for line in said] == [
        "model.new: 'absent' in the checkpoint, now 'a'",
        "model.old: 1 in the checkpoint, now 'absent'",
        "model.width: 8 in the checkpoint, now 9",
    ]


def test_what_is_due_when_a_run_is_stopped_is_done_before(tmp_path):
    how = {"eval_batches": lambda: [next(Batches(100))], "eval_every": 1, "log_every": 1}
    fit(tmp_path / "stopped", 2, max_seconds=0.0, **how)
    fit(tmp_path / "stopped", 2, **how)
    fit(tmp_path / "unbroken", 2, **how)
    lines = lines_without_time(tmp_path / "stopped")
    assert [line["step"] for line in lines if "eval/loss" in line] == [1, 2]
    assert lines == lines_without_time(tmp_path / "unbroken")


def test_the_order_resume_init_from_scratch_is_kept_and_printed(tmp_path):
    def run(workdir, steps, **changes):
        console = Console(record=True, file=io.StringIO(), width=200)
        state = fit(workdir, steps, console=console, **changes)
        return state, console.export_text()

    first, text = run(tmp_path / "a", 4)
    assert "starting from scratch" in text
    _, text = run(tmp_path / "b", 1, init_from=tmp_path / "a")
    assert "6 tensors loaded, 0 tensors fresh, 0 tensors not used" in text
    assert "loaded: Dense_0/kernel" in text
    _, text = run(tmp_path / "b", 2, init_from=tmp_path / "a")
    assert "resuming from step 1" in text
    _, text = run(tmp_path / "b", 2)
    assert "already at step 2 of 2" in text
    training.export(tmp_path / "export", first.params, {})
    found, fresh, unused = initialisation.initial_params(tmp_path / "export", first.params)
    assert len(found) == 6 and not fresh and not unused
    np.testing.assert_array_equal(found["Dense_0/kernel"], first.params["Dense_0"]["kernel"])


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        (lambda start: iter([next(Batches(0))]), "ended after step 1"),
        (lambda start: iter([next(Batches(0)), next(Batches(0, size=5))]), r"\(5, 4\)"),
        (lambda start: iter([{"x": np.float32(1)}]), "batch 'x': found shape"),
    ],
)
def test_bad_batches_are_named(tmp_path, batches, message):
    with pytest.raises(ValueError, match=message):
        fit(tmp_path, batches=batches)


def test_batches_are_closed_even_on_error(tmp_path):
    source = Batches(0)

    def fail(step, values):
        raise RuntimeError("caller's")

    with pytest.raises(RuntimeError, match="caller's"):
        fit(tmp_path, batches=lambda start: source, on_step=fail)
    assert source.closed


def test_logical_constraints_are_active_inside_the_step(tmp_path):
    """Flax drops them silently unless the mesh is set the right way."""
    seen = []

    class Constrained(Regression):
        def loss(self, params, batch, key, *, train, frozen=None):
            constrain = lambda x: nn.with_logical_constraint(x, ("batch", None))  # noqa: E731
            seen.append(str(jax.make_jaxpr(constrain)(batch["x"])).count("sharding_constraint"))
            return super().loss(params, batch, key, train=train)

    fit(tmp_path, 1, Constrained(), mesh=parallel.make_mesh())
    assert seen == [1]
