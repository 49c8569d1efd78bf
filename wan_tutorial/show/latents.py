"""Latents as pictures: a quick look through a fitted projection to RGB, and the sixteen channels one by one.

In: latents (1, 16, F, H, W). Out: small RGB videos and figures. The projection stands in for the VAE where a preview
is wanted at every step: seventeen numbers for each colour, fitted by least squares to pairs of latents and their
pixels. ComfyUI keeps such a table for every model (`comfy/latent_formats.py`: `latent_rgb_factors`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from wan_tutorial.errors import WanError
from wan_tutorial.show import style

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Projection:
    """A linear map from the 16 numbers of a latent cell to its average colour."""

    weight: np.ndarray  # (16, 3)
    bias: np.ndarray  # (3,)
    explained: float  # share of the colours' variance that it explains on the pairs it was fitted to

    def __call__(self, latent: Tensor | np.ndarray) -> np.ndarray:
        """A latent (1, 16, F, H, W) as a small video (F, H, W, 3) in [-1, 1]."""
        cells = _array(latent).transpose(1, 2, 3, 0)  # (F, H, W, 16)
        return np.clip(cells @ self.weight + self.bias, -1, 1)


def fit_projection(latents: list[Tensor], videos: list[Tensor]) -> Projection:
    """Fit the projection to pairs of a latent (1, 16, F, H, W) and its video (frames, height, width, 3) in [-1, 1]."""
    if not latents or len(latents) != len(videos):
        raise WanError(
            f"The projection is fitted to pairs, not to {len(latents)} latents and {len(videos)} videos."
        )
    cells = np.concatenate([_array(latent).reshape(16, -1).T for latent in latents])  # (N, 16)
    colours = np.concatenate([average_cells(np.asarray(video)).reshape(-1, 3) for video in videos])  # (N, 3)
    inputs = np.concatenate([cells, np.ones((len(cells), 1))], axis=1)
    solution, *_ = np.linalg.lstsq(inputs, colours, rcond=None)
    left_over = colours - inputs @ solution
    explained = 1 - left_over.var(axis=0).sum() / max(colours.var(axis=0).sum(), 1e-12)
    return Projection(solution[:16], solution[16], float(explained))


def average_cells(video: np.ndarray) -> np.ndarray:
    """The mean colour of what each latent cell stands for: 8 x 8 pixels of the first frame, then of every four.

    (4k + 1, 8H, 8W, 3) -> (k + 1, H, W, 3).
    """
    frames, height, width, _ = video.shape
    cells = video.reshape(frames, height // 8, 8, width // 8, 8, 3).mean(axis=(2, 4))  # (frames, H, W, 3)
    rest = cells[1:].reshape(-1, 4, *cells.shape[1:]).mean(axis=1)
    return np.concatenate([cells[:1], rest])


def plane_of(vectors: np.ndarray, *, axes: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """The directions in which vectors (N, D) differ most (principal components): places (N, 2), shares (2,)."""
    centred = vectors - vectors.mean(axis=0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    shares = sizes**2 / max((sizes**2).sum(), 1e-12)
    places = left * sizes
    signs = np.sign(
        places[np.abs(places).argmax(axis=0), range(places.shape[1])]
    )  # the same picture on every machine
    return (places * signs)[:, :axes], shares[:axes]


@style.styled
def plot_channels(latent: Tensor | np.ndarray, *, frame: int = 0, title: str = "") -> Figure:
    """The 16 channels of one latent frame, side by side, on one scale: blue below the mean, orange above it."""
    channels = _array(latent)[:, frame]  # (16, H, W)
    reach = float(np.quantile(np.abs(channels), 0.995))
    aspect = channels.shape[1] / channels.shape[2]
    figure, grid = style.picture_grid(2, 8, aspect=aspect, below=0.18, top=0.3 if title else 0.02, right=0.85)
    for index, axes in enumerate(grid.ravel()):
        picture = axes.imshow(channels[index], cmap=style.AROUND, vmin=-reach, vmax=reach)
        axes.set_xlabel(f"{index}", fontsize=7.5, labelpad=2, color=style.GREY)
    low, high = grid[1, 7].get_position(), grid[0, 7].get_position()
    bar = figure.colorbar(picture, cax=figure.add_axes((high.x1 + 0.012, low.y0, 0.012, high.y1 - low.y0)))
    bar.outline.set_visible(False)
    bar.set_label("standard deviations", fontsize=8)
    style.page_title(figure, title)
    words = (
        f"The 16 channels of latent frame {frame} as maps of {channels.shape[2]} by {channels.shape[1]} cells"
    )
    spread = (
        f"values from {channels.min():.1f} to {channels.max():.1f}, standard deviation {channels.std():.2f}"
    )
    return style.describe(figure, f"{title + ': ' if title else ''}{words}; {spread}.")


@style.styled
def plot_histogram(groups: dict[str, Tensor | np.ndarray], *, title: str = "", reach: float = 4.5) -> Figure:
    """How often each value occurs in some latents, {name: latent}, beside the bell curve of pure noise."""
    figure = style.new_figure(2.5, width=style.WIDTH * 0.75)
    axes = figure.subplots()
    edges = np.linspace(-reach, reach, 73)
    middle = (edges[1:] + edges[:-1]) / 2
    axes.fill_between(
        middle, np.exp(-(middle**2) / 2) / np.sqrt(2 * np.pi), color=style.FAINT, lw=0, label="N(0, 1)"
    )
    told = []
    for (name, latent), colour in zip(groups.items(), style.CYCLE, strict=False):
        values = _array(latent).ravel()
        heights, _ = np.histogram(values, edges, density=True)
        axes.plot(middle, heights, color=colour, label=name, lw=1.8)
        told.append(f"{name}: mean {values.mean():.2f}, standard deviation {values.std():.2f}")
    axes.set(xlabel="value of a latent number", ylabel="share", xlim=(-reach, reach), yticks=[])
    axes.legend(loc="upper right")
    style.title(axes, title)
    return style.describe(figure, f"{title or 'Histogram'}. " + "; ".join(told) + ".")


def _array(latent: Tensor | np.ndarray) -> np.ndarray:
    """(1, 16, F, H, W) or (16, F, H, W), of whatever kind -> (16, F, H, W) float64 on the CPU."""
    values = latent.detach().cpu().numpy() if hasattr(latent, "detach") else np.asarray(latent)
    values = values[0] if values.ndim == 5 else values
    if values.ndim != 4 or values.shape[0] != 16:
        raise WanError(f"A latent has the shape (1, 16, F, H, W), not {values.shape}: pass a step's latent.")
    return values.astype(np.float64)
