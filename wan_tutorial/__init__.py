"""wan_tutorial: text-to-video diffusion (Wan2.1-VACE) in parts small enough to read.

    import wan_tutorial as wan

    pipe = wan.load("mini")
    text = pipe.encode_text("a sword in a fire", negative="blurry")      # words -> embeddings (tokens, dim)
    noise = pipe.draw_noise(wan.VideoSize(96, 96, 13), seed=7)           # seed  -> latent noise (1, 16, F, H, W)
    for step in pipe.denoise(noise, text, steps=20):                     # noise -> clean latent, step by step
        print(step.index, step.sigma)
    video = pipe.decode(step.latent)                                     # latent -> (frames, height, width, 3)

Conventions, the same everywhere:

* time: t = 1 is pure noise, t = 0 is clean; x_t = (1 - t) clean + t noise; velocity = noise - clean;
  the model is told 1000 t, its timestep. Sigma is the same number as t.
* latents are (B, C, F, H, W) in latent cells: 16 channels, 4k + 1 frames in k + 1, 8 x 8 pixels in one.
* pixels are floats in [-1, 1], (frames, height, width, 3), and uint8 only on the screen and in files.
* a seed is drawn on the CPU in float32, as in ComfyUI: the same seed is the same noise on every machine.

Reading order is the order of the stages: sizes, text, noise, sampling/, transformer (with quantization), vae,
reference, lora, pipeline. Importing this package loads nothing: each name below fetches its module when it is first used.
"""

# ruff: noqa: F401  (it reads no list of names but a written-out one, and here that would be a third)

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wan_tutorial.errors import WanError
    from wan_tutorial.experiments import explore
    from wan_tutorial.files import inspect_file
    from wan_tutorial.pipeline import Pipeline, Result, load
    from wan_tutorial.sampling.denoise import SamplingSettings
    from wan_tutorial.show.video import film_strip, show_video, write_video
    from wan_tutorial.sizes import VideoSize

__version__ = "0.1.0"

_HOMES = {
    "load": "pipeline",
    "Pipeline": "pipeline",
    "Result": "pipeline",
    "VideoSize": "sizes",
    "SamplingSettings": "sampling.denoise",
    "WanError": "errors",
    "explore": "experiments",
    "inspect_file": "files",
    "film_strip": "show.video",
    "show_video": "show.video",
    "write_video": "show.video",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
