"""Pull an adapter from the Hub into a workspace, checked as a stranger's before any weight is loaded.

It lies in the workspace's `adapters`, where commands and Try find it, and its commit is written beside it.
"""

import json
import shutil
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.hf_api import RepoSibling

from training.data.row import Progress, say_nothing
from training.runs.adapters import FOLDER
from training.sharing.account import try_again
from training.sharing.card_header import HUB_ID
from training.sharing.files import CARD, SHARED
from vlm.errors import UserError
from vlm.filesystem import draft_folder, place_folder, room_for, sha256_of, slug
from vlm.methods import ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE
from vlm.models.hub_errors import TIMEOUT_S, errors_explained

# Where an adapter came from. PEFT and transformers read no such file.
ORIGIN_FILE = "pulled_from.json"


def pull(named: str, workspace: Path, progress: Progress = say_nothing) -> tuple[Path, str]:
    """Returns the folder with the adapter `owner/name`, or `owner/name@revision`, and its commit.

    One that was pulled before is not fetched again. Nothing but safetensors, JSON and the card is fetched,
    from the top of the repository, and all of it from one commit.

    Raises:
        UserError: there is none, it can't be read or is damaged, the Hub or the network fails, or the disk is
            too small. Nothing is left then.
    """
    repository, _, revision = named.partition("@")
    if not HUB_ID.fullmatch(repository):
        raise UserError(
            "{name} is no adapter on the Hub.",
            "Write owner/name, or owner/name@revision.",
            "pull-no-id",
            name=named,
        )
    with errors_explained(repository, revision or None):
        info = try_again(
            lambda: HfApi().model_info(
                repository, revision=revision or None, files_metadata=True, timeout=TIMEOUT_S
            )
        )
    files = [file for file in info.siblings or () if _is_wanted(file.rfilename)]
    names, commit = {file.rfilename for file in files}, str(info.sha)
    if not {ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE} <= names:
        raise UserError(
            "{repository} has no adapter: {config} and {weights} are missing at its top.",
            "Choose a repository with a PEFT adapter, saved as safetensors.",
            "pull-no-adapter",
            repository=repository,
            config=ADAPTER_CONFIG_FILE,
            weights=ADAPTER_WEIGHTS_FILE,
        )
    home, origin = workspace / FOLDER, {"repository": repository, "commit": commit}
    for folder in home.iterdir() if home.is_dir() else ():
        if _origin(folder) == origin:
            return folder, commit
    name = slug(repository.replace("/", "--"), "adapter")
    # Apart from `adapters`, where half of one would be listed after a kill, and under its name for messages.
    with draft_folder(workspace / "cache" / "pulled" / name) as apart:
        draft = apart / name
        draft.mkdir()
        with room_for(draft, sum(file.size or 0 for file in files)):
            for done, file in enumerate(files):
                progress("files", done, len(files))
                _fetch(repository, commit, file, draft)
        _require_readable(draft, repository)
        (draft / ORIGIN_FILE).write_text(json.dumps(origin), encoding="utf-8")
        progress("files", len(files), len(files))
        home.mkdir(parents=True, exist_ok=True)
        return place_folder(draft, name, home=home), commit


def _is_wanted(name: str) -> bool:
    return "/" not in name and name != ORIGIN_FILE and (name == CARD or name.endswith(SHARED))


def _origin(folder: Path) -> object:
    try:
        return json.loads((folder / ORIGIN_FILE).read_text("utf-8"))
    except (OSError, ValueError):
        return None


def _fetch(repository: str, commit: str, file: RepoSibling, draft: Path) -> None:
    """Fetches a file of a commit, on from where it broke off, and compares it with what the Hub has."""
    with errors_explained(repository, commit):
        path = Path(
            try_again(lambda: hf_hub_download(repository, file.rfilename, revision=commit, local_dir=draft))
        )
    shutil.rmtree(draft / ".cache", ignore_errors=True)  # the client's own, which no adapter has
    arrived = path.stat().st_size, sha256_of(path) if file.lfs else None
    if arrived != (file.size, file.lfs.sha256 if file.lfs else None):
        raise UserError(
            "{file} of {repository} arrived damaged: it is not what the Hub has.",
            "Pull again.",
            "pull-damaged",
            file=file.rfilename,
            repository=repository,
        )


def _require_readable(draft: Path, repository: str) -> None:
    """Reads configuration and tensor headers as those of a stranger. Raises `UserError` as `read_info`."""
    from vlm.adapters import read_info

    read_info(draft)
