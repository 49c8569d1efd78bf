"""The command `wan-tutorial`: make a video, fetch a model, look into a model file, ask what this machine can run.

Stands in front of the pipeline and adds nothing to it: words become settings here, and a `WanError` becomes one
sentence. Nothing heavy is imported until a command needs it, so help and mistakes in arguments are answered at once.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wan_tutorial.errors import WanError, check_path
from wan_tutorial.machine.weights import EXTRAS, MODELS, ModelFile, bundled_folder, find_file, find_model
from wan_tutorial.sizes import VideoSize
from wan_tutorial.workflow.command import add_workflow_command

if TYPE_CHECKING:
    import numpy as np

    from wan_tutorial.machine.hardware import StageUse
    from wan_tutorial.machine.plan import Plan
    from wan_tutorial.pipeline import Pipeline, Result

STARTED = time.perf_counter()

STOPPED = "stopped; no file is left half-written; a download, or a run with --keep, goes on when asked again."

EXAMPLES = """examples:
  wan-tutorial generate "a sword in a pile of burning wood, dark background"
  wan-tutorial generate "a blue campfire on the sea shore" --negative "blurry" --seed 7 --output outputs/shore.mp4
  wan-tutorial generate "an axe beside the fire" --steps 8 --guidance 4 --sampler euler --strip
  wan-tutorial generate "a torch in the woods at night" --lora mine.safetensors:0.8
  wan-tutorial generate "a sword in a pile of burning wood" --reference assets/bonfire.png --reference-strength 0.8
  wan-tutorial inspect assets/mini/Wan2.1_mini_VACE-Q3_K_S.gguf
  wan-tutorial workflow run assets/workflows/t2v_workflow.json
  wan-tutorial doctor wan2.1-vace-14b-q3 --card T4 --size 832x480 --frames 33 --steps 4 --guidance 1
  wan-tutorial download wan2.1-vace-14b-q3 --folder ~/ComfyUI/models
