"""Pictures for people: arrays go in, figures and files come out; no stage of the pipeline knows about this.

    style.py       one look for all pictures, alternative text, tables: how things reach a notebook
    video.py       mp4 files and the plain film strip
    strips.py      videos as film strips, pictures in a row
    latents.py     latents as pictures: the fitted projection to RGB, the sixteen channels
    curves.py      noise levels, shift, errors, the way through the plane
    text_maps.py   tokens, cosines, a map of prompts
    diagram.py     the whole workflow with its shapes
    inside.py      the transformer from inside: its way, tokens, clocks, modulation, who looks when
    attention.py   attention painted over the video, and its explorer
    bits.py        blocks of packed weights, files as maps, bits against error; the quantisation explorer
    memory.py      what a run takes of a card's memory; the calculator
    timeline.py    a run as a skyline, predicted against measured
    panel.py       a picture under controls, drawn anew whenever one moves
    pixels.py      which frames a latent frame reaches; the latent-frame editor
    lora.py        low rank, parts by size, the layers a LoRA reaches; its sliders
    reference.py   the 96 channels that the VACE blocks are fed
    training.py    a training that can be watched and stopped; the fireside world under the hand
    widgets.py     what moves under the hand: `explore_...`
    lab.py         the prompt lab, which `wan.explore()` opens
    runs.py        runs to look at: films, comparisons, grids, a page to hand in
    lesson.py      what every lesson opens and ends with

Verbs: `plot_` returns a figure, `show_` displays, `explore_` is a widget. The names below are fetched when first used.
"""

from importlib import import_module

_HOMES = {  # by file
    "attention": "explore_attention latent_moments plot_light word_rows",
    "bits": "explore_block explore_quantization plot_bit_damage plot_block_types plot_costs plot_files",
    "curves": "plot_bar_groups plot_bars plot_field plot_lines plot_shift plot_sigmas plot_trajectory",
    "diagram": "Flow plot_workflow",
    "inside": "plot_clocks plot_frame_tables plot_modulation plot_patches plot_transformer",
    "latents": "fit_projection plane_of plot_channels plot_histogram",
    "lesson": "count_parameters read_evaluation results_folder say_share show_costs show_machine show_obedience show_place",
    "pixels": "explore_latent_frames plot_reach",
    "lora": "explore_loras plot_grid plot_layers plot_low_rank plot_parts",
    "memory": "explore_memory plot_memory",
    "reference": "plot_context",
    "strips": "plot_pictures plot_strips",
    "timeline": "plot_timelines show_forecast",
    "style": "show_figure show_picture show_table",
    "text_maps": "cosine_matrix plot_cosines plot_prompt_map plot_tokens",
    "training": "TrainingBoard explore_scene training_minutes",
    "widgets": "explore_pictures explore_sampling explore_steps explore_walk explore_words frame_speeds scale_word",
    "video": "film_strip moving_picture show_video to_frames write_video",
}


def __getattr__(name: str) -> object:
    for module, names in _HOMES.items():
        if name in names.split():
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *(name for names in _HOMES.values() for name in names.split())])
