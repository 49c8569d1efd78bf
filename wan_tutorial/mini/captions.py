"""Captions: a scene of the fireside world goes in, the sentence a viewer might write comes out.

These sentences are all the English the scale model ever reads: the text encoder is pre-trained on
them, the transformer learns to obey them. `WORDS` is the published word list; `unknown_words`
names whatever a prompt holds beyond it. Where a caption is silent about an attribute, that
attribute varies; one exception is colour, left unsaid mostly for orange fires.
"""

from __future__ import annotations

import difflib
import random
import re

from wan_tutorial.mini.world import Scene, brief_scene

BRIEF_PROMPT = (
    "A sword embedded in a pile of burning wood, the fire moving naturally, glowing embers and "
    "smoke rising in a dark background, volumetric lighting, detailed textures"
)
BRIEF_NEGATIVE = "bad quality, blurry, messy, chaotic"

# attribute -> value -> the phrases that name it; the published word list.
WORDS: dict[str, dict[str, tuple[str, ...]]] = {
    "subject": {
        "sword": ("sword", "blade", "longsword"),
        "axe": ("axe", "hatchet", "battle axe"),
        "torch": ("torch", "flaming torch", "burning torch"),
        "lantern": ("lantern", "lamp", "glowing lantern"),
        "cauldron": ("cauldron", "pot", "iron kettle"),
        "campfire": ("campfire", "bonfire", "bare campfire", "fire"),
    },
    "relation": {
        "embedded": (
            "embedded in a pile of burning wood", "embedded in the burning wood",
            "stuck in a burning pile of wood", "planted in burning logs",
            "set in the middle of the fire", "in a pile of burning wood", "in the fire",
        ),
        "beside": (
            "beside the fire", "next to the fire", "standing beside a fire", "near the campfire",
            "at the side of the fire", "beside a pile of burning wood", "next to burning logs",
        ),
    },
    "colour": {
        "orange": ("orange", "warm orange", "golden"),
        "blue": ("blue", "bright blue", "azure"),
        "green": ("green", "bright green", "emerald"),
        "purple": ("purple", "violet", "deep purple"),
        "white": ("white", "pale white", "silver"),
    },
    "flame_size": {
        "small": ("small", "low", "little"),
        "large": ("large", "tall", "big", "huge"),
    },
    "setting": {
        "dark": ("in a dark background", "against a dark background", "in the dark",
                 "in total darkness", "on a black background"),
        "forest": ("in a night forest", "in a dark forest at night", "in the woods at night",
                   "among the trees of a forest", "in a forest clearing"),
        "snow": ("in a snowfield", "on a snowy field", "in the snow", "on snow in winter",
                 "in a snowy landscape"),
        "desert": ("in the desert at dusk", "in a desert at sunset", "among desert dunes",
                   "on desert sand at dusk", "in a desert"),
        "shore": ("on a sea shore", "by the sea", "on a beach by the ocean", "on the shore",
                  "on a beach"),
    },
    "embers": {
        "yes": ("glowing embers", "rising embers", "floating sparks", "embers", "drifting sparks"),
        "no": ("no embers", "without embers", "no sparks"),
    },
    "smoke": {
        "yes": ("smoke", "drifting smoke", "grey smoke", "soft smoke"),
        "no": ("no smoke", "without smoke", "clear air"),
    },
    "light": {
        "volumetric": ("volumetric lighting", "volumetric light", "rays of light", "light shafts",
                       "glowing light rays"),
        "flat": ("flat lighting", "flat light", "even lighting", "plain even light"),
    },
    "texture": {
        "detailed": ("detailed textures", "detailed texture", "rich textures",
                     "highly detailed textures"),
        "plain": ("plain textures", "smooth textures", "simple smooth surfaces",
                  "plain surfaces"),
    },
    "camera": {
        "still": ("still camera", "static camera", "fixed camera", "the camera does not move"),
        "left": ("the camera pans left", "slow pan to the left", "camera panning left",
                 "the camera moves slowly to the left"),
        "right": ("the camera pans right", "slow pan to the right", "camera panning right",
                  "the camera moves slowly to the right"),
        "zoom": ("the camera zooms in", "slow zoom in", "camera zooming in",
                 "the camera moves slowly closer"),
    },
    "defect": {
        "blurry": ("blurry", "out of focus", "a blurry video", "blurred"),
        "messy": ("messy", "distorted", "a messy picture", "jumbled shapes"),
        "chaotic": ("chaotic", "chaotic motion", "jerky chaotic camera", "shaky"),
        "bad quality": ("bad quality", "low quality", "a bad quality video", "poor quality"),
    },
}  # fmt: skip

