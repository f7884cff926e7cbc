"""`mirage train`: order and folders of its stages."""

from helpers.command_line import assert_refused
from mirage_jax.cli import train
from mirage_jax.io.workdir import Workdir


def test_students_are_of_the_latent_memory(call):
    found = call("train", "--stage=distill", "--memory=rgb")
    assert_refused(found, "--memory: found rgb with --stage=distill, expected latent")


def test_stages_out_of_order_say_what_is_missing(call, tmp_path):
    recorded_first = "run `mirage record` first"
    for stage in ("encoder", "geometry", "denoiser"):
        outcome = call("train", f"--stage={stage}", "--config.tiny=true")
        assert outcome[0] == 2 and "Traceback" not in outcome[2]
    assert_refused(call("train", "--config.tiny=true"), recorded_first)
    assert_refused(call("train", "--stage=cache", "--config.tiny=true"), "encoder")
    assert_refused(call("evaluate", "--config.tiny=true"), recorded_first)


def test_every_stage_fills_folders_of_its_own(tmp_path):
    workdir = Workdir(tmp_path)
    every = [("encoder", "latent"), ("geometry", "latent")]
    every += [(stage, kind) for stage in ("cache", "denoiser") for kind in ("latent", "rgb")]
    folders = [folder for one in every for folder in train.outputs(workdir, *one)]
    assert len(set(folders)) == len(folders) == 10
    assert workdir.latents("labmaze", "eval", rgb=True).parent in train.outputs(
        workdir, "cache", "rgb"
    )
