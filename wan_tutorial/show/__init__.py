"""Pictures for people: arrays go in, figures and files come out; no stage of the pipeline knows about this.

    style.py       one look for all pictures, alternative text, tables: how things reach a notebook
    video.py       mp4 files and the plain film strip
    strips.py      videos as film strips, pictures in a row
    latents.py     latents as pictures: the fitted projection to RGB, the sixteen channels
    curves.py      noise levels, shift, errors, the way through the plane
    text_maps.py   tokens, cosines, a map of prompts
    diagram.py     the whole workflow with its shapes
    widgets.py     what moves under the hand: `explore_...`
    lesson.py      what every lesson opens with

Verbs: `plot_` returns a figure, `show_` displays, `explore_` is a widget. The names below are fetched when first used.
"""

from importlib import import_module

_HOMES = {
    "curves": ("plot_bars", "plot_field", "plot_lines", "plot_shift", "plot_sigmas", "plot_trajectory"),
    "diagram": ("Flow", "plot_place", "plot_workflow"),
    "latents": ("Projection", "fit_projection", "plane_of", "plot_channels", "plot_histogram"),
    "lesson": ("count_parameters", "show_machine", "show_place"),
    "strips": ("plot_pictures", "plot_strips"),
    "style": ("show_figure", "show_picture", "show_table"),
    "text_maps": ("cosine_matrix", "plot_cosines", "plot_prompt_map", "plot_tokens"),
    "widgets": (
        "explore_pictures",
        "explore_sampling",
        "explore_steps",
        "explore_words",
        "frame_speeds",
        "scale_word",
    ),
    "video": ("film_strip", "show_video", "to_frames", "write_video"),
}


def __getattr__(name: str) -> object:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *(name for names in _HOMES.values() for name in names)])
