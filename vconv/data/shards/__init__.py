"""A manifest's clips as tar files that are read from the beginning to the end: no seek, and no file for each clip.

The convention is WebDataset's (Aizman et al. 2019, "High Performance I/O For Large Scale Deep Learning", section IV):
a sample is a run of files in a tar whose names have the same part before the first dot.

    train-000000.tar    000000017.flac     mono, 24 kHz, 16 bit; trimmed, at the reference loudness less 6 dB
                        000000017.f0.npy   [frames] float32, Hz, 0 where unvoiced
                        000000017.json     the manifest's columns: speaker, seconds, transcript, phones, group ...
    valid-000000.tar
    index.json          the shards with their clips, seconds, bytes and SHA-256

The key is the number of the clip in its manifest. Clips are in random order; those of an aligned group are neighbours
in one shard. Nothing here needs torch.
"""

from vconv.data.shards.format import INDEX, Sample, Shard, ShardIndex, open_index
from vconv.data.shards.reading import BUFFER, Consumer, shards_of, stream
from vconv.data.shards.tar import read_samples
from vconv.data.shards.writing import write_shards

__all__ = [
    "BUFFER",
    "INDEX",
    "Consumer",
    "Sample",
    "Shard",
    "ShardIndex",
    "open_index",
    "read_samples",
    "shards_of",
    "stream",
    "write_shards",
]
