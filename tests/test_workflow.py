"""The node graph: read and written without loss, run as `generate` runs, drawn; bad files get one clear sentence."""

import contextlib
import copy
import io
import json
import random
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.patches import Circle, PathPatch
from PIL import Image
from small import write_small_model

from wan_tutorial.cli import main
from wan_tutorial.errors import WanError
from wan_tutorial.files import write_safetensors
from wan_tutorial.machine.weights import MINI, bundled_folder
from wan_tutorial.mini.stand_in import write_stand_in
from wan_tutorial.pipeline import Pipeline, load
from wan_tutorial.sampling.denoise import SamplingSettings
from wan_tutorial.sizes import VideoSize
from wan_tutorial.workflow import Workflow, read_workflow
from wan_tutorial.workflow.comfyui_json import parse_workflow, to_api, to_ui, write_workflow
from wan_tutorial.workflow.draw import draw_workflow, show_workflow, to_svg
from wan_tutorial.workflow.graph import wrong_name
from wan_tutorial.workflow.layout import workflow_of
from wan_tutorial.workflow.nodes import PAGE_ONLY, node_types
from wan_tutorial.workflow.run import video_of

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "assets" / "workflows"
PLAIN, LORA = FOLDER / "t2v_workflow.json", FOLDER / "t2v_workflow_lora.json"
SIZE = VideoSize(32, 32, 5)
PROMPT = (
    "A sword embedded in a pile of burning wood, the fire moving naturally, glowing embers and smoke rising in a dark "
    "background, volumetric lighting, detailed textures"
)
NEGATIVE = "bad quality, blurry, messy, chaotic"


@pytest.fixture(scope="module")
def pipe(tmp_path_factory) -> Pipeline:
    return load("mini", **vars(write_small_model(tmp_path_factory.mktemp("model"))), device="cpu")


@pytest.fixture
def document() -> dict:
    return json.loads(PLAIN.read_text())


def small(workflow: Workflow) -> Workflow:
    """The same workflow at a size that a test can wait for, with the small model's own name in its loader."""
    for name, value in {"width": SIZE.width, "height": SIZE.height, "length": SIZE.frames}.items():
        workflow.set("WanVaceToVideo", name, value)
    workflow.set("UnetLoaderGGUF", "unet_name", "small-Q3_K.gguf")
    workflow.set("KSampler", "steps", 2)
    return workflow


def entry(document: dict, kind: str) -> dict:
    return next(node for node in document["nodes"] if node["type"] == kind)


def parse(document: dict) -> Workflow:
    return parse_workflow(json.dumps(document))


# ------------------------------------------------------------------------------------------------ the definitions


def test_node_types_are_those_of_comfyui():
    published = json.loads((ROOT / "tests/fixtures/comfyui_nodes.json").read_text())
    assert set(published["nodes"]) == set(node_types())
    for name, fact in published["nodes"].items():
        kind, inputs = node_types()[name], [*fact["input"]["required"], *fact["input"]["optional"]]
        widgets = [i for i in inputs if i[1] in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "FILE")]
        assert kind.title == fact["display_name"] and kind.is_output == fact["output_node"]
        assert list(kind.gives.items()) == [tuple(output) for output in fact["output"]]
        assert list(kind.takes.items()) == [(i[0], i[1]) for i in inputs if i not in widgets], name
        assert kind.optional == {i[0] for i in fact["input"]["optional"] if i not in widgets}
        assert [(w.name, w.kind) for w in kind.widgets] == [(i[0], i[1]) for i in widgets], name
        for widget, (_, _, limits) in zip(kind.widgets, widgets, strict=True):
            options = limits.get("options", [])
            assert widget.default == limits.get("default", options[0] if options else "")
            assert (widget.low, widget.high) == (limits.get("min"), limits.get("max"))
            assert widget.choices == (() if "..." in options else tuple(options))
        after = published["page_only_values"].get(name)
        assert [w.then and (w.name, w.then[0]) for w in kind.widgets if w.then] == (
            [(after["after"], after["name"])] if after else []
        )


# ------------------------------------------------------------------------------------------- reading and writing


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_the_shipped_workflows_are_sound(path):
    workflow = read_workflow(path)
    assert not [finding for finding in workflow.check() if finding.problem]
    prompts = [node.values["text"] for node in workflow.plan() if node.type == "CLIPTextEncode"]
    assert prompts == [PROMPT, NEGATIVE]
    ending = ["KSampler", "TrimVideoLatent", "VAEDecode", "CreateVideo", "SaveVideo"]
    assert [node.type for node in workflow.plan()][-5:] == ending


@pytest.mark.parametrize("path", [PLAIN, LORA], ids=lambda path: path.stem)
def test_nothing_is_lost_from_file_to_graph_to_file(path, tmp_path):
    before = json.loads(path.read_text())
    before["extra"] = {"ds": {"scale": 0.7}, "mine": [1, {"x": None}]}
    before["nodes"][0]["flags"] = {"pinned": True}
    assert to_ui(parse(before)) == before
    assert json.loads(write_workflow(parse(before), tmp_path / "again.json").read_text()) == before
    api = json.loads(path.with_name(f"{path.stem}_api.json").read_text())
    assert to_api(parse(before)) == api == to_api(parse(api))
    page = to_ui(parse(api))  # a new page: other places, same meaning
    assert to_api(parse(page)) == api
    if "Power Lora Loader (rgthree)" in str(api):
        again, first = parse(page), parse(api)
        assert again.loras(again.nodes["4"]) == first.loras(first.nodes["4"]) != []


