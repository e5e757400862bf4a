"""The inference engine: one base in memory, adapters swapped on it, answers streamed."""

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
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
from vlm.meta_model import architecture
from vlm.models.loading import LoadedModel, load_base
from vlm.prompting import PromptStyle, prompt_style
from vlm.settings import ModelSettings

logger = logging.getLogger(__name__)

MAX_QUESTION_TOKENS = 4096
ADAPTERS_KEPT = 4
TOKEN_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class Answer:
    """One model's answer so far. `tokens` counts what was generated, `elapsed_s` the seconds so far."""

    text: str = ""
    tokens: int = 0
    elapsed_s: float = 0.0
    done: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """What loading an adapter has shown: "412 of 412 tensors match; answers differ from the base's"."""

    check: adapters.AdapterCheck
    probe: adapters.Probe

    def __str__(self) -> str:
        return f"{self.check}; {self.probe}"


AdapterKey = tuple[Path, int, int]
"""An adapter's folder, and when its configuration and its weights were written."""


def _key(folder: Path) -> AdapterKey:
    files = [folder / name for name in (adapters.CONFIG_FILE, adapters.WEIGHTS_FILE)]
    return folder, *(file.stat().st_mtime_ns if file.is_file() else 0 for file in files)


class Engine:
    """Answers questions with a base model and its adapters, one question at a time.

    LoRAs lie side by side on the base and are switched; an adapter of another method, or one that trains a
    module in full, has the base to itself and makes way for the next.
    """

    def __init__(self) -> None:
        self._asking = threading.Lock()
        self._stop = threading.Event()
        self._settings: ModelSettings | None = None
        self._loaded: LoadedModel | None = None
        self._prompt: PromptStyle | None = None
        self._model: adapters.PeftModel | None = None
        self._checked: dict[AdapterKey, adapters.AdapterCheck] = {}
        self._names: dict[AdapterKey, str] = {}
        self._untouched: torch.Tensor | None = None
        self._found: dict[Path, Finding] = {}

    def ask(
        self,
        model: str | ModelSettings,
        image: Image.Image | None,
        question: str,
        answerers: Sequence[Path | None],
        max_new_tokens: int = 64,
    ) -> Iterator[list[Answer]]:
        """The answers as they grow, one for each of `answerers`: an adapter's folder, or None for the base.

        `model` is a base model's name, or its settings, quantization included. Each yield has all answers so
        far. `image` is RGB, as `training.data.images.load_image` gives it. Closing the iterator stops the
        generation. Raises `UserError` where the model or an adapter can't be loaded, or without an image.
        """
        if image is None:
            raise UserError("There is no image to ask about.", "Upload one, or choose a sample.")
        settings = ModelSettings(model=model) if isinstance(model, str) else model
        answers = [Answer() for _ in answerers]
        with self._asking:
            self._stop.clear()
            self._check(settings, [folder for folder in answerers if folder is not None])
            self._load(settings)
            messages = (Message("user", IMAGE + question), Message("assistant", ""))
            inputs = self._prompt.inputs([messages], [[image]]).to(self._loaded.device)
            for index, folder in enumerate(answerers):
                if self._stop.is_set():
                    break
                for answer in self._stream(folder, inputs, max_new_tokens):
                    answers[index] = answer
                    yield list(answers)

    def finding(self, folder: Path) -> Finding | None:
        """What was found when this adapter was last loaded; None if it was not, on the base in memory."""
        return self._found.get(folder)

    def stop(self) -> None:
        """End the answer that is being given after its next token, and those that wait behind it."""
        self._stop.set()

    def _check(self, settings: ModelSettings, folders: Sequence[Path]) -> None:
        """See whether the adapters fit, before a weight of the base is read. Raises `UserError` where not."""
        checked = self._checked if settings == self._settings else {}
        for key in map(_key, folders):
            if key not in checked:
                base = architecture(settings.model, settings.revision)
                checked[key] = adapters.check(key[0], base, settings.model)
        self._checked = checked

    def _load(self, settings: ModelSettings) -> None:
        """Have this base in memory; another one is let go first."""
        if self._settings == settings:
            return
        self._settings = self._loaded = self._model = self._untouched = None
        self._names.clear()
        self._found.clear()
        self._loaded = load_base(settings)
        self._prompt = prompt_style(self._loaded.model.config, self._loaded.processor, MAX_QUESTION_TOKENS)
        self._settings = settings

    def _activate(self, folder: Path) -> None:
        """Have this adapter loaded and switched on. One that was trained again since is loaded again."""
        key = _key(folder)
        if key not in self._names:
            self._check(self._settings, [folder])  # it may have been written anew since
            self._put_on(key)
        self._model.set_adapter(self._names[key], inference_mode=True)

    def _put_on(self, key: AdapterKey) -> None:
        """Load an adapter, and see that it does something and leaves the base as it is."""
        checked = self._checked[key]
        question = adapters.probe_inputs(self._prompt).to(self._loaded.device)
        if self._untouched is None:
            self._untouched = adapters.first_logits(self._loaded.model, question)
        name = f"adapter_{time.monotonic_ns()}"
        if self._names and adapters.goes_beside(self._model, checked):
            adapters.add(self._model, checked, name)
        else:
            self._take_off()
            self._model = adapters.put_on(self._loaded.model, checked, name)
        self._names[key] = name
        self._model.set_adapter(name, inference_mode=True)
        probe = adapters.probe(self._model, question, self._untouched)
        if not probe.base_kept:
            self._take_off()
            raise UserError(
                f"{checked.info.name}, switched off, leaves the base with other answers than its own.",
                "Choose another adapter.",
            )
        self._found[key[0]] = Finding(checked, probe)
        logger.info("%s: %s", checked.info.name, self._found[key[0]])
        if len(self._names) > ADAPTERS_KEPT:
            oldest = next(iter(self._names))
            self._model.delete_adapter(self._names.pop(oldest))

    def _take_off(self) -> None:
        """Have the base alone in memory."""
        if self._names:
            adapters.take_off(self._model)
        self._names.clear()
        self._model = None

    def _stream(self, folder: Path | None, inputs: BatchFeature, max_new_tokens: int) -> Iterator[Answer]:
        """One model's answer as it grows; the last one is `done`."""
        if folder is not None:
            self._activate(folder)
        began, answer, failure, heard_out = time.monotonic(), Answer(), [], False
        streamer = _Streamer(
            self._loaded.processor.tokenizer,
            skip_prompt=True,  # `generate` gives it first: the prompt, or the token a decoder starts with
            skip_special_tokens=True,
            timeout=TOKEN_TIMEOUT_S,
        )
        counter = _Counter(self._stop)
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
                failure.append(error)
                streamer.end()

        thread = threading.Thread(target=generate, daemon=True)
        thread.start()
        try:
            for piece in streamer:
                text = answer.text + piece
                answer = Answer(text.lstrip(), counter.tokens, time.monotonic() - began)
                yield answer
            heard_out = True
        finally:
            if not heard_out:  # whoever listened has left: nobody waits for the rest
                self._stop.set()
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


class _Streamer(TextIteratorStreamer):
    """PEFT's `generate` of prompt learning copies what it is given: a copy would stream to nobody."""

    def __deepcopy__(self, memo: dict) -> "_Streamer":
        return self


class _Counter(StoppingCriteria):
    """Counts the tokens of one answer, and ends it when `stop` is set. A copy is the counter itself."""

    def __deepcopy__(self, memo: dict) -> "_Counter":
        return self

    def __init__(self, stop: threading.Event) -> None:
        self.stop = stop
        self.tokens = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: object) -> torch.Tensor:
        self.tokens += 1
        return torch.full((input_ids.shape[0],), self.stop.is_set(), device=input_ids.device)
