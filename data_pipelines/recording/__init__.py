"""Records any source of worlds into ArrayRecord shards with a dataset card.

The work is planned first: a list of shards, each with its worlds, counts and seeds, which depends
on the arguments alone.  A shard is therefore the same whichever process records it and whenever,
which is what makes a recording resumable: finished shards are skipped.  A shard appears under its
name only when complete (temporary file, fsync, rename).  Several hosts may share a recording.
"""

from data_pipelines.recording.planning import Job, Shard, plan
from data_pipelines.recording.recorder import Report, check, record
from data_pipelines.recording.shards import read_records
from data_pipelines.recording.workers import RecordingError

__all__ = ["Job", "RecordingError", "Report", "Shard", "check", "plan", "read_records", "record"]
