"""Write the measured part of the model card from the evaluation file: no figure is copied by hand.

python -m wan_tutorial.mini.card                          assets/mini/evaluation.json into assets/mini/README.md
python -m wan_tutorial.mini.card --add lora=FILE.json     first takes what evaluate_lora found into evaluation.json
    reference=FILE.json with_lora=FILE.json               ... and evaluate_reference, without and with --lora
"""

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .captions import BRIEF_NEGATIVE, WORDS
from .evaluate import write_json
from .release import ASSETS

Row = Mapping[str, Any]
BEGIN, END = "<!-- measured: written by wan_tutorial.mini.card -->", "<!-- end of measured -->"
COLUMNS = {
    "judge_on_renders": "renders",
    "judge_on_held_out_combinations": "renders of held-out combinations",
    "judge_on_reconstructions": "through the VAE",
    "brief": "the bonfire prompt",
    "captions_train": "captions",
    "captions_held_out": "held-out combinations",
    "free_phrasings": "free phrasings",
}
NAMES = {
    "flame_size": "flame size",
    "camera": "camera, by optical flow",
    "hue": "colour, as hue in the flames",
}


def spoken(row: Row | None, unit: str = "%") -> str:
    """A figure with its interval: "98 % (93 to 99)", or "25.3 dB (24.7 to 25.9)"; empty where nothing was measured."""
    if not row or row["value"] is None:
        return ""
    if unit == "%":
        return f"{100 * row['value']:.0f} % ({100 * row['low']:.0f} to {100 * row['high']:.0f})"
    return f"{row['value']:.1f} {unit} ({row['low']:.1f} to {row['high']:.1f})"


def table_of_words(figures: Row) -> Iterator[str]:
    """How often each attribute is seen, one column for each kind of prompt."""
    columns = {key: title for key, title in COLUMNS.items() if key in figures}
    counts = {key: figures[key]["subject"]["n"] for key in columns}
    yield "| | " + " | ".join(f"{title} ({counts[key]})" for key, title in columns.items()) + " |"
    yield "|---" * (len(columns) + 1) + "|"
    for name in (*(name for name in WORDS if name != "defect"), "hue"):
        cells = (spoken(figures[key].get(name)) for key in columns)
        yield f"| {NAMES.get(name, name)} | " + " | ".join(cells) + " |"