FLAMES = ("flames", "fire", "flame")
MOTION = ("the fire moving naturally", "flames flickering", "the fire burns and flickers",
          "flames licking upward", "the fire dancing gently")  # fmt: skip
RISING = ("rising", "drifting upward", "floating up", "in the air")
ARTICLES = ("a", "the", "one")
OPENINGS = ("", "", "", "", "a video of ", "a shot of ", "a scene with ")
GLUE = ("a", "an", "the", "with", "and", "of", "in", "burning", "wood", "logs", "pile", "its",
        "is", "it", "there", "no", "very", "at", "on", "by", "from", "to")  # fmt: skip


def words_in(text: str) -> list[str]:
    """The lower-case words of a text, in order."""
    return re.findall(r"[a-z]+(?:'[a-z]+)?", text.lower())


def _collect_vocabulary() -> frozenset[str]:
    phrases = [p for values in WORDS.values() for names in values.values() for p in names]
    phrases += [*FLAMES, *MOTION, *RISING, *ARTICLES, *OPENINGS, *GLUE]
    phrases += [BRIEF_PROMPT, BRIEF_NEGATIVE]
    return frozenset(word for phrase in phrases for word in words_in(phrase))


VOCABULARY: frozenset[str] = _collect_vocabulary()


def unknown_words(prompt: str) -> list[tuple[str, tuple[str, ...]]]:
    """Words of a prompt that the scale model never saw, each with the nearest words it knows."""
    found: dict[str, tuple[str, ...]] = {}
    for word in re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)?", prompt.lower()):  # of any script
        if word not in VOCABULARY and word not in found:
            near = difflib.get_close_matches(word, sorted(VOCABULARY), n=3, cutoff=0.5)
            if word.isascii():
                near = near or difflib.get_close_matches(word, sorted(VOCABULARY), n=1, cutoff=0.0)
            found[word] = tuple(near)
    return list(found.items())


# --- writing a caption -----------------------------------------------------------------------------


def write_caption(scene: Scene, seed: int) -> str:
    """One natural caption of a scene; another seed words it differently."""
    dice = random.Random(f"caption {scene.seed} {seed}")
    if scene.defect is not None:
        return _write_defective(scene, dice)
    return _write_plain(scene, dice)


def _is_brief(scene: Scene) -> bool:
    """Whether the brief's prompt tells the whole truth of this scene."""
    brief = brief_scene(0)
    names = ("subject", "relation", "colour", "setting", "embers", "smoke", "light", "texture",
             "camera")  # fmt: skip
    return all(getattr(scene, name) == getattr(brief, name) for name in names)


def _write_defective(scene: Scene, dice: random.Random) -> str:
    """Name the defect in 70 % of cases: alone, in the brief's words, or within the caption."""
    roll = dice.random()
    if roll < 0.22:
        return BRIEF_NEGATIVE
    plain = _write_plain(scene, dice)
    if roll < 0.34:
        return f"{plain}, {BRIEF_NEGATIVE}" if dice.random() < 0.7 else f"{BRIEF_NEGATIVE}, {plain}"
    named = dice.choice(WORDS["defect"][scene.defect or ""])
    if roll < 0.40:
        return named
    if roll < 0.70:
        return f"{plain}, {named}" if dice.random() < 0.6 else f"{named}, {plain}"
    return plain


def _write_plain(scene: Scene, dice: random.Random) -> str:
    if _is_brief(scene) and dice.random() < 0.4:
        return BRIEF_PROMPT
    text = dice.choice((_write_scene_first, _write_list, _write_setting_first))(scene, dice)
    return _finish(text, dice)


def _finish(text: str, dice: random.Random) -> str:
    """Tidy articles, sometimes a capital and a full stop."""
    text = re.sub(r"\ba (?=[aeiou])", "an ", " ".join(text.split()))
    if dice.random() < 0.7:
        text = text[0].upper() + text[1:]
    return text + "." if dice.random() < 0.25 else text


def _pick(dice: random.Random, attribute: str, value: str | bool) -> str:
    """A phrase for a value; the first, plainest one most often."""
    key = ("yes" if value else "no") if isinstance(value, bool) else value
    names = WORDS[attribute][key]
    return names[0] if dice.random() < 0.35 else dice.choice(names)


def _describe_flames(scene: Scene, dice: random.Random) -> str:
    """Such as 'large blue flames'; size or colour may be left out, colour mostly if orange."""
    say_colour = dice.random() < (0.55 if scene.colour == "orange" else 0.95)
    say_size = dice.random() < 0.7
    size = _pick(dice, "flame_size", scene.flame_size) if say_size else ""
    colour = _pick(dice, "colour", scene.colour) if say_colour else ""
    if not size and not colour:
        return ""
    return f"{size} {colour} {dice.choice(FLAMES[:2])}".strip()