def test_a_changed_setting_reaches_both_formats(document):
    workflow = parse(document)
    workflow.set("KSampler", "steps", 8)
    assert entry(to_ui(workflow), "KSampler")["widgets_values"] == [
        6,
        "fixed",
        8,
        6.0,
        "uni_pc",
        "simple",
        1.0,
    ]
    assert to_api(workflow)["8"]["inputs"]["steps"] == 8
    with pytest.raises(WanError, match="no setting 'speed': it has seed, steps"):
        workflow.set("KSampler", "speed", 1)
    with pytest.raises(WanError, match="2 nodes of the type 'CLIPTextEncode'"):
        workflow.set("CLIPTextEncode", "text", "")


def test_older_and_newer_pages_are_read(document):
    """Places as {"0": x}, links as objects, files with a byte-order mark, settings that end early."""
    for node in document["nodes"]:
        node["pos"] = dict(zip("01", node["pos"], strict=True))
    names = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    document["links"] = [dict(zip(names, link, strict=True)) for link in document["links"]]
    entry(document, "CLIPLoader")["widgets_values"] = ["umt5_xxl_fp8_e4m3fn_scaled.safetensors", "wan"]
    workflow = parse(document)
    assert to_ui(workflow) == document and not any(finding.problem for finding in workflow.check())
    assert to_api(parse_workflow(json.dumps({"prompt": to_api(workflow)}))) == to_api(workflow)


def test_reroutes_primitives_muted_and_bypassed_nodes(document):
    nodes, links = document["nodes"], document["links"]
    shift = entry(document, "ModelSamplingSD3")
    shift["mode"] = 4
    reroute = {"id": 50, "type": "Reroute", "inputs": [{"name": "", "type": "*", "link": 900}],
               "outputs": [{"name": "", "type": "LATENT", "links": [901]}]}  # fmt: skip
    primitive = {"id": 51, "type": "PrimitiveNode", "outputs": [{"name": "INT", "type": "INT", "links": [902]}],
                 "widgets_values": [5, "fixed"]}  # fmt: skip
    sampler, trim, vace = (
        entry(document, name) for name in ("KSampler", "TrimVideoLatent", "WanVaceToVideo")
    )
    trim["inputs"][0]["link"] = 901
    vace["inputs"].append({"name": "length", "type": "INT", "widget": {"name": "length"}, "link": 902})
    links += [[900, sampler["id"], 0, 50, 0, "LATENT"], [901, 50, 0, trim["id"], 0, "LATENT"]]
    links += [[902, 51, 0, vace["id"], 6, "INT"]]
    nodes += [reroute, primitive, {**copy.deepcopy(entry(document, "SaveVideo")), "id": 52, "mode": 2}]
    workflow = parse(document)
    assert to_ui(workflow) == document
    api = to_api(workflow)
    assert api["9"]["inputs"]["samples"] == ["8", 0] and api["7"]["inputs"]["length"] == 5
    assert api["8"]["inputs"]["model"] == ["1", 0] and not {"50", "51", "52"} & set(api)
    words = [finding.words for finding in workflow.check()]
    assert any("'Save Video' (node 52) is muted" in w for w in words)
    assert any("'ModelSamplingSD3' (node 6) is bypassed" in w for w in words)
    assert not any(finding.problem for finding in workflow.check())


def test_unknown_nodes_are_named_and_stop_only_what_needs_them(document):
    decode = entry(document, "VAEDecode")
    document["links"].append([900, decode["id"], 0, 60, 0, "IMAGE"])
    combine = {"id": 60, "type": "VHS_VideoCombine", "title": "My mp4", "widgets_values": {"frame_rate": 16},
               "inputs": [{"name": "images", "type": "IMAGE", "link": 900}], "outputs": []}  # fmt: skip
    document["nodes"].append(combine)
    aside = parse(document)
    assert to_ui(aside) == document
    assert [f.words for f in aside.check()] == [
        "The node 'My mp4' (node 60) is of the type 'VHS_VideoCombine', which this kit does not know; it feeds "
        "nothing, and the rest runs without it."
    ]
    document["nodes"] = [
        node for node in document["nodes"] if node["type"] not in ("SaveVideo", "CreateVideo")
    ]
    document["links"] = [link for link in document["links"] if link[3] not in (11, 12)]
    assert (
        parse(document).plan()[-1].type == "VAEDecode"
    )  # no output that we know: the last that makes pictures
    entry(document, "ModelSamplingSD3")["type"] = "SkipLayerGuidance"
    problem = next(f.words for f in parse(document).check() if f.problem)
    assert "type 'SkipLayerGuidance'" in problem and "it feeds 'KSampler' (node 8)" in problem


def test_comfyuis_own_wan_examples_need_nothing_that_is_missing():
    """The nodes of two public files, as they are; a file is read with all its nodes known."""
    examples = json.loads((ROOT / "tests/fixtures/comfyui_nodes.json").read_text())["public_workflows"]
    assert len(examples) == 2
    for types in examples.values():
        assert set(types) <= {*node_types(), *PAGE_ONLY}


# ---------------------------------------------------------------------------------------------------- running it


def test_a_run_is_generate(pipe, tmp_path):
    workflow = small(read_workflow(PLAIN))
    runs = list(workflow.run(pipe=pipe, save_to=tmp_path))
    result = pipe.generate(
        PROMPT, negative=NEGATIVE, seed=6, size=SIZE, steps=2, guidance=6.0, shift=8.0, progress=False
    )
    video = video_of(runs)
    assert torch.equal(video.frames, result.video) and video.fps == 16
    assert (tmp_path / "video" / "wan_00001_.mp4").is_file()
    by_type = {run.node.type: run for run in runs}
    assert by_type["KSampler"].outputs[0].shape == (1, 16, 2, 4, 4)
    assert by_type["CreateVideo"].outputs[0].shape == (5, 32, 32, 3)
    assert by_type["WanVaceToVideo"].outputs[3].value == 0
    assert by_type["CLIPLoader"].words == (
        "umt5_small_fp8.safetensors stands in for umt5_xxl_fp8_e4m3fn_scaled.safetensors.",
    )
    for kind in ("CLIPTextEncode", "KSampler", "VAEDecode"):
        picture = by_type[kind].outputs[0].picture()
        assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3
    assert "LATENT 1x16x2x4x4, " in str(by_type["KSampler"]) and " s  KSampler" in str(by_type["KSampler"])


