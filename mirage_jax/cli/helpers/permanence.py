"""mirage evaluate --protocol=permanence: who walked out of sight, and is due again."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict
from rich.console import Console
from rich.progress import track
from rich.table import Table

from data_pipelines.clip import Clip
from data_pipelines.loading import ClipSource
from mirage_jax.cli.helpers import common, config_check, model_flags, world_names
from mirage_jax.cli.helpers.sheets import SHEET, write_sheet
from mirage_jax.evaluation.permanence.wording import COLUMNS, cell
from mirage_jax.io import outputs
from mirage_jax.io.json_files import write_json
from mirage_jax.io.pictures import contact_sheet
from mirage_jax.io.workdir import Workdir

SHOWN = 9
"""Judged views on the sheet, at most."""


def run(
    config: ConfigDict,
    workdir: Workdir,
    console: Console,
    *,
    videos: Sequence[str] = (),
    cases: str = "",
    pixels: int = 80,
    pairs: bool = False,
) -> dict[str, Any]:
    """Scores the held-out clips of a work directory; writes permanence.json and permanence.png.

    Args:
      config: of the experiment.
      workdir: with recorded clips of walking bodies and, perhaps, trained weights.
      console: for the tables.
      videos: NAME=FOLDER of other models' videos.
      cases: folder to write what those models are given to, in place of scoring; "" scores.
      pixels: of a body, at least, in a judged view.
      pairs: whether to make counterfactual pairs as well; there are no videos of these.
    """
    from mirage_jax.evaluation.permanence import protocol, views
    from mirage_jax.evaluation.permanence import videos as video_folders

    config_check.check(config)
    folders = _folders(videos)
    if pairs and folders:
        raise common.UserError("--pairs: found --videos too, expected one of them")
    if cases:
        outputs.check_folder(f"--cases {cases}", Path(cases))
        for clip in track(list(recorded_clips(config, workdir)), "writing cases", console=console):
            video_folders.write_case(cases, clip)
        return {}
    path = workdir.root / "permanence.json"
    outputs.check_file("evaluate", path, outputs.json_kind("permanence scores", ["methods"]))
    outputs.check_file("evaluate", path.with_suffix(".png"), SHEET)
    clips = sorted(recorded_clips(config, workdir), key=lambda clip: (clip.source, clip.world))
    for folder in folders.values():
        for clip in clips:
            video_folders.video_file(folder, clip)
    model = _model(config, workdir, console)
    shown: list[dict[str, np.ndarray]] = []

    def methods(clip: Any) -> dict[str, np.ndarray]:
        found = {} if model is None else _generated(model, clip, config.seed)
        given = {
            name: video_folders.read_video_of(folder, clip) for name, folder in folders.items()
        }
        return found | given

    def keep(clip: Any, view: Any, pictures: Mapping[str, np.ndarray]) -> None:
        if view.displacement >= protocol.GONE:
            last = {"last sight": clip.video[view.last_seen], "truth": clip.video[view.frame]}
            shown.append(last | {k: v for k, v in pictures.items() if k != "oracle_state"})

    found = protocol.score_clips(
        ((clip, methods(clip)) for clip in track(clips, "scoring clips", console=console)),
        views.ViewOptions(pixels=pixels),
        again=methods if pairs else None,
        each=keep,
    )
    outcome = {
        "denoiser": model_flags.latent_denoiser(),
        "pixels": pixels,
        "seed": config.seed,
        **found.summarise(config.seed),
    }
    write_json(path, outcome)
    if shown:
        _write_sheet(path.with_suffix(".png"), shown)
    for table in tables(outcome):
        console.print(table)
    console.print(f"-> {path}")
    return outcome


def _folders(videos: Sequence[str]) -> dict[str, Path]:
    from mirage_jax.evaluation.permanence.baselines import BASELINES
    from mirage_jax.evaluation.permanence.rollouts import METHODS

    folders: dict[str, Path] = {}
    for word in videos:
        name, equals, folder = word.partition("=")
        path = Path(folder).expanduser()
        if not (name and equals and path.is_dir()):
            raise common.UserError(f"--videos: found {word!r}, expected NAME=FOLDER of videos")
        if name in (*BASELINES, *METHODS, *folders):
            raise common.UserError(f"--videos: found {name!r}, expected a name of its own")
        folders[name] = path
    return folders


class Recorded(NamedTuple):
    """A held-out clip of a world in which bodies walk.

    Attributes:
      folder: of the recording.
      source: of its held-out clips.
      number: which of them.
    """

    folder: Path
    source: ClipSource
    number: int

    def clip(self) -> Clip:
        """The clip; UserError, naming it, if it has no bodies."""
        found = self.source.clip(self.number)
        if found.bodies is None:
            raise common.UserError(
                f"{self.folder}: clip {found.name!r}: found no bodies, expected their states, as "
                "`mirage record` stores them"
            )
        return found


def recorded_by_world(
    worlds: Sequence[str], workdir: Workdir, *, staged: bool = False
) -> dict[str, list[Recorded]]:
    """Held-out clips of the worlds in which bodies walk, none of them read.

    Args:
      worlds: of the config.
      workdir: with their recordings.
      staged: only worlds that can be rendered again with a body elsewhere.

    Raises:
      UserError: if there is no such world.
    """
    walking = tuple(filter(world_names.has_bodies, worlds))
    chosen = tuple(filter(world_names.can_be_staged, walking)) if staged else walking
    if not chosen:
        again = " and which can be rendered again with a body elsewhere" if walking else ""
        raise common.UserError(
            f"worlds: found {', '.join(worlds)}, expected one in which bodies walk{again}, such as "
            "labmaze_bodies"
        )
    found = {}
    for world in workdir.recorded(chosen):
        source = ClipSource(workdir.worlds(world), "eval")
        found[world] = [Recorded(workdir.worlds(world), source, n) for n in range(len(source))]
    return found


def recorded(worlds: Sequence[str], workdir: Workdir) -> list[Recorded]:
    """Those of all worlds that can be rendered again; errors as of `recorded_by_world`."""
    return list(itertools.chain(*recorded_by_world(worlds, workdir, staged=True).values()))


def recorded_clips(config: ConfigDict, workdir: Workdir) -> Iterator[Clip]:
    """All held-out clips whose bodies are judged in pictures; errors as of `recorded` and
    `Recorded.clip`."""
    return (one.clip() for one in recorded(config.worlds, workdir))


def _model(config: ConfigDict, workdir: Workdir, console: Console) -> Any:
    """The trained model of the work directory; None, and said, where there is none."""
    parts = ("encoder", "geometry", f"denoiser_{model_flags.latent_denoiser()}")
    if not all(workdir.model(part).exists() for part in parts):
        console.print(f"{workdir.root}: no trained weights, baselines and videos alone are scored")
        return None
    return model_flags.world_model(workdir, "latent", config)


def _generated(model: Any, clip: Any, seed: int) -> dict[str, np.ndarray]:
    from mirage_jax.evaluation.permanence import rollouts

    return rollouts.videos_of(model, clip, seed=seed)


def _write_sheet(path: Path, shown: list[dict[str, np.ndarray]]) -> None:
    """One column for each of some judged views, one row for each method."""
    chosen = np.linspace(0, len(shown) - 1, min(SHOWN, len(shown))).round().astype(int)
    rows = {label: np.stack([shown[i][label] for i in chosen]) for label in shown[0]}
    write_sheet(path, contact_sheet(rows, columns=SHOWN))


def tables(outcome: Mapping[str, Any]) -> list[Table]:
    """Of all scores, and of presence and state error by hidden time and by kind of hiding."""
    out = outcome["excluded"]
    share = "" if out["share"] is None else f", {100 * out['share']:.0f} % excluded by the encoder"
    methods = {name.replace("_", " "): entry for name, entry in outcome["methods"].items()}
    columns = {  # those that say something, so that all fit
        name: title
        for name, title in COLUMNS.items()
        if any(entry[name]["value"] is not None for entry in methods.values())
    }
    whole = Table(
        "method",
        *columns.values(),
        title=f"{outcome['views']} judged views of {outcome['clips']} clips{share}",
    )
    for method, entry in methods.items():
        whole.add_row(method, *(cell(entry[name], title) for name, title in columns.items()))
    first = next(iter(methods.values()), None)
    if first is None:
        return [whole]
    curves = []
    for name in ("present", "state_error"):
        for group in ("hidden", "kind"):
            title = f"{COLUMNS[name]} by " + (
                "hidden frames" if group == "hidden" else "kind of hiding"
            )
            table = Table("method", *first[group], title=title)
            for method, entry in methods.items():
                cells = (cell(part[name], COLUMNS[name]) for part in entry[group].values())
                table.add_row(method, *cells)
            curves.append(table)
    return [whole, *curves]
