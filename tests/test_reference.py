"""What is given besides words: pixels, latents and whole runs, against diffusers' own preparation and pipeline."""

import numpy as np
import pytest
import torch
from diffusers import WanVACEPipeline
from PIL import Image
from small import diffusers_pipeline, interrupt_at_second_call, small_transformer_state, write_small_model

from wan_tutorial.errors import WanError
from wan_tutorial.files import write_gguf
from wan_tutorial.pipeline import Pipeline, load
from wan_tutorial.reference import (
    check_strength,
    encode_context,
    mask_channels,
    read_given,
    read_picture,
    reconstruct,
)
from wan_tutorial.sizes import VideoSize

SMALL = VideoSize(48, 32, 9)
PROMPT = "a sword in the burning wood"


@pytest.fixture(scope="module")
def pipe(tmp_path_factory) -> Pipeline:
    folder = tmp_path_factory.mktemp("model")
    files = vars(write_small_model(folder)) | {"transformer": folder / "dense.gguf"}
    write_gguf(files["transformer"], small_transformer_state())
    return load("mini", **files, device="cpu")


@pytest.fixture(scope="module")
def theirs(pipe) -> WanVACEPipeline:
    """diffusers' pipeline around the same weights."""
    return diffusers_pipeline(pipe)


def picture(width: int, height: int, seed: int = 0, channels: int = 3) -> Image.Image:
    dice = np.random.default_rng(seed)
    return Image.fromarray(dice.integers(0, 256, (height, width, channels), dtype=np.uint8))


def clip(frames: int = SMALL.frames, seed: int = 5) -> list[Image.Image]:
    return [picture(SMALL.width, SMALL.height, seed + i) for i in range(frames)]


def masks(frames: int = SMALL.frames) -> list[Image.Image]:
    """White boxes that move, so that every frame has another mask."""
    boxes = np.zeros((frames, SMALL.height, SMALL.width), np.uint8)
    for i, box in enumerate(boxes):
        box[4:20, i : i + 18] = 255
    return [Image.fromarray(box) for box in boxes]


def as_array(pictures: list[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(one) for one in pictures])


# ------------------------------------------------------------------------------------- against diffusers' preparation

