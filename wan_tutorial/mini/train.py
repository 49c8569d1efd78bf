"""Train the scale model, stage by stage, on a CPU or a GPU; every stage resumes where it was cut.

    python -m wan_tutorial.mini.train text --minutes 20         tokenizer and text encoder, from captions
    python -m wan_tutorial.mini.train vae --minutes 60          the VAE, from renders
    python -m wan_tutorial.mini.train latents                   encode the training videos with the released VAE
    python -m wan_tutorial.mini.train decoder --minutes 20      the VAE's decoder alone, on those latents
    python -m wan_tutorial.mini.train traits --minutes 12       a reader of latents, a teacher of the next stages
    python -m wan_tutorial.mini.train transformer --minutes 90  the transformer, from latents and captions
    python -m wan_tutorial.mini.train hints                     encode what the VACE blocks are given, from the same videos
    python -m wan_tutorial.mini.train vace --minutes 120        the VACE blocks of the released transformer, no others
    python -m wan_tutorial.mini.train refine --minutes 45       those blocks again: no answer to a picture that shows nothing
    python -m wan_tutorial.mini.train handover --out FOLDER     averaged weights, 16 bits, in files of 15 MB at most
    python -m wan_tutorial.mini.train takeover --out FOLDER     begin where a hand-over ended, on another machine
    python -m wan_tutorial.mini.train takeover --out assets/mini  begin where the shipped model stands

Each of text, vae, transformer, vace and refine ends by writing its file into assets/mini, in the format of its real counterpart.
The judge has a command of its own (`python -m wan_tutorial.mini.train_judge`), as it must not meet the generator.
"""

import argparse
import sys
from pathlib import Path

import torch

from ..errors import WanError
from ..files import read_tensors
from ..text import load_text_encoder
from ..vae import load_vae
from . import release
from .data import BRIEF_POOL, VideoPool, training_videos
from .handover import hand_over, take_over
from .latents import LatentPool
from .refine_vace import RefiningBatches, refine_vace
from .train_text import train_text
from .train_transformer import Batches, train_transformer, visibility
from .train_vace import HintPool, VaceBatches, grey_latent, train_vace
from .train_vae import train_decoder, train_vae
from .traits import load_reader, train_reader

STAGES = (
    "text",
    "vae",
    "latents",
    "decoder",
    "traits",
    "transformer",
    "hints",
    "vace",
    "refine",
    "handover",
    "takeover",
)


def pools(folder: Path) -> tuple[list[LatentPool], LatentPool]:
    """The transformer's training videos: many scenes, and more of the brief's own."""
    first, count = BRIEF_POOL
    brief = VideoPool(folder, count, split="brief", first_seed=first)
    return [LatentPool(pool) for pool in training_videos(folder)], LatentPool(brief)


def run(options: argparse.Namespace) -> None:
    folder, assets = options.folder, options.assets
    folder.mkdir(parents=True, exist_ok=True)
    if options.stage == "text":
        train_text(folder, minutes=options.minutes, device=options.device)
        release.release_text_encoder(folder, assets)
    elif options.stage == "vae":
        train_vae(folder, minutes=options.minutes, device=options.device, compile=options.compile)
        release.release_vae(folder, assets)
    elif options.stage in ("latents", "decoder"):
        vae = load_vae(read_tensors(assets / release.VAE).require("vae").tensors).to(options.device)
        many, brief = pools(folder)
        if options.stage == "latents":
            for pool in (brief, *many):
                pool.encode(vae)
        else:
            ready = [pool for pool in (brief, *many) if pool.ready]
            release.write_vae(
                train_decoder(folder, vae, ready, minutes=options.minutes, compile=options.compile), assets
            )
    elif options.stage == "traits":
        train_reader(pools(folder)[0], folder, minutes=options.minutes)
    elif options.stage == "transformer":
        tensors = read_tensors(assets / release.TEXT_ENCODER).require("text encoder").tensors
        train_transformer(
            folder,
            load_text_encoder(tensors, device=options.device),
            load_vae(read_tensors(assets / release.VAE).require("vae").tensors).to(options.device),
            Batches(*pools(folder)),
            minutes=options.minutes,
            reader=load_reader(folder).to(options.device),
            device=options.device,
            compile=options.compile,
        )
        release.release_transformer(folder, assets)
    elif options.stage in ("hints", "vace", "refine"):
        many, brief = pools(folder)
        vae = load_vae(read_tensors(assets / release.VAE).require("vae").tensors).to(options.device)
        hints = [HintPool(pool) for pool in (brief, *many)]
        if options.stage == "hints":
            for given in hints:
                given.encode(vae)
        else:
            tensors = read_tensors(assets / release.TEXT_ENCODER).require("text encoder").tensors
            some = torch.from_numpy(brief.read()[:8].astype("float32")).to(options.device)
            model, encoder = release.load_master(assets), load_text_encoder(tensors, device=options.device)
            common: dict = {
                "minutes": options.minutes,
                "visible": visibility(vae, some),
                "device": options.device,
            }
            if options.stage == "refine":
                trained = refine_vace(folder, model, encoder, RefiningBatches(hints, vae), **common)
            else:
                trained = train_vace(
                    folder,
                    model,
                    encoder,
                    VaceBatches(hints, grey_latent(vae, hints[0].size)),
                    reader=load_reader(folder).to(options.device),
                    compile=options.compile,
                    **common,
                )
            release.release_vace(trained, assets)
    elif options.stage == "handover":
        hand_over(folder, options.out)
    else:
        take_over(options.out, folder)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m wan_tutorial.mini.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--minutes", type=float, default=30, help="of training, in all (default: 30)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--compile", action="store_true", help="with torch.compile: slow to start, then faster"
    )
    parser.add_argument(
        "--folder", type=Path, default=Path("outputs/training"), help="videos, checkpoints, curves"
    )
    parser.add_argument("--assets", type=Path, default=release.ASSETS, help="where finished files go")
    parser.add_argument("--out", type=Path, default=Path("outputs/handover"), help="of handover and takeover")
    try:
        run(parser.parse_args(arguments))
    except WanError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
