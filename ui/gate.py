"""The gate before every function and event that a browser can ask for: who may ask, and an answer in words.

A page is its owner's, who is on this machine or has logged in; or, on a Space without a password, visitors':
they look and ask, and nothing is written, downloaded or computed for long for them. What stands in none of
the two lists here is answered to nobody.
"""

import logging
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from functools import partial, wraps
from pathlib import Path
from typing import Any, Literal

import gradio as gr
from fastapi import HTTPException

from training import runs
from training.config import TrainingConfig
from ui import adapters
from ui.adapters import STARTER
from ui.datasets import OF_DATASET, dataset_choices, notice, read_by_itself
from ui.i18n import LANGUAGES, Language
from ui.run.summary import settings_of
from vlm.errors import UserError

Public = Literal["owner", "visitors"]

TO_VISITORS = frozenset(
    {
        *("look", "list_rows", "preview", "draw", "count", "measure", "advise", "choose"),
        *("data", "data:draw", "data:examples", "data:setting", "data:choose", "data:more", "data:look"),
        *("data:see", "data:hard", "data:move", "data:move:back", "data:move:on"),
        *("list_models", "check_models", "list_pictures", "pick", "another_image", "answer", "stop_answer"),
        *("warm_up", "list_runs", "tell_run", "ask_models"),
    }
)
"""Functions and events by name; those of the Data tab by what they are to do, too."""

TO_OWNER = frozenset(
    {
        *(
            "start",
            "act",
            "take",
            "work",
            "pull_adapter",
            "add_dataset",
            "continue_from",
            "duplicate",
            "add_adapter",
            "empty_kind",
        ),
        *("edit", "next_row", "cancel_row", "resume_row", "delete_row", "restore_row"),
        *("data:add", "data:columns", "data:check", "data:cancel", "data:safe", "data:fix", "data:pin"),
        *("data:put_in", "data:draft", "data:label", "data:start_labels", "data:leave", "data:leave_all"),
        *("data:save_version", "data:discard"),
        *("data:move:save", "data:move:leave", "data:move:another"),
    }
)

LONGEST_TEXT: Mapping[Public, int] = {"owner": 500_000, "visitors": 20_000}
"""Characters of one text that a browser sends."""
MOST_ENTRIES: Mapping[Public, int] = {"owner": 100_000, "visitors": 200}
"""Entries of one list or mapping; of the owner's the longest are the files of a folder."""
LONGEST_QUEUE = 64
QUEUE_POLL_S = 0.05
LOGGED = 300

logger = logging.getLogger("lora_lens")


class Page(gr.Blocks):
    """Blocks that answer through the gate. Server functions do once `close_gate` was called."""

    def __init__(self, workspace: Path, public: Public, **settings: Any) -> None:
        super().__init__(**settings)
        self.workspace, self.public = workspace, public

    def close_gate(self) -> None:
        """Puts the gate before all server functions; those that are not for this public go."""
        open_to = TO_VISITORS if self.public == "visitors" else TO_VISITORS | TO_OWNER
        for block in self.blocks.values():
            functions = getattr(block, "server_fns", [])
            for function in functions:
                setattr(block, function.__name__, None)
            offered = [function for function in functions if function.__name__ in open_to]
            block.server_fns = [self._gated(function, language_of(block.page)) for function in offered]
            for function in block.server_fns:
                setattr(block, function.__name__, function)

    def _gated(self, function: Callable[..., Any], language: Language) -> Callable[..., Any]:
        name = function.__name__

        @gr.components.base.server
        @wraps(function)
        def answer(asked: Any = None) -> Any:
            try:
                return function(self._let_in(name, asked))
            except Exception as failure:
                return {"warning": notice(language, in_words(name, failure))}

        return answer

    def queue(self, **how: Any) -> "Page":
        """Makes Gradio's queue, which says in words that it is full.

        Its frontend has its own for 503, and shows those that come with 429.
        """
        super().queue(**{"api_open": False, "max_size": LONGEST_QUEUE} | how)
        # Gradio looks for work every millisecond, which alone takes 7 % of a core from the run beside it.
        self._queue.sleep_when_free = QUEUE_POLL_S
        push = self._queue.push

        async def pushed(body: Any, *rest: Any, **more: Any) -> Any:
            taken = await push(body, *rest, **more)
            if taken[-1] == "queue_full":
                full = UserError(
                    "{count} questions are waiting already, and no more are taken.",
                    "Try again in a minute.",
                    "queue-full",
                    count=self._queue.max_size,
                )
                raise HTTPException(429, as_text(language_of(self.fns[body.fn_index].page), full))
            return taken

        self._queue.push = pushed
        return self

    async def process_api(self, block_fn: Any, inputs: list[Any], *rest: Any, **how: Any) -> dict[str, Any]:
        """Answers an event. Raises `gr.Error` with a sentence, whatever is wrong with what was sent."""
        function = self.fns[block_fn] if isinstance(block_fn, int) else block_fn
        try:
            # A generator that goes on has its inputs already.
            inputs = inputs if how.get("iterator") else self._let_in(str(function.name), inputs)
            return await super().process_api(block_fn, inputs, *rest, **how)
        except gr.Error:
            raise
        except Exception as failure:
            told = as_text(language_of(function.page), in_words(str(function.name), failure))
            raise gr.Error(told, print_exception=False) from None

    def _let_in(self, name: str, asked: Any) -> Any:
        """Returns what was asked, with texts that can be written. Raises `UserError` where it may not be."""
        asked = cleaned(asked, LONGEST_TEXT[self.public], MOST_ENTRIES[self.public])
        if self.public == "visitors":
            if wanted(name, asked) not in TO_VISITORS:
                raise UserError(
                    "Only the owner of this page can do that.",
                    "Its owner turns it on by setting LORA_LENS_PASSWORD.",
                    "owner-only",
                )
            if name == "data" and asked["act"] == "choose":
                keep_to_what_is_here({"dataset": asked["now"]["value"]}, self.workspace)
            keep_to_what_is_here(asked, self.workspace)
        return asked


