"""Checkpoints: what was saved comes back bit for bit, and damage is noticed and stepped over."""

import dataclasses
import errno
import resource
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirage_jax.training import checkpoints, guard
from mirage_jax.training.checkpoints import CheckpointError, Checkpoints, reading
from mirage_jax.training.state import TrainState


def make_state(step: int, width: int = 5, noise: int = 0) -> TrainState:
    rng = np.random.default_rng(step)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    params = {"dense": {"kernel": draw(width, 3), "bias": draw(3).astype(jnp.bfloat16)}}
    if noise:
        params["noise"] = draw(noise)
    return TrainState(
        step=jnp.int32(step),
        params=params,
        opt_state=({"count": jnp.int32(step)}, params["dense"]["kernel"] ** 2),
        ema=jax.tree.map(lambda x: x + 1, params),
        key=jax.random.key(step),
        guard=guard.GuardState(norm=jnp.float32(step / 3), skipped=jnp.int32(step)),
    )


def abstract(state):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        assert x.dtype == y.dtype
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def save(workdir, *steps, keep=3, **options):
    with Checkpoints(workdir, keep=keep) as store:
        for step in steps:
            store.save(make_state(step, **options), {"batches": step, "means": {"loss": [0.1, 2]}})


@pytest.fixture(scope="module")
def two_saved(tmp_path_factory):
    """A run with checkpoints 4 and 8; to be copied."""
    workdir = tmp_path_factory.mktemp("saved")
    save(workdir, 4, 8)
    return workdir


def restore(workdir, **options):
    said = []
    with Checkpoints(workdir) as store:
        result = store.restore(abstract(make_state(0, **options)), said.append)
    return result, said


def test_the_newest_comes_back_bit_for_bit_with_its_meta(tmp_path):
    save(tmp_path, 4, 8)
    (state, meta), said = restore(tmp_path)
    assert_same(state, make_state(8))
    assert (meta["step"], meta["batches"], meta["means"]) == (8, 8, {"loss": [0.1, 2]})
    assert not said


def test_nothing_there_is_none(tmp_path):
    assert restore(tmp_path)[0] is None


def test_only_the_newest_are_kept_and_saving_twice_is_once(tmp_path):
    save(tmp_path, 1, 2, 3, 3, keep=2)
    assert checkpoints.saved_steps(tmp_path / "checkpoints") == [2, 3]


def test_the_best_is_kept_beside_the_newest(tmp_path):
    values = {1: 0.5, 2: 0.3, 3: None, 4: 0.4, 5: 0.6, 6: None}
    for chosen in ((1, 2, 3), (4, 5, 6)):  # in two processes
        with Checkpoints(tmp_path, keep=1, keep_best=1) as store:
            for step in chosen:
                store.save(make_state(step), {}, value=values[step])
    assert checkpoints.saved_steps(tmp_path / "checkpoints") == [2, 6]


def damaged_files(folder: Path):
    """Files with array data, or the index that leads to it."""
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.parent.name == "d")