def describe(report: Row) -> Iterator[str]:
    """The lines of the measured part, paragraph by paragraph."""
    figures, own = report["figures"], report["settings"]
    yield (
        "On the files named in [evaluation.json](evaluation.json) with their hashes; 95 % intervals in brackets; "
        f"Q3_K_S, {own['steps']} steps, guidance {own['guidance']:g}, shift {own['shift']:g}, {own['sampler']}, "
        f"against {BRIEF_NEGATIVE!r}; seeds 0 to n - 1."
    )
    vae = figures["vae"]
    frames = ", ".join(f"{row['value']:.1f}" for row in vae["psnr_by_frame"])
    sharp = ", ".join(f"{name} {row['value']:.2f}" for name, row in vae["sharpness"].items())
    yield (
        f"\n**VAE**, {vae['psnr']['n']} renders that no training saw: {spoken(vae['psnr'], 'dB')}; worst frame "
        f"{vae['psnr_worst_frame']['value']:.1f}; inside flame and subject {spoken(vae['psnr_in_mask'], 'dB')}. By "
        f"frame: {frames}. Gradient energy against the render (1 is as sharp): {sharp}."
    )
    readings = (figures[key].get("subject_without_defects") for key in COLUMNS if key.startswith("judge_"))
    clear = [spoken(row) for row in readings if row]
    yield (
        "\n**Words obeyed**, as the judge reads them; a caption counts only for what it names, the bonfire prompt for all "
        "that its renders share. The first three columns say how well the judge reads renders, and renders of combinations "
        "that it never met either, and what the VAE leaves of the first. Of those that have no defect, as no caption here "
        f"asks for one, it reads the subject in {', '.join(clear)}.\n"
    )
    yield from table_of_words(figures)
    if "novelty" in figures:
        new = figures["novelty"]
        yield (
            f"\n**Does it paint or replay?** The bonfire prompt goes with "
            f"{new['training_renders_of_the_brief_prompt']} training renders. From the nearest of "
            f"{new['training_latents_compared']} of them its generated latents differ by {new['generated']['value']:.3f} "
            f"(root mean square), new renders by {new['new_renders']['value']:.3f}; what replays would come far closer."
        )
    if "likeness" in figures:
        like, motion = figures["likeness"], figures["motion"]
        yield (
            f"\n**Likeness and motion** ({like['generated']['n']} captions): Fréchet distance in the judge's features "
            f"{like['generated']['value']:.2f}, against {like['other_renders']['value']:.2f} for other renders of the same "
            f"captions, which is the least that so few samples allow, and {like['reconstructed']['value']:.3f} for VAE "
            "reconstructions, each of which has its own render beside it. "
            f"Flames flicker {motion['flicker']['ratio']:.2f} times as much as in renders, and what moves rises "
            f"{motion['rise']['ratio']:.2f} times as fast. Spread over 8 seeds of the bonfire prompt: "
            f"{figures['brief']['variety']['ratio']:.2f} of that of renders."
        )
    sizes = {name[5:]: row for name, row in figures.items() if name.startswith("size_")}
    for size, row in sizes.items():
        told = ", ".join(f"{NAMES.get(name, name)} {spoken(row[name])}" for name in row if name in WORDS)
        yield f"\n**At {size}**: {told}."
    if "negative" in figures:
        rows = {name: row["any"] for name, row in figures["negative"].items() if name.startswith("against")}
        told = "; ".join(f"{name} {spoken(row)}" for name, row in rows.items())
        yield f"\n**Videos with a defect** at guidance {figures['negative']['guidance']:g}: {told}."
    yield from describe_lora(figures.get("lora", {}))
    yield from describe_reference(figures.get("reference", {}))
    if "files_compared" in figures:
        yield "\n| transformer | subject | relation | colour | setting |\n|---|---|---|---|---|"
        for name, row in figures["files_compared"].items():
            cells = (spoken(row.get(key)) for key in ("subject", "relation", "colour", "setting"))
            yield f"| `{name}` | " + " | ".join(cells) + " |"


WAYS = {
    "own_steps_guided": "all steps, guided",
    "4_steps_guided": "4 steps, guided",
    "4_steps_unguided": "4 steps, unguided",
    "4_steps_with_lora": "4 steps, unguided, with the LoRA",
}
LOOKS = {
    "base": "no LoRA",
    "look": "the look's LoRA",
    "learner": "one of three minutes",
    "control": "one of ordinary renders",
}


def describe_lora(figures: Row) -> Iterator[str]:
    """What evaluate_lora found."""
    if "few_steps" in figures:
        few = figures["few_steps"]
        count = few["own_steps_guided"]["identity"]["n"]
        yield (
            f"\n**The LoRA for 4 steps** ({count} captions): {100 * few['adherence_kept']:.0f} % of the adherence of all "
            f"steps, in {few['time_ratio']:.3f} of their time.\n"
        )
        yield "| | words obeyed | Fréchet distance | flicker | likeness of first and last moment | seconds |"
        yield "|---" * 6 + "|"
        for way, title in WAYS.items():
            row = few[way]
            yield (
                f"| {title} | {spoken(row['adherence'])} | {row['frechet']:.2f} | {row['motion']['flicker']['ratio']:.2f} | "
                f"{row['identity']['value']:.2f} | {row['seconds']['value']:.2f} |"
            )
    if "look" in figures:
        yield "\n**A look by LoRA**, as probes read it that learned from renders: the look seen, and the prompt obeyed.\n"
        yield "| | the look is seen | words obeyed |\n|---|---|---|"
        for name, title in LOOKS.items():
            if name in figures["look"]:
                row = figures["look"][name]
                yield f"| {title} | {spoken(row['look_seen'])} | {spoken(row['obeyed'])} |"