def test_without_a_shift_node_the_models_own_holds_and_webp_is_an_output(pipe):
    """As public text-to-video examples are made: EmptyHunyuanLatentVideo, no ModelSamplingSD3, SaveAnimatedWEBP."""
    api = {
        "1": {"class_type": "UNETLoader", "inputs": {"unet_name": "wan2.1_t2v_1.3B_fp16.safetensors"}},
        "2": {"class_type": "CLIPLoader", "inputs": {"clip_name": "umt5_xxl_fp16.safetensors", "type": "wan"}},
        "3": {"class_type": "VAELoader", "inputs": {"vae_name": "wan_2.1_vae.safetensors"}},
        "4": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["2", 0], "text": "a (fire:1.2)"}},
        "5": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["2", 0], "text": ""}},
        "6": {"class_type": "EmptyHunyuanLatentVideo", "inputs": {"width": 48, "height": 32, "length": 1}},
        "7": {"class_type": "KSampler", "inputs": {"model": ["1", 0], "positive": ["4", 0], "negative": ["5", 0],
              "latent_image": ["6", 0], "seed": 3, "steps": 2, "cfg": 1, "sampler_name": "euler"}},
        "8": {"class_type": "VAEDecode", "inputs": {"samples": ["7", 0], "vae": ["3", 0]}},
        "9": {"class_type": "SaveAnimatedWEBP", "inputs": {"images": ["8", 0], "fps": 16.0}},
    }  # fmt: skip
    workflow = parse_workflow(json.dumps(api))
    assert "plain words" in workflow.check()[0].words and not workflow.check()[0].problem
    said = (words for run in workflow.run(pipe=pipe) for words in run.words)
    assert (
        "48x32x1 becomes 96x96x13, the size that the model mini paints." in said
    )  # looks no further than that
    workflow.set("UNETLoader", "unet_name", "small-Q3_K.gguf")
    options = {
        "size": VideoSize(48, 32, 1),
        "steps": 2,
        "guidance": 1.0,
        "sampler": "euler",
        "progress": False,
    }
    expected = pipe.generate("a (fire:1.2)", seed=3, **options)
    assert torch.equal(video_of(list(workflow.run(pipe=pipe))).frames, expected.video)


def test_a_result_becomes_a_workflow_and_the_same_result_again(pipe):
    options = {
        "size": SIZE,
        "steps": 2,
        "guidance": 2.5,
        "shift": 3.0,
        "sampler": "euler",
        "scheduler": "normal",
    }
    result = pipe.generate("a torch", negative="blurry", seed=5, progress=False, **options)
    workflow = parse_workflow(json.dumps(to_ui(workflow_of(result))))
    workflow.set("UnetLoaderGGUF", "unet_name", "small-Q3_K.gguf")
    assert torch.equal(video_of(list(workflow.run(pipe=pipe))).frames, result.video)
    loras = [("a.safetensors", 0.5)]
    page = workflow_of(result, loras=loras, reference="bonfire.png", model="wan2.1-vace-14b-q3")
    assert [page.loras(node) for node in page.nodes.values() if node.type.startswith("Power")] == [loras]
    assert not any(finding.problem for finding in page.check())
    ours = SamplingSettings(scheduler="official")
    with pytest.raises(WanError, match="ComfyUI has no sampler 'uni_pc' with the scheduler 'official'"):
        workflow_of(type(result)(**{**vars(result), "settings": ours}))


def test_what_cannot_run_is_said_before_or_where_it_stops(pipe, tmp_path, document):
    workflow = small(read_workflow(PLAIN))
    workflow.set("KSampler", "sampler_name", "dpm_adaptive")
    with pytest.raises(WanError, match="There is no sampler called 'dpm_adaptive'"):
        next(workflow.run(pipe=pipe))
    workflow = small(read_workflow(PLAIN))
    workflow.set("WanVaceToVideo", "width", 40)
    with pytest.raises(WanError, match="multiple of 16 pixels, not 40"):
        list(workflow.run(pipe=pipe))
    for name in ("width", "height"):
        workflow.set("WanVaceToVideo", name, 16384)
    with pytest.raises(WanError, match="2097152 tokens: no Wan model paints more than 500000"):
        list(workflow.run(pipe=pipe))
    workflow = small(read_workflow(PLAIN))
    workflow.set("UnetLoaderGGUF", "unet_name", "flux1-dev.gguf")
    with pytest.raises(WanError, match="'flux1-dev.gguf', which is not a file of the model mini"):
        next(workflow.run(pipe=pipe))
    workflow = read_workflow(LORA)
    workflow.folder = tmp_path
    Image.new("RGB", (64, 48), "orange").save(tmp_path / "bonfire.png")
    workflow.nodes["4"].values["lora_1"]["lora"] = "embroidery.safetensors"
    with pytest.raises(WanError, match="asks for the LoRA 'embroidery.safetensors'.*not there"):
        list(workflow.run(pipe=pipe))
    workflow.nodes["4"].values["lora_1"]["on"] = False
    (tmp_path / "bonfire.png").write_text("not a picture")
    with pytest.raises(WanError, match="bonfire.png is not a picture that can be read"):
        list(workflow.run(pipe=pipe))