def as_text(language: Language, trouble: UserError) -> str:
    """Returns an error's sentences in a row."""
    return " ".join(notice(language, trouble).values())


def language_of(path: str) -> Language:
    """Returns the language of the page that lies under this path."""
    return next((language for language in LANGUAGES if language == path), LANGUAGES[0])


def wanted(name: str, asked: Any) -> str:
    """Returns the name in the lists of what is asked for: `look`, `data:check`, `data:move:save`."""
    if name != "data":
        return name
    parts = [name, str(asked["act"]), *([str(asked["now"]["action"])] if asked["act"] == "move" else [])]
    return ":".join(parts)


def in_words(name: str, failure: Exception) -> UserError:
    """Returns what the one who asked is told; what nobody foresaw is a line in the log, too."""
    if isinstance(failure, UserError):
        return failure
    logger.warning("%s was asked in a form that it can't take: %.*r", name, LOGGED, failure)
    logger.debug("", exc_info=failure)
    return UserError(
        "What was sent is not in the form that this page takes.",
        "Reload the page and try again; its log says more.",
        "not-understood",
    )


def cleaned(asked: Any, longest: int, most: int) -> Any:
    """Returns what was asked with halves of surrogates, which no file or answer can hold, as "?".

    Raises:
        UserError: a text of it has more than `longest` characters, a list more than `most` entries, or a file
            is a URL, which Gradio would fetch.
    """
    if isinstance(asked, str):
        if len(asked) > longest:
            raise UserError(
                "A text of {count:,} characters is too long for this page.",
                "Shorten it to {longest:,} characters.",
                "asked-too-long",
                count=len(asked),
                longest=longest,
            )
        return asked.encode("utf-8", "replace").decode("utf-8")
    if isinstance(asked, (Mapping, list)) and len(asked) > most:
        raise UserError(
            "A list of {count:,} entries is too long for this page.",
            "Send at most {most:,} at a time.",
            "asked-too-many",
            count=len(asked),
            most=most,
        )
    if isinstance(asked, Mapping):
        if str(asked.get("path")).lower().startswith(("http:", "https:")):
            raise UserError(
                "Files are not fetched from a URL.", "Download it, then drop the file here.", "asked-for-url"
            )
        return {cleaned(key, longest, most): cleaned(value, longest, most) for key, value in asked.items()}
    return [cleaned(each, longest, most) for each in asked] if isinstance(asked, list) else asked


def keep_to_what_is_here(asked: Any, workspace: Path) -> None:
    """Lets datasets pass as they read by themselves or as a run has read them, models of runs, and adapters.

    Raises:
        UserError: another dataset, model or adapter stands in `asked`, wherever that is.
    """
    if isinstance(asked, Mapping):
        if named := asked.get("dataset"):
            _require_here(str(named), _how_read(asked), partial(known_datasets, workspace))
        # Both: a function reads the one or the other.
        for named in filter(None, (asked.get("model"), asked.get("base"))):
            name, _, revision = str(named).partition("@")
            _require_here(
                name, revision or str(asked.get("revision") or ""), partial(known_models, workspace)
            )
        if named := asked.get("from_adapter"):
            _require_here(str(named), "", frozenset)
        _keep_to_adapters_here(asked, workspace)
    if isinstance(asked, (Mapping, list)):
        for each in asked.values() if isinstance(asked, Mapping) else asked:
            keep_to_what_is_here(each, workspace)


def _keep_to_adapters_here(choice: Mapping[str, Any], workspace: Path) -> None:
    """A run's is found by its name alone; a folder may be what a visitor has sent, or what was deleted."""
    tried = str(choice.get("try") or "")
    keys = {str(each) for each in (*(choice.get("who") or ()), *(choice.get("added") or ()))} | {tried}
    if folders := {key for key in keys - {"", "base"} if not key.startswith("/")}:
        known = {(each.key, "") for each in adapters.available(workspace)}
        for key in folders:
            _require_here(key, "", lambda: known)
    if tried:
        model, revision = adapters.base_of(adapters.find(workspace, tried), workspace)
        _require_here(model, revision or "", partial(known_models, workspace))


def _require_here(name: str, how: Hashable, known: Callable[[], Collection[tuple[str, Hashable]]]) -> None:
    if (name, how) not in known():
        raise UserError(
            "{name} is not open to visitors of this page.",
            "Choose one of the list, or ask its owner.",
            "not-for-visitors",
            name=name,
        )


def _how_read(values: Mapping[str, Any]) -> tuple[str, ...]:
    pairs = zip(OF_DATASET[1:], read_by_itself(), strict=True)
    return tuple(str(values.get(name) or default) for name, default in pairs)


def known_datasets(workspace: Path) -> set[tuple[str, Hashable]]:
    by_themselves = {(name, _how_read({})) for name in dataset_choices(workspace)}
    return by_themselves | {
        (config.dataset, _how_read(config.model_dump())) for config in _configs(workspace)
    }


def known_models(workspace: Path) -> set[tuple[str, Hashable]]:
    return {(STARTER, ""), *((config.model, config.revision or "") for config in _configs(workspace))}


def _configs(workspace: Path) -> Iterator[TrainingConfig]:
    return (config for run in runs.list_runs(workspace) if (config := settings_of(run)))