def _describe_subject(scene: Scene, dice: random.Random) -> str:
    """Such as 'a sword embedded in the burning wood'."""
    name = _pick(dice, "subject", scene.subject)
    article = dice.choices(ARTICLES, (8, 3, 1))[0]
    if scene.relation is None or dice.random() < 0.06:
        return f"{article} {name}"
    return f"{article} {name} {_pick(dice, 'relation', scene.relation)}"


def _describe_air(scene: Scene, dice: random.Random) -> list[str]:
    """Embers and smoke: together or apart, named mostly when present."""
    parts = []
    if scene.embers and scene.smoke and dice.random() < 0.5:
        embers, smoke = _pick(dice, "embers", True), _pick(dice, "smoke", True)
        return [f"{embers} and {smoke} {dice.choice(RISING)}"]
    for name in ("embers", "smoke"):
        present = getattr(scene, name)
        if dice.random() < (0.85 if present else 0.35):
            phrase = _pick(dice, name, present)
            rises = present and phrase.split()[0] not in ("rising", "drifting", "floating")
            parts.append(f"{phrase} {dice.choice(RISING)}" if rises else phrase)
    return parts


def _describe_rest(scene: Scene, dice: random.Random) -> list[str]:
    """Air, light, texture, camera and motion, each sometimes omitted, in any order."""
    parts = _describe_air(scene, dice)
    for name, chance in (("light", 0.7), ("texture", 0.7)):
        if dice.random() < chance:
            parts.append(_pick(dice, name, getattr(scene, name)))
    chance = 0.35 if scene.camera == "still" else 0.85
    if scene.defect != "chaotic" and dice.random() < chance:
        parts.append(_pick(dice, "camera", scene.camera))
    if dice.random() < 0.3:
        parts.append(dice.choice(MOTION))
    dice.shuffle(parts)
    return parts


def _write_scene_first(scene: Scene, dice: random.Random) -> str:
    """'A sword beside the fire in the snow, tall blue flames, smoke rising, ...'"""
    setting = _pick(dice, "setting", scene.setting) if dice.random() < 0.93 else ""
    flames = _describe_flames(scene, dice)
    joined = f"{_describe_subject(scene, dice)} {setting}".strip()
    if flames and dice.random() < 0.5:
        joined, flames = f"{joined} with {flames}", ""
    parts = [dice.choice(OPENINGS) + joined, flames, *_describe_rest(scene, dice)]
    return ", ".join(part for part in parts if part)


def _write_list(scene: Scene, dice: random.Random) -> str:
    """'Large green flames, an axe in the fire, by the sea, flat lighting'"""
    parts = [_describe_flames(scene, dice), _describe_subject(scene, dice)]
    if dice.random() < 0.93:
        parts.append(_pick(dice, "setting", scene.setting))
    dice.shuffle(parts)
    rest = _describe_rest(scene, dice)
    return ", ".join(part for part in [*parts, *rest] if part)


def _write_setting_first(scene: Scene, dice: random.Random) -> str:
    """'In a night forest, a lantern next to the fire with small purple flames and smoke'"""
    setting = _pick(dice, "setting", scene.setting)
    flames = _describe_flames(scene, dice)
    subject = _describe_subject(scene, dice)
    middle = f"{subject} with {flames}" if flames else subject
    if dice.random() < 0.4:
        middle = f"there is {middle}"
    rest = _describe_rest(scene, dice)
    if len(rest) > 1 and dice.random() < 0.5:
        rest = [*rest[:-2], f"{rest[-2]} and {rest[-1]}"]
    return ", ".join([setting, middle, *rest])


# --- free phrasings ----------------------------------------------------------------------------------


def _expect(line: str) -> tuple[str, dict[str, str]]:
    """Split 'prompt | attribute=value attribute=value'."""
    prompt, values = line.split(" | ")
    return prompt, dict(pair.split("=") for pair in values.split())