def test_the_second_graph_is_generate_with_the_lora_and_the_reference():
    """As it is shipped, on the scale model's own files."""
    mini, workflow = load("mini"), read_workflow(LORA)
    runs = list(workflow.run(pipe=mini))
    asked = {node.type: node.values for node in workflow.plan()}
    sampler = asked["KSampler"]
    ((_, strength),) = next(workflow.loras(node) for node in workflow.plan() if node.type.startswith("Power"))
    positive, negative = (node.values["text"] for node in workflow.plan() if node.type == "CLIPTextEncode")
    options = {
        "negative": negative,
        "seed": sampler["seed"],
        "steps": sampler["steps"],
        "guidance": sampler["cfg"],
        "shift": asked["ModelSamplingSD3"]["shift"],
        "loras": [(bundled_folder() / "Wan21_CausVid_mini_T2V_lora_rank32.safetensors", strength)],
        "progress": False,
    }
    with_both = mini.generate(positive, reference=ROOT / "assets" / "bonfire.png", fit="crop", **options)
    assert torch.equal(video_of(runs).frames, with_both.video)
    assert not torch.equal(with_both.video, mini.generate(positive, **options).video)


def test_a_heavy_model_finds_its_loras_where_downloads_go(tmp_path, monkeypatch):
    """The second graph on files of the real names and layout, without folder=; a LoRA's stand-in is said once."""
    monkeypatch.setenv("WAN_TUTORIAL_MODELS", str(tmp_path))
    heavy = load(write_stand_in(tmp_path))
    workflow = read_workflow(LORA)
    for name, value in {"width": 96, "height": 96, "length": 5}.items():
        workflow.set("WanVaceToVideo", name, value)
    workflow.set("KSampler", "steps", 1)
    runs = {done.node.type: done for done in workflow.run(pipe=heavy)}
    ((path, strength),) = runs["ModelSamplingSD3"].outputs[0].value.loras
    assert path.parent == tmp_path / "loras" and strength == 0.3
    words = next(done.words for done in workflow.run(pipe=load("mini")) if done.node.id == "4")
    assert len(words) == 1 and "stands in for" in words[0]


@pytest.mark.parametrize("node", ["LoraLoader", "LoraLoaderModelOnly", "Power Lora Loader (rgthree)"])
def test_a_lora_reaches_the_text_encoder_where_a_node_lets_it(pipe, tmp_path, node):
    """As in ComfyUI: at the clip strength, not at all by the loader for the model only, and said either way."""
    text = "text_encoders.umt5xxl.transformer.encoder.block.0.layer.1.DenseReluDense.wo"
    dice = torch.Generator().manual_seed(0)
    keys = {
        f"{text}.lora_down.weight": torch.randn(2, 512, generator=dice) * 0.2,
        f"{text}.lora_up.weight": torch.randn(256, 2, generator=dice) * 0.2,
        "diffusion_model.blocks.0.ffn.0.diff_b": torch.ones(512),
    }
    write_safetensors(tmp_path / "both.safetensors", keys)
    workflow = small(read_workflow(LORA))
    workflow.nodes["4"].type = node
    row = {"on": True, "lora": "both.safetensors", "strength": 0.7, "strengthTwo": None}
    plain = {"lora_name": "both.safetensors", "strength_model": 0.7, "strength_clip": 0.7}
    workflow.nodes["4"].values = {"lora_1": row} if node.startswith("Power") else plain
    for prompt in (one for one in workflow.plan() if one.type == "CLIPTextEncode"):
        if node == "LoraLoaderModelOnly":
            prompt.links["clip"] = workflow.nodes["4"].links["clip"]
    runs = list(workflow.run(pipe=pipe, folder=tmp_path))
    words = next(run.words for run in runs if run.node.type == node)
    encoded = next(run.outputs[0].value for run in runs if run.node.type == "CLIPTextEncode")
    loras = [(tmp_path / "both.safetensors", 0.7)]
    bare, worn = (pipe.encode_text(encoded.text, loras=given).positive for given in ((), loras))
    assert not torch.equal(bare, worn)
    if node == "LoraLoaderModelOnly":
        assert torch.equal(encoded.embedding, bare)
        assert (
            "both.safetensors: 2 keys are for the text encoder, not applied, as this node gives them no strength."
            in words
        )
    else:
        assert torch.equal(encoded.embedding, worn)
        assert "both.safetensors: 2 keys are for the text encoder, applied at strength 0.7." in words
    row["strengthTwo"] = plain["strength_clip"] = 0.2
    if node != "LoraLoaderModelOnly":
        assert workflow.loras(workflow.nodes["4"]) == [("both.safetensors", 0.7)]
        assert workflow.clip_loras(workflow.nodes["4"]) == [("both.safetensors", 0.2)]


@pytest.mark.parametrize("kind", ["LoraLoader", "LoraLoaderModelOnly"])
def test_a_primitive_sets_a_lora_as_in_the_file_for_comfyui(kind):
    """A strength of 1 in the node's own field and a PrimitiveNode of 0 on it: no LoRA, here as there."""
    document = json.loads(LORA.read_text())
    loader = next(node for node in document["nodes"] if node["id"] == 4)
    loader.update(type=kind, widgets_values=["a.safetensors", 1.0, 1.0])
    socket = {"name": "strength_model", "type": "FLOAT", "widget": {"name": "strength_model"}, "link": 900}
    loader["inputs"].append(socket)
    document["links"].append([900, 51, 0, 4, len(loader["inputs"]) - 1, "FLOAT"])
    primitive = {"id": 51, "type": "PrimitiveNode", "outputs": [{"name": "FLOAT", "type": "FLOAT"}],
                 "widgets_values": [0.0, "fixed"]}  # fmt: skip
    document["nodes"].append(primitive)
    workflow = parse(document)
    assert to_api(workflow)["4"]["inputs"]["strength_model"] == 0.0
    assert workflow.loras(workflow.nodes["4"]) == []
    loader["widgets_values"][1], primitive["widgets_values"][0] = "abc", 0.5
    workflow = parse(document)
    assert workflow.loras(workflow.nodes["4"]) == [("a.safetensors", 0.5)]


