"""2-D maps of what a model makes of clips, as PNG."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from vconv.errors import InputError
from vconv.evaluation.seen import Seen, pooled

_NAMED_SPEAKERS = 12  # more would not be told apart by colour, and get no legend


def draw_maps(seen: Seen, folder: Path) -> None:
    """codes_pca, codes_tsne, and embeddings_pca and embeddings_tsne if there are any: a dot a clip, a colour a speaker.

    Good embeddings lie in a heap for each speaker; in a good code, the speakers are mixed.

    Raises:
        InputError: the folder cannot be written to.
    """
    speakers = [clip.speaker for clip in seen.clips]
    shown = [("codes", pooled(seen.content))]
    if seen.embeddings:
        shown.append(("embeddings", np.stack(seen.embeddings)))
    for what, values in shown:
        for how, title, place in (("pca", "PCA", pca), ("tsne", "t-SNE", tsne)):
            _draw(place, values, speakers, f"{what}, {title}", folder / f"{what}_{how}.png")


def pca(values: np.ndarray) -> np.ndarray:
    """Along the two directions of the largest variance: [N, C] -> [N, 2]."""
    centred = values - values.mean(axis=0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    return centred @ directions[:2].T


def tsne(values: np.ndarray) -> np.ndarray:
    """Neighbours stay neighbours: [N, C] -> [N, 2]."""
    from sklearn.manifold import TSNE

    perplexity = min(30.0, max(2.0, (len(values) - 1) / 4))
    return TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(values.astype(np.float32))


def _draw(
    place: Callable[[np.ndarray], np.ndarray], values: np.ndarray, speakers: list[str], title: str, path: Path
) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    points = place(values)
    figure = Figure(figsize=(7, 6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(title=title, xticks=[], yticks=[])
    names = sorted(set(speakers))
    for number, name in enumerate(names):
        mine = points[[speaker == name for speaker in speakers]]
        # Colours of the wheel by the golden angle: neighbours in the alphabet are far apart, at any number.
        hue = number * 0.618 % 1
        axes.scatter(*mine.T, s=18, color=_colour(hue), marker="os^Dv"[number % 5], label=name, alpha=0.8)
    if len(names) <= _NAMED_SPEAKERS:
        axes.legend(fontsize=8)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose another place with -o") from error


def _colour(hue: float) -> tuple[float, float, float]:
    import colorsys

    return colorsys.hls_to_rgb(hue, 0.45, 0.75)
