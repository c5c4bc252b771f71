"""Conversions that kill themselves with signal 9 at a put or deletion, each in its own process; for test_store_resume.

Usage: python -m tests.killed_conversions FOLDER CODEC SHARDS OVERWRITE N:MODE ...

Each goes to FOLDER/N-MODE.zarr. MODE says where in the N-th of them the process dies: ``before`` it, or ``within``,
when half of the bytes are in a file that has not its name yet (a deletion has no within). Prints how many a whole
conversion has.
"""

import os
import signal
import sys
import uuid
from pathlib import Path

from zarr.storage import LocalStore

from eds_chunked.store import conversion
from eds_chunked.store.conversion import convert
from tests.made_maps import MadeReader, made_counts

SIDE = 8


def kill_map(seed=0):
    """4 rows of 3 tiles, of which the third and the fourth take more bytes a count."""
    counts = made_counts((29, 23, 13), "u4", seed=seed)
    counts[17, 5, 3] = 300
    counts[28, 22, 12] = 70_000
    return counts


def kill_reader():
    counts = kill_map()
    return MadeReader(counts, rows=5, images=[("BSE", counts[:, :, 0].astype("u2"), None)])


def run(store, codec, shards, overwrite):
    conversion.tile_shape = lambda n_channels: (SIDE, SIDE, n_channels)
    conversion.shard_shape = lambda shape, tile, wanted: (SIDE, 2 * SIDE, tile[2]) if wanted else None
    convert(kill_reader(), store, codec=codec, shards=shards, overwrite=overwrite)


def die_at(number, mode):
    """Make the ``number``-th put or deletion of this process its last."""
    put, delete, puts = LocalStore.set, LocalStore.delete, [0]

    async def counted(self, key, value):
        if puts[0] == number:
            if mode == "within":
                path = self.root / key
                path.parent.mkdir(parents=True, exist_ok=True)
                data = value.to_bytes()
                path.with_suffix(f".{uuid.uuid4().hex}.partial").write_bytes(data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        puts[0] += 1
        await put(self, key, value)

    async def counted_deletion(self, key):
        if puts[0] == number:
            os.kill(os.getpid(), signal.SIGKILL)
        puts[0] += 1
        await delete(self, key)

    LocalStore.set, LocalStore.delete = counted, counted_deletion
    return puts


def main():
    folder, codec, shards, overwrite, *cases = sys.argv[1:]
    for case in cases:
        number, mode = case.split(":")
        pid = os.fork()
        if pid == 0:
            try:
                puts = die_at(int(number), mode)
                run(Path(folder) / f"{number}-{mode}.zarr", codec, shards == "shards", overwrite == "overwrite")
                sys.stdout.write(f"{puts[0]}\n")
                sys.stdout.flush()
            finally:
                os._exit(0)
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
