"""Pretrained towers for the composed model: read from safetensors, complete or refused."""

import copy
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
from vlm.errors import Phrase, UserError

# What `from_pretrained` takes of models, configurations and tokenizers alike.
HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "revision", "token")
# transformers' setting of modules that stay as they are; despite its name it holds for 4 bits as well.
SKIPPED = "llm_int8_skip_modules"


def load_towers(
    vision: str | Path, text: str | Path, **kwargs: object
) -> tuple[ComposedConfig, PreTrainedModel, PreTrainedModel]:
    """Returns the composed configuration, the vision tower and the text model, with all of their weights.

    A `quantization_config` names modules by their names in the composed model; the vision tower is quantized
    only where modules to leave out are named and it is not among them.

    Raises:
        UserError: a tower does not fit or lacks weights.
    """
    hub = {name: kwargs[name] for name in HUB_ARGUMENTS if name in kwargs}
    config = ComposedConfig.from_towers(vision, text, **hub)
    quantization = kwargs.pop("quantization_config", None)
    skipped = getattr(quantization, SKIPPED, None)
    of_vision = _within("vision_tower", quantization) if skipped and "vision_tower" not in skipped else None
    vision_tower = _load_tower(
        AutoModel,
        vision,
        config.vision_config,
        quantization_config=of_vision,
        **vision_arguments(config.vision_config),
        **kwargs,
    )
    language_model = _load_tower(
        AutoModelForSeq2SeqLM,
        text,
        config.text_config,
        quantization_config=_within("language_model", quantization),
        **kwargs,
    )
    # Answers must begin with a token that the configuration names. mBART's names none: there an answer begins
    # with the last token of a text (https://huggingface.co/docs/transformers/model_doc/mbart).
    generation = language_model.generation_config
    start = getattr(language_model.config, "decoder_start_token_id", None)
    if start is None:
        start = generation.decoder_start_token_id
    if start is None:
        tokenizer = AutoTokenizer.from_pretrained(text, trust_remote_code=False, **hub)
        start = tokenizer("")["input_ids"][-1]
    language_model.config.decoder_start_token_id = generation.decoder_start_token_id = start
    config.vision_config, config.text_config = vision_tower.config, language_model.config
    if quantization is not None:
        for tower in (config.vision_config, config.text_config):
            vars(tower).pop("quantization_config", None)  # the composed model's own holds for both
        config.quantization_config = quantization
    return config, vision_tower, language_model


def answer_settings(language_model: PreTrainedModel) -> GenerationConfig:
    """Returns the token ids of the text model's generation settings, and nothing else of them."""
    # A summariser's minimum length or number of beams would be wrong for answers about images.
    own = language_model.generation_config
    names = [
        f"{name}_token_id" for name in ("bos", "decoder_start", "eos", "forced_bos", "forced_eos", "pad")
    ]
    return GenerationConfig(**{name: getattr(own, name) for name in [*names, "bad_words_ids"]})


def embedding_scale(language_model: PreTrainedModel) -> float:
    """Returns the standard deviation of the text model's word embeddings."""
    # The new connector's output starts at this scale, so that image tokens are as loud as words. A sample of
    # 4,096 words spares an fp32 copy of a whole multilingual vocabulary.
    embeddings = language_model.get_input_embeddings()
    step = max(1, embeddings.num_embeddings // 4096)
    words = torch.arange(0, embeddings.num_embeddings, step, device=embeddings.weight.device)
    with torch.no_grad():
        return embeddings(words).float().std().item()


def load_complete(
    auto_class: type,
    folder: str | Path,
    config: PreTrainedConfig,
    *,
    name: str | Path,
    again: Phrase,
    **kwargs: object,
) -> PreTrainedModel:
    """Returns a model with all of its weights, from safetensors. `name` is what messages call it.

    `again` is the remedy where weights are missing: how to get them.

    Raises:
        UserError: weights are missing, or have other shapes than the configuration says.
    """
    kwargs |= {"use_safetensors": True, "trust_remote_code": False}
    model, report = auto_class.from_pretrained(
        folder,
        config=config,
        # Without it the first mismatch raises and hides the missing ones: both are refused below.
        ignore_mismatched_sizes=True,
        output_loading_info=True,
        **kwargs,
    )
    missing = {*report["missing_keys"], *(str(key[0]) for key in report["mismatched_keys"])}
    if missing:  # transformers has initialised them at random, and only warns
        raise UserError(
            "{name} lacks {count} of its weights, {first} first.",
            "{again}",
            "model-lacks-weights",
            name=name,
            count=len(missing),
            first=min(missing),
            again=again,
        )
    return model


def _load_tower(
    auto_class: type, name: str | Path, config: PreTrainedConfig, **kwargs: object
) -> PreTrainedModel:
    again = Phrase(
        "Download {name} again, or choose another model: it needs all its weights as safetensors.",
        "download-tower-again",
        name=name,
    )
    # transformers reports unused weights as a warning: half of a CLIP or SigLIP is not wanted here.
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        return load_complete(auto_class, name, config, name=name, again=again, **kwargs)
    except OSError as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(
            "{name} has no weights that can be read: {reason}",
            "{again}",
            "model-no-weights",
            name=name,
            reason=reason,
            again=again,
        ) from error
    finally:
        transformers_logging.set_verbosity(verbosity)


def _within(tower: str, quantization: object | None) -> object | None:
    """Returns the quantization with the names of modules as they are inside the tower."""
    quantization = copy.deepcopy(quantization)
    skipped = getattr(quantization, SKIPPED, None)
    if skipped:
        prefix = f"{tower}."
        inner = [name.removeprefix(prefix) for name in skipped if name.startswith(prefix)]
        setattr(quantization, SKIPPED, inner)
    return quantization