def test_a_lora_row_of_anything_is_checked():
    workflow = read_workflow(LORA)
    workflow.nodes["4"].values = {"lora_1": {"on": True, "lora": ["a"], "strength": "much"}}
    problems = [finding.words for finding in workflow.check() if finding.problem]
    assert len(problems) == 2 and "must name a file" in problems[0] and "not 'much'" in problems[1]


def test_a_reference_is_encoded_sampled_and_trimmed_node_by_node(pipe, tmp_path):
    """The graph with a reference gives what generate gives, and each node what ComfyUI's gives."""
    workflow = small(read_workflow(LORA))
    workflow.folder = tmp_path
    dice = np.random.default_rng(0)
    Image.fromarray(dice.integers(0, 255, (50, 70, 4), np.uint8)).save(tmp_path / "bonfire.png")
    workflow.nodes["4"].values["lora_1"]["on"] = False
    workflow.set("WanVaceToVideo", "strength", 0.7)
    runs = {done.node.type: done for done in workflow.run(pipe=pipe)}
    assert runs["LoadImage"].outputs[0].shape == (1, 50, 70, 3)
    assert runs["LoadImage"].outputs[1].value.max() > 0.9, "the mask is where the picture is transparent"
    assert "transparent" in " ".join(runs["LoadImage"].words)
    _, _, latent, trim = runs["WanVaceToVideo"].outputs
    assert latent.shape[2] == SIZE.latent_frames + 1 and trim.value == 1
    assert runs["WanVaceToVideo"].outputs[0].value.context.tensor.shape == (1, 96, *latent.shape[2:])
    assert runs["KSampler"].outputs[0].shape == latent.shape
    assert runs["TrimVideoLatent"].outputs[0].shape == SIZE.latent_shape
    sampler = workflow.nodes[runs["KSampler"].node.id].values
    prompts = [done.value.text for done in runs["WanVaceToVideo"].outputs[:2]]
    expected = pipe.generate(
        prompts[0],
        negative=prompts[1],
        seed=sampler["seed"],
        size=SIZE,
        steps=sampler["steps"],
        guidance=sampler["cfg"],
        shift=8.0,
        reference=tmp_path / "bonfire.png",
        fit="crop",
        vace_strength=0.7,
        progress=False,
    )
    assert torch.equal(runs["TrimVideoLatent"].outputs[0].value.latent, expected.latent)


@pytest.mark.parametrize(
    ("kind", "name", "giver", "words"),
    [
        ("CreateVideo", "fps", "UnetLoaderGGUF", "takes FLOAT, not the MODEL of"),
        ("TrimVideoLatent", "trim_amount", "LoadImage", "takes INT, not the IMAGE of"),
        ("ModelSamplingSD3", "shift", "CLIPLoader", "takes FLOAT, not the CLIP of"),
        ("CLIPTextEncode", "text", "VAELoader", "takes STRING, not the VAE of"),
        ("KSampler", "sampler_name", "UnetLoaderGGUF", "takes STRING, not the MODEL of"),
        ("VAELoader", "vae_name", "CLIPLoader", "takes STRING, not the CLIP of"),
    ],
)
def test_a_link_into_a_setting_must_carry_what_it_takes(kind, name, giver, words):
    api = to_api(read_workflow(LORA))
    numbers = {node["class_type"]: number for number, node in api.items()}
    api[numbers[kind]]["inputs"][name] = [numbers[giver], 0]
    problems = [finding.words for finding in parse(api).check() if finding.problem]
    assert len(problems) == 1 and f"setting {name!r}" in problems[0] and words in problems[0]


def test_a_whole_number_may_be_linked_into_any_number(document):
    api = to_api(parse(document))
    vace, create = (str(entry(document, name)["id"]) for name in ("WanVaceToVideo", "CreateVideo"))
    api[create]["inputs"]["fps"] = [vace, 3]
    assert not [finding for finding in parse(api).check() if finding.problem]


@pytest.mark.parametrize("kind", ["*", "MODEL"])
def test_a_primitive_is_no_model(kind, document):
    sampler = entry(document, "KSampler")
    next(socket for socket in sampler["inputs"] if socket["name"] == "model")["link"] = 900
    document["links"].append([900, 51, 0, sampler["id"], 0, kind])
    document["nodes"].append({"id": 51, "type": "PrimitiveNode", "widgets_values": [1, "fixed"],
                              "outputs": [{"name": "x", "type": kind}]})  # fmt: skip
    problems = [finding.words for finding in parse(document).check() if finding.problem]
    assert problems == [
        "The input 'model' of 'KSampler' (node 8) takes MODEL, not the setting of 'PrimitiveNode' (node 51)."
    ]


# ------------------------------------------------------------------------------- outputs that cannot be written


def test_an_output_that_cannot_be_written_is_noticed_before_any_node_runs(pipe, tmp_path):
    (tmp_path / "afile").write_text("")
    for save_to, prefix in [
        ("/proc/nope", "x"),
        (tmp_path / "afile" / "below", "x"),
        (tmp_path, "afile/x"),
        (tmp_path, "x" * 250),
    ]:
        workflow = small(read_workflow(PLAIN))
        workflow.set("SaveVideo", "filename_prefix", prefix)
        with pytest.raises(WanError, match="choose another output|shorten it"):
            workflow.run(pipe=pipe, save_to=save_to)  # no node is asked for