"""

MODEL_NAMES = """mini, mini-f16, wan2.1-vace-14b-q3, wan2.1-vace-1.3b, or the 14B one in other quantisations:
wan2.1-vace-14b-q4_0, wan2.1-vace-14b-q4_1, wan2.1-vace-14b-q4_k_s, wan2.1-vace-14b-q4_k_m, wan2.1-vace-14b-q5_0,
wan2.1-vace-14b-q5_1, wan2.1-vace-14b-q5_k_s, wan2.1-vace-14b-q5_k_m, wan2.1-vace-14b-q6_k, wan2.1-vace-14b-q8_0,
wan2.1-vace-14b-f16"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 2 for a request that cannot be, 130 when interrupted."""
    options = build_parser().parse_args(arguments)
    # Threads that wait for each other sleep: by default they spin, and a machine that does anything else at the same
    # time then samples ten times slower. Read when PyTorch starts, which is later than here.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        return options.run(options)
    except WanError as error:
        print(f"wan-tutorial: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nwan-tutorial: {STOPPED}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as in `wan-tutorial inspect ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def build_parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="wan-tutorial",
        description="Text-to-video diffusion with Wan2.1-VACE: a scale model for any computer, or the real one.",
        epilog=EXAMPLES,
        formatter_class=shape,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    generate = commands.add_parser(
        "generate",
        help="paint a video from a prompt",
        description="Paint a video from a prompt. Settings that are not given are the model's own.",
        epilog=EXAMPLES,
        formatter_class=shape,
    )
    _add_generate_options(generate)
    generate.set_defaults(run=run_generate)

    inspect = commands.add_parser(
        "inspect",
        help="see what is in a model file",
        description="See what is in a GGUF or safetensors file: architecture, tensors, types and sizes.",
    )
    inspect.add_argument("file", metavar="FILE", help="a .gguf or .safetensors file")
    inspect.add_argument("--tensors", action="store_true", help="list every tensor with its shape and type")
    inspect.set_defaults(run=run_inspect)

    download = commands.add_parser(
        "download",
        help="fetch the files of a real model",
        description="Fetch what is missing of a model's files, into a folder in ComfyUI's models/ layout; an "
        "interrupted download goes on where it stopped. Without a name: the list of what there is.",
    )
    download.add_argument("name", nargs="?", metavar="NAME", help="a model, a LoRA or clip")
    download.add_argument(
        "--folder", type=Path, metavar="DIR", help="your models folder, or ComfyUI itself (default: models/)"
    )
    download.add_argument("--verify", action="store_true", help="compare what is here with its checksums")
    download.set_defaults(run=run_download)

    doctor = commands.add_parser(
        "doctor",
        help="see what this machine has and what it can run",
        description="See what this machine has, and which models run on it, and why; with a model's name the whole "
        "plan: memory and minutes of each stage, before anything is downloaded.",
    )
    _add_doctor_options(doctor)
    doctor.set_defaults(run=run_doctor)

    add_workflow_command(commands)
    return parser


def _add_generate_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", metavar="PROMPT", help="what to see, in words")
    add = parser.add_argument_group("what to paint").add_argument
    add("--negative", metavar="TEXT", default="", help="what not to see (default: nothing)")
    add(
        "--seed", type=int, default=0, metavar="N", help="another seed, another video; 0 or more (default: 0)"
    )
    add("--size", metavar="WxH", help="pixels, multiples of 16, such as 96x96")
    add("--frames", type=int, metavar="N", help="length in frames, 4k + 1, such as 13")
    add = parser.add_argument_group("what else to look at").add_argument
    add(
        "--reference",
        action="append",
        metavar="IMAGE",
        help="a picture whose things are to appear; give it again for another",
    )
    add("--first-frame", metavar="IMAGE", help="a picture to begin with")
    add(
        "--video",
        metavar="FILE",
        help="a video, or a picture that stands still: to follow, or with --mask to keep in part",
    )
    add("--mask", metavar="IMAGE", help="where to paint into the video: white; the rest of it is kept")
    add(
        "--reference-strength",
        type=float,
        default=1.0,
        metavar="S",
        help="how much all of these count; 0 is off (1)",
    )
    add(
        "--fit",
        default="pad",
        metavar="HOW",
        help="a reference of another shape: pad on white, or crop (pad)",
    )
    add = parser.add_argument_group("how to sample").add_argument
    add("--steps", type=int, metavar="N", help="moves from noise to video; more is slower and finer (20)")
    add(
        "--guidance",
        type=float,
        metavar="G",
        help="how hard to follow the prompt; ComfyUI's cfg (6, the scale model 4); 1 is off",
    )
    add("--shift", type=float, metavar="S", help="how long to stay among high noise (8, the scale model 3)")
    add(
        "--sampler",
        metavar="NAME",
        help="uni_pc, uni_pc_bh2, uni_pc_diffusers, dpmpp_2m, euler, heun (uni_pc)",
    )
    add(
        "--scheduler",
        metavar="NAME",
        help="noise levels: simple, normal, sgm_uniform, beta as in ComfyUI, diffusers, official (simple)",
    )
    add = parser.add_argument_group("which model").add_argument
    add("--lora", action="append", default=[], metavar="FILE:STRENGTH", help="a LoRA (.safetensors); FILE alone "
        "means strength 1; give it again for another")  # fmt: skip
    add("--model", default="mini", metavar="NAME", help=f"{MODEL_NAMES} (default: mini)")
    add("--models", type=Path, metavar="DIR", help="folder of downloaded models, such as ComfyUI/models")
    add("--transformer", metavar="FILE", help="your own file in place of the model's (.gguf)")
    add("--text-encoder", metavar="FILE", help="the same (.safetensors)")
    add("--vae", metavar="FILE", help="the same (.safetensors)")
    add("--device", metavar="NAME", help="cpu or cuda (default: for a heavy model a GPU if there is one)")
    add = parser.add_argument_group("what to write").add_argument
    add(
        "--output",
        type=Path,
        default=Path("outputs/video.mp4"),
        metavar="FILE",
        help="default: outputs/video.mp4",
    )
    add("--strip", action="store_true", help="also write a film strip beside it, FILE_strip.png")
    add(
        "--enlarge",
        type=int,
        default=1,
        metavar="N",
        help="write the mp4 N times larger, for the eye (default: 1)",
    )
    add("--keep", metavar="DIR", help="keep the steps here: an interrupted run, asked for again, goes on")
    add("--quiet", action="store_true", help="no progress bars and no notices")


def _add_doctor_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", metavar="MODEL", help="plan a run of this model, such as mini")
    add = parser.add_argument_group("what to plan").add_argument
    add(
        "--card", metavar="NAME", help="another machine than this: T4, L4, A100, 8GB, 12GB, 16GB, 24GB or CPU"
    )
    add("--size", metavar="WxH", help="pixels, multiples of 16 (default: the model's own)")
    add("--frames", type=int, metavar="N", help="length in frames, 4k + 1")
    add("--steps", type=int, metavar="N", help="default: the model's own, as in generate")
    add("--guidance", type=float, metavar="G", help="default: the model's own; 1 halves the work")
    add("--lora", action="store_true", help="with a LoRA")
    add("--reference", action="store_true", help="with a reference image")


# --------------------------------------------------------------------------------------------------- generate


def run_generate(options: argparse.Namespace) -> int:
    """Check the request, make the video, write it, and say what it took."""
    from wan_tutorial.show.video import check_times, check_video_path, film_strip, write_picture, write_video

    output = check_video_path(options.output)
    check_times(options.enlarge)
    size = read_size(options)
    pipe = load_pipeline(options)
    result = pipe.generate(
        options.prompt,
        negative=options.negative,
        seed=options.seed,
        size=size,
        steps=options.steps,
        guidance=options.guidance,
        shift=options.shift,
        sampler=options.sampler,
        scheduler=options.scheduler,
        reference=options.reference,
        first_frame=options.first_frame,
        mask=options.mask,
        video=read_moving(options.video, (size or pipe.entry.size).frames),
        vace_strength=options.reference_strength,
        fit=options.fit,
        loras=[read_lora_option(words) for words in options.lora],
        keep=options.keep,
        progress=not options.quiet,
    )
    began = time.perf_counter()
    written = [write_video(result.video, output, fps=result.fps, times=options.enlarge)]
    if options.strip:
        strip = film_strip(result.video, fps=result.fps, title=result.prompt)
        written.append(write_picture(strip, output.with_name(f"{output.stem}_strip.png")))
    print_report(pipe, result, written, time.perf_counter() - began)
    return 0


def read_size(options: argparse.Namespace) -> VideoSize | None:
    """--size and --frames over the model's own size; None where neither is given."""
    own = find_model(options.model).size
    if options.size is None and options.frames is None:
        return None
    sides = (options.size or f"{own.width}x{own.height}").lower().split("x")
    if len(sides) != 2 or not all(side.strip().isdecimal() and len(side) < 20 for side in sides):
        raise WanError(
            f"--size is WIDTHxHEIGHT in pixels, such as 96x96, not {options.size!r}; --frames has the length."
        )
    width, height = map(int, sides)
    return VideoSize(width, height, own.frames if options.frames is None else options.frames)


def read_moving(path: str | None, frames: int) -> np.ndarray | str | None:
    """A video file's first frames; a picture stays a path."""
    from wan_tutorial.show.video import read_video

    if path is None or Path(path).suffix.lower() in (".png", ".jpg", ".jpeg", ".webp"):
        return path
    return read_video(path, most=frames)


def read_lora_option(words: str) -> tuple[Path, float]:
    """FILE:STRENGTH, or FILE alone for strength 1; a bare name may be that of a LoRA which comes with the package."""
    file, _, number = words.rpartition(":")
    try:
        strength = float(number) if file else 1.0
    except ValueError:
        if file.endswith(".safetensors"):
            raise WanError(
                f"--lora is FILE:STRENGTH, and a strength is a number, not {number!r}: try {file}:1."
            ) from None
        file, strength = "", 1.0  # the colon belongs to the path
    path = check_path(file or words, "LoRA", example="mine.safetensors:1")
    bundled = bundled_folder() / path
    return (bundled if not path.exists() and bundled.is_file() else path), strength


def load_pipeline(options: argparse.Namespace) -> Pipeline:
    """The pipeline that the options ask for."""
    from wan_tutorial.pipeline import load

    return load(
        options.model,
        transformer=options.transformer,
        text_encoder=options.text_encoder,
        vae=options.vae,
        device=options.device,
        folder=options.models,
        progress=not options.quiet,
    )


def print_report(pipe: Pipeline, result: Result, written: Sequence[Path], writing: float) -> None:
    """Where the files are, how to make them again, and what each stage took."""
    s = result.settings
    print()
    for path in written:
        print(f"wrote     {path}")
    print(f"model     {result.model}, {pipe.files['transformer'].name}")
    print(
        f"video     {result.size.width}x{result.size.height}, {result.size.frames} frames at {result.fps} a second"
    )
    print(
        f"settings  seed {result.seed}, {s.steps} steps, guidance {s.guidance:g}, shift {s.shift:g}, "
        f"{s.sampler}, {s.scheduler}"
    )
    if result.given:
        print(f"given     {result.given}, strength {result.vace_strength:g}")
    for name, strength in result.loras:
        print(f"LoRA      {name}, strength {strength:g}")
    for use in (*pipe.meter.stages, *result.stages):
        print(f"{use.name:9} {use.seconds:5.1f} s, {spoken_peak(use)}")
    print(f"write     {writing:5.1f} s")
    print(f"in all    {time.perf_counter() - STARTED:5.1f} s, with the start of Python and its libraries")


def spoken_peak(use: StageUse) -> str:
    """The memory peak of a stage, in words."""
    from wan_tutorial.machine.hardware import spoken_bytes

    gpu = "" if use.gpu_memory_peak is None else f", {spoken_bytes(use.gpu_memory_peak)} on the GPU"
    return f"memory peak {spoken_bytes(use.memory_peak)}{gpu}"


# --------------------------------------------------------------------------------- download, inspect and doctor


def run_download(options: argparse.Namespace) -> int:
    """Fetch a model's files, or print what there is."""
    from wan_tutorial.machine.download import download

    if options.name:
        for path in download(options.name, options.folder, verify=options.verify):
            print(path)
        return 0
    for name, entry in MODELS.items():
        print_files(name, tuple(entry.files.values()), options.folder)
    for name, files in EXTRAS.items():
        print_files(name, files, options.folder)
    return 0


def print_files(name: str, files: Sequence[ModelFile], folder: Path | None) -> None:
    """A model's files: size, licence, where from, and whether they are here."""
    from wan_tutorial.machine.hardware import spoken_bytes

    print(name)
    for file in files:
        size = "" if file.bytes is None else f"{'' if file.exact else 'about '}{spoken_bytes(file.bytes)}, "
        here = "here" if find_file(file, folder) else "not here"
        source = file.address if file.repository else "in this package"
        print(f"  {file.name:58} {here:8}  {size}{file.licence}, {source}")


def run_inspect(options: argparse.Namespace) -> int:
    """Print what a model file holds."""
    from wan_tutorial.files import inspect_file

    summary = inspect_file(options.file)
    print(summary.page(tensors=len(summary.header.entries)) if options.tensors else summary)
    return 0


def run_doctor(options: argparse.Namespace) -> int:
    """Print what this machine has and which models it runs; with a model's name, the plan of a run."""
    from wan_tutorial.machine.hardware import judge_models, read_machine, spoken_bytes

    asked = (options.model, options.card, options.size, options.frames, options.steps, options.guidance)
    if any(value is not None for value in asked) or options.lora or options.reference:
        print(plan_of(options))
        return 0
    machine = read_machine()
    gpu = f"{machine.gpu}, {spoken_bytes(machine.gpu_memory)}" if machine.gpu else "none that PyTorch can use"
    print("this machine")
    print(f"  system     {machine.system}, Python {machine.python}, PyTorch {machine.torch}")
    print(f"  processor  {machine.cores} cores")
    print(f"  memory     {spoken_bytes(machine.memory)}, {spoken_bytes(machine.memory_free)} free")
    print(f"  GPU        {gpu}")
    print(f"  disk       {spoken_bytes(machine.disk_free)} free here")
    print("\nmodels, the real ones in 4 steps with a LoRA")
    for verdict in judge_models(machine):
        print(f"  {verdict.model:24} {'runs' if verdict.runs else 'does not run here'}: {verdict.why}")
        print(f"  {'':24} {MODELS[verdict.model].title}")
    print("\nwan-tutorial doctor MODEL plans a run: memory and minutes of each stage")
    return 0


def plan_of(options: argparse.Namespace) -> Plan:
    """The plan that the options of doctor ask for; without a model, the real one's."""
    from wan_tutorial.machine.hardware import plan_here
    from wan_tutorial.machine.plan import Run, find_card, plan_run
    from wan_tutorial.sampling.denoise import SamplingSettings

    options.model = options.model or "wan2.1-vace-14b-q3"
    entry, size = find_model(options.model), read_size(options)
    run = Run(
        size or entry.size,
        entry.steps if options.steps is None else options.steps,
        entry.guidance if options.guidance is None else options.guidance,
        options.lora,
        options.reference,
    )
    SamplingSettings(steps=run.steps, guidance=run.guidance)  # raises for what cannot be
    return plan_here(entry, run) if options.card is None else plan_run(entry, find_card(options.card), run)


if __name__ == "__main__":
    sys.exit(main())