@pytest.mark.parametrize("how", ["flipped", "cut", "gone"])
def test_damage_anywhere_in_the_data_is_noticed_or_harmless(tmp_path, two_saved, how):
    shutil.copytree(two_saved, tmp_path, dirs_exist_ok=True)
    folder = tmp_path / "checkpoints" / "8"
    good = tmp_path / "good"
    shutil.copytree(folder, good)
    passed_over = 0
    files = damaged_files(folder)
    for file in files if how == "flipped" else damaged_files(folder / "params"):
        relative = file.relative_to(folder)
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 0x10
        if how == "flipped":
            file.write_bytes(data)
        elif how == "cut":
            file.write_bytes(data[: len(data) // 2])
        else:
            file.unlink()
        (state, meta), said = restore(tmp_path)
        if said:
            passed_over += 1
            assert "checkpoint 8 is damaged" in said[0], relative
            assert meta["step"] == 4
            assert_same(state, make_state(4))
            (aside,) = (tmp_path / "damaged_checkpoints").iterdir()
            shutil.rmtree(aside)
        else:
            assert_same(state, make_state(8))
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(good, folder)
    assert passed_over


@pytest.mark.parametrize("part", ["params", "ema", "optimizer"])
def test_one_bit_that_the_storage_does_not_notice_is_noticed(
    tmp_path, two_saved, monkeypatch, part
):
    shutil.copytree(two_saved, tmp_path, dirs_exist_ok=True)
    load = reading._load

    def one_bit_off(path, wanted):
        items = load(path, wanted)
        if path.name == "8" and part in items:
            leaves, structure = jax.tree.flatten(items[part])
            number = max(range(len(leaves)), key=lambda i: leaves[i].size)
            raw = np.array(leaves[number])
            raw.view(np.uint8).flat[raw.nbytes // 2] ^= 1
            leaves[number] = jax.device_put(raw, leaves[number].sharding)
            items[part] = jax.tree.unflatten(structure, leaves)
        return items

    monkeypatch.setattr(reading, "_load", one_bit_off)
    (state, meta), said = restore(tmp_path)
    assert meta["step"] == 4
    assert_same(state, make_state(4))
    assert any("checksum does not match" in line for line in said)


def test_training_goes_on_saving_after_a_damaged_one_was_set_aside(tmp_path, two_saved):
    shutil.copytree(two_saved, tmp_path, dirs_exist_ok=True)
    for file in damaged_files(tmp_path / "checkpoints" / "8" / "params"):
        file.unlink()
    assert restore(tmp_path)[0][1]["step"] == 4
    save(tmp_path, 8)
    (state, _), said = restore(tmp_path)
    assert_same(state, make_state(8))
    assert not said


def test_none_intact_is_an_error_and_not_a_fresh_start(tmp_path):
    save(tmp_path, 4)
    for file in damaged_files(tmp_path / "checkpoints" / "4" / "params"):
        file.unlink()
    with pytest.raises(CheckpointError, match=r"none of the checkpoints \[4\] is intact"):
        restore(tmp_path)


PASSING = [
    OSError(errno.EIO, "Input/output error"),
    OSError(errno.ESTALE, "Stale file handle"),
    PermissionError(errno.EACCES, "Permission denied"),
    MemoryError("Unable to allocate 9 GiB"),
    jax.errors.JaxRuntimeError(
        "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes."
    ),
    ValueError('UNKNOWN: Error opening "zarr3" driver: Input/output error'),
    RuntimeError("something that nobody has seen yet"),
    KeyboardInterrupt(),
]


@pytest.mark.parametrize(
    ("fault", "of"),
    [
        *((fault, "params") for fault in PASSING),
        (PASSING[0], "meta"),
        *(pytest.param(fault, "meta", marks=pytest.mark.long) for fault in PASSING[1:]),
    ],
    ids=repr,
)
def test_a_passing_fault_stops_and_touches_nothing(tmp_path, two_saved, monkeypatch, fault, of):
    shutil.copytree(two_saved, tmp_path, dirs_exist_ok=True)
    load = reading.ocp.load_checkpointables

    def fails(path, wanted):
        if of in wanted:
            raise KeyError("Failed to load checkpointable") from fault
        return load(path, wanted)

    def everything():
        return sorted((str(p), p.stat().st_mtime_ns) for p in tmp_path.rglob("*"))

    before = everything()
    with monkeypatch.context() as patch:
        patch.setattr(reading.ocp, "load_checkpointables", fails)
        for _ in range(2):  # as a scheduler repeats it
            with pytest.raises(CheckpointError) as error:
                restore(tmp_path)
            assert f"{tmp_path}/checkpoints/8: could not be read: " in str(error.value)
            assert str(fault) in str(error.value) and "no space left" not in str(error.value)
        with pytest.raises(CheckpointError, match="could not be read"):
            checkpoints.load_params(tmp_path, ema=False)
    assert everything() == before
    assert restore(tmp_path)[0][1]["step"] == 8


def test_a_disk_that_does_not_answer_is_no_damage(tmp_path, two_saved):
    # With nothing replaced: the system's own error, out of the storage library.
    shutil.copytree(two_saved, tmp_path, dirs_exist_ok=True)
    for file in damaged_files(tmp_path / "checkpoints" / "8" / "params"):
        file.unlink()
        file.symlink_to(file.name)  # "Too many levels of symbolic links", whoever opens it
    with pytest.raises(CheckpointError, match=r"8: could not be read: .*Too many levels"):
        restore(tmp_path)
    assert checkpoints.saved_steps(tmp_path / "checkpoints") == [4, 8]


def test_what_is_wrong_once_only_is_no_damage(tmp_path, two_saved, monkeypatch):
    shutil.copytree(two_saved, tmp_path, dirs_exist_ok=True)
    load, calls = reading._load, []

    def once_wrong(path, wanted):
        items = load(path, wanted)
        if "params" in wanted and not calls:
            calls.append(path)
            items["params"]["dense"]["kernel"] += 1
        return items

    monkeypatch.setattr(reading, "_load", once_wrong)
    (state, _), said = restore(tmp_path)
    assert_same(state, make_state(8))
    assert calls and not said


@pytest.mark.parametrize("how", ["cut", "empty", "gone", "part gone"])
@pytest.mark.parametrize("name", ["_METADATA", "manifest.ocdbt", "_strings.json", "d"])
def test_lost_and_truncated_files_are_damage(tmp_path, two_saved, name, how):
    shutil.copytree(two_saved, tmp_path, dirs_exist_ok=True)
    part = tmp_path / "checkpoints" / "8" / ("meta" if name == "_strings.json" else "params")
    for file in part.glob("d/*") if name == "d" else [part / name]:
        data = file.read_bytes()
        file.unlink()
        if how in ("cut", "empty"):
            file.write_bytes(data[: len(data) // 2 if how == "cut" else 0])
    if how == "part gone":
        shutil.rmtree(part)
    (state, _), (said,) = restore(tmp_path)
    assert_same(state, make_state(4))
    assert "checkpoint 8 is damaged" in said
    assert checkpoints.saved_steps(tmp_path / "checkpoints") == [4]


def test_a_run_without_intact_checkpoints_begins_anew_only_when_told_to(tmp_path, two_saved):
    shutil.copytree(two_saved, tmp_path, dirs_exist_ok=True)
    for step in (4, 8):
        shutil.rmtree(tmp_path / "checkpoints" / str(step) / "optimizer")
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"none of the checkpoints \[4, 8\]") as error:
            restore(tmp_path)
        assert "8: optimizer: no such part" in str(error.value)
        assert "--config.start_over=true" in str(error.value)
        assert f"parameters are intact, and init_from={tmp_path}" in str(error.value)
    assert checkpoints.saved_steps(tmp_path / "checkpoints") == [4, 8]
    assert_same(checkpoints.load_params(tmp_path), make_state(8).ema)
    assert_same(checkpoints.load_params(tmp_path, ema=False), make_state(8).params)
    said = []
    with Checkpoints(tmp_path) as store:
        assert store.restore(abstract(make_state(0)), said.append, start_over=True) is None
    assert len(said) == 2 and checkpoints.saved_steps(tmp_path / "checkpoints") == []
    # And what was set aside, then or by an earlier call, is not forgotten.
    with pytest.raises(
        CheckpointError, match=r"set aside there.*start_over.*parameters are intact"
    ):
        restore(tmp_path)
    assert_same(checkpoints.load_params(tmp_path), make_state(8).ema)


def test_starting_over_never_discards_an_intact_checkpoint(tmp_path, two_saved):
    shutil.copytree(two_saved, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "checkpoints" / "8" / "params")
    for _ in range(2):
        with Checkpoints(tmp_path) as store:
            restored = store.restore(abstract(make_state(0)), print, start_over=True)
        assert restored[1]["step"] == 4


def test_another_architecture_is_named_and_not_taken_for_damage(tmp_path):
    save(tmp_path, 4)
    message = r"'params/dense/kernel': found float32 \(5, 3\), expected float32 \(6, 3\) \(and 2"
    with pytest.raises(ValueError, match=message):
        restore(tmp_path, width=6)
    with pytest.raises(ValueError, match=r"'params/noise': found no such tensor, expected float32"):
        restore(tmp_path, noise=7)
    assert checkpoints.saved_steps(tmp_path / "checkpoints") == [4]


@pytest.mark.parametrize(
    ("now", "message"),
    [
        (lambda s: dataclasses.replace(s, ema=None), "averages its parameters.*tensor 'ema/dense"),
        (
            lambda s: dataclasses.replace(s, opt_state=(s.opt_state[0],)),
            "another optimizer.*tensor 'optimizer",
        ),
        (lambda s: dataclasses.replace(s, opt_state=(s.opt_state, s.step)), "another optimizer"),
    ],
)
def test_another_optimizer_or_average_is_named_with_the_way_on(tmp_path, now, message):
    save(tmp_path, 4)
    with Checkpoints(tmp_path) as store, pytest.raises(ValueError, match=message) as error:
        store.restore(abstract(now(make_state(0))))
    assert "of another architecture" not in str(error.value)
    assert f"init_from={tmp_path} in another folder begins anew" in str(error.value)
    assert "go on from it" in str(error.value)


def test_another_format_is_named_and_not_taken_for_damage(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(reading, "FORMAT", "mirage-checkpoint-0")
        save(tmp_path, 4)
    for read in (restore, checkpoints.load_params):
        with pytest.raises(ValueError, match="found format 'mirage-checkpoint-0', expected 'mir"):
            read(tmp_path)
    assert checkpoints.saved_steps(tmp_path / "checkpoints") == [4]


def test_load_params_prefers_the_average_and_passes_over_damage(tmp_path, two_saved):
    shutil.copytree(two_saved, tmp_path, dirs_exist_ok=True)
    assert_same(checkpoints.load_params(tmp_path), make_state(8).ema)
    assert_same(checkpoints.load_params(tmp_path, ema=False), make_state(8).params)
    assert_same(checkpoints.load_params(tmp_path, step=4), make_state(4).ema)
    for file in damaged_files(tmp_path / "checkpoints" / "8" / "ema"):
        file.unlink()
    assert_same(checkpoints.load_params(tmp_path), make_state(4).ema)
    with pytest.raises(ValueError, match=r"found the steps \[4, 8\], expected step 5"):
        checkpoints.load_params(tmp_path, step=5)
    with pytest.raises(ValueError, match=r"found the steps \[\], expected a checkpoint"):
        checkpoints.load_params(tmp_path / "nowhere")


def test_a_full_disk_is_named_before_anything_is_written(tmp_path, monkeypatch):
    save(tmp_path, 4)
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(CheckpointError, match=r"no space left for the checkpoint of step 8"):
        save(tmp_path, 8)
    assert restore(tmp_path)[0][1]["step"] == 4


def test_a_write_that_fails_half_way_leaves_the_others_and_can_be_repeated(tmp_path):
    save(tmp_path, 4, noise=100_000)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The closest a test gets to a full disk: no file may grow beyond 64 KiB.
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    try:
        with pytest.raises(CheckpointError, match=r"saving step 8 failed: .*\[4\] are untouched"):
            save(tmp_path, 8, noise=100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert restore(tmp_path, noise=100_000)[0][1]["step"] == 4
    save(tmp_path, 8, noise=100_000)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["4", "8"]
    assert restore(tmp_path, noise=100_000)[0][1]["step"] == 8