@pytest.mark.parametrize("name", ["out.txt", "afile/out.png", "~nosuchuser/out.png"])
def test_a_picture_that_cannot_be_written_is_noticed_before_the_run(name, tmp_path, monkeypatch):
    monkeypatch.setattr(Workflow, "run", lambda *_, **__: pytest.fail("it ran"))
    (tmp_path / "afile").write_text("")
    picture = name if name.startswith("~") else tmp_path / name
    for words in (("run", PLAIN, "--picture", picture), ("draw", PLAIN, "--run", "--output", picture)):
        status, page = command(*words)
        assert status == 2 and "Traceback" not in page and len(page.splitlines()) == 1


@pytest.mark.parametrize("name", ["/proc/x.json", "~nosuchuser/x.json", "x" * 300 + ".json", "", "."])
def test_a_workflow_that_cannot_be_written_is_said_in_a_sentence(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WanError):
        write_workflow(read_workflow(PLAIN), name)
    longest = "x" * 240 + ".json"
    assert write_workflow(read_workflow(PLAIN), longest).is_file()
    assert [path.name for path in tmp_path.iterdir()] == [longest]


# -------------------------------------------------------------------------------------------------- staying inside


@pytest.mark.parametrize(
    "name",
    [
        "../x.gguf",
        "/etc/passwd",
        "a/../../b",
        "C:\\x.gguf",
        "\\\\server\\x",
        "~/x",
        "..\\x",
        "x\x00y",
        "",
        "a" * 300,
        "\u00e9" * 200 + ".png",  # 204 letters, 404 bytes
    ],
)
def test_file_names_stay_inside_their_folder(name, document):
    assert wrong_name(name)
    for kind in ("UnetLoaderGGUF", "VAELoader"):
        entry(document, kind)["widgets_values"][0] = name
    problems = [finding.words for finding in parse(document).check() if finding.problem]
    assert len(problems) == 2 and all("file" in words for words in problems)
    entry(document, "SaveVideo")["widgets_values"][0] = name
    assert len([finding for finding in parse(document).check() if finding.problem]) == 3


def test_a_link_on_the_disk_does_not_lead_outside(pipe, tmp_path):
    (tmp_path / "secret.png").write_bytes(b"not a picture")
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "bonfire.png").symlink_to(tmp_path / "secret.png")
    workflow = read_workflow(LORA)
    workflow.folder, workflow.nodes["4"].values["lora_1"]["on"] = inside, False
    workflow.nodes["7"].values["image"] = "\u00e9" * 200 + ".png"
    assert draw_workflow(workflow).axes, "a name longer than the disk's names is a picture that is not there"
    workflow.nodes["7"].values["image"] = "bonfire.png"
    if not (ROOT / "assets" / "bonfire.png").exists():
        with pytest.raises(WanError, match="not beside the workflow's file"):
            list(workflow.run(pipe=pipe))
    assert wrong_name("sub/bonfire.png") == ""


# --------------------------------------------------------------------------------------------------- malformed files


def broken_files() -> dict[str, bytes]:
    """Files that somebody might have, by mistake or by malice."""
    good = json.loads(PLAIN.read_text())

    def changed(change) -> bytes:
        document = copy.deepcopy(good)
        change(document)
        return json.dumps(document).encode()

    def node(key, value, kind="KSampler"):
        return changed(lambda document: entry(document, kind).update({key: value}))

    def top(key, value):
        return changed(lambda document: document.update({key: value}))

    def link(place, value):
        return changed(lambda document: document["links"][0].__setitem__(place, value))

    def widgets(*values, kind="KSampler"):
        return node("widgets_values", list(values), kind)

    def ring(count):
        return json.dumps({str(i): {"class_type": "Reroute", "inputs": {"x": [str((i + 1) % count), 0]}}
                           for i in range(count)}).encode()  # fmt: skip

    fed = {"class_type": "VAEDecode", "inputs": {"samples": ["2", 0], "vae": ["9", 0]}}
    return {
        "empty": b"",
        "spaces": b"   \n",
        "binary": bytes(range(256)),
        "cut off": PLAIN.read_bytes()[:5000],
        "a list": b"[1, 2, 3]",
        "a number": b"12",
        "a word": b'"workflow"',
        "null": b"null",
        "empty object": b"{}",
        "another object": b'{"name": "wan", "version": 2}',
        "deep list": b"[" * 100_000,
        "deep closed list": b"[" * 900 + b"]" * 900,
        "deep object": b'{"nodes": ' * 60 + b"1" + b"}" * 60,
        "not a number": b'{"nodes": [], "links": [NaN]}',
        "infinity": PLAIN.read_bytes().replace(b'"shift"', b'"shift"').replace(b"8.0", b"Infinity"),
        "number of 5000 digits": b'{"nodes": [' + b"9" * 5000 + b"]}",
        "too large": b" " * (10 * 10**6 + 1),
        "nodes is text": top("nodes", "all"),
        "nodes is null": top("nodes", None),
        "node is text": top("nodes", ["KSampler"]),
        "no nodes": top("nodes", []),
        "too many nodes": top("nodes", [{"id": i, "type": "Note"} for i in range(2001)]),
        "too many links": top("links", [[i, 1, 0, 2, 0, "X"] for i in range(10001)]),
        "links is an object": top("links", {"1": 2}),
        "groups is text": top("groups", "x"),
        "group without numbers": top("groups", [{"title": "x", "bounding": ["a", 0, 0, 0]}]),
        "links missing": top("links", []),
        "same number twice": node("id", 1),
        "number missing": node("id", None),
        "number is a list": node("id", [1]),
        "type missing": node("type", None),
        "type is an object": node("type", {"a": 1}),
        "place is text": node("pos", "left"),
        "place is one number": node("pos", [3]),
        "place is huge": node("pos", [1e300, 0]),
        "inputs is text": node("inputs", "model"),
        "input without a name": node("inputs", [{"link": 1}]),
        "input linked to text": node("inputs", [{"name": "model", "link": "x"}]),
        "input linked to nothing": node("inputs", [{"name": "model", "link": 12345}]),
        "input left open": node("inputs", []),
        "settings is a number": node("widgets_values", 4),
        "seed is text": widgets("seven", "fixed", 20, 6.0, "uni_pc", "simple", 1.0),
        "seed is negative": widgets(-1, "fixed", 20, 6.0, "uni_pc", "simple", 1.0),
        "steps is a list": widgets(7, "fixed", [20], 6.0, "uni_pc", "simple", 1.0),
        "steps is a million": widgets(7, "fixed", 10**6, 6.0, "uni_pc", "simple", 1.0),
        "steps is true": widgets(7, "fixed", True, 6.0, "uni_pc", "simple", 1.0),
        "cfg is an object": widgets(7, "fixed", 20, {}, "uni_pc", "simple", 1.0),
        "cfg overflows": widgets(7, "fixed", 20, 0.5, "uni_pc", "simple", 1.0).replace(b"0.5", b"1e999"),
        "sampler is null": widgets(7, "fixed", 20, 6.0, None, "simple", 1.0),
        "width is a fraction": widgets(832.5, 480, 81, 1, 1.0, kind="WanVaceToVideo"),
        "prompt is a number": widgets(3, kind="CLIPTextEncode"),
        "file name is an object": widgets({"path": "x"}, kind="VAELoader"),
        "file name leaves the folder": widgets("../../../etc/passwd", kind="VAELoader"),
        "link too short": top("links", [[1, 2]]),
        "link from nowhere": link(1, 999),
        "link from a list": link(1, [1]),
        "output that is not there": link(2, 7),
        "output is negative": link(2, -1),
        "output is text": link(2, "MODEL"),
        "wrong type linked": link(1, 3),
        "circle": changed(lambda d: d["links"].__setitem__(0, [1, 8, 0, 6, 0, "LATENT"])),
        "ring of two": ring(2),
        "ring of itself": ring(1),
        "ring of 2000": ring(2000),
        "api node is a list": b'{"1": {"class_type": "KSampler"}, "2": []}',
        "api class is a number": b'{"1": {"class_type": 3, "inputs": {}}, "2": {"class_type": "Note"}}',
        "api inputs is text": b'{"1": {"class_type": "KSampler", "inputs": "x"}}',
        "api link from nowhere": json.dumps({"1": fed}).encode(),
        "half a letter": PLAIN.read_bytes().replace(b"messy", b"\\ud800"),
        "unknown nodes alone": b'{"1": {"class_type": "Import(os)", "inputs": {"code": "exit()"}}}',
    }


