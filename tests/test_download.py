"""Fetching models: from a small hub on this machine, spoken to by the real huggingface_hub, and without any."""

import errno
import hashlib
import json
import os
import re
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from wan_tutorial import cli
from wan_tutorial.errors import WanError
from wan_tutorial.machine import download as module
from wan_tutorial.machine import weights
from wan_tutorial.machine.download import RECORD, download
from wan_tutorial.machine.weights import EXTRAS, MODELS, WAN_14B_Q3, find_file, find_files


def content(name: str) -> bytes:
    """A file whose one tensor says its name 5000 times."""
    size = 5000 * len(name)
    header = json.dumps({"x": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return len(header).to_bytes(8, "little") + header + (name * 5000).encode()


class Hub(BaseHTTPRequestHandler):
    """As much of huggingface.co as a download needs: a HEAD with the checksum, a GET that may begin in the middle."""

    gone: set[str] = set()
    damaged: set[str] = set()
    asked: list[tuple[str, str | None]] = []
    protocol_version = "HTTP/1.1"

    def reply(self, body: bool) -> None:
        name = self.path.rpartition("/")[2]
        if name in self.gone:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        whole = content(name)
        begin = int(re.findall(r"\d+", self.headers.get("Range", "bytes=0-"))[0])
        part = (b"?" * len(whole) if name in self.damaged else whole)[begin:]
        self.send_response(206 if begin else 200)
        self.send_header("ETag", f'"{hashlib.sha256(whole).hexdigest()}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("Accept-Ranges", "bytes")
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(whole) - 1}/{len(whole)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if body:
            type(self).asked.append((name, self.headers.get("Range")))
            self.wfile.write(part)

    def do_HEAD(self) -> None:
        self.reply(False)

    def do_GET(self) -> None:
        self.reply(True)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch, tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    Hub.gone, Hub.damaged, Hub.asked = set(), set(), []
    monkeypatch.setattr(module, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("WAN_TUTORIAL_MODELS", str(tmp_path / "default"))
    monkeypatch.setattr(
        module.shutil, "disk_usage", lambda _: SimpleNamespace(free=10**12)
    )  # the test's own disk is not meant
    yield Hub
    server.shutdown()
    server.server_close()


def test_a_model_is_fetched_once_into_comfyuis_places(hub, tmp_path):
    paths = download("wan2.1-vace-14b-q3", tmp_path)
    places = [str(path.relative_to(tmp_path)) for path in paths]
    assert places == [
        "diffusion_models/Wan2.1_14B_VACE-Q3_K_S.gguf",
        "text_encoders/umt5_xxl_fp8_e4m3fn_scaled.safetensors",
        "vae/wan_2.1_vae.safetensors",
    ]
    assert all(path.read_bytes() == content(path.name) for path in paths)
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 4  # and the record
    record = json.loads((tmp_path / RECORD).read_text())
    assert record[paths[2].name]["sha256"] == hashlib.sha256(content(paths[2].name)).hexdigest()
    assert record[paths[2].name]["repository"] == "Comfy-Org/Wan_2.1_ComfyUI_repackaged"
    before = len(hub.asked)
    assert download("wan2.1-vace-14b-q3", tmp_path, verify=True) == paths and len(hub.asked) == before
    assert list(find_files(WAN_14B_Q3, folder=tmp_path).values()) == paths


def test_an_interrupted_download_goes_on_where_it_stopped(hub, tmp_path, monkeypatch):
    """In a new session as well: nothing but the unfinished file tells where."""
    from huggingface_hub import file_download

    (lora,) = EXTRAS["causvid-v2"]
    fetch = file_download.http_get

    def stopped(url, file, **options):
        fetch(url, file, **options)
        file.truncate(40_000)
        raise KeyboardInterrupt

    monkeypatch.setattr(file_download, "http_get", stopped)
    with pytest.raises(KeyboardInterrupt):
        download("causvid-v2", tmp_path)
    assert find_file(lora, tmp_path) is None
    monkeypatch.setattr(file_download, "http_get", fetch)
    (path,) = download("causvid-v2", tmp_path)
    assert path.read_bytes() == content(lora.name)
    assert [bool(begin and "40000" in begin) for _, begin in hub.asked] == [False, True]


def test_a_file_the_hub_no_longer_has_is_said_with_what_to_do(hub, tmp_path):
    hub.gone = {"wan_2.1_vae.safetensors"}
    with pytest.raises(
        WanError, match=r"wan_2.1_vae.safetensors is not at https.*any more: get .* into vae/"
    ):
        download("wan2.1-vace-14b-q3", tmp_path)
    assert not list(tmp_path.rglob("*.gguf")), "nothing is fetched before every file is known to be there"


def test_a_file_that_comes_damaged_is_thrown_away(hub, tmp_path):
    hub.damaged = {EXTRAS["causvid-v2"][0].name}
    with pytest.raises(WanError, match="did not come as the hub sent it"):
        download("causvid-v2", tmp_path)
    assert not list(tmp_path.rglob("*.safetensors")) and not (tmp_path / RECORD).exists()


def test_a_file_that_changed_later_is_found_by_its_record(hub, tmp_path):
    (path,) = download("causvid-v2", tmp_path)
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert download("causvid-v2", tmp_path) == [path]
    with pytest.raises(WanError, match=r"no longer, what the hub sends.*delete"):
        download("causvid-v2", tmp_path, verify=True)


def test_a_half_under_its_final_name_is_not_taken_for_the_file(hub, tmp_path):
    """As a copy that stopped leaves it: "download it again" must not end in "it is here"."""
    (path,) = download("causvid-v2", tmp_path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(
        WanError, match=r"Delete .*_v2.safetensors and ask again: .* is cut short: .* 1,000 are missing"
    ):
        download("causvid-v2", tmp_path)
    path.unlink()
    assert download("causvid-v2", tmp_path)[0].read_bytes() == content(path.name)


def test_a_file_that_came_by_another_way_is_compared_with_the_hubs(hub, tmp_path):
    """Nothing is recorded of what ComfyUI or a person put there; only --verify asks a network for it."""
    (lora,) = EXTRAS["causvid-v2"]
    path = tmp_path / "loras" / lora.name
    path.parent.mkdir()
    path.write_bytes(content(lora.name))
    assert download("causvid-v2", tmp_path, verify=True) == [path]
    path.write_bytes(content("something else"))
    with pytest.raises(WanError, match=r"is not, or no longer, what the hub sends.*delete"):
        download("causvid-v2", tmp_path, verify=True)
    assert len(download("mini", tmp_path, verify=True)) == 3, "what comes with the package is on no hub"


def test_a_full_disk_is_found_before_anything_is_fetched(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: SimpleNamespace(free=10**9))
    with pytest.raises(
        WanError, match=r"GB free: make room, or name a folder on a larger disk with --folder"
    ):
        download("wan2.1-vace-14b-q3", tmp_path)
    assert hub.asked == []


@pytest.mark.parametrize("stage", ["_transfer", "_write_record"])
@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "The disk is full; what came of .* is kept"),
        (errno.EDQUOT, "The disk is full; what came of .* is kept"),
        (errno.EFBIG, r"cannot be written there \(File too large\): name a folder on another disk"),
    ],
)
def test_a_disk_that_fills_up_on_the_way_is_said(hub, tmp_path, monkeypatch, stage, number, words):
    def full(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(module, stage, full)
    with pytest.raises(WanError, match=words):
        download("causvid-v2", tmp_path)
    assert not list(tmp_path.rglob("*.safetensors")), "no file stands under its final name without its record"
    monkeypatch.undo()


def test_a_record_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    def full(path, text):
        path.write_bytes(text[:10].encode())
        raise OSError(errno.ENOSPC, "No space left on device")

    module._write_record(tmp_path, "one", {"sha256": "1"})
    monkeypatch.setattr(module.Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        module._write_record(tmp_path, "two", {"sha256": "2"})
    assert module._read_record(tmp_path) == {"one": {"sha256": "1"}}
    assert [path.name for path in tmp_path.iterdir()] == [RECORD]


def test_a_folder_that_cannot_be_written_is_no_lost_network(hub, tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(
        WanError, match=r"The folder .*loras cannot be written \(.*name another with --folder"
    ):
        download("causvid-v2", tmp_path / "taken")


def test_without_a_network_the_sentence_says_how_to_go_on(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(WanError, match=r"The hub cannot be reached for .*connect, or get .* into loras/"):
        download("causvid-v1", tmp_path)
    assert cli.main(["download", "causvid-v1", "--folder", str(tmp_path)]) == 2


def test_a_folder_that_is_already_there_needs_no_network(tmp_path, monkeypatch):
    """ComfyUI's models/, with subfolders of one's own, ComfyUI itself, and a folder that has all side by side."""
    monkeypatch.setattr(module, "ENDPOINT", "http://127.0.0.1:9")
    names = {role: file.name for role, file in WAN_14B_Q3.files.items()}
    comfy, flat = tmp_path / "comfy", tmp_path / "flat"
    for role, place in {"transformer": "unet/wan", "text_encoder": "clip", "vae": "vae"}.items():
        for folder in (comfy / place, flat):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / names[role]).write_bytes(content("model"))
    assert [path.name for path in download("wan2.1-vace-14b-q3", comfy)] == list(names.values())
    assert find_files(WAN_14B_Q3, folder=flat)["vae"] == flat / names["vae"]
    (tmp_path / "ComfyUI").mkdir()
    whole = comfy.rename(tmp_path / "ComfyUI" / "models").parent
    comfy = whole / "models"
    assert download("wan2.1-vace-14b-q3", whole)[0] == comfy / "unet" / "wan" / names["transformer"]
    monkeypatch.setenv("WAN_TUTORIAL_MODELS", str(comfy))
    assert find_files(WAN_14B_Q3)["transformer"] == comfy / "unet" / "wan" / names["transformer"]


def test_what_other_programs_downloaded_is_found(tmp_path, monkeypatch):
    import huggingface_hub

    (lora,) = EXTRAS["causvid-v1"]
    cached = tmp_path / lora.name
    cached.write_bytes(b"lora")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda repository, name: str(cached))
    assert find_file(lora, tmp_path / "none") == cached


def test_the_catalogue_says_where_every_file_comes_from():
    files = [file for name in [*MODELS, *EXTRAS] for file in module.files_of(name)]
    for file in files:
        assert file.licence and (file.repository is None or file.places)
    assert {"causvid-v1", "causvid-v1.5", "causvid-v2", "clip"} <= set(EXTRAS)
    sizes = [entry.files["transformer"].bytes for entry in MODELS.values() if "14b" in entry.name]
    assert all(sizes) and min(sizes) == WAN_14B_Q3.files["transformer"].bytes


def test_the_command_lists_fetches_and_refuses(hub, tmp_path, capsys):
    folder = ["--folder", str(tmp_path)]
    assert cli.main(["download", *folder]) == 0
    page = capsys.readouterr().out
    assert "7.8 GB" in page and "Apache-2.0" in page and "not here" in page and "in this package" in page
    assert cli.main(["download", "causvid-v2", *folder]) == 0
    assert capsys.readouterr().out.strip().endswith("_v2.safetensors")
    assert cli.main(["download", "causvid", *folder]) == 2
    assert "nothing called 'causvid' to download. Known: mini," in capsys.readouterr().err
    with pytest.raises(WanError, match="comes with this package"):
        gone = replace(weights.MINI.files["vae"], name="gone.safetensors")
        module._ask_hub(gone)
