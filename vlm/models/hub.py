"""Resolves a `model` setting to a local folder: the starter, a folder, or a Hub id, fetched once.

Called by vlm.models.loading, in three steps that each fetch no more than they need: the configuration, the
small files, the weights. What can't be done is refused (vlm.models.checkpoint_files) before the next step.
What is on this machine is used without asking the Hub. A token comes from the environment or `hf auth login`,
no setting.
"""

import json
import logging
import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from huggingface_hub import HfApi, constants, get_cached_repo_tree, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    CachedRepoTreeNotFoundError,
    HFValidationError,
    LocalEntryNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name

from vlm.errors import Phrase, UserError
from vlm.filesystem import is_folder, sha256_of, typed_path
from vlm.methods import ADAPTER_CONFIG_FILE
from vlm.models import checkpoint_files
from vlm.models.hub_errors import TIMEOUT_S, errors_explained

logger = logging.getLogger(__name__)

STARTER = "starter"
STARTER_FOLDER = Path(__file__).resolve().parents[1] / "starter"
HUB_ID = re.compile(r"[A-Za-z0-9_][\w.-]*/[\w.-]*\w")
# The Hub's own account, which opens pull requests with the safetensors of repositories of pickles
# (https://huggingface.co/spaces/safetensors/convert).
CONVERTER = "SFconvertbot"


def parts(model: str) -> tuple[str, ...]:
    """Returns the models that a setting names: one, or the two of a composed one (`vision+text`)."""
    if "+" not in model or is_folder(model):
        return (model,)
    # A folder's path may hold a plus of its own: the cut is where both sides name a model.
    cuts = [(model[: found.start()], model[found.end() :]) for found in re.finditer(r"\+", model)]
    for halves in cuts:
        if all(half == STARTER or is_folder(half) or HUB_ID.fullmatch(half) for half in halves):
            return halves
    return (model,)


def is_composed(model: str) -> bool:
    """Whether a setting names two halves, which get a new connector."""
    return len(parts(model)) == 2