BROKEN = broken_files()


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_gets_one_clear_sentence(name, tmp_path, monkeypatch):
    path = tmp_path / "workflow.json"
    path.write_bytes(BROKEN[name])
    before = sorted(tmp_path.rglob("*"))
    try:
        problems = [finding.words for finding in read_workflow(path).check() if finding.problem]
        assert problems, "neither refused nor found wanting"
        words = problems[0]
    except WanError as error:
        words = str(error)
    assert words.endswith(".") and len(words) < 400 and "\n" not in words and words[:1].strip(), words
    assert sorted(tmp_path.rglob("*")) == before


def test_there_are_fifty_of_them():
    assert len(BROKEN) >= 50


def test_random_damage_never_crashes(document):
    """Hundreds of files with one value replaced by something else: a workflow, or a WanError."""
    chance = random.Random(0)
    strange = [
        None,
        True,
        -1,
        0,
        10**30,
        1e308,
        "",
        "x",
        [],
        {},
        [None],
        {"0": 1},
        ["8", 0],
        [[]],
        "../x",
        "\ud800",
    ]
    for _ in range(400):
        damaged = copy.deepcopy(document)
        here = damaged
        while True:
            key = chance.choice(list(here) if isinstance(here, dict) else range(len(here)))
            inner = here[key]
            if not isinstance(inner, dict | list) or not inner or chance.random() < 0.2:
                break
            here = inner
        here[key] = chance.choice(strange)
        try:
            workflow = parse(damaged)
            workflow.check()
            to_api(workflow), to_ui(workflow)
        except WanError:
            pass


def test_names_from_a_file_cannot_talk_to_the_terminal(document):
    document["nodes"][0].update({"title": "\x1b[2J\nnext", "type": "\x9bWhat\x07"})
    for words in [str(finding) for finding in parse(document).check()] + [
        node.title for node in parse(document).nodes.values()
    ]:
        assert words.isprintable(), words


def test_large_graphs_are_checked_in_no_time():
    """2000 nodes in a row, a thousand of them outputs: the most that a file may hold."""
    chain = {"0": {"class_type": "VAELoader", "inputs": {"vae_name": "a"}}}
    chain |= {
        str(i): {"class_type": "TrimVideoLatent", "inputs": {"samples": [str(i - 1), 0]}}
        for i in range(1, 1000)
    }
    chain |= {
        str(i): {"class_type": "PreviewImage", "inputs": {"images": [str(i - 1000), 0]}}
        for i in range(1000, 2000)
    }
    began = time.process_time()
    workflow = parse_workflow(json.dumps(chain))
    assert any(finding.problem for finding in workflow.check())
    assert len(to_api(workflow)) == 2000 and len(to_ui(workflow)["nodes"]) == 2000
    assert time.process_time() - began < 5
    with pytest.raises(WanError, match="room for 300 nodes"):
        draw_workflow(workflow)


# --------------------------------------------------------------------------------------------------------- drawing


