"""A chat template is a stranger's program: none takes long, grows large or reads a file, whatever it says."""

import time
from pathlib import Path

import pytest

from support.chat_prompts import chat_prompt, conversation
from support.told import codes_raised
from vlm.example import IMAGE
from vlm.prompting import templates
from vlm.prompting.chat import ChatPrompt

SECONDS = 0.3
"""In place of the five that a template has."""


def growing(first: str, round_: str) -> str:
    """A template that does something to `all.x` 99 times."""
    return f"{{% set all = namespace(x={first}) %}}{{% for i in range(99) %}}{round_}{{% endfor %}}"


NESTED = "{% for i in r %}" * 3 + "{% endfor %}" * 3
ENDLESS = {
    "loops in loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "loops that call nothing": "{% set r = range(99999) %}" + NESTED,
    "loops over a text": "{% set r = 'a' * 99999 %}" + NESTED,
    "loops over batches": "{% set r = range(99999)|batch(1)|list %}" + NESTED,
    "a macro of two of itself": "{% macro f(n) %}{{ f(n-1) ~ f(n-1) if n > 0 }}{% endmacro %}{{ f(60) }}",
}
GROWS = {
    "joined to itself": growing("'aaaa'", "{% set all.x = all.x ~ all.x %}"),
    "added to itself": growing("'aaaa'", "{% set all.x = all.x + all.x %}"),
    "a list added to itself": growing("[1]", "{% set all.x = all.x + all.x %}"),
    "a block of itself": growing("'aa'", "{% set y %}{{ all.x }}{{ all.x }}{% endset %}{% set all.x = y %}"),
    "a number times itself": growing("9", "{% set all.x = all.x * all.x %}"),
    "a power of a power": "{{ 9 ** (9 ** 9) }}",
    "a text times a number": "{{ 'a' * 10 ** 10 }}",
    "a list times a number": "{% set x = [0] * 10 ** 10 %}",
    "text without end": "{% for i in range(99999) %}" + "a" * 1000 + "{% endfor %}",
    "a wide text": "{{ 'a'.ljust(10000000000) }}",
    "a wide filter": "{{ 'a'|center(10000000000) }}",
    "wide lines": "{{ 'a\n'|indent(10000000000) }}",
    "wide JSON": "{{ [[1]]|tojson(indent=10000000000) }}",
    "a wide field": "{{ '%10000000000d' % 1 }}",
    "a field as wide as an argument": "{{ '%*d' % (10000000000, 1) }}",
    "a wide field of a filter": "{{ '%10000000000d'|format(1) }}",
    "a wide field of a method": "{{ '{:10000000000}'.format(1) }}",
    "a field as wide as another": "{{ '{0:{1[0]}}'.format(1, [10000000000]) }}",
    "a field of a mapping": "{{ '{a:{b}}'.format_map({'a': 1, 'b': 10000000000}) }}",
    "letters that become texts": "{% set s = 'a' * 90000 %}{{ s.replace('a', s) }}",
    "letters joined by texts": "{% set s = 'a' * 90000 %}{{ s|join(s) }}",
    "a number of many digits": "{{ ('f' * 99999)|int(base=16) }}",
    "bytes": "{{ ('a'.encode() * 9999999999)|string }}",
    "tabs": "{{ ('\t' * 9999).expandtabs(99999) }}",
    "a long source": "{{ x }}" * 30_000,
}
BROKEN = {
    "without end of calls": "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "brackets in brackets": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "blocks in blocks": "{% for i in [1] %}" * 50 + "{% endfor %}" * 50,
    "divided by zero": "{{ 1 / 0 }}",
    "lorem ipsum": "{{ lipsum(n=99999) }}",
    "another file": "{% include '/etc/hostname' %}",
    "the way to every class": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "a long complaint": "{{ raise_exception('a' * 99999) }}",
}


@pytest.fixture(scope="module")
def prompt(tmp_path_factory: pytest.TempPathFactory) -> ChatPrompt:
    return chat_prompt("qwen2_vl", tmp_path_factory.mktemp("model") / "base")


def rendered(prompt: ChatPrompt, template: str) -> tuple[set[str], float]:
    """The codes that a template is refused by, and the seconds of CPU that it took."""
    prompt.processor.chat_template = template
    began = time.thread_time()
    codes = codes_raised(lambda: prompt._render(conversation(f"{IMAGE}?")))
    return codes, time.thread_time() - began


@pytest.mark.parametrize("name", ENDLESS)
def test_a_template_that_does_not_end_is_ended(
    prompt: ChatPrompt, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(templates, "MAX_SECONDS", SECONDS)
    codes, seconds = rendered(prompt, ENDLESS[name])
    assert codes == {"template-too-large", "template-too-slow"}
    assert SECONDS <= seconds < 5


@pytest.mark.parametrize("name", GROWS)
def test_a_template_that_grows_is_refused_before_it_takes_memory(prompt: ChatPrompt, name: str) -> None:
    codes, seconds = rendered(prompt, GROWS[name])
    assert codes & {"template-too-long", "template-asks-too-much"}
    assert seconds < 5


@pytest.mark.parametrize("name", BROKEN)
def test_a_template_that_can_not_be_written_out_is_refused_in_a_short_sentence(
    prompt: ChatPrompt, name: str
) -> None:
    codes, seconds = rendered(prompt, BROKEN[name])
    assert codes == {"template-roles"}
    assert seconds < 5


def test_an_endless_template_is_told_at_the_first_role_that_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(templates, "MAX_SECONDS", SECONDS)
    asked: list[float] = []
    monkeypatch.setattr(
        ChatPrompt, "_render", lambda *_, kept=ChatPrompt._render: asked.append(1) or kept(*_)
    )
    codes = codes_raised(lambda: chat_prompt("qwen2_vl", tmp_path / "base", ENDLESS["loops in loops"]))
    assert "template-too-slow" in codes
    assert len(asked) == 1


@pytest.mark.parametrize(
    "template",
    [
        "{{ '%s: %5.1f' % (messages[0].role, 3) }}",
        "{{ '{}: {:>5}'.format(messages[0].content, 'x') }}",
        "{{ '%s'|format(messages[0].content) }}",
        "{{ messages[0].content|string|replace('12345', ':')|indent(4) }}",
        "{{ messages|tojson(indent=4) }}",
    ],
)
def test_what_templates_do_with_texts_is_done(prompt: ChatPrompt, template: str) -> None:
    prompt.processor.chat_template = template
    assert prompt._render(conversation(f"{IMAGE}at 12:34567 are there 1234567 cats of 99999 %*d {{:{{}}}}?"))


def test_a_megabyte_of_text_is_written_and_read_within_five_seconds(
    prompt: ChatPrompt, tmp_path: Path
) -> None:
    own = chat_prompt("qwen2_vl", tmp_path / "base")
    answer = "red blue " * 111_112
    began = time.thread_time()
    text, spans = own._write(conversation(f"{IMAGE}?", answer))
    assert time.thread_time() - began < 5
    assert answer.strip() in text[spans[0].start : spans[0].end]
