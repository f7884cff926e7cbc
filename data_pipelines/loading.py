"""Recorded clips to batches: random access, shuffling, windows, hosts, and exact resume.

A position in the stream is one number, the batches consumed so far.  The pipeline is rebuilt and
sliced from there, so that a position saved with two loader processes on four hosts is good for
none on one: grain's own iterator state is not portable in that way.
"""

import contextlib
import dataclasses
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grain
import numpy as np
from absl import flags
from array_record.python.array_record_data_source import ArrayRecordDataSource

from data_pipelines import clip_format
from data_pipelines.clip import ARRAY_FIELDS, META_FIELDS, Bodies, Clip
from data_pipelines.frame_rates import native_fps, nearest_to_rate
from data_pipelines.mixture import Mixture
from data_pipelines.shard_files import find_shards, is_damaged
from data_pipelines.tolerance import (
    SKIPPED,
    Checked,
    KeepingSkipped,
    Skipped,
    Substituting,
    Watch,
    told_file,
)

Element = dict[str, Any]
# Takes one element and a generator seeded by the element's place in the stream alone.
Transform = Callable[[Element, np.random.Generator], Element]


class ClipSource:
    """Random access to the recorded clips of one split, decoding only the fields asked for.

    Elements are dicts of `fields`: arrays of `clip.Clip`, its `Bodies`, and numbers or strings for
    its other fields; ValueError for a clip that lacks one of them.  Picklable; files are opened on
    first use in each process.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        split: str,
        fields: Sequence[str] = ARRAY_FIELDS,
        *,
        optional: Sequence[str] = (),
    ):
        """Finds the shards of `split` in `directory`.

        Args:
          directory: of the recording.
          split: "train" or "eval".
          fields: what elements have.
          optional: more of it, None for a clip that lacks it.

        Raises:
          ValueError: no shards, missing shards (an unfinished recording), no clips, a file that is
            not an ArrayRecord file, or an unknown field.
        """
        clip_format.check_fields((*fields, *optional))
        self.fields, self.optional = tuple(fields), tuple(optional)
        self.paths = find_shards(Path(directory), split)
        try:
            self._records = ArrayRecordDataSource([os.fspath(path) for path in self.paths])
        except RuntimeError as error:
            damaged = next(filter(is_damaged, self.paths), None)
            if damaged is None:  # none of them alone: the disk or the network failed for a moment
                raise ValueError(
                    f"{directory}: {split} shards cannot be opened ({error}), expected ArrayRecord "
                    "files; try again"
                ) from error
            raise ValueError(
                f"{damaged}: damaged {split} shard ({error}); remove it, and `mirage record` makes "
                "it anew"
            ) from error
        self._ends: np.ndarray | None = None
        if len(self._records) == 0:
            raise ValueError(f"{directory}: the {split} shards hold no clips")

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Element:
        # ArrayRecord has verified its own checksums: ours would add a sixth to a read.
        with self._named(index):
            data = self._record(index)
            element = clip_format.decode(data, self.fields, verify=False)
            if self.optional:
                optional = self.optional
                element |= clip_format.decode(data, optional, missing_ok=True, verify=False)
            return element

    def __repr__(self) -> str:
        # Grain puts this into its checkpoints and messages.
        return f"ClipSource({self.paths[0].parent}, {len(self)} clips, fields={self.fields})"

    def clip(self, index: int) -> Clip:
        """Returns clip `index` whole, whatever `fields` says."""
        with self._named(index):
            return clip_format.from_bytes(self._record(index))

    def meta(self) -> list[Element]:
        """Returns names and numbers of all clips (`clip.META_FIELDS`, None where a clip lacks one).

        Reads every record.
        """
        return [self._meta(index) for index in range(len(self))]

    def title(self, index: int) -> str:
        """Names a clip by folder, number and its own name, which is read."""
        return f"{self.paths[0].parent}: clip {index} {self._meta(index)['name']!r}"

    def _meta(self, index: int) -> Element:
        with self._named(index):
            return clip_format.decode(self._record(index), META_FIELDS, missing_ok=True)

    @contextlib.contextmanager
    def _named(self, index: int) -> Iterator[None]:
        """Errors of a clip's contents say which clip of which folder it is."""
        folder = self.paths[0].parent
        try:
            yield
        except ValueError as error:
            if str(error).startswith(str(folder)):
                raise
            raise ValueError(f"{folder}: clip {index}: {error}") from error

    def _record(self, index: int) -> bytes:
        if not 0 <= index < len(self):
            raise IndexError(f"clip {index} of {len(self)}")
        try:
            return self._records[index]
        except RuntimeError as error:
            where = f"{self.paths[0].parent}: clip {index}"
            raise ValueError(f"{where} cannot be read ({self._file(index)}: {error})") from error

    def _file(self, index: int) -> str:
        """Name of the shard that a record is in; of the folder, where shards cannot be opened."""
        if self._ends is None:
            try:
                lengths = [len(ArrayRecordDataSource([os.fspath(path)])) for path in self.paths]
            except RuntimeError:
                return self.paths[0].parent.name
            self._ends = np.cumsum(lengths)
        return self.paths[int(np.searchsorted(self._ends, index, side="right"))].name


