"""A corpus is a manifest: a table of clips, tab separated, one clip a line, with a header. Nothing here needs torch.

    path         the audio file, relative to the manifest's folder or absolute (required)
    speaker      who speaks; clips with the same name are the same voice (required)
    seconds      length
    transcript   what is said, as text
    phones       what is said, as IPA
    group        clips of one group are the same speech in several voices, aligned frame for frame
    language     a language code such as en-us, de or zh
    sex          f or m
    sample_rate  Hz that the recording's band really fills, which a file's own rate may exceed
    split        train (also when empty), valid or test

Other columns, such as accent, are kept: ``losses.adversary_label`` may name any of them. A column ``pseudo_labels``
holds numbers from 0 on, one for each frame of the content code (31.25 a second; silence is trimmed as for training
unless the clip is in a group): frame-level targets, clustered ASR features or aligned phones, for
``losses.pseudo_labels``. Values hold no tab and no line break, and quotes mean nothing.
"""

from vconv.data.manifest.layouts import LAYOUTS, MICROPHONES, Layout, Microphone, Note, Skipped
from vconv.data.manifest.phones import phonemize
from vconv.data.manifest.preparing import MIN_SECONDS, Part, Prepared, prepare, read_held_out, split_clips
from vconv.data.manifest.table import (
    COLUMNS,
    REQUIRED,
    SPLITS,
    TEST,
    TRAIN,
    VALID,
    Clip,
    open_table,
    read_manifest,
    scan_manifest,
    unseen,
    write_manifest,
)

__all__ = [
    "COLUMNS",
    "LAYOUTS",
    "MICROPHONES",
    "MIN_SECONDS",
    "REQUIRED",
    "SPLITS",
    "TEST",
    "TRAIN",
    "VALID",
    "Clip",
    "Layout",
    "Microphone",
    "Note",
    "Part",
    "Prepared",
    "Skipped",
    "open_table",
    "phonemize",
    "prepare",
    "read_held_out",
    "read_manifest",
    "scan_manifest",
    "split_clips",
    "unseen",
    "write_manifest",
]
