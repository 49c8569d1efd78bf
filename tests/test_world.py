"""The fireside world keeps its promises: deterministic, composed, held out, honestly captioned."""

import colorsys
from collections import Counter
from dataclasses import replace

import pytest
import torch

from wan_tutorial.mini import captions, world

BRIEFS = (captions.BRIEF_PROMPT, captions.BRIEF_NEGATIVE)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Small renders on a busy machine are fastest without threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def scenes():
    return [world.draw_scene(seed) for seed in range(1500)]


def test_the_same_scene_is_the_same_video_in_any_company():
    scenes = [world.draw_scene(seed) for seed in range(6)]
    together = world.render(scenes, frames=5)
    alone = world.render(scenes[2:3], frames=5)
    assert torch.equal(together, world.render(scenes, frames=5))
    assert (together[2:3] - alone).abs().max() < 1e-3


def test_the_first_frames_do_not_depend_on_how_many_follow():
    still = [replace(world.draw_scene(1), camera="still", defect=None)]
    short, long = world.render(still, frames=5), world.render(still, frames=9)
    assert (short - long[:, :5]).abs().max() < 1e-3


@pytest.mark.parametrize("height,width,frames", [(96, 96, 13), (96, 128, 5), (128, 96, 9)])
def test_shapes_and_range(height, width, frames):
    scenes = [replace(world.draw_scene(7), defect=d) for d in (None, *world.DEFECTS)]
    video, masks = world.render_with_masks(scenes, height=height, width=width, frames=frames)
    assert video.shape == (5, frames, height, width, 3) and masks.shape == (5, 2, frames, height, width)
    mask = masks.amax(1)
    assert video.isfinite().all() and video.min() >= -1 and video.max() <= 1
    assert 0 <= mask.min() and mask.max() <= 1
    assert ((mask > 0.5).float().mean((1, 2, 3)) > 0.02).all()
    assert ((mask > 0.5).float().mean((1, 2, 3)) < 0.5).all()


def test_bad_requests_say_the_rule_and_a_fix():
    with pytest.raises(ValueError, match="multiples of 4.*try 96x96"):
        world.render([world.Scene()], height=95)
    with pytest.raises(ValueError, match="at least one scene"):
        world.render([])
    with pytest.raises(ValueError, match="colour is one of orange"):
        world.Scene(colour="pink")
    with pytest.raises(ValueError, match="bare campfire has relation=None"):
        world.Scene(subject="campfire")
    with pytest.raises(ValueError, match="try 'train'"):
        world.draw_scene(0, split="test")


def test_held_out_combinations_stay_out_of_training(scenes):
    assert len(set(world.HELD_OUT)) == 15
    assert ("sword", "orange", "dark") not in world.HELD_OUT
    assert not {s.combination for s in scenes} & set(world.HELD_OUT)
    held = {world.draw_scene(s, split="held_out").combination for s in range(300)}
    assert held == set(world.HELD_OUT)
    every = {world.draw_scene(s, split="all").combination for s in range(3000)}
    assert len(every) == 150


def test_shares_of_brief_scenes_and_defects(scenes):
    brief = sum(captions._is_brief(s) and s.defect is None for s in scenes) / len(scenes)
    assert 0.02 < brief < 0.06
    assert 0.12 < sum(s.defect is not None for s in scenes) / len(scenes) < 0.18


@pytest.mark.parametrize("colour", world.COLOURS)
def test_flames_have_their_colour_by_hue(colour):
    scene = world.Scene(subject="campfire", relation=None, colour=colour, light="flat", seed=3)
    video, masks = world.render_with_masks([scene], frames=5)
    assert masks[:, 1].max() == 0, "a bare campfire has no subject"
    red, green, blue = ((video[masks[:, 0] > 0.9] + 1) / 2).mean(0).tolist()
    hue, saturation, _ = colorsys.rgb_to_hsv(red, green, blue)
    if colour == "white":
        assert saturation < 0.15
        return
    low, high = {"orange": (15, 55), "blue": (190, 240), "green": (90, 140), "purple": (260, 300)}[colour]
    assert saturation > 0.3 and low < hue * 360 < high


def test_large_flames_are_about_twice_as_high():
    heights = []
    for size in world.FLAME_SIZES:
        scenes = [world.Scene(subject="campfire", relation=None, flame_size=size, seed=s) for s in range(8)]
        mask = world.render_with_masks(scenes, frames=5)[1].amax(1) > 0.5
        heights.append(mask.any(3).sum(2).float().mean())
    assert 1.5 < heights[1] / heights[0] < 2.6


def test_everything_moves_and_the_camera_obeys():
    scene = world.Scene(smoke=False, embers=False, light="flat", subject="campfire",
                        relation=None, setting="snow")  # fmt: skip
    clips = {c: world.render([replace(scene, camera=c)])[0] for c in world.CAMERAS}
    assert (clips["still"][0] - clips["still"][6]).abs().max() > 0.3
    for camera, shift in (("right", -12), ("left", 12)):
        first, last = clips[camera][0, 50:90], clips[camera][-1, 50:90]
        same = (torch.roll(first, shift, 1) - last)[:, 16:30].abs().mean()
        assert same < 0.5 * (first - last)[:, 16:30].abs().mean()
    assert (clips["zoom"][0] - clips["still"][0]).abs().max() < 1e-3


def test_captions_use_published_words_only(scenes):
    for scene in scenes:
        caption = captions.write_caption(scene, scene.seed % 97)
        assert captions.unknown_words(caption) == [], caption


def test_the_brief_prompts_are_among_the_captions():
    told = Counter(captions.write_caption(world.brief_scene(s), s) for s in range(500))
    assert 0.28 < told[captions.BRIEF_PROMPT] / 500 < 0.5
    flawed = [replace(world.draw_scene(s), defect=world.DEFECTS[s % 4]) for s in range(1000)]
    texts = [captions.write_caption(s, 1) for s in flawed]
    assert 0.29 < sum(captions.BRIEF_NEGATIVE in t for t in texts) / 1000 < 0.39
    silent = 0
    for scene, text in zip(flawed, texts, strict=True):
        names = captions.WORDS["defect"][scene.defect]
        silent += not any(n in text.lower() for n in (*names, captions.BRIEF_NEGATIVE))
    assert 0.25 < silent / 1000 < 0.36


def test_captions_vary_and_repeat_by_seed():
    scene = world.draw_scene(5)
    assert captions.write_caption(scene, 1) == captions.write_caption(scene, 1)
    assert len({captions.write_caption(scene, s) for s in range(50)}) > 40


def test_unknown_words_name_the_nearest():
    assert captions.unknown_words("A sword in a blue fire") == []
    (word, near), *rest = captions.unknown_words("a swird beside the fire")
    assert word == "swird" and "sword" in near and not rest
    assert all(near for _, near in captions.unknown_words("zzyzx qqq"))
    assert [word for word, _ in captions.unknown_words("меч в огне, épée")] == ["меч", "в", "огне", "épée"]
    assert captions.unknown_words("剑在燃烧") == [("剑在燃烧", ())]


def test_free_phrasings_use_known_words_and_known_values():
    assert len({prompt for prompt, _ in captions.FREE_PHRASINGS}) == 40
    for prompt, expected in captions.FREE_PHRASINGS:
        assert captions.unknown_words(prompt) == [], prompt
        assert len(expected) >= 3
        for name, value in expected.items():
            assert value in captions.WORDS[name], (name, value)
