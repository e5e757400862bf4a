"""Five lines of Python that load base and adapter with PEFT alone, and ask about a picture."""

from pathlib import Path

from transformers import ProcessorMixin

from vlm.errors import UserError
from vlm.example import Message
from vlm.models import hub
from vlm.models.image_size import with_image_size
from vlm.models.loading import load_processor, read_config
from vlm.prompting import prompt_style
from vlm.prompting.chat import ChatPrompt
from vlm.prompting.completion import CaptionPrompt
from vlm.prompting.seq2seq import QuestionAnswerPrompt
from vlm.settings import AS_THE_MODEL_HAS_IT, ModelSettings, image_size_of

LINES = """\
import peft, transformers, PIL.Image{more}
model = peft.PeftModel.from_pretrained({base}, {adapter!r})
processor = {processor}
inputs = processor{call}.to(model.device, model.dtype)
print(processor.decode(model.generate(**inputs, max_new_tokens={length})[{answer}], skip_special_tokens=True))
"""
# The architecture is this project's: its own code has to be there, and to be imported.
COMPOSED = ", vlm.composed"
CHAT = (
    '.apply_chat_template([{{"role": "user", "content": [{{"type": "image", "image": {image}}},'
    ' {{"type": "text", "text": {question!r}}}]}}],'
    ' add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"{more})'
)
PLAIN = '(images={image}, text={question!r}, return_tensors="pt")'


def python_lines(
    settings: ModelSettings, adapter: Path, image: Path, question: str, max_new_tokens: int
) -> str:
    """Returns the lines, which run as they are where base, adapter and image lie now. No weight is read.

    A composed model's need this project beside them: its architecture is no other's.

    Raises:
        UserError: the base can't be had, or is asked in a way that takes more than a call of its processor.
    """
    size = image_size_of(adapter)
    plain = settings.model_copy(update=AS_THE_MODEL_HAS_IT | {"quantization": "none"})
    config, processor = read_config(settings.model, settings.revision), load_processor(plain)
    prompt = prompt_style(config, processor, None)
    if isinstance(prompt, CaptionPrompt):
        raise UserError(
            "{model} is asked by what its decoder begins with, which is more than five lines.",
            "Ask it on the page's Try tab, or merge the adapter.",
            "no-five-lines",
            model=settings.model,
        )
    opened = f'PIL.Image.open({str(image)!r}).convert("RGB")'
    if isinstance(prompt, ChatPrompt):
        more = "".join(f", {name}={value!r}" for name, value in prompt.template_arguments.items())
        call, is_continued = CHAT.format(image=opened, question=question, more=more), True
    else:
        # With the image tokens of which the processor makes as many as the image has, as in training.
        is_seq2seq = isinstance(prompt, QuestionAnswerPrompt)
        turns = [Message("user", question)]
        text = prompt.image_token + question if is_seq2seq else prompt.marked_question(turns, [image])
        call, is_continued = PLAIN.format(image=opened, question=text), not is_seq2seq
    base, of_base = _from_pretrained(settings, _size_arguments(processor, settings, size))
    return LINES.format(
        more=COMPOSED if config.model_type == "composed" else "",
        base=base,
        adapter=str(adapter),
        processor=of_base,
        call=call,
        length=max_new_tokens,
        # What continues its prompt repeats that.
        answer="0, inputs['input_ids'].shape[1]:" if is_continued else "0",
    )


def _from_pretrained(settings: ModelSettings, sized: str) -> tuple[str, str]:
    """Returns the calls that give the base and its processor."""
    names = [_place(name) for name in hub.parts(settings.model)]
    arguments = ", ".join(map(repr, names))
    if settings.revision is not None:
        arguments += f", revision={settings.revision!r}"
    if len(names) == 2:
        return (
            f"vlm.composed.ComposedModel.from_towers({arguments})",
            f"vlm.composed.ComposedProcessor.from_towers({arguments})",
        )
    return (
        f"transformers.AutoModelForImageTextToText.from_pretrained({arguments})",
        f"transformers.AutoProcessor.from_pretrained({arguments}{sized})",
    )


def _place(name: str) -> str:
    """Returns what `from_pretrained` takes for a model: its folder, or its id on the Hub."""
    if not hub.is_local(name):
        return name
    return str(hub.config_folder(name).absolute())


def _size_arguments(processor: ProcessorMixin, settings: ModelSettings, size: dict) -> str:
    """Returns the arguments by which a processor shows images as large as the adapter has learned them."""
    if not size:
        return ""
    sized = with_image_size(processor, settings.model_copy(update=size)).image_processor.to_dict()
    own = processor.image_processor.to_dict()
    return "".join(f", {name}={value!r}" for name, value in sized.items() if own.get(name) != value)
