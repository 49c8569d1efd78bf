"""The judge reads words and pictures as it should, and the shipped one is right about new renders."""

import random
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from wan_tutorial.errors import WanError
from wan_tutorial.mini import judge as module
from wan_tutorial.mini.captions import FREE_PHRASINGS, words_in, write_caption
from wan_tutorial.mini.evaluate import flickering_hues, held_out_scenes, read_hue, render_scenes
from wan_tutorial.mini.judge import (
    END,
    QUESTIONS,
    WORD_IDS,
    Judge,
    agreement,
    describe,
    frame_pairs,
    judge_path,
    load_judge,
    measure_camera,
    names_in,
    new_clip,
    save_judge,
    scene_values,
    tokenize,
    zero_shot_accuracy,
)
from wan_tutorial.mini.train_judge import caption_texts, disturb, match_loss, short_texts
from wan_tutorial.mini.world import CAMERAS, COLOURS, Scene, draw_scene, render
from wan_tutorial.sizes import VideoSize


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def random_clip():
    torch.manual_seed(0)
    return new_clip().eval()


# ------------------------------------------------------------------------------------------------ words


def test_the_judge_knows_every_word_of_its_questions_and_captions():
    phrases = [p for values in QUESTIONS.values() for names in values.values() for p in names]
    phrases += [write_caption(draw_scene(seed), seed) for seed in range(200)]
    phrases += [prompt for prompt, _ in FREE_PHRASINGS]
    assert {word for text in phrases for word in words_in(text)} <= set(WORD_IDS)


def test_texts_become_ids_with_start_and_end():
    ids = tokenize(["A sword", "blue, unheardof fire!"])
    assert ids.tolist() == [
        [1, WORD_IDS["a"], WORD_IDS["sword"], END],
        [1, WORD_IDS["blue"], WORD_IDS["fire"], END],
    ]
    assert len(tokenize(["fire " * 500])[0]) == module.TEXT_LENGTH


def test_a_caption_names_what_it_says_and_nothing_else():
    scene = Scene(subject="axe", relation="beside", colour="blue", setting="snow", smoke=False, embers=True)
    named = names_in("A hatchet next to the fire, azure flames, no smoke", scene)
    assert set(named) == {"subject", "relation", "colour", "smoke"}


def test_a_short_text_names_its_values():
    text = describe({"subject": "axe", "colour": "blue", "smoke": "no"}, random.Random(0))
    assert any(p in text for p in QUESTIONS["subject"]["axe"])
    assert any(p in text for p in QUESTIONS["colour"]["blue"])
    assert any(p in text for p in QUESTIONS["smoke"]["no"])


def test_the_bare_campfire_is_asked_no_relation():
    assert "relation" not in scene_values(draw_campfire())
    assert scene_values(draw_campfire())["defect"] == "clean"


def draw_campfire() -> Scene:
    return Scene(subject="campfire", relation=None)


def test_only_what_the_truth_names_is_compared():
    seen = {"colour": ["blue", "green"], "relation": ["beside", "beside"]}
    truths = [{"colour": "blue", "relation": "embedded"}, {"colour": "white"}]
    assert agreement(seen, truths) == {"colour": [True, False], "relation": [False]}


# --------------------------------------------------------------------------------------- its training


def test_a_text_is_a_positive_for_every_picture_of_which_it_is_true():
    scenes = [Scene(colour="blue"), Scene(colour="blue", setting="snow"), Scene(colour="green")]
    texts, true = short_texts(scenes, random.Random(1))
    assert true.any(0).all() and true.any(1).all() and len(texts) == true.shape[1]
    captions, true = caption_texts([*scenes, scenes[0]], random.Random(0))
    assert true.diagonal().all() and true[3, 0] and true[0, 3]
    assert len(captions) == 4


def test_the_matching_loss_has_no_false_negatives():
    pictures = torch.eye(3)[[0, 0, 1]]
    texts = torch.eye(3)[[0, 1]]
    true = torch.tensor([[True, False], [True, False], [False, True]])
    assert match_loss(pictures, texts, true, torch.tensor(50.0)) < 1e-6
    assert match_loss(pictures, texts, ~true, torch.tensor(50.0)) > 10