@dataclasses.dataclass(frozen=True)
class Window:
    """Keeps `frames` consecutive frames of every array, and of the bodies, from a random start.

    Attributes:
      frames: length of the window.
      stride: starts are multiples of it (counted from frame 0).
    """

    frames: int
    stride: int = 1

    def __call__(self, element: Element, rng: np.random.Generator) -> Element:
        """Returns the element cut to the window.

        Raises:
          ValueError: the clip is shorter than the window, or has no array.
        """
        length = next((len(v) for v in element.values() if isinstance(v, np.ndarray)), None)
        if length is None or length < self.frames:
            raise ValueError(f"found a clip of {length} frames, expected at least {self.frames}")
        start = self.stride * int(rng.integers((length - self.frames) // self.stride + 1))
        return {
            key: cut(value, slice(start, start + self.frames)) for key, value in element.items()
        }


@dataclasses.dataclass(frozen=True)
class AtRate:
    """Keeps the frames nearest in time to a steady rate, for sets of different frame rates.

    Attributes:
      fps: frames per second that are kept, at most those of the clips.
    """

    fps: float

    def __call__(self, element: Element, _: np.random.Generator) -> Element:
        """Returns the element at the rate, its `fps` changed.

        Args:
          element: has `fps`, `cam2world`, and `times` or None, as those of `ClipSource`.

        Raises:
          ValueError: the clip has fewer frames per second.
        """
        length, times = len(element["cam2world"]), element.get("times")
        if times is None:
            times = np.arange(length) / element["fps"]
        rate = native_fps(times)
        if self.fps > rate * (1 + 1e-3):
            raise ValueError(
                f"clip {element.get('name')!r}: found {rate:g} frames per second, expected at "
                f"least {self.fps:g}"
            )
        frames = nearest_to_rate(times, self.fps)
        kept = {key: cut(value, frames) for key, value in element.items()}
        return kept | {"fps": float(self.fps)}

    def check(self, element: Element) -> Element:
        """The element at the rate, whatever parts it has; ValueError as for calling it."""
        return self(element, np.random.default_rng(0))


def cut(value: Any, frames: slice | np.ndarray) -> Any:
    """Some of the frames of an array or of bodies; anything else as it is."""
    if isinstance(value, Bodies):
        return value.cut(frames)
    return value[frames] if isinstance(value, np.ndarray) and value.ndim else value


@dataclasses.dataclass(frozen=True)
class LoaderState:
    """A position in the stream of batches; all that a checkpoint needs of the loader."""

    batches: int = 0


class Batches:
    """An endless iterator of batches that knows its position.  Close it, or use it in `with`."""

    def __init__(self, iterator: Any, state: LoaderState, watch: Watch, skipped: Skipped | None):
        self._iterator = iterator
        self._state = state
        self._watch, self._skipped = watch, skipped

    def __iter__(self) -> Iterator[Element]:
        return self

    def __next__(self) -> Element:
        if self._iterator is None:
            raise StopIteration
        batch = self._watch.draw(self._iterator)
        if self._skipped is not None:
            self._skipped.add(batch.pop(SKIPPED))
        self._state = LoaderState(self._state.batches + 1)
        return batch

    @property
    def state(self) -> LoaderState:
        """Batches consumed since the start of the stream, `start_batch` included."""
        return self._state

    @property
    def skipped(self) -> dict[int, str]:
        """Numbers of the records skipped since `start_batch`, and why they cannot be read."""
        return {} if self._skipped is None else dict(self._skipped.reasons)

    def close(self) -> None:
        """Stops the loader's threads and processes; the stream then ends."""
        if self._iterator is not None:
            self._iterator.close()
            # Left to the interpreter's exit, grain's iterator complains about modules gone first.
            self._iterator = None
        self._watch.close()

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _HostShare(grain.MapDataset):
    """Of every `whole` consecutive elements the `count` from `first` on."""

    def __init__(self, parent: grain.MapDataset, whole: int, first: int, count: int):
        super().__init__(parent)
        self._whole, self._first, self._count = whole, first, count

    def __len__(self) -> int:
        return len(self._parent) // self._whole * self._count

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        batch, place = divmod(index, self._count)
        return self._parent[batch * self._whole + self._first + place]


def batches(
    source: Any,
    transform: Transform | None = None,
    *,
    batch_size: int,
    seed: int,
    workers: int = 0,
    start_batch: int = 0,
    shard: tuple[int, int] = (0, 1),
    mixture: Mixture | None = None,
    skip_share: float = 0.0,
    seconds: float = 600.0,
    say: Callable[[str], None] = warnings.warn,
    told: Path | None = None,
) -> Batches:
    """Returns the endless stream of batches of `source`, from batch `start_batch` on.

    Every epoch is shuffled anew.  The stream depends on `source`, `transform`, `batch_size` and
    `seed` alone: `workers` and earlier stops change nothing, and the members of a global batch and
    their augmentations are the same on any number of hosts (host i of n holds the i-th n-th).

    Args:
      source: random access (`__len__`, `__getitem__`) to elements, e.g. `ClipSource`.
      transform: `f(element, rng)`, e.g. `Window(17)`; must be picklable if `workers` > 0. A record
        of which its `check(element)`, if it has one, raises ValueError is as one that cannot be
        read.
      batch_size: global, over all hosts.
      seed: of the order and of the generators given to `transform`.
      workers: loader processes; 0 = threads of this process.
      start_batch: `LoaderState.batches` of the run to go on from.
      shard: (this host, number of hosts).
      mixture: of the sets that `source` is made of; None draws from all of them alike.
      skip_share: of the records of `source`, how many may be skipped because reading them raises
        ValueError; 0 raises the first. The next of its set that can be read takes their place.
      seconds: how long a batch may take.
      say: called with a line of text for every record that is skipped.
      told: folder of all hosts in which each says what it skips, so that `skip_share` is of what
        they skip together, resumed runs included; None counts for this host and stream alone.

    Drawing a batch raises ValueError when more records had to be skipped, and `LoaderError`, naming
    the clip, when a loader process ends or does not answer.

    Raises:
      ValueError: a batch size the hosts cannot share, or a shard, start or worker count below 0.
    """
    host, hosts = shard
    if not 0 <= host < hosts:
        raise ValueError(f"found shard={shard}, expected (i, n) with 0 <= i < n")
    if batch_size < 1 or batch_size % hosts:
        raise ValueError(f"found batch_size={batch_size}, expected a multiple of {hosts} hosts")
    if start_batch < 0 or workers < 0:
        raise ValueError(f"found start_batch={start_batch}, workers={workers}, expected 0 or more")

    check = getattr(transform, "check", None)
    checked = source if check is None else Checked(source, check)
    watch = Watch(checked, seconds, title=getattr(source, "title", None))
    file = None if told is None else told_file(told, host, hosts)
    skipped = Skipped(checked, skip_share, say, file) if skip_share else None
    lengths = mixture.lengths if mixture else ()
    read = Substituting(watch.source, lengths) if skipped else watch.source
    share = batch_size // hosts

    def shared(dataset: grain.MapDataset) -> grain.MapDataset:
        if transform is not None:
            # Before the host slice, so that an element's generator depends on its global place.
            dataset = dataset.random_map(KeepingSkipped(transform))
        dataset = _HostShare(dataset, batch_size, host * share, share)
        return dataset.batch(share, drop_remainder=True)

    if mixture is None:
        dataset = shared(grain.MapDataset.source(read).seed(seed).shuffle().repeat())
    elif sum(mixture.lengths) != len(source):
        raise ValueError(f"mixture: found {mixture.lengths} clips, expected {len(source)} in all")
    else:
        orders = mixture.orders(seed)
        if not mixture.apart:
            orders = [mixture.mixed(orders).seed(seed)]
        parts = [shared(order.map(read.__getitem__)) for order in orders]
        dataset = mixture.mixed(parts) if mixture.apart else parts[0]
    dataset = dataset[start_batch:]
    # Decoding holds the interpreter lock for about a millisecond per clip: few threads do.
    options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)
    iterable = dataset.to_iter_dataset(options)
    if workers:
        if not flags.FLAGS.is_parsed():
            # Grain's workers read absl flags, which outside of absl.app.run nobody has parsed.
            flags.FLAGS.mark_as_parsed()
        iterable = iterable.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    return Batches(iter(iterable), LoaderState(start_batch), watch, skipped)
