"""The learning curves of the scale model: kept beside its files as CSV, and drawn as one picture for its card.

python -m wan_tutorial.mini.curves          copy the curves of a finished training, then draw them
"""

import argparse
import csv
import shutil
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ..show import style

# stage -> (column, title, axis)
CURVES = {
    "text": ("guess", "Text encoder: guess hidden words", "cross-entropy (nats)"),
    "vae_frames": ("psnr", "VAE on single frames", "PSNR of crops (dB)"),
    "vae_videos": ("psnr", "VAE on 13 frames", "PSNR of crops (dB)"),
    "vae_decoder": ("psnr", "VAE decoder alone", "PSNR of crops (dB)"),
    "transformer": ("loss", "Transformer: velocity", "training loss"),
    "judge": ("loss", "Judge: match pictures and texts", "contrastive loss"),
}


def read_curve(path: Path, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Minutes and values of one column of a progress.csv."""
    with path.open() as file:
        rows = list(csv.DictReader(file))
    minutes, values = (np.array([float(row[name]) for row in rows]) for name in ("minutes", column))
    kept = minutes <= np.minimum.accumulate(minutes[::-1])[::-1]  # redone after a cut: later counts
    return minutes[kept], values[kept]


def smooth(values: np.ndarray, share: float = 0.05) -> np.ndarray:
    """Running mean over a share of the curve, shorter at its ends."""
    width = max(1, int(len(values) * share))
    weights = np.ones(width)
    ones = np.convolve(np.ones(len(values)), weights, "same")
    return np.convolve(values, weights, "same") / ones


@style.styled
def plot_curves(folder: Path) -> Figure:
    """One panel for each stage whose curve lies in `folder`."""
    stages = [stage for stage in CURVES if (folder / f"{stage}.csv").exists()]
    figure = style.new_figure(2.2 * -(-len(stages) // 3))
    panels = np.atleast_1d(figure.subplots(-(-len(stages) // 3), 3)).ravel()
    told = []
    for axes, stage in zip(panels, stages, strict=False):
        column, title, unit = CURVES[stage]
        minutes, values = read_curve(folder / f"{stage}.csv", column)
        axes.plot(minutes, values, color=style.FAINT, lw=0.8)
        axes.plot(minutes, smooth(values), color=style.BLUE)
        axes.set(xlabel="minutes", ylabel=unit)
        axes.grid(axis="y")
        style.title(axes, title)
        told.append(f"{title}: from {values[0]:.2f} to {smooth(values)[-1]:.2f} in {minutes[-1]:.0f} minutes")
    for axes in panels[len(stages) :]:
        axes.set_visible(False)
    return style.describe(figure, "; ".join(told) + ".")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m wan_tutorial.mini.curves", description=__doc__)
    parser.add_argument(
        "--training", type=Path, default=Path("outputs/training"), help="checkpoints and curves"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("assets/mini/curves"), help="where the curves are kept"
    )
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for stage in CURVES:
        if (options.training / stage / "progress.csv").exists():
            shutil.copy(options.training / stage / "progress.csv", options.out / f"{stage}.csv")
    figure = plot_curves(options.out)
    (options.out / "curves.png").write_bytes(style.to_png(figure, dots=110, colours=96))
    print(figure.get_label())


if __name__ == "__main__":
    main()