def test_training_pictures_keep_their_shape_and_end_in_a_difference():
    frame = torch.rand(4, 3, 96, 96) * 2 - 1
    pairs = disturb(torch.cat((frame, frame), dim=1))
    assert pairs.shape == (4, 6, 96, 96)
    assert pairs[:, 3:].abs().max() < 1e-5
    assert (pairs[:, :3] - frame).abs().mean() < 0.5


# ------------------------------------------------------------------------------------------- pictures


@pytest.mark.parametrize("shape", [(13, 96, 96), (5, 64, 96), (1, 48, 48), (9, 128, 96)])
def test_any_video_becomes_four_moments(shape):
    assert frame_pairs(torch.zeros(2, *shape, 3)).shape == (2, 4, 6, 96, 96)


def test_moments_are_frames_and_their_changes():
    video = torch.arange(13.0).view(1, 13, 1, 1, 1).expand(1, 13, 96, 96, 3)
    pairs = frame_pairs(video)
    assert pairs[0, :, 0, 0, 0].tolist() == [0, 4, 7, 11]
    assert (pairs[0, :, 3:] == 1).all()


def test_the_camera_is_measured():
    base = [draw_scene(seed, split="all") for seed in (1, 2, 6)]
    scenes = [replace(scene, camera=camera, defect=None) for scene in base for camera in CAMERAS]
    assert measure_camera(render(scenes)) == [scene.camera for scene in scenes]


def test_the_hue_of_the_flames_is_measured():
    """Whatever the camera does, and in dimmer light as well."""
    scenes = [
        replace(draw_scene(seed, split="all"), colour=colour, defect=None)
        for seed in range(8)
        for colour in COLOURS
    ]
    videos = render(scenes)
    right = [a == scene.colour for a, scene in zip(read_hue(videos), scenes, strict=True)]
    assert sum(right) >= 38
    hues = flickering_hues(videos)
    assert hues.shape == (40, 162) and torch.allclose(hues.square().sum(1), torch.tensor(3.0))
    dimmer = flickering_hues((videos + 1) * 0.8 - 1)
    assert (hues - dimmer).abs().mean() < 0.01, "the same in dimmer light"


# ----------------------------------------------------------------------------------------------- files


def test_a_judge_saved_is_the_same_judge(random_clip, tmp_path):
    save_judge(random_clip, tmp_path / "judge.safetensors")
    video = render([draw_scene(3), draw_scene(4)])
    first, second = Judge.of(random_clip), load_judge(tmp_path / "judge.safetensors")
    assert torch.allclose(first.features(video), second.features(video), atol=0.01)
    assert second.read(video).keys() == QUESTIONS.keys()
    assert all(table.sum(-1).allclose(torch.ones(2)) for table in second.probabilities(video).values())
    assert [path.name for path in tmp_path.iterdir()] == ["judge.safetensors"]


def test_a_missing_or_foreign_file_is_named(tmp_path):
    with pytest.raises(WanError, match="train_judge"):
        load_judge(tmp_path / "nothing.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(WanError, match=r"foreign\.safetensors is not this package's judge"):
        load_judge(tmp_path / "foreign.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"no tensors")
    with pytest.raises(WanError, match=r"broken\.safetensors is not this package's judge"):
        load_judge(tmp_path / "broken.safetensors")


@pytest.mark.skipif(not judge_path().exists(), reason="the judge is not trained yet")
def test_the_shipped_judge_is_right_about_new_renders():
    judge, scenes = load_judge(), held_out_scenes(48, defects=False)
    video, _ = render_scenes(scenes, VideoSize())
    accuracy = zero_shot_accuracy(judge, video, scenes)
    assert min(accuracy[name] for name in ("subject", "colour", "setting")) >= 0.9
    assert judge_path().stat().st_size < 6_500_000
