"""Pretrained towers for the composed model: read from safetensors, complete or refused."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import (
    AutoModel,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from vlm.composed.configuration import ComposedConfig, vision_arguments
from vlm.errors import UserError

HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "revision", "token")
"""What `from_pretrained` takes of models, configurations and tokenizers alike."""
SKIPPED = "llm_int8_skip_modules"
"""The setting of a quantization that names modules to leave as they are, for 4 bits as for 8."""


def load_towers(
    vision: str | Path, text: str | Path, **kwargs: object
) -> tuple[ComposedConfig, PreTrainedModel, PreTrainedModel]:
    """The composed configuration, the vision tower and the text model, with all of their weights.

    A `quantization_config` names modules by their names in the composed model; the vision tower is quantized
    only where modules to leave out are named and it is not among them. Raises `UserError` where a tower does
    not fit or lacks weights.
    """
    hub = {name: kwargs[name] for name in HUB_ARGUMENTS if name in kwargs}
    config = ComposedConfig.from_towers(vision, text, **hub)
    quantization = kwargs.pop("quantization_config", None)
    skipped = getattr(quantization, SKIPPED, None)
    of_vision = _within("vision_tower", quantization) if skipped and "vision_tower" not in skipped else None
    vision_tower = _load(
        AutoModel,
        vision,
        config.vision_config,
        quantization_config=of_vision,
        **vision_arguments(config.vision_config),
        **kwargs,
    )
    language_model = _load(
        AutoModelForSeq2SeqLM,
        text,
        config.text_config,
        quantization_config=_within("language_model", quantization),
        **kwargs,
    )
    _settle_start(language_model, text, **hub)
    config.vision_config, config.text_config = vision_tower.config, language_model.config
    if quantization is not None:
        for tower in (config.vision_config, config.text_config):
            vars(tower).pop("quantization_config", None)  # the composed model's own says it for both
        config.quantization_config = quantization
    return config, vision_tower, language_model


def answer_settings(language_model: PreTrainedModel) -> GenerationConfig:
    """The text model's generation settings without what was chosen for its own task: tokens alone.

    A summariser's least length or number of beams would be wrong for answers about images.
    """
    own = language_model.generation_config
    names = [
        f"{name}_token_id" for name in ("bos", "decoder_start", "eos", "forced_bos", "forced_eos", "pad")
    ]
    return GenerationConfig(**{name: getattr(own, name) for name in [*names, "bad_words_ids"]})


def embedding_scale(language_model: PreTrainedModel) -> float:
    """How far the text model's word embeddings spread: image tokens begin as loud as words."""
    embeddings = language_model.get_input_embeddings()
    step = max(1, embeddings.num_embeddings // 4096)
    words = torch.arange(0, embeddings.num_embeddings, step, device=embeddings.weight.device)
    with torch.no_grad():
        return embeddings(words).float().std().item()


def _load(auto_class: type, name: str | Path, config: PreTrainedConfig, **kwargs: object) -> PreTrainedModel:
    kwargs |= {"use_safetensors": True, "trust_remote_code": False}
    again = f"Download {name} again, or choose another model: it needs all its weights as safetensors."
    with _quietly():
        try:
            model, report = auto_class.from_pretrained(
                name,
                config=config,
                ignore_mismatched_sizes=True,  # they are in the report, and refused with the missing ones
                output_loading_info=True,
                **kwargs,
            )
        except OSError as error:
            raise UserError(f"{name} has no weights that can be read: {_first_line(error)}", again) from error
    missing = {*report["missing_keys"], *(str(key[0]) for key in report["mismatched_keys"])}
    if missing:
        raise UserError(f"{name} lacks {len(missing)} of its weights, {min(missing)} first.", again)
    return model


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


@contextmanager
def _quietly() -> Iterator[None]:
    """Without transformers' report of weights: half of a CLIP or SigLIP is not wanted here."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)


def _within(tower: str, quantization: object | None) -> object | None:
    """The quantization as the tower itself has it: names of modules without the tower's own in front."""
    quantization = copy.deepcopy(quantization)
    skipped = getattr(quantization, SKIPPED, None)
    if skipped:
        prefix = f"{tower}."
        inner = [name.removeprefix(prefix) for name in skipped if name.startswith(prefix)]
        setattr(quantization, SKIPPED, inner)
    return quantization


def _settle_start(language_model: PreTrainedModel, text: str | Path, **hub: object) -> None:
    """Make the configuration name the token that answers begin with.

    Where it names none, as mBART's, the last token of a text begins it, which is the language's
    (https://huggingface.co/docs/transformers/model_doc/mbart).
    """
    config, generation = language_model.config, language_model.generation_config
    start = getattr(config, "decoder_start_token_id", None)
    if start is None:
        start = generation.decoder_start_token_id
    if start is None:
        tokenizer = AutoTokenizer.from_pretrained(text, trust_remote_code=False, **hub)
        start = tokenizer("")["input_ids"][-1]
    config.decoder_start_token_id = generation.decoder_start_token_id = start
