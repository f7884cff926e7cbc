"""TAEHV's tiny decoder: in, out, and the same frames as a plain reading of it in numpy."""

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from helpers import taehv_by_hand
from mirage_jax.convert.incoming import import_checkpoint
from mirage_jax.convert.outgoing import export_checkpoint
from mirage_jax.convert.placement import assemble
from mirage_jax.convert.taehv import taehv_fields, taehv_plan
from mirage_jax.nn.tiny_decoder import TinyDecoder, init_params
from mirage_jax.world.latent_encoder import load_tiny_decoder

WIDTHS = (12, 8, 6, 6)


def weights(latent_channels=5, widths=WIDTHS, patch=2):
    return taehv_by_hand.random_weights(np.random.default_rng(0), latent_channels, widths, patch)


@pytest.mark.parametrize("patch", [1, 2], ids=["wan_2.1", "wan_2.2"])
def test_frames_are_those_of_the_network_by_hand(patch):
    tensors = weights(patch=patch)
    fields = taehv_fields(tensors)
    decoder = TinyDecoder(**fields)
    assert (decoder.spatial_stride, decoder.temporal_stride) == (8 * patch, 4)
    params = assemble(taehv_plan(fields), tensors)
    latents = 2.0 * np.random.default_rng(1).normal(size=(3, 5, 2, 3))  # beyond the soft limit
    expected = taehv_by_hand.decode(tensors, latents)
    assert expected.shape == (9, 3, 16 * patch, 24 * patch) and 0.1 < expected.std() < 0.5
    cells = np.moveaxis(latents, 1, -1)[None].astype(np.float32)
    found = jax.jit(decoder.apply)({"params": params}, cells)
    pictures = np.clip((np.asarray(found[0]) + 1) / 2, 0, 1)
    np.testing.assert_allclose(np.moveaxis(pictures, -1, 1), expected, atol=2e-5)


def test_released_sizes_have_the_released_names():
    """taew2_2: 48 channels, 9.9M parameters in the decoder; taew2_1: 16, one pixel at a time."""
    for channels, patch in ((48, 2), (16, 1)):
        fields = {"latent_channels": channels, "patch": patch, "widths": (256, 128, 64, 64)}
        decoder = TinyDecoder(**fields)
        plan = taehv_plan({**fields, "time_upscale": decoder.time_upscale})
        shapes = {name: p.tensor_shape for p in plan for name in p.names}
        assert shapes["decoder.1.weight"] == (256, channels, 3, 3)
        assert shapes["decoder.3.conv.0.weight"] == (256, 512, 3, 3)
        assert [shapes[f"decoder.{n}.conv.weight"][0] for n in (7, 13, 19)] == [256, 256, 128]
        assert shapes["decoder.22.weight"] == (3 * patch**2, 64, 3, 3)
        assert "decoder.20.bias" not in shapes and len(shapes) == 64
        params = jax.eval_shape(lambda module=decoder: init_params(module, jax.random.key(0)))
        ours = {
            jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape
            for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        }
        assert {p.path: p.shape for p in plan} == ours
        if channels == 48:
            assert round(sum(np.prod(shape) for shape in shapes.values()) / 1e6, 1) == 9.9


def test_another_network_is_not_written_as_one_of_taehv():
    fields = taehv_fields(weights())
    with pytest.raises(ValueError, match=r"space_upscale: found .*, expected .* as TAEHV has it"):
        taehv_plan(fields | {"space_upscale": [True, True, False]})


def test_in_and_out(tmp_path):
    tensors = weights()
    whole = tensors | {"encoder.0.weight": np.zeros((64, 12, 3, 3), np.float32)}
    save_file(whole, tmp_path / "taew2_2.safetensors")
    lines = []
    kind = import_checkpoint(
        [tmp_path / "taew2_2.safetensors"], tmp_path / "ours", report=lines.append
    )
    assert kind == "tiny_decoder"
    assert lines == ["not used: 1 tensors beside the decoder's"]
    params, decoder = load_tiny_decoder(tmp_path / "ours")
    assert decoder.widths == WIDTHS
    jax.tree.map(
        np.testing.assert_array_equal, params, assemble(taehv_plan(taehv_fields(tensors)), tensors)
    )
    export_checkpoint(tmp_path / "ours", tmp_path / "back.safetensors")
    found = load_file(tmp_path / "back.safetensors")
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(found[name], tensor, err_msg=name)
    with pytest.raises(ValueError, match="naming: found 'diffusers', expected 'original'"):
        export_checkpoint(tmp_path / "ours", tmp_path / "b.safetensors", naming="diffusers")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("decoder.13.conv.weight", None, "decoder.13.conv.weight' is missing"),
        ("decoder.13.conv.weight", lambda t: t[:10], "expected as many channels out as in"),
        ("decoder.22.weight", lambda t: t[:7], "expected 3 n.2 channels out"),
        ("decoder.9.conv.2.weight", lambda t: t[:3], "decoder.9.conv.2.weight: found shape"),
        ("decoder.9.conv.2.bias", lambda t: t * np.nan, "decoder.9.conv.2.bias': found NaN"),
    ],
)
def test_other_files_are_refused(tmp_path, name, change, message):
    tensors = weights()
    tensor = tensors.pop(name)
    if change is not None:
        tensors[name] = np.ascontiguousarray(change(tensor))
    save_file(tensors, tmp_path / "tiny.safetensors")
    with pytest.raises(ValueError, match=message):
        import_checkpoint([tmp_path / "tiny.safetensors"], tmp_path / "ours")
    assert not list(tmp_path.glob("ours/*"))
