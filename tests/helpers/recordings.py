"""Small recordings for tests."""

from data_pipelines.recording import read_records, record

SMALL = {"size": 8, "frames": 10, "train_worlds": 3, "eval_worlds": 2, "ball": False}


def quiet(source, path, split="train", count=7, **options):
    options = {"workers": 0, "progress": False, "shard_clips": 3, **options}
    return record(source, path, split, count, **options)


def records(path):
    return {shard.name: list(read_records(shard)) for shard in sorted(path.glob("*.array_record"))}
