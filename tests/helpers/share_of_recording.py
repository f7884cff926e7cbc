"""One host of several that record together, for tests: FOLDER I N [slow]."""

import sys
import time

from data_pipelines.recording import record
from data_pipelines.sources.procedural import ProceduralSource
from helpers.recordings import SMALL


class Slow(ProceduralSource):
    """Takes its time over each clip."""

    def clips(self, world, count, seed):
        for clip in super().clips(world, count, seed):
            time.sleep(0.3)
            yield clip


def main(folder, number, count, *slow):
    source = (Slow if slow else ProceduralSource)(**SMALL)
    print("begins", flush=True)
    report = record(
        source,
        folder,
        "train",
        9,
        shard_clips=1,
        workers=0,
        progress=False,
        share=(int(number), int(count)),
    )
    print(report.clips, report.missing)


if __name__ == "__main__":
    main(*sys.argv[1:])