# Sides of references are multiples of 8: others diffusers rounds first, which official Wan and ComfyUI do not.
CASES = {
    "nothing": {},
    "square reference": {"reference": picture(80, 80)},
    "wide reference": {"reference": picture(160, 40)},
    "tall reference": {"reference": picture(40, 96)},
    "two references": {"reference": [picture(80, 80), picture(64, 16, 3)]},
    "control video": {"video": clip()},
    "masked region": {"video": clip(), "mask": masks()},
    "masked region and reference": {"video": clip(), "mask": masks(), "reference": picture(64, 40)},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_context_is_diffusers(pipe, theirs, case):
    references = case.get("reference")
    references = references if isinstance(references, list) or references is None else [references]
    video, mask, pictures = theirs.preprocess_conditions(
        case.get("video"),
        [one.convert("RGB") for one in case["mask"]] if "mask" in case else None,
        references,
        1,
        SMALL.height,
        SMALL.width,
        SMALL.frames,
        torch.float32,
        torch.device("cpu"),
    )
    pictures = [one[::-1] for one in pictures]  # diffusers puts each before the others, official Wan after
    with torch.no_grad():
        latents = theirs.prepare_video_latents(video, mask, pictures, None, torch.device("cpu"))
        expected = torch.cat([latents, theirs.prepare_masks(mask, pictures)], dim=1)
    ours = {name: as_array(value) if name != "reference" else value for name, value in case.items()}
    context = encode_context(pipe.vae, read_given(SMALL, **ours))
    assert context.extra_frames == len(references or [])
    assert context.tensor.shape == expected.shape == (1, 96, 3 + context.extra_frames, 4, 6)
    assert (context.tensor - expected).abs().max() < 1e-5


@pytest.mark.parametrize("case", ["square reference", "two references", "masked region"])
def test_a_whole_run_is_diffusers(pipe, theirs, case):
    """The same picture, weights, noise and grid: the same latents."""
    options = CASES[case]
    references = options.get("reference")
    asked = {"video": options.get("video"), "mask": options.get("mask")}
    if asked["mask"]:
        asked["mask"] = [one.convert("RGB") for one in asked["mask"]]
    text = pipe.encode_text(PROMPT, "blurry")
    with torch.no_grad():
        expected = theirs(
            prompt_embeds=text.positive[None],
            negative_prompt_embeds=text.negative[None],
            reference_images=references[::-1] if isinstance(references, list) else references,
            conditioning_scale=0.8,
            height=SMALL.height,
            width=SMALL.width,
            num_frames=SMALL.frames,
            num_inference_steps=5,
            guidance_scale=4.0,
            generator=torch.Generator().manual_seed(11),
            output_type="latent",
            **asked,
        ).frames
    expected = expected[:, :, -SMALL.latent_frames :]
    settings = {"steps": 5, "guidance": 4.0, "shift": 5.0}
    ours = pipe.generate(
        PROMPT,
        negative="blurry",
        seed=11,
        size=SMALL,
        sampler="uni_pc_diffusers",
        scheduler="diffusers",
        vace_strength=0.8,
        progress=False,
        **settings,
        **{name: as_array(value) if name != "reference" else value for name, value in options.items()},
    )
    assert ours.latent.shape == SMALL.latent_shape
    assert (ours.latent - expected).norm() / expected.norm() < 1e-3


def test_cropping_is_comfyuis():
    """The pixels that ComfyUI's `common_upscale` keeps: from the middle, in the video's proportions (3:2)."""
    wide = torch.zeros(40, 100, 3)
    wide[:, 20:80] = 1.0
    given = read_given(SMALL, reference=wide, fit="crop")
    assert given.references.shape == (1, 32, 48, 3) and (given.references == 1).all()
    tall = torch.zeros(100, 60, 3)
    tall[30:70] = 1.0
    assert (read_given(SMALL, reference=tall, fit="crop").references == 1).all()
    same = torch.rand(32, 48, 3) * 2 - 1
    for fit in ("pad", "crop"):
        assert torch.allclose(read_given(SMALL, reference=same, fit=fit).references[0], same, atol=1e-6)


# --------------------------------------------------------------------------------------------------- pixels and latents


def test_padding_keeps_the_whole_picture_on_white():
    given = read_given(SMALL, reference=torch.full((64, 32, 3), -1.0))
    columns = given.references[0, :, :, 0].mean(0)
    assert (columns[:16] == 1).all() and (columns[16:32] == -1).all() and (columns[32:] == 1).all()


def test_a_large_photograph_is_averaged_not_sampled():
    """Stripes of one pixel: looking at 2 x 2 pixels of every 20 would give any brightness, the mean gives grey."""
    stripes = torch.ones(640, 960, 3)
    stripes[:, ::3] = -1.0
    small = read_given(SMALL, reference=stripes).references[0]
    specks = torch.nn.functional.interpolate(stripes.movedim(-1, 0)[None], size=(32, 48), mode="bilinear")
    assert (small - 1 / 3).abs().max() < 0.15 and small.std() < 0.25 * specks.std()


def test_a_first_frame_is_kept_and_the_rest_painted(pipe):
    frame = picture(SMALL.width, SMALL.height)
    given = read_given(SMALL, first_frame=frame)
    pixels = read_picture(frame)
    assert torch.equal(given.inactive[0], pixels) and not given.inactive[1:].any()
    assert not given.reactive.any()
    assert not given.mask[0].any() and (given.mask[1:] == 1).all()
    context = encode_context(pipe.vae, given)
    alone = pipe.encode(pixels[None])
    assert torch.allclose(context.inactive[:, :, :1], alone, atol=1e-5), (
        "the VAE looks only backwards in time"
    )
    assert (context.mask == 1).all(), "official Wan's choice of frames never takes the first"


def test_a_short_video_is_gone_on_with():
    given = read_given(SMALL, video=as_array(clip(5)), mask=np.zeros((5, 32, 48)) + np.eye(32, 48))
    assert (given.mask[5:] == 1).all() and not given.video[5:].any() and given.video[4].any()
    assert "5 frames of 9" in given.notices[0]
    still = read_given(SMALL, video=picture(48, 32), mask=np.eye(32, 48))
    assert torch.equal(still.video[0], still.video[8]) and not still.notices


def test_grey_is_encoded_once(pipe, monkeypatch):
    asked = []
    encode = pipe.vae.encode
    monkeypatch.setattr(
        pipe.vae,
        "encode",
        lambda frames, **options: (asked.append(frames.shape[2]), encode(frames, **options))[1],
    )
    pipe.encode_context(read_given(SMALL))
    assert asked == [9]
    encode_context(pipe.vae, read_given(SMALL, reference=picture(64, 64)))
    assert asked == [9, 9, 1]
    encode_context(pipe.vae, read_given(SMALL, video=as_array(clip()), mask=as_array(masks())))
    assert asked == [9, 9, 1, 9, 9]


def test_a_mask_channel_is_one_pixel_of_each_cell():
    mask = torch.zeros(9, 32, 48)
    mask[4, 8 * 2 + 3, 8 * 4 + 6] = 1.0  # of nine frames the second, fifth and eighth stand for four each
    channels = mask_channels(mask)
    assert channels.shape == (1, 64, 3, 4, 6)
    assert channels.nonzero().tolist() == [[0, 8 * 3 + 6, 1, 2, 4]]


def test_transparent_becomes_white_and_is_said():
    image = picture(40, 40, channels=4)
    image.putalpha(0)
    given = read_given(SMALL, reference=image)
    assert (given.references == 1).all() and "transparent" in given.notices[0]
    assert read_picture(picture(40, 40, channels=3).convert("L")).shape == (40, 40, 3)


def test_only_what_is_seen_through_is_said_to_be_transparent_and_once():
    opaque = picture(48, 32).convert("RGBA")
    seen_through = opaque.copy()
    seen_through.putpixel((3, 3), (0, 0, 0, 200))
    assert read_given(SMALL, video=[opaque] * SMALL.frames).notices == ()
    assert read_given(SMALL, video=[seen_through] * SMALL.frames).notices == (
        "The video has transparent parts: they become white.",
    )


def test_masks_in_bytes_and_in_fractions_say_the_same_and_one_alone_is_wondered_at():
    where = np.zeros((32, 48), np.uint8)
    where[:, 24:] = 1
    for mask in (where, 255 * where, where.astype(bool), where * 1.0, Image.fromarray(255 * where)):
        given = read_given(SMALL, video=as_array(clip()), mask=mask)
        assert torch.equal(given.mask[0], torch.from_numpy(where).float()) and not given.notices
    assert read_given(SMALL, mask=where).notices == (
        "A mask without a video keeps grey: give the video, too.",
    )


def test_a_picture_through_the_vae_says_how_much_is_left(pipe):
    seen = reconstruct(pipe.vae, picture(90, 50), SMALL)
    again = pipe.decode(pipe.encode(seen.fitted[None]))[0]
    assert torch.allclose(seen.carried, again, atol=1e-5) and seen.fitted.shape == (32, 48, 3)
    assert f"{seen.psnr:.1f} dB" in str(seen)


# ----------------------------------------------------------------------------------------------------------- whole runs


def generate(pipe: Pipeline, **options):
    return pipe.generate(PROMPT, **{"size": SMALL, "steps": 3, "progress": False, "seed": 4} | options)


def test_strength_0_is_the_run_without_hints_on_the_same_noise_trimmed(pipe):
    silent = generate(pipe, reference=picture(60, 40), vace_strength=0.0)
    noise = pipe.draw_noise(SMALL, seed=4, extra_frames=1)
    for step in pipe.denoise(noise, pipe.encode_text(PROMPT), steps=3):
        plain = step.latent
    assert noise.shape[2] == SMALL.latent_frames + 1
    assert torch.equal(silent.latent, plain[:, :, 1:])


def test_the_effect_grows_with_the_strength(pipe):
    base = generate(pipe, reference=picture(60, 40), vace_strength=0.0).latent
    effects = [
        (generate(pipe, reference=picture(60, 40), vace_strength=s).latent - base).norm()
        for s in (0.2, 0.5, 1)
    ]
    assert 0 < effects[0] < effects[1] < effects[2]


def test_each_thing_given_matters_and_is_recorded(pipe):
    plain = generate(pipe)
    assert plain.given is None
    seen = [plain.latent]
    for options in (
        {"reference": picture(60, 40)},
        {"reference": picture(60, 40, 1)},
        {"reference": picture(60, 60)},
        {"reference": picture(60, 60), "fit": "crop"},
        {"first_frame": picture(60, 40)},
        {"video": picture(48, 32), "mask": as_array(masks(1))},
    ):
        result = generate(pipe, **options)
        assert result.latent.shape == SMALL.latent_shape and result.video.shape == (9, 32, 48, 3)
        assert all(not torch.equal(result.latent, other) for other in seen)
        assert [use.name for use in result.stages] == ["text", "context", "steps", "decode"]
        seen.append(result.latent)
    again = generate(pipe, reference=list(generate(pipe, reference=picture(90, 40)).given.references))
    assert torch.equal(again.latent, generate(pipe, reference=picture(90, 40)).latent)


def test_a_start_video_goes_with_a_reference(pipe):
    start = generate(pipe).video
    near = generate(pipe, start=start, denoise=0.2, reference=picture(60, 40), steps=4).latent
    far = generate(pipe, start=start, denoise=0.9, reference=picture(60, 40), steps=4).latent
    clean = pipe.encode(start)
    assert (near - clean).norm() < (far - clean).norm()


def test_an_interrupted_run_knows_its_reference(pipe, tmp_path, monkeypatch):
    whole = generate(pipe, reference=picture(60, 40))
    interrupt_at_second_call(pipe, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        generate(pipe, reference=picture(60, 40), keep=tmp_path / "run")
    for other in (
        {"reference": picture(60, 40, 1)},
        {"reference": picture(60, 40), "vace_strength": 0.5},
        {},
    ):
        with pytest.raises(WanError, match="keeps another run"):
            generate(pipe, keep=tmp_path / "run", **other)
    assert torch.equal(generate(pipe, reference=picture(60, 40), keep=tmp_path / "run").latent, whole.latent)


# ----------------------------------------------------------------------------------------------- what cannot be used


@pytest.mark.parametrize(
    "options, words",
    [
        ({"reference": "no/such.png"}, "no/such.png is not there: check its name"),
        ({"reference": object()}, "reference is not a picture that can be read: give a PNG or JPEG"),
        ({"reference": picture(1, 400)}, "sides of 16 to 8192 pixels.*not 1x400: crop or resize"),
        ({"reference": picture(10_000, 30)}, "at most 8 times the shorter, not 10000x30"),
        ({"reference": torch.zeros(32, 48, 3) + 40}, r"\(height, width, 3\) with values from -1 to 1"),
        (
            {"reference": picture(60, 40), "fit": "stretch"},
            "'pad' .on white. or 'crop' .cut., not by 'stretch'",
        ),
        ({"first_frame": picture(60, 40), "video": clip()}, "leave out the video"),
        ({"video": as_array(clip()), "mask": picture(20, 20)}, "size of its video, 48x32.*not 20x20 in 1"),
        ({"video": as_array(clip()), "mask": np.ones((4, 32, 48))}, "48x32 in 4"),
        ({"video": as_array(clip()), "mask": np.zeros((32, 48))}, "black everywhere.*white is what to paint"),
        ({"video": as_array(clip()), "mask": np.full((32, 48), np.nan)}, "numbers are from 0.*not nan"),
        ({"video": as_array(clip()), "mask": np.full((32, 48), -5)}, "numbers are from 0.*not -5 to -5"),
        ({"video": as_array(clip()), "mask": np.full((32, 48), 2.0)}, "to 1, paint.*not 2 to 2: divide"),
        (
            {"video": as_array(clip()), "mask": np.ones((32, 48, 3))},
            "one number for each pixel, not 3 colours",
        ),
        (
            {"video": as_array(clip()), "mask": picture(48, 32, channels=4)},
            "transparent parts, which say neither",
        ),
        ({"video": []}, "at least one frame"),
        ({"reference": torch.zeros(0, 0, 3)}, "sides of 16 to 8192 pixels.*not 0x0"),
        ({"reference": torch.zeros(0, 32, 48, 3)}, "one picture or more, and this one is empty"),
        ({"reference": "~nobodyhere/a.png"}, "home of someone unknown"),
        ({"reference": picture(60, 40), "vace_strength": float("nan")}, "number from 0 to 10, not nan"),
        ({"reference": picture(60, 40), "vace_strength": -1}, "number from 0 to 10, not -1"),
        ({"reference": picture(60, 40), "vace_strength": [1, "x"]}, "number from 0 to 10, not 'x'"),
    ],
)
def test_what_cannot_be_used_is_said_in_a_sentence(pipe, monkeypatch, options, words):
    monkeypatch.setattr(pipe, "encode_text", lambda *_: pytest.fail("said too late"))
    with pytest.raises(WanError, match=words) as said:
        generate(pipe, **options)
    assert str(said.value).count(". ") == 0


def test_a_file_that_is_no_picture_is_named(tmp_path):
    (tmp_path / "notes.png").write_text("not a picture")
    with pytest.raises(WanError, match="notes.png is not a picture"):
        read_picture(tmp_path / "notes.png", "reference")
    picture(40, 40).save(tmp_path / "good.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "good.png").read_bytes()[:200])
    with pytest.raises(WanError, match="cut.png is not a picture"):
        read_picture(tmp_path / "cut.png", "reference")
    check_strength([0, 1.5])


def test_a_photograph_stands_as_its_camera_noted(tmp_path):
    note = Image.Exif()
    note[0x0112] = 6  # lying: to be turned clockwise
    picture(40, 24).save(tmp_path / "photo.png", exif=note)
    upright = np.asarray(picture(40, 24).transpose(Image.Transpose.ROTATE_270))
    assert torch.equal(read_picture(tmp_path / "photo.png"), read_picture(upright))


def test_sixteen_bits_of_grey_are_not_cut_off(tmp_path):
    grey = np.linspace(0, 65535, 32 * 32).astype(np.uint16).reshape(32, 32)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    read = read_picture(tmp_path / "grey.png")
    assert abs(read.mean()) < 0.01 and torch.equal(read[..., 0], read[..., 2])
    with pytest.raises(WanError, match="not a picture"):  # floats from 0 to 1 would be black
        read_picture(np.ones((32, 32), np.float32), "reference")


def test_a_mask_of_file_names_is_refused():
    with pytest.raises(WanError, match="A mask is one picture, or numbers .* not list"):
        read_given(SMALL, video=clip(), mask=["one.png", "two.png"])


def test_as_many_strengths_as_blocks(pipe):
    with pytest.raises(WanError, match="one for each of 2 VACE blocks, not 3"):
        generate(pipe, reference=picture(48, 32), vace_strength=[1.0, 1.0, 1.0])