def test_drawings_show_every_node_and_say_so_in_words(pipe, monkeypatch):
    workflow = small(read_workflow(PLAIN))
    runs = list(workflow.run(pipe=pipe))
    figure = draw_workflow(workflow, runs, title="Text to video")
    shown = " ".join(text.get_text() for text in figure.axes[0].texts)
    shapes = ["1 × 16 × 2 × 4 × 4", "5 × 32 × 32 × 3", "64 × 256"]
    for words in ("KSampler", "uni_pc", "Unet Loader (GGUF)", "Sampling", "Text to video", *shapes):
        assert words in shown, words
    assert "graph of 13 nodes" in figure.get_label()
    assert "KSampler from ModelSamplingSD3, WanVaceToVideo" in figure.get_label()
    svg = to_svg(figure)
    assert svg.startswith("<?xml") and 10_000 < len(svg) < 600_000
    caught = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: caught.append(data))
    show_workflow(read_workflow(LORA))
    assert ' width="100%" viewBox=' in caught[0]["image/svg+xml"]  # no wider than the page
    assert 'alt="A ComfyUI workflow as a graph of' in caught[0]["text/html"]
    blue = draw_workflow(read_workflow(LORA))
    shown = " ".join(text.get_text() for text in blue.axes[0].texts)
    assert "Power Lora Loader (rgthree)" in shown and "Wan21_CausVid_14B_T2V_lora_rank32.safetensors" in shown


@pytest.mark.parametrize("path", [PLAIN, LORA], ids=lambda path: path.stem)
def test_no_wire_passes_through_a_socket_or_a_title_that_is_not_its_own(path):
    """A wire through another node's socket says that it ends there."""
    workflow = read_workflow(path)
    axes = draw_workflow(workflow).axes[0]
    sockets = np.array(
        [dot.center for dot in axes.patches if isinstance(dot, Circle) and dot.get_zorder() == 6]
    )
    wires = [
        wire.get_path() for wire in axes.patches if isinstance(wire, PathPatch) and wire.get_zorder() == 2.5
    ]
    assert len(wires) == sum(len(node.links) for node in workflow.nodes.values())
    t = np.linspace(0, 1, 400)[:, None]
    for wire in wires:
        a, b, c, d = wire.vertices
        way = (1 - t) ** 3 * a + 3 * (1 - t) ** 2 * t * b + 3 * (1 - t) * t**2 * c + t**3 * d
        own = np.minimum(*(np.hypot(*(sockets - end).T) for end in (a, d))) < 1
        near = np.hypot(*(way[:, None] - sockets[~own]).transpose(2, 0, 1)).min(0)
        assert near.min() > 10, f"{a} to {d} passes the socket at {sockets[~own][near.argmin()]}"
        for words, (x, y, *_), _ in workflow.groups:
            right = x + 14 + 13 * len(words)
            inside = (way > (x + 10, y + 8)).all(1) & (way < (right, y + 36)).all(1)
            assert not inside.any(), f"{a} to {d} passes through {words!r}"


def test_odd_workflows_are_drawn_too(document):
    for node, mode in zip(document["nodes"], [4, 2, 0], strict=False):
        node["mode"] = mode
    entry(document, "VAEDecode")["flags"] = {"collapsed": True}
    entry(document, "KSampler").update({"color": "no colour", "title": "$x_1$ \u4e2d"})
    document["nodes"].append(
        {"id": 70, "type": "Mystery", "widgets_values": [1, "two", None], "pos": [0, 900]}
    )
    assert len(to_svg(draw_workflow(parse(document)))) > 10_000
    far = {**document, "groups": [{"title": "far", "bounding": [0, 0, 9e8, 1]}]}
    with pytest.raises(WanError, match="20000 pixels each way"):
        draw_workflow(parse(far))
    assert draw_workflow(parse_workflow(json.dumps(to_api(parse(document))))).axes


# ------------------------------------------------------------------------------------------------------ the command


def command(*words: object) -> tuple[int, str]:
    """What the program prints and returns."""
    page = io.StringIO()
    with contextlib.redirect_stdout(page), contextlib.redirect_stderr(page):
        status = main(["workflow", *map(str, words)])
    return status, page.getvalue()


def test_check_and_draw_from_the_command_line(tmp_path):
    status, page = command("check", LORA)
    assert status == 0 and page.endswith("15 nodes, 14 of them take part; it can run here.\n")
    broken = tmp_path / "broken.json"
    broken.write_bytes(BROKEN["seed is text"])
    status, page = command("check", broken)
    assert status == 2 and "'seed' of 'KSampler' (node 8) must be a whole number, not 'seven'" in page
    for ending in ("png", "svg"):
        picture = tmp_path / f"drawing.{ending}"
        assert command("draw", PLAIN, "--output", picture) == (0, f"wrote     {picture}\n")
    assert Image.open(tmp_path / "drawing.png").width > 2000
    assert command("draw", PLAIN, "--output", tmp_path / "drawing.pdf")[0] == 2
    status, page = command("run", tmp_path / "missing.json")
    assert status == 2 and "There is no workflow at" in page and "Traceback" not in page


def test_run_from_the_command_line(pipe, tmp_path, monkeypatch):
    monkeypatch.setattr("wan_tutorial.workflow.run.load", lambda model, **files: pipe)
    small_one = small(read_workflow(PLAIN))
    small_one.set("UnetLoaderGGUF", "unet_name", MINI.files["transformer"].name)
    path = write_workflow(small_one, tmp_path / "small.json")
    picture = tmp_path / "run.png"
    status, page = command("run", path, "--output", tmp_path / "out", "--picture", picture)
    assert status == 0 and "KSampler: LATENT 1x16x2x4x4" in page and picture.is_file()
    assert (tmp_path / "out/video/wan_00001_.mp4").is_file()
