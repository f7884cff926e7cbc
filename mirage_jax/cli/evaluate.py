"""mirage evaluate: score held-out worlds and write results.json and report.html.

    mirage evaluate
    mirage evaluate --config=experiments/living.py --protocol=permanence --videos=peer=FOLDER

Every control that needs no training is always run. The comparison models (trained without
memory, and with an RGB point cloud for memory) are scored where `make compare` has trained them;
otherwise the report says that they are missing.

    mirage evaluate --weights_of=demo

scores the weights that ship, or others, on the clips of the work directory;

    mirage evaluate --protocol=revisit --source=captures

scores real captures that come back instead (footage of any layout of docs/data.md, read as
--config.data.* says), and writes <workdir>/revisit/NAME/scores.json.

    mirage evaluate --protocol=closed_loop

starts from the first picture of each held-out clip and walks to and fro along it, everything else
being the model's own: PSNR by chunk, with the memory and with it emptied; writes closed_loop.json.

    mirage evaluate --protocol=memory

scores the returns with histories that are appended or fused, have a tenth of their depths wrong or
all from the geometry head, or have too little room; writes memory.json.

    mirage evaluate --protocol=permanence

scores clips with walking bodies (experiments/living.py): is who went out of sight still there, and
where? It writes permanence.json and permanence.png, and scores baselines, the trained model if
there is one, and folders of other models' videos.

    mirage evaluate --protocol=tracks

compares the bodies that the memory keeps, and the elements of what stands still, with the true
places of all that moves, without a picture: also of Freedoom's monsters (the world
"freedoom_bodies"); writes tracks.json.

    mirage evaluate --protocol=interventions

deletes, moves and exchanges bodies of these clips in memory while nobody looks, deletes things that
the camera walked round, and scores whether what is generated obeys; writes interventions.json.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags
from ml_collections import ConfigDict
from rich.console import Console

from mirage_jax.cli.helpers import (
    common,
    config_check,
    depth_network,
    head_scores,
    held_out_clips,
    input_check,
    interventions,
    model_flags,
    permanence,
    source_flag,
    timing,
    tracks,
    world_names,
)
from mirage_jax.cli.helpers.flag_types import Integer, PathName
from mirage_jax.cli.helpers.sheets import SHEET, sheets_of_returns
from mirage_jax.cli.helpers.source_flag import SOURCE
from mirage_jax.cli.helpers.stored_fields import check_overrides
from mirage_jax.io import outputs
from mirage_jax.io.strict_json import read_object
from mirage_jax.io.workdir import Workdir

_PROTOCOL = flags.DEFINE_enum(
    "protocol",
    "revisit",
    ["revisit", "closed_loop", "memory", "permanence", "tracks", "interventions"],
    "What is scored: places that are seen again, after a true past or one that the model made up, "
    "or as the memory was written; bodies that walked out of sight, in pictures or in the memory "
    "itself; or edits of them.",
)
_WEIGHTS = flags.DEFINE(
    PathName(),
    "weights_of",
    "",
    "Work directory whose trained parts are scored on the clips of --workdir, in place of its own; "
    "demo: the weights that ship. Clips are encoded anew and results written in "
    "<workdir>/weights/NAME.",
)
_RETURNS = flags.DEFINE(Integer(least=1), "returns", 16, "Returns of --source, at most.")
_VIDEOS = flags.DEFINE_list(
    "videos",
    [],
    "NAME=FOLDER of another model's videos, for --protocol=permanence; may be several.",
)
_CASES = flags.DEFINE(
    PathName(),
    "cases",
    "",
    "Folder for what such a model is given; nothing is scored then. For --protocol=permanence.",
)
_PIXELS = flags.DEFINE(
    Integer(least=1),
    "least_pixels",
    80,
    "Of a body, at least, in a view that is judged, for --protocol=permanence or interventions.",
)
_PAIRS = flags.DEFINE_bool(
    "pairs",
    False,
    "Judge pairs of clips, too, in which a body came to its last sight from elsewhere, for "
    "--protocol=permanence.",
)
FLAG_MODULES = (model_flags.__name__, source_flag.__name__)

_GOES_WITH = {
    **dict.fromkeys(("source", "returns", "weights_of"), ("revisit",)),
    **dict.fromkeys(("videos", "cases", "pairs"), ("permanence",)),
    "least_pixels": ("permanence", "interventions"),
    "denoiser": ("closed_loop", "memory", "permanence", "interventions"),
    "bodies": ("revisit", "closed_loop", "permanence", "tracks", "interventions"),
}
"""Flags that mean something with some protocols alone."""


def run(config: ConfigDict, workdir: Workdir, console: Console) -> dict[str, Any]:
    """Evaluates, writes the results and the report, and returns the results.

    The time that is recorded is that of measuring, without writing the report.
    """
    import jax

    from mirage_jax.evaluation import report, results

    config_check.check(config)
    check_outputs(workdir)
    input_check.check_recordings(config, workdir)
    with timing.timed(workdir, "evaluate"):
        found = _measure(config, workdir, console)
    outcome = results.build(
        world=next(iter(found.worlds)),
        worlds=found.worlds,
        seconds=timing.booked(workdir),
        efficiency=found.costs,
        sampling_steps=config.sampling.steps,
        seed=config.seed,
        missing=found.missing + _skipped_worlds(workdir),
        bodies=found.bodies,
        device=str(jax.devices()[0].device_kind),
    )
    results.save(workdir.results, outcome)
    described = "\n".join(common.describe_config(config))
    report.write_report(
        workdir.report, outcome, found.videos, found.pictures, described, found.films
    )
    console.print(f"results: {workdir.results}\nreport:  {workdir.report}")
    return outcome


def check_outputs(workdir: Workdir) -> None:
    """Raises ValueError if the results or the report cannot be written, or would replace others."""
    timing.check(workdir)
    outputs.check_file("evaluate", workdir.results, RESULTS)
    outputs.check_file("evaluate", workdir.report, REPORT)
    for path in workdir.root.glob("returns_*.png"):
        outputs.check_replaceable("evaluate", path, SHEET)


RESULTS = outputs.json_kind("file of results", ["must", "missing", "worlds"])
REPORT = outputs.FileKind(
    "report", lambda path: b"<title>A world that remembers</title>" in path.read_bytes()[:1000]
)


@dataclasses.dataclass(frozen=True)
class _Found:
    """What there is to report: scores by world, of bodies, costs, what is not trained, and what to
    show, of returns and of bodies."""

    worlds: dict[str, Any]
    bodies: dict[str, Any]
    costs: dict[str, Any]
    missing: list[dict[str, str]]
    videos: list[dict[str, Any]]
    films: list[dict[str, Any]]
    pictures: dict[str, tuple[np.ndarray, str]]


def _measure(config: ConfigDict, workdir: Workdir, console: Console) -> _Found:
    import jax

    from mirage_jax.cli.helpers import bodies_section, report_videos
    from mirage_jax.evaluation import efficiency, lpips, protocol

    recorded = workdir.recorded(config.worlds)
    names = world_names.of_places(recorded)
    rolling = model_flags.world_model(workdir, "latent", config)
    models, missing = _models(config, workdir, names, model_flags.as_encoded(rolling, config))
    model = models["latent"]
    worlds: dict[str, Any] = {}
    videos: list[dict[str, Any]] = []
    pictures: dict[str, tuple[np.ndarray, str]] = {}
    for name in names:
        held_out = held_out_clips.read(workdir, name, rgb="rgb" in models)
        console.print(f"evaluating {name}: {len(held_out)} held-out clips")
        sized = {kind: held_out.fitted(one) for kind, one in models.items()}
        generated = protocol.generate(sized, held_out, seed=config.seed)
        alexnet = lpips.installed(sized["latent"].size)
        worlds[name] = protocol.score(held_out, generated, alexnet) | {
            "geometry": head_scores.measure(sized["latent"], held_out)
        }
        shown = config.evaluation.videos
        returns = report_videos.returns(held_out, generated, name, shown, config.evaluation.fps)
        rolled, above = report_videos.rollouts(
            held_out.fitted(rolling), held_out, name, shown, config
        )
        videos += returns + rolled
        pictures |= sheets_of_returns(returns, workdir, name) | above
    bodies: dict[str, Any] = {}
    films: list[dict[str, Any]] = []
    walking, closed = _opened(recorded)
    if rolling.movers is not None and walking:
        bodies, films = bodies_section.measure(rolling, walking, config, workdir, console)
    missing += closed
    encoder = model.encoder
    costs = efficiency.measure(
        size=model.size,
        conditioner=model.conditioner,
        encoder=encoder,
        chunk_frames=model.chunk_frames,
        encode=jax.jit(lambda video: encoder.encode(video[None])),
    )
    return _Found(worlds, bodies, costs, missing, videos, films, pictures)


def _opened(recorded: Sequence[str]) -> tuple[list[str], list[dict[str, str]]]:
    """Those of the worlds in which bodies walk that can be opened here, to judge what is shown of
    them; and the others, with the reason."""
    walking, closed = [], []
    for world in filter(world_names.has_bodies, recorded):
        available, reason = world_names.available(world)
        if not world_names.can_be_staged(world):
            available, reason = False, "cannot be rendered again with a body elsewhere"
        if available:
            walking.append(world)
        else:
            closed.append({"control": "bodies", "world": world, "reason": reason})
    return walking, closed


def _models(
    config: ConfigDict, workdir: Workdir, names: tuple[str, ...], latent: Any
) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """`latent` and comparison models by kind of memory, and those that cannot be scored, and why.

    Raises:
      ValueError: if the held-out clips of these worlds are not cached as the encoder sees them.
    """
    models: dict[str, Any] = {"latent": latent}
    missing = []
    for kind, control in (("none", "no_memory"), ("rgb", "rgb_memory")):
        if not workdir.model(f"denoiser_{kind}").exists():
            reason = "not trained yet: run `make compare`"
        elif kind == "rgb" and (
            outdated := _outdated(models["latent"], workdir, config, names, rgb=True)
        ):
            reason = f"{outdated}: run `make compare`"
        else:
            models[kind] = model_flags.world_model(workdir, kind, config)
            continue
        missing.append({"control": control, "world": "all", "reason": reason})
    rgb = "rgb" in models
    if not rgb and (outdated := _outdated(models["latent"], workdir, config, names, rgb=False)):
        raise ValueError(f"{outdated}; run `mirage train --stage=cache`")
    return models, missing


def _outdated(
    model: Any, workdir: Workdir, config: ConfigDict, names: tuple[str, ...], *, rgb: bool
) -> str:
    """Which cache of held-out clips is not of this encoder and these clips, and why; "" if none."""
    from mirage_jax.training import clip_encoding, latent_cache, latent_encoding
    from mirage_jax.weights import fingerprint

    encoder_id = fingerprint(workdir.model("encoder"))
    settings = clip_encoding.settings_of(
        model, rgb=rgb, depth_network=depth_network.identity(config)
    )
    for name in names:
        path = workdir.latents(name, "eval", rgb=rgb)
        clips = workdir.worlds(name)
        key = latent_encoding.cache_key(encoder_id, clips, "eval", settings, path)
        reason = latent_cache.stale_files(path, key)
        if reason:
            return f"{path}: {reason}"
    return ""


def _skipped_worlds(workdir: Workdir) -> list[dict[str, str]]:
    path = workdir.root / "worlds" / "skipped.json"
    skipped = read_object(path) if path.exists() else {}
    return [{"control": "world", "world": w, "reason": reason} for w, reason in skipped.items()]


def main() -> None:
    config = common.resolve_config()
    workdir = Workdir(common.workdir())
    check_overrides(workdir, "latent", common.overrides()[2], used=())
    for name, protocols in _GOES_WITH.items():
        if flags.FLAGS[name].present and _PROTOCOL.value not in protocols:
            expected = " or ".join(protocols)
            raise common.UserError(
                f"--{name}: found --protocol={_PROTOCOL.value}, expected --protocol={expected}"
            )
    common.prepare_jax(config, workdir)
    if _PROTOCOL.value == "permanence":
        permanence.run(
            config,
            workdir,
            Console(),
            videos=_VIDEOS.value,
            cases=_CASES.value,
            pixels=_PIXELS.value,
            pairs=_PAIRS.value,
        )
    elif _PROTOCOL.value == "tracks":
        tracks.run(config, workdir, Console())
    elif _PROTOCOL.value == "interventions":
        interventions.run(config, workdir, Console(), pixels=_PIXELS.value)
    elif _PROTOCOL.value != "revisit":
        from mirage_jax.cli.helpers import held_out_protocols

        config_check.check(config)
        held_out_protocols.run(_PROTOCOL.value, config, workdir, Console())
    elif SOURCE.value:
        if _WEIGHTS.value:
            raise common.UserError("--weights_of: found --source beside it, expected one of them")
        from mirage_jax.cli.helpers import real_returns

        config_check.check(config)
        for source in SOURCE.value:
            real_returns.run(config, workdir, source, _RETURNS.value, Console())
    elif _WEIGHTS.value:
        from mirage_jax.cli.helpers import other_weights

        config_check.check(config)
        scored = other_weights.prepare(workdir, _WEIGHTS.value, config, Console())
        run(config, scored, Console())
    else:
        run(config, workdir, Console())


def cli() -> None:
    common.run(main, __name__)


if __name__ == "__main__":
    cli()
