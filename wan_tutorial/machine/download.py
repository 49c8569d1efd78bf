"""Fetching the real models: what is missing, whether it fits the disk, and whether what came is what was sent.

Stands before the pipeline. In: the name of a model or an extra of the catalogue, and a folder in ComfyUI's models/
layout (any folder you already have will do). Out: the paths of its files. The transfer is huggingface_hub's, with its
retries and its progress bar; the unfinished file is kept here, as the hub's own download (2.x) throws it away when it
is interrupted, and a lost session would begin 8 GB again.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wan_tutorial.errors import WanError
from wan_tutorial.machine.weights import (
    EXTRAS,
    GIGABYTE,
    MODELS,
    ModelFile,
    find_file,
    find_model,
    models_folder,
)

if TYPE_CHECKING:
    from huggingface_hub import HfFileMetadata

RECORD = "wan_tutorial_files.json"  # in the models folder: what was downloaded, with checksums
RESERVE = GIGABYTE  # bytes of disk left free
ENDPOINT: str | None = None  # another hub than huggingface_hub's own setting (HF_ENDPOINT); for tests


def files_of(name: str) -> tuple[ModelFile, ...]:
    """The files that a model or an extra of the catalogue consists of."""
    if name in EXTRAS:
        return EXTRAS[name]
    if name not in MODELS:
        raise WanError(
            f"There is nothing called {name!r} to download. Known: {', '.join([*MODELS, *EXTRAS])}."
        )
    return tuple(find_model(name).files.values())


def download(name: str, folder: str | Path | None = None, *, verify: bool = False) -> list[Path]:
    """Fetch the files of a model or an extra that are not here yet; their paths, all of them.

    What is here stays as it is and needs no network; `verify` reads it through and compares it with the checksum
    recorded when it came, or, where it came by another way, with the hub's. Raises WanError, in a sentence, for a disk
    too small, no network, a file that is gone, and one that is here but damaged.
    """
    folder = models_folder(folder)
    files = files_of(name)
    found = {file: find_file(file, folder) for file in files}
    for here in filter(None, found.values()):
        _check_whole(here)
    missing = [file for file, path in found.items() if path is None]
    _check_disk(folder, sum(_ask_hub(file).size or 0 for file in missing))
    for file, path in found.items():
        if path and verify and file.repository:
            recorded = _read_record(folder).get(path.name, {}).get("sha256")
            _verify(path, recorded or _checksum_told(_ask_hub(file)))
    # Each is asked for again just before it comes: the hub's addresses are good for about an hour.
    return [found[file] or _fetch(file, _ask_hub(file), folder) for file in files]


def _fetch(file: ModelFile, sent: HfFileMetadata, folder: Path) -> Path:
    from wan_tutorial.files import sha256_of

    path = folder / file.places[0] / file.name
    partial = path.with_name(f"{file.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.touch()
    except OSError as error:
        raise WanError(
            f"The folder {path.parent} cannot be written ({error.strerror}): name another with --folder."
        ) from error
    with _plain_errors(file):
        _transfer(sent, partial)
    checksum = sha256_of(partial)
    if partial.stat().st_size != sent.size or not sent.size or _checksum_told(sent) not in (None, checksum):
        partial.unlink()
        raise WanError(f"{file.name} did not come as the hub sent it (size or checksum differ): try again.")
    with _plain_errors(file):
        _write_record(folder, path.name, {
            "repository": file.repository, "commit": sent.commit_hash, "bytes": sent.size, "sha256": checksum,
        })  # fmt: skip
        partial.replace(path)
    return path


def _transfer(sent: HfFileMetadata, partial: Path) -> None:
    """Send what is missing of a file to the end of what is here."""
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    here, size = partial.stat().st_size if partial.exists() else 0, sent.size or 0
    if here > size:
        partial.unlink()
        here = 0
    if here < size:
        with partial.open("ab") as file:
            headers = build_hf_headers(token=False)
            http_get(sent.location, file, resume_size=here, headers=headers, expected_size=size)


def _ask_hub(file: ModelFile) -> HfFileMetadata:
    """What the hub says about a file before it sends it."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    if file.repository is None:
        raise WanError(
            f"{file.name} comes with this package and is not on any hub: install the package again."
        )
    with _plain_errors(file):
        url = hf_hub_url(file.repository, file.name, subfolder=file.folder or None, endpoint=ENDPOINT)
        return get_hf_file_metadata(url)


def _checksum_told(sent: HfFileMetadata) -> str | None:
    """The SHA-256 of a large file; other etags are git's, of small files."""
    return sent.etag if sent.etag and len(sent.etag) == 64 else None


def _check_disk(folder: Path, needed: int) -> None:
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(there).free
    partial = sum(
        path.stat().st_size for path in folder.rglob("*.partial")
    )  # of an earlier try, gone on with
    if needed and free + partial < needed + RESERVE:
        raise WanError(
            f"The download takes {needed / GIGABYTE:.2f} GB, {RESERVE / GIGABYTE:g} GB beside it is kept free, and {there} "
            f"has {free / GIGABYTE:.2f} GB free: make room, or name a folder on a larger disk with --folder."
        )


def _check_whole(path: Path) -> None:
    """WanError for a file that stands here under its name but is cut short or damaged: it would never be fetched again."""
    from wan_tutorial.files import read_header

    if path.suffix in (".gguf", ".safetensors"):
        try:
            read_header(path)
        except WanError as error:
            raise WanError(f"Delete {path} and ask again: {error}") from error


def _verify(path: Path, expected: str | None) -> None:
    """WanError where a file is not what the hub has or had; one without a checksum, as small ones are, is taken as it is."""
    from wan_tutorial.files import sha256_of

    if expected and sha256_of(path) != expected:
        raise WanError(
            f"{path.name} is not, or no longer, what the hub sends (its SHA-256 differs): delete {path} and download it again."
        )


def _read_record(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / RECORD).read_text())
    except (OSError, ValueError):
        return {}


def _write_record(folder: Path, name: str, entry: dict[str, Any]) -> None:
    record = _read_record(folder) | {name: entry}
    partial = folder / f".{RECORD}.partial"
    try:
        partial.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
        partial.replace(folder / RECORD)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _plain_errors(file: ModelFile) -> Iterator[None]:
    """What can go wrong between here and the hub, each as one sentence that says what to do."""
    from huggingface_hub import errors

    by_hand = (
        f"get {file.name} by another way and put it into {file.places[0] if file.places else 'the models folder'}/ of "
        "your models folder"
    )
    unreachable = f"The hub cannot be reached for {file.name} (no network?): connect, or {by_hand}."
    try:
        yield
    except (errors.EntryNotFoundError, errors.RepositoryNotFoundError) as error:
        raise WanError(f"{file.name} is not at {file.address} any more: {by_hand}.") from error
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        raise WanError(
            f"The hub answered {status} for {file.name}: try again later, or {by_hand}."
        ) from error
    except OSError as error:  # refused or lost connections, a full disk: requests' and httpx's come wrapped
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise WanError(
                f"The disk is full; what came of {file.name} is kept: make room and try again."
            ) from error
        if error.errno in (errno.EFBIG, errno.EIO, errno.EROFS):  # such as a stick that ends files at 4 GB
            raise WanError(
                f"{file.name} cannot be written there ({error.strerror}): name a folder on another disk with --folder."
            ) from error
        raise WanError(unreachable) from error
    except Exception as error:
        if not type(error).__module__.startswith(("httpx", "httpcore", "requests", "urllib3")):
            raise
        raise WanError(unreachable) from error