def config_folder(model: str, revision: str | None = None, *, half: bool = False) -> Path:
    """Returns a folder with the model's config.json; of a model on the Hub nothing else is fetched.

    `half` is for one half of a composed model, which need not answer by itself.

    Raises:
        UserError: there is no such model, or it can't be trained here.
    """
    if is_local(model):
        folder = STARTER_FOLDER if model == STARTER else typed_path(model)
        if revision is not None:
            raise UserError(
                "{model} is no model on the Hub, and has no revisions.",
                "Leave --revision out, or give a Hub id.",
                "folder-no-revision",
                model=model,
            )
        if found := re.match(r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/([\w.-]+/[\w.-]+)", model):
            raise UserError(
                "{model} is an address.",
                "Give the Hub id alone: {hub_id}",
                "model-is-address",
                model=model,
                hub_id=found[1],
            )
        if not (folder / "config.json").is_file():
            names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
            if names & {ADAPTER_CONFIG_FILE, "model_index.json"} or any(
                name.endswith(".gguf") for name in names
            ):
                checkpoint_files.check_names(model, names, _adapter_base(folder))
            raise UserError(
                "There is no model in {model}.",
                "Use `starter`, a folder with a config.json, or a Hub id: `organisation/name`.",
                "no-model-there",
                model=model,
            )
    elif (folder := _cached(model, revision)) is None:
        revision = _listing(model, revision)[0]
        with errors_explained(model, revision):
            folder = Path(hf_hub_download(model, "config.json", revision=revision)).parent
    checkpoint_files.check_config(model, read_json(folder / "config.json", model), half=half)
    return folder


def model_folder(model: str, revision: str | None = None, *, half: bool = False) -> Path:
    """Returns a folder with the whole model.

    Raises:
        UserError: as `config_folder`, and where weights are damaged or missing.
    """
    folder = snapshot_folder(model, revision, half=half, weights=True)
    if is_local(model):
        names = {path.name for path in folder.iterdir()}
        # transformers loads an adapter that lies beside the weights unasked, and would train on top of it.
        checkpoint_files.check_names(model, names, _adapter_base(folder))
        if ADAPTER_CONFIG_FILE in names:
            raise UserError(
                "{model} holds a base model and an adapter, which would be loaded as one.",
                "Move adapter_config.json and its weights to a folder of their own.",
                "model-and-adapter",
                model=model,
            )
        checkpoint_files.check_weights(folder)
        checkpoint_files.check_layers(model, folder, read_json(folder / "config.json", model))
        return folder
    if revision is None:
        again = Phrase(
            "Download it again: hf download {model} --force-download", "download-from-hub", model=model
        )
    else:
        again = Phrase(
            "Download it again: hf download {model} --force-download --revision {revision}",
            "download-revision",
            model=model,
            revision=revision,
        )
    checkpoint_files.check_weights(folder, again)
    return folder


def check_local(model: str) -> None:
    """Checks the files of a folder, or of both halves; of models on the Hub nothing.

    Raises:
        UserError: as `model_folder`.
    """
    names = parts(model)
    for name in names:
        if is_local(name):
            model_folder(name, half=len(names) == 2)


def commit(model: str, revision: str | None) -> str | None:
    """Returns the commit of a Hub model on this machine, or of both halves; None for a folder."""
    found = [None if is_local(name) else _cached(name, revision) for name in parts(model)]
    if not any(found):
        return None
    return " + ".join("a folder" if folder is None else folder.name for folder in found)


def read_json(file: Path, model: str) -> dict:
    """Returns a JSON object from a model's folder. Raises `UserError` where there is none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            "{model} has no configuration that can be read: {reason}",
            "Choose a folder with a model's config.json.",
            "config-unreadable",
            model=model,
            reason=str(error).splitlines()[0],
        ) from error
    if not isinstance(content, dict):
        raise UserError(
            "{model} has no configuration that can be read.",
            "Choose another model.",
            "config-no-object",
            model=model,
        )
    return content


def is_local(model: str) -> bool:
    """Whether this is the starter or a folder; what looks like a Hub id is one unless it is there."""
    return model == STARTER or not HUB_ID.fullmatch(model) or is_folder(model)


def _adapter_base(folder: Path) -> str | None:
    """Returns the base that an adapter in this folder names, for a message."""
    file = folder / ADAPTER_CONFIG_FILE
    base = read_json(file, folder.name).get("base_model_name_or_path") if file.is_file() else None
    return base[:200] if isinstance(base, str) else None


def _cached(model: str, revision: str | None) -> Path | None:
    """Returns the snapshot of a Hub model on this machine, with its config.json at least, or None."""
    wanted = [revision]
    if revision is None:
        # A repository of pickles was fetched as a pull request of the converter, and has no `main` here.
        name = repo_folder_name(repo_id=model, repo_type="model")
        pull_requests = Path(constants.HF_HUB_CACHE, name, "refs", "refs", "pr").glob("*")
        wanted += [f"refs/pr/{ref.name}" for ref in sorted(pull_requests)]
    for reference in wanted:
        # Never a request, even online: a run must not stop because the Hub is away, nor change its base
        # after a push.
        with suppress(LocalEntryNotFoundError, HFValidationError):
            return Path(
                hf_hub_download(model, "config.json", revision=reference, local_files_only=True)
            ).parent
    return None


def _listing(model: str, revision: str | None) -> tuple[str | None, dict[str, int]]:
    """Returns the revision and the files of a repository, name -> size in bytes.

    The revision is the wanted one, or the Hub's own conversion where the repository has nothing but pickles.

    Raises:
        UserError: the repository can't be reached, or is no model in transformers' format.
    """
    with errors_explained(model, revision):
        info = HfApi().model_info(model, revision=revision, files_metadata=True, timeout=TIMEOUT_S)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
        base = None
        if ADAPTER_CONFIG_FILE in sizes and "config.json" not in sizes:
            base = _adapter_base(Path(hf_hub_download(model, ADAPTER_CONFIG_FILE, revision=revision)).parent)
    try:
        checkpoint_files.check_names(model, sizes, base)
    except UserError:
        pickled = "config.json" in sizes and any(checkpoint_files.PICKLE.fullmatch(name) for name in sizes)
        if not pickled or revision is not None:
            raise
        with errors_explained(model, None):
            found = HfApi().get_repo_discussions(
                model, author=CONVERTER, discussion_type="pull_request", discussion_status="open"
            )
            # The author is compared again here: anybody may open a pull request with weights of their own.
            reference = next((r.git_reference for r in found if r.author == CONVERTER), None)
        if reference is None:
            raise
        logger.info(
            "%s has pickles alone: the Hub's conversion to safetensors, %s, is used.", model, reference
        )
        return _listing(model, reference)
    return revision, sizes


def snapshot_folder(
    model: str, revision: str | None = None, *, half: bool = False, weights: bool = False
) -> Path:
    """Returns a folder with everything but the weights, or with them; what is missing is fetched.

    Raises:
        UserError: as `config_folder`, and where the disk is too small.
    """
    folder = config_folder(model, revision, half=half)
    if is_local(model):
        return folder
    try:
        # The listing that the Hub's client keeps beside a snapshot.
        names = [file.path for file in get_cached_repo_tree(model, revision=folder.name)]
    except CachedRepoTreeNotFoundError:
        # Another program has fetched it, maybe a part of it: offline that has to be enough.
        names = [path.name for path in folder.iterdir()] if constants.is_offline_mode() else None
    if names is not None:
        wanted = checkpoint_files.small_files(names)
        if weights and all((folder / name).is_file() for name in wanted):
            wanted += checkpoint_files.weight_files(names, folder)
        if all((folder / name).is_file() for name in wanted):
            return folder
    revision, sizes = _listing(model, revision)
    with errors_explained(model, revision):
        folder = Path(hf_hub_download(model, "config.json", revision=revision)).parent
        checkpoint_files.check_config(model, read_json(folder / "config.json", model), half=half)
        wanted = checkpoint_files.small_files(sizes)
        if weights:
            if checkpoint_files.INDEX_FILE in sizes:
                hf_hub_download(model, checkpoint_files.INDEX_FILE, revision=folder.name)
            wanted += checkpoint_files.weight_files(sizes, folder)
        missing = {name: sizes.get(name, 0) for name in wanted if not (folder / name).is_file()}
        cache = Path(constants.HF_HUB_CACHE)
        on_disk = next(path for path in (cache, *cache.parents) if path.is_dir())  # the cache may be new
        size, free = sum(missing.values()), shutil.disk_usage(on_disk).free
        if size > free:
            raise UserError(
                "{model} needs {size:,.0f} MB, and {free:,.0f} MB are free in {folder}.",
                "Make room, or set HF_HOME to a folder on a larger disk.",
                "download-too-large",
                model=model,
                size=size / 1e6,
                free=free / 1e6,
                folder=cache,
            )
        if missing:
            logger.info("Downloading %s: %d files, %.1f MB.", model, len(missing), size / 1e6)
        # The commit, not the branch: everything comes from where config.json came from. A licence goes with a
        # merged model; one that was fetched without it, as earlier versions did, is whole all the same.
        licences = [name for name in sizes if checkpoint_files.LICENCE.fullmatch(name)]
        snapshot_download(model, revision=folder.name, allow_patterns=[*wanted, *licences])
        _require_as_sent(model, [folder / name for name in missing])
    return folder


def _require_as_sent(model: str, files: Sequence[Path]) -> None:
    """Checks files that were just fetched: the cache calls a large one by the sha256 that the Hub has of it.

    Raises:
        UserError: one has another content; it is deleted, so that the next start fetches it anew.
    """
    for file in files:
        blob = file.resolve()
        if re.fullmatch(r"[0-9a-f]{64}", blob.name) and sha256_of(blob) != blob.name:
            blob.unlink()
            file.unlink()
            raise UserError(
                "{file} of {model} arrived damaged: it is not what the Hub has.",
                "Start again: that file alone is downloaded anew.",
                "download-damaged",
                file=file.name,
                model=model,
            )
