"""Inference engine: one base in memory, adapters swapped on it, answers streamed."""

import copy
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from accelerate.utils.memory import clear_device_cache
from PIL import Image
from transformers import (
    BatchFeature,
    StoppingCriteria,
    StoppingCriteriaList,
    TextIteratorStreamer,
)

from vlm import adapters
from vlm.errors import UserError
from vlm.example import IMAGE, Message
from vlm.filesystem import FileStamp, file_stamp
from vlm.meta_model import architecture
from vlm.methods import ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE
from vlm.models.image_size import with_image_size
from vlm.models.loading import LoadedModel, load_base
from vlm.prompting import PromptStyle, prompt_style
from vlm.settings import AS_THE_MODEL_HAS_IT, ModelSettings, image_size_of

logger = logging.getLogger(__name__)

MAX_QUESTION_TOKENS = 4096
ADAPTERS_KEPT = 4
# The first token of a large model on a CPU may take minutes; without a limit a dead thread hangs the page.
TOKEN_TIMEOUT_S = 300.0
# A question holds the base until its reader has taken the last answer, or goes.
READER_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Answer:
    """One model's answer so far. `tokens` counts what was generated, `elapsed_s` the seconds so far.

    `prompt_tokens` counts what was read: all turns, with the images that stand in their text.
    """

    text: str = ""
    tokens: int = 0
    elapsed_s: float = 0.0
    done: bool = False
    prompt_tokens: int = 0


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What loading an adapter has shown: "412 of 412 tensors match; answers differ from the base's"."""

    check: adapters.AdapterCheck
    probe: adapters.Probe

    def __str__(self) -> str:
        return f"{self.check}; {self.probe}"


# An adapter's folder, and the stamps of its configuration and weights: one that was trained again since is
# another adapter, and is loaded again.
AdapterKey = tuple[Path, FileStamp | None, FileStamp | None]


def _key(folder: Path) -> AdapterKey:
    return folder, file_stamp(folder / ADAPTER_CONFIG_FILE), file_stamp(folder / ADAPTER_WEIGHTS_FILE)


class Engine:
    """Answers questions with a base model and its adapters, one question at a time.

    LoRAs lie side by side on the base and are switched; an adapter of another method, or one that trains a
    module in full, has the base to itself and is unloaded before the next.
    """

    def __init__(self) -> None:
        # Held for a whole question: adapters are switched on the one base in memory.
        self._asking = threading.Lock()
        self._asked: list[_Question] = []
        self._settings: ModelSettings | None = None
        self._loaded: LoadedModel | None = None
        self._prompt: PromptStyle | None = None
        self._model: adapters.PeftModel | None = None
        self._checked: dict[AdapterKey, adapters.AdapterCheck] = {}
        self._names: dict[AdapterKey, str] = {}
        self._untouched: torch.Tensor | None = None
        self._reports: dict[Path, LoadReport] = {}

    def ask(
        self,
        model: str | ModelSettings,
        image: Image.Image | Sequence[Image.Image] | None,
        question: str | Sequence[Message],
        answerers: Sequence[Path | None],
        max_new_tokens: int = 64,
        asker: str | None = None,
    ) -> Iterator[list[Answer]]:
        """Yields all answers as they grow, one for each of `answerers`.

        An answerer is an adapter's folder, or None for the base. `model` is a base model's name, or its
        settings, quantization included; their image size is the base's alone. `image` is RGB, as
        `training.data.images.load_image` returns it, or several in order. `question` is about it, or a
        conversation up to the answer that holds a mark (`vlm.example.IMAGE`) for each image.
        Closing the iterator stops the generation, as `stop` with the same `asker` does.

        Raises:
            UserError: the model or an adapter can't be loaded, or takes another number of images.
        """
        pictures = [image] if isinstance(image, Image.Image) else [*(image or ())]
        turns = (Message("user", IMAGE + question),) if isinstance(question, str) else question
        if not pictures:
            raise UserError(
                "There is no image to ask about.", "Upload one, or choose a sample.", "ask-no-image"
            )
        settings = ModelSettings(model=model) if isinstance(model, str) else model
        # An adapter sees images as large as it has learned them, the base as large as is asked.
        shown = [image_size_of(folder) if folder else settings.image_size for folder in answerers]
        settings = settings.model_copy(update=AS_THE_MODEL_HAS_IT)
        answers = [Answer() for _ in answerers]
        with self._stoppable(asker) as stop, self._asking:
            # All adapters first: a misfit is refused before gigabytes of the base are read.
            self._check(settings, [folder for folder in answerers if folder is not None])
            if self._settings != settings:
                # The old base goes before the new one comes: both need not fit in memory.
                self._forget()
                loaded = self._loaded = load_base(settings)
                self._prompt = prompt_style(loaded.model.config, loaded.processor, MAX_QUESTION_TOKENS)
                self._settings = settings
            if self._prompt.takes_one_image and len(pictures) != 1:
                raise UserError(
                    "{count} images were given: this model takes exactly one.",
                    "Ask about one image at a time, or choose another model.",
                    "asked-of-many-images",
                    count=len(pictures),
                )
            inputs: dict[str, BatchFeature] = {}
            for index, folder in enumerate(answerers):
                if stop.is_set():
                    break
                size = str(shown[index])
                if size not in inputs:
                    prompt, sized = copy.copy(self._prompt), settings.model_copy(update=shown[index])
                    prompt.processor = with_image_size(self._loaded.processor, sized)
                    made = prompt.inputs([[*turns, Message("assistant", "")]], [pictures])
                    inputs[size] = made.to(self._loaded.device)
                for answer in self._stream(folder, inputs[size], max_new_tokens, stop):
                    answers[index] = answer
                    yield list(answers)

    def load_report(self, folder: Path) -> LoadReport | None:
        """Returns what the last loading of this adapter has shown, or None if it is not on this base."""
        return self._reports.get(folder)

    def stop(self, asker: str | None = None) -> None:
        """Ends the answers of this asker's questions: what is being given after its next token."""
        for question in list(self._asked):
            if question.asker == asker:
                question.stop.set()

    @contextmanager
    def _stoppable(self, asker: str | None) -> Iterator[threading.Event]:
        question = _Question(asker)
        self._asked.append(question)
        try:
            yield question.stop
        finally:
            self._asked.remove(question)

    def held(self) -> tuple[str, int]:
        """Returns the type of the device that the base lies on, and its bytes: ("cpu", 0) without one."""
        loaded = self._loaded
        return (loaded.device.type, loaded.model.get_memory_footprint()) if loaded else ("cpu", 0)

    def let_go(self) -> bool:
        """Takes base and adapters out of memory; the next question loads them again.

        Whatever is asked is ended first. Returns False where a reader keeps its answer for too long.
        """
        for question in list(self._asked):
            question.stop.set()
        if not self._asking.acquire(timeout=READER_TIMEOUT_S):
            return False
        try:
            self._forget()
            clear_device_cache(garbage_collection=True)
        finally:
            self._asking.release()
        return True

    def _forget(self) -> None:
        self._settings = self._loaded = self._prompt = self._model = self._untouched = None
        self._names.clear()
        self._reports.clear()

    def _check(self, settings: ModelSettings, folders: Sequence[Path]) -> None:
        """Checks that the adapters fit the base's architecture. Raises `UserError` where one does not."""
        checked = self._checked if settings == self._settings else {}
        for key in map(_key, folders):
            if key not in checked:
                base = architecture(settings.model, settings.revision)
                checked[key] = adapters.check_fit(key[0], base, settings.model)
        self._checked = checked

    def _activate(self, folder: Path) -> None:
        """Loads an adapter and switches it on. Raises `UserError` where it would change the base."""
        key = _key(folder)
        if key not in self._names:
            self._check(self._settings, [folder])  # its files may have changed since the question came in
            checked = self._checked[key]
            question = adapters.probe_inputs(self._prompt).to(self._loaded.device)
            if self._untouched is None:
                self._untouched = adapters.first_logits(self._loaded.model, question)
            # PEFT names modules after it: a name of its own keeps what was deleted from coming back.
            name = f"adapter_{time.monotonic_ns()}"
            if self._names and adapters.can_coexist(self._model, checked):
                adapters.add(self._model, checked, name)
            else:
                self._take_off()
                self._model = adapters.load_checked(self._loaded.model, checked, name)
            self._names[key] = name
            self._model.set_adapter(name, inference_mode=True)
            probe = adapters.probe(self._model, question, self._untouched)
            if not probe.base_kept:
                self._take_off()
                raise UserError(
                    "{name}, switched off, leaves the base with other answers than its own.",
                    "Choose another adapter.",
                    "adapter-changes-base",
                    name=checked.info.name,
                )
            self._reports[folder] = LoadReport(checked, probe)
            logger.info("%s: %s", checked.info.name, self._reports[folder])
            if len(self._names) > ADAPTERS_KEPT:
                oldest = next(iter(self._names))  # dicts keep the order of insertion
                self._model.delete_adapter(self._names.pop(oldest))
        self._model.set_adapter(self._names[key], inference_mode=True)

    def _take_off(self) -> None:
        """Unloads all adapters."""
        if self._names:
            adapters.unload(self._model)
        self._names.clear()
        self._model = None

    def _stream(
        self, folder: Path | None, inputs: BatchFeature, max_new_tokens: int, stop: threading.Event
    ) -> Iterator[Answer]:
        """Yields one model's answer as it grows; the last one is `done`."""
        if folder is not None:
            self._activate(folder)
        began, failure, complete = time.monotonic(), [], False
        # An encoder-decoder's prompt may have no text at all.
        prompt_tokens = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
        answer = Answer(prompt_tokens=prompt_tokens)
        streamer = _Streamer(
            self._loaded.processor.tokenizer,
            skip_prompt=True,  # `generate` gives it first: the prompt, or the token a decoder starts with
            skip_special_tokens=True,
            timeout=TOKEN_TIMEOUT_S,
        )
        counter = _Counter(stop)
        if folder is not None:
            answering = nullcontext(self._model)
        else:
            answering = adapters.base_alone(self._model) if self._names else nullcontext(self._loaded.model)

        def generate() -> None:
            try:
                with answering as model, torch.inference_mode():
                    model.generate(
                        **inputs,
                        max_new_tokens=max_new_tokens,
                        do_sample=False,
                        streamer=streamer,
                        stopping_criteria=StoppingCriteriaList([counter]),
                    )
            except Exception as error:
                # Raised again by the reader's thread, which would wait for a token until its timeout.
                failure.append(error)
                streamer.end()

        thread = threading.Thread(target=generate, daemon=True)
        thread.start()
        try:
            for piece in streamer:
                text = answer.text + piece
                elapsed_s = time.monotonic() - began
                answer = Answer(text.lstrip(), counter.tokens, elapsed_s, prompt_tokens=prompt_tokens)
                yield answer
            complete = True
        finally:
            if not complete:  # the reader has closed the iterator, and the rest is not needed
                stop.set()
            # The lock on the base must not be released while a thread still generates with it.
            thread.join()
        if failure:
            raise failure[0]
        yield replace(
            answer,
            text=answer.text.strip(),
            tokens=counter.tokens,
            elapsed_s=time.monotonic() - began,
            done=True,
        )


@dataclass(eq=False)
class _Question:
    """A question that is answered or waits for it, and what ends it."""

    asker: str | None
    stop: threading.Event = field(default_factory=threading.Event)


class _Streamer(TextIteratorStreamer):
    """A streamer that copies as itself."""

    # PEFT's `generate` of prompt learning deep-copies its arguments: a copy's queue would have no reader.

    def __deepcopy__(self, memo: dict) -> "_Streamer":
        return self


@dataclass(eq=False)
class _Counter(StoppingCriteria):
    """Counts the tokens of one answer, and ends it when `stop` is set. Copies as itself, as `_Streamer`."""

    stop: threading.Event
    tokens: int = 0

    def __deepcopy__(self, memo: dict) -> "_Counter":
        return self

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: object) -> torch.Tensor:
        self.tokens += 1
        return torch.full((input_ids.shape[0],), self.stop.is_set(), device=input_ids.device)