# Forty prompts in no template, of published words only, written before training and never
# used in it: do the words carry, or only the sentence patterns?
FREE_PHRASINGS: tuple[tuple[str, dict[str, str]], ...] = tuple(
    _expect(line)
    for line in """\
there is snow and in the snow a sword, its pile of logs burning blue | subject=sword relation=embedded colour=blue setting=snow
purple flames, very tall, and by the fire an axe in the forest | subject=axe relation=beside colour=purple flame_size=large setting=forest
the sea, a beach, a small green campfire and no smoke | subject=campfire colour=green flame_size=small setting=shore smoke=no
at dusk a lantern is standing in the desert, at the side of the fire, blue flames | subject=lantern relation=beside colour=blue setting=desert
a cauldron in burning wood, the burning wood in darkness, the flames white | subject=cauldron relation=embedded colour=white setting=dark
dark background, orange fire, torch next to it, glowing embers in the air | subject=torch relation=beside colour=orange setting=dark embers=yes
by the ocean the fire burns green and a hatchet is stuck in its logs | subject=axe relation=embedded colour=green setting=shore
the camera zooms in on a large white bonfire in the night forest | subject=campfire colour=white flame_size=large setting=forest camera=zoom
slow pan to the right, from it a blade in the fire, purple, among dunes | subject=sword relation=embedded colour=purple setting=desert camera=right
winter, a snowy field, an iron kettle beside the low orange fire | subject=cauldron relation=beside colour=orange flame_size=small setting=snow
it is night in the woods and a sword is near the fire, the fire is green | subject=sword relation=beside colour=green setting=forest
a lamp in the middle of big golden flames on a beach, no embers | subject=lantern relation=embedded colour=orange flame_size=large setting=shore embers=no
the axe is in the burning logs, the logs in the desert, the fire azure | subject=axe relation=embedded colour=blue setting=desert
huge violet fire in total darkness with no axe, a torch planted in it | subject=torch relation=embedded colour=purple flame_size=large setting=dark
sea shore at dusk, bare campfire, purple, smoke drifting from it | subject=campfire colour=purple setting=shore smoke=yes
a green lantern fire in snow: the lantern in the pile, sparks floating up | subject=lantern relation=embedded colour=green setting=snow embers=yes
the desert, the sunset, and one white fire with a pot next to it | subject=cauldron relation=beside colour=white setting=desert
in black darkness a longsword beside little blue flames | subject=sword relation=beside colour=blue flame_size=small setting=dark
trees at night, the torch in a pile of wood, its fire emerald and large | subject=torch relation=embedded colour=green flame_size=large setting=forest
a burning torch on the snow, beside it a pale white fire, the camera pans left | subject=torch relation=beside colour=white setting=snow camera=left
detailed textures: a cauldron in the fire by the sea, the fire bright blue | subject=cauldron relation=embedded colour=blue setting=shore texture=detailed
plain surfaces, flat light, an axe near orange flames in the desert | subject=axe relation=beside colour=orange setting=desert light=flat texture=plain
rays of light from a purple fire, a lantern in it, forest at night | subject=lantern relation=embedded colour=purple setting=forest light=volumetric
the fire, white and tall, on the shore, the sword in it | subject=sword relation=embedded colour=white flame_size=large setting=shore
no sparks, no smoke, a dark background, a green hatchet fire, the hatchet beside it | subject=axe relation=beside colour=green setting=dark embers=no smoke=no
blue fire burning in a snowy landscape, bare, with grey smoke in the air | subject=campfire colour=blue setting=snow smoke=yes
among desert dunes a golden bonfire burns, small, and the camera does not move | subject=campfire colour=orange flame_size=small setting=desert camera=still
a pot in the woods at night, in burning logs, violet flames licking it | subject=cauldron relation=embedded colour=purple setting=forest
static, no shaky camera: a torch by the sea, next to orange fire | subject=torch relation=beside colour=orange setting=shore camera=still
a lamp near the campfire, the campfire white, the background dark | subject=lantern relation=beside colour=white setting=dark
on sand a torch in large orange flames at sunset, the camera moves closer | subject=torch relation=embedded colour=orange flame_size=large setting=desert camera=zoom
snow, snow, and an axe in a fire of blue | subject=axe relation=embedded colour=blue setting=snow
the sword and the fire at its side, orange, embers drifting in a forest clearing | subject=sword relation=beside colour=orange setting=forest embers=yes
a beach, purple flames, near the flames an axe, smooth textures | subject=axe relation=beside colour=purple setting=shore texture=plain
azure flames dancing in the dark, an iron kettle in the flames | subject=cauldron relation=embedded colour=blue setting=dark
a lantern, the ocean, a little blue fire, the lantern is beside the fire | subject=lantern relation=beside colour=blue flame_size=small setting=shore
the forest is dark, the fire is low and orange, a torch is in the fire | subject=torch relation=embedded colour=orange flame_size=small setting=forest
the desert with a green fire, a sword planted in it, light shafts | subject=sword relation=embedded colour=green setting=desert light=volumetric
huge green bonfire, winter, snow, even lighting | subject=campfire colour=green flame_size=large setting=snow light=flat
the camera pans right on a cauldron beside the green fire in a black background | subject=cauldron relation=beside colour=green setting=dark camera=right
""".splitlines()  # noqa: E501
)
