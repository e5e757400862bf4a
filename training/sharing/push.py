"""Push an adapter to a repository on the Hub: private unless said otherwise, its card filled in. No torch.

What may be written where is asked before anything is sent. A push that breaks off is begun again by the same
call: the Hub takes whole files, and a commit of all of them or none.
"""

import io
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, ModelCard, ModelCardData
from huggingface_hub.errors import RepositoryNotFoundError

from training.data.row import Progress, say_nothing
from training.runs import Run
from training.sharing.account import HUB_ERRORS, Account, account, hub_errors, try_again
from training.sharing.card_header import HUB_ID, hub_ids, set_licence
from training.sharing.drawing import ENGLISH
from training.sharing.files import CARD, draw_share, files_to_share
from vlm.errors import UserError
from vlm.methods import ADAPTER_CONFIG_FILE

PICTURE = "before-after.png"
SHOWN = """
## Before and after, in pictures

![Four held-out examples, as the base and as this adapter answer them]({picture})
"""
# What every new repository has.
OF_THE_HUB = {".gitattributes", CARD}
Operations = list[CommitOperationAdd]


@dataclass(frozen=True, slots=True)
class PushOptions:
    """How an adapter is shown: to whom, with pictures of its dataset or without, in which languages."""

    public: bool = False
    with_pictures: bool = False
    languages: tuple[str, ...] = ()


def push(
    adapter: Path,
    repository: str,
    options: PushOptions,
    run: Run | None = None,
    progress: Progress = say_nothing,
) -> str:
    """Sends the adapter in a folder to `repository`, owner/name, and returns the address of the commit.

    `run` is the one that made it: pictures are drawn of it.

    Raises:
        UserError: nothing may be written there, it is public and that was not said, it holds something else,
            or the Hub can't be reached. A repository that was made for it is deleted again.
    """
    api = HfApi()
    _require_may_write(account(api), repository)
    picture = _picture(run) if options.with_pictures else None
    with hub_errors():
        is_new = _require_fits(api, repository, options)
        licences, page = _licences(api, run)
    card = _card(adapter, options, licences, page, shown=picture is not None)

    def operations() -> Operations:
        # Made anew for each attempt: the client marks those that it has sent.
        files: list[tuple[str, Path | bytes]] = [
            (path.name, path) for path in files_to_share(adapter) if path.name != CARD
        ]
        files += [(CARD, card.encode()), *([(PICTURE, picture)] if picture else [])]
        return [CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in files]

    try:
        with hub_errors():
            return try_again(lambda: _send(api, repository, operations(), progress))
    except BaseException:
        if is_new:
            with suppress(*HUB_ERRORS):  # what failed before is what has to be told
                api.delete_repo(repository)
        raise


def _send(api: HfApi, repository: str, operations: Operations, progress: Progress) -> str:
    """Sends file by file, then commits them all; a file that the Hub has is not sent again."""
    for done, operation in enumerate(operations):
        progress("files", done, len(operations))
        api.preupload_lfs_files(repository, [operation])
    commit = api.create_commit(repository, operations, commit_message="A LoRA adapter, by LoRA Lens")
    progress("files", len(operations), len(operations))
    return str(commit.commit_url)


def _require_may_write(who: Account, repository: str) -> None:
    """Raises `UserError` where the token's owner can't have a repository of this name."""
    if not HUB_ID.fullmatch(repository):
        raise UserError(
            "{name} is no name for a repository.",
            "Write it as owner/name: {owner}/{last}",
            "push-no-id",
            name=repository,
            owner=who.name,
            last=repository.rpartition("/")[2] or "my-adapter",
        )
    owner = repository.partition("/")[0]
    if owner not in (who.name, *who.organizations):
        raise UserError(
            "The token is {user}'s, who can't write for {owner}.",
            "Push to one of {owners}, or log in as {owner}: hf auth login",
            "push-not-yours",
            user=who.name,
            owner=owner,
            owners=[who.name, *who.organizations],
        )
    if who.role == "read":
        raise UserError(
            "The token of {user} may only read.",
            "Make one that may write at https://huggingface.co/settings/tokens, then: hf auth login",
            "push-token-reads",
            user=who.name,
        )


def _require_fits(api: HfApi, repository: str, options: PushOptions) -> bool:
    """Returns whether the repository is new, and makes it then; one that is there stays as visible as it is.

    Raises:
        UserError: it is public without that having been said, or private where public was, or no adapter's.
    """
    try:
        info = api.model_info(repository)
    except RepositoryNotFoundError:
        api.create_repo(repository, private=not options.public)
        return True
    api.auth_check(repository, write=True)
    if not info.private and not options.public:
        raise UserError(
            "{repository} is there already, and everybody sees it.",
            "Say --public to mean it, or choose another name.",
            "push-is-public",
            repository=repository,
        )
    if info.private and options.public:
        raise UserError(
            "{repository} is there already, and private.",
            "Leave --public out and show it to everybody on its own page, or choose another name.",
            "push-is-private",
            repository=repository,
        )
    names = {file.rfilename for file in info.siblings or ()}
    if names - OF_THE_HUB and ADAPTER_CONFIG_FILE not in names:
        raise UserError(
            "{repository} holds something else than an adapter: {files}.",
            "Choose another name.",
            "push-other-repository",
            repository=repository,
            files=sorted(names - OF_THE_HUB)[:3],
        )
    return False


def _licences(api: HfApi, run: Run | None) -> tuple[list[str], str | None]:
    """Returns what the Hub says of the base's licence, of both halves' of a composed one; may be nothing."""
    found, bases = [], hub_ids(run.config().model) if run else []
    for base in bases:
        with suppress(*HUB_ERRORS):  # a base that is not there any more is no reason not to push
            data = api.model_info(base).card_data
            if data is not None and data.license:
                found.append(str(data.license))
    return found, f"{api.endpoint}/{bases[0]}" if bases else None


def _picture(run: Run | None) -> bytes:
    if run is None:
        raise UserError(
            "Only of a run's own adapter is there a picture of before and after.",
            "Leave --with_pictures out.",
            "push-no-run",
        )
    buffer = io.BytesIO()
    draw_share(run, buffer, ENGLISH)
    return buffer.getvalue()


def _card(
    adapter: Path, options: PushOptions, licences: Sequence[str], page: str | None, *, shown: bool
) -> str:
    """Returns the adapter's card, as its owner has left it, with what only the push knows in its header."""
    file = adapter / CARD
    text = file.read_text("utf-8", "replace") if file.is_file() else f"# {adapter.name}\n"
    card = ModelCard(text, ignore_metadata_errors=True)
    data: ModelCardData = card.data
    if options.languages:
        data.language = [*options.languages]
    if licences and data.license in (None, "other"):
        set_licence(data, licences, page)
    if shown and PICTURE not in card.text:
        card.text += SHOWN.format(picture=PICTURE)
    return str(card)
