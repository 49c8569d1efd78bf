"""Exercises of lesson 09: how many minutes the steps take, and whether a run fits a machine."""

from __future__ import annotations

from collections.abc import Sequence

from wan_tutorial.exercises.marking import Exercise, Misconception

Needs = Sequence[tuple[float, float]]  # for each stage, the gigabytes of RAM and of VRAM that it takes


def step_minutes(work: float, steps: int, guidance: float, speed: float) -> float:
    """Minutes of all steps: `work` FLOP for each look of the transformer, `speed` FLOP a second."""
    looks = steps if guidance == 1 else 2 * steps
    return looks * work / speed / 60


def run_fits(stages: Needs, ram: float, vram: float) -> bool:
    """Whether stages that take turns fit a machine with so much RAM and VRAM."""
    return all(in_ram <= ram and in_vram <= vram for in_ram, in_vram in stages)


check_step_minutes = Exercise(
    solution=step_minutes,
    inputs=lambda g: [
        (773e12, 4, 1.0, 14e12),
        (773e12, 20, 6.0, 14e12),
        (406e12, 6, 3.0, 36e12),
        (2331e12, 4, 1.0, 140e12),
    ],
    praise="Guidance is paid for at every step: a LoRA that makes do without it, and with 4 steps for 20, saves nine tenths.",
    hints=(
        "How often is the transformer asked at each step, with guidance and without?",
        "With guidance there are two prompts, so two looks a step; at guidance 1 the negative prompt is not asked. Work over "
        "speed is seconds.",
        "(steps if guidance == 1 else 2 * steps) * work / speed / 60",
    ),
    misconceptions=(
        Misconception(
            lambda work, steps, guidance, speed: steps * work / speed / 60,
            "you count one look for each step. Guidance compares two answers, so it asks twice; only at 1 it does not.",
        ),
        Misconception(
            lambda work, steps, guidance, speed: 2 * steps * work / speed / 60,
            "you always count two looks. At guidance 1 the negative prompt falls out of the formula and is never asked.",
        ),
        Misconception(
            lambda work, steps, guidance, speed: guidance * steps * work / speed / 60,
            "you multiply by the guidance. It says how far to go from one answer to the other, not how often to ask.",
        ),
        Misconception(
            lambda work, steps, guidance, speed: (steps if guidance == 1 else 2 * steps) * work / speed,
            "work over speed is seconds; asked are minutes.",
        ),
    ),
)

check_run_fits = Exercise(
    solution=run_fits,
    inputs=lambda g: [
        ([(3.0, 7.8), (3.0, 12.9), (3.0, 5.2)], 12.0, 15.0),  # fits, though the sum would not
        ([(3.0, 2.0), (3.0, 3.0), (3.0, 16.1)], 12.0, 15.0),  # only the last one does not fit
        ([(3.0, 7.8), (3.0, 16.4), (3.0, 5.2)], 12.0, 15.0),
        ([(13.5, 1.0), (3.0, 12.9), (3.0, 5.2)], 12.0, 15.0),  # RAM, at the very start
    ],
    praise="Every stage, both memories, each for itself: the fullest moment decides.",
    hints=(
        "The stages take turns. Which sums do you need, and which not?",
        "Each stage has to fit by itself, its RAM into the RAM and its VRAM into the VRAM. `all(...)` asks every one.",
        "all(in_ram <= ram and in_vram <= vram for in_ram, in_vram in stages)",
    ),
    misconceptions=(
        Misconception(
            lambda stages, ram, vram: sum(s[0] for s in stages) <= ram and sum(s[1] for s in stages) <= vram,
            "you add the stages up. Each part leaves before the next one comes, so the fullest stage decides, not the sum.",
        ),
        Misconception(
            lambda stages, ram, vram: all(s[1] <= vram for s in stages),
            "you look at the GPU's memory only. A Colab session has 12.7 GB of RAM, and is ended without a word beyond it.",
        ),
        Misconception(
            lambda stages, ram, vram: stages[1][0] <= ram and stages[1][1] <= vram,
            "you look at the steps only. The decoder comes last, when the minutes are spent, and may be what does not fit.",
        ),
        Misconception(
            lambda stages, ram, vram: any(s[0] <= ram and s[1] <= vram for s in stages),
            "you are content when one stage fits. The run stops at the first that does not.",
        ),
    ),
)