def describe_reference(figures: Row) -> Iterator[str]:
    """What evaluate_reference found."""
    if "identity" in figures:
        row = figures["identity"]
        told = ", ".join(f"{name} {spoken(row[name])}" for name in ("reference", "scrambled", "absent"))
        yield (
            f"\n**Which of ten was the reference**, read from the generated frames by what no prompt names; by chance "
            f"{100 * row['chance']:.0f} %: {told}, of {row['reference']['n']} videos."
        )
        if "with_lora" in row:  # what evaluate_reference finds with --lora
            yield f"In 4 steps with the LoRA: reference {spoken(row['with_lora'])}."
        told = ", ".join(
            f"{key[9:]}: {spoken(row[key])} of {row[key]['n']}" for key in row if key.startswith("guidance_")
        )
        if told:
            yield f"The reference at guidance {told}."
        told = ", ".join(
            f"{name.replace('_', ' ')} {spoken(row[name]['obeyed'])}"
            for name in (
                "reference",
                "scrambled",
                "absent",
                *(key for key in row if key.startswith("guidance_")),
            )
            if "obeyed" in row.get(name, {})
        )
        if told:
            yield f"Words obeyed in the same videos: {told}."
        told = ", ".join(
            f"{name.replace('_', ' ')} {spoken(row[name]['camera'])}"
            for name in row
            if "camera" in _figure(row[name])
        )
        if told:
            yield f"The camera moves as asked: {told}."
        for where, by_change in (
            ("", row.get("by_change")),
            (" in 4 steps", row.get("with_lora", {}).get("by_change")),
        ):
            if by_change:
                told = ", ".join(f"{name.replace('_', ' ')} {spoken(one)}" for name, one in by_change.items())
                yield f"By what the prompt changes{where}: {told}."
    if "first_frame" in figures:
        row = figures["first_frame"]
        yield (
            f"\n**A first frame given**: frame 0 is {spoken(row['generated'], 'dB')} from it; the VAE alone keeps "
            f"{spoken(row['vae'], 'dB')}, of {row['vae']['n']} videos. That is {spoken(row['below_the_vae'], 'dB')} less"
            + "".join(
                f", at guidance {key[9:]} {spoken(row[key], 'dB')}"
                for key in row
                if key.startswith("guidance_")
            )
            + "."
        )
    if "region" in figures:
        row = figures["region"]
        yield (
            f"\n**A region painted anew** in another colour: outside it {spoken(row['outside'], 'dB')}, the VAE alone "
            f"{spoken(row['outside_vae'], 'dB')}; the colour asked for is seen {spoken(row['inside']['colour'])}."
        )
    if "strength" in figures:
        row = figures["strength"]
        told = ", ".join(
            f"{s:g}: {effect['value']:.3f}"
            for s, effect in zip(row["strengths"], row["effects"], strict=True)
        )
        yield f"\n**Mean change of a pixel by the reference's strength**: {told}."
    if "nothing" in figures:
        told = "; ".join(
            f"{title}: "
            + ", ".join(
                f"{name} {100 * figures['nothing'][key][name]['value']:.0f} %"
                for name in ("subject", "colour", "setting")
            )
            for key, title in (("at_rest", "VACE at rest"), ("nothing_given", "VACE given nothing"))
        )
        yield f"\n**Words obeyed with** {told}."


def _figure(row: Any) -> Row:
    return row if isinstance(row, dict) else {}


def take_in(figures: dict[str, Any], name: str, found: dict[str, Any]) -> None:
    """Put what was measured apart among the figures; of a reference with the LoRA, what belongs beside that without."""
    if name == "with_lora":
        own = found["identity"]
        figures["reference"]["identity"][name] = own["reference"] | {"by_change": own.get("by_change", {})}
    else:
        figures[name] = found


def fill_card(card: str, report: Row) -> str:
    """The card with everything between its two marks written anew."""
    before, _, rest = card.partition(BEGIN)
    _, _, after = rest.partition(END)
    return "\n".join((before + BEGIN, *describe(report), END)) + after


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m wan_tutorial.mini.card", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--assets", type=Path, default=ASSETS, help="folder of evaluation.json and README.md")
    parser.add_argument(
        "--add",
        nargs="*",
        default=(),
        metavar="NAME=FILE",
        help="figures measured apart: lora, reference, with_lora",
    )
    given = parser.parse_args()
    card, figures = given.assets / "README.md", given.assets / "evaluation.json"
    report = json.loads(figures.read_text())
    for name, _, file in (part.partition("=") for part in given.add):
        take_in(report["figures"], name, json.loads(Path(file).read_text()))
    if given.add:
        write_json(report, figures)
    card.write_text(fill_card(card.read_text(), report))


if __name__ == "__main__":
    main()
