"""The matcher of foreign patterns: what `re` finds, in bounded time, and a word about what it can't read."""

import random
import re
import time

import pytest

from vlm.adapters.untrusted.patterns import Budget, PatternError, parse_pattern

UNSLOTH = (
    r"(?:.*?(?:vision|image|visual|patch|language|text).*?(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense)"
    r".*?(?:k_proj|q_proj|v_proj|o_proj|gate_proj|up_proj|down_proj|correct|proj|fc1|fc2).*?)|"
    r"(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense)\.(?:(?:q_proj|k_proj)))"
)
LLAMA_FACTORY = r"^(?!.*(?:visual|patch_embed)).*(?:q_proj|v_proj).*"
MS_SWIFT = r"^(model\.language_model(?=\.).*\.(q_proj|k_proj))$"
OURS = r"a\.layers\.\d+\.(?:fc1|fc2)|b\.(?:k_proj)"
NAMES = (
    "model.language_model.layers.0.self_attn.q_proj",
    "model.visual.blocks.1.attn.qkv",
    "model.vision_tower.encoder.layers.11.mlp.fc1",
    "model.layers.33.self_attn.q_proj",
    "a.layers.12.fc1",
    "b.k_proj",
    "lm_head",
    "a",
    "",
)


@pytest.mark.parametrize(
    "pattern",
    [
        *(
            UNSLOTH,
            LLAMA_FACTORY,
            MS_SWIFT,
            OURS,
            r"^vision_tower(?:\..*)?",
            r"[^.]+\.k_proj",
            r".*\.\d{1,2}\..*",
        ),
        *(
            "",
            ".*",
            "(a|)b?",
            r"\blm_head\b",
            "[]a]+",
            r"[\w-]+",
            "[^]]+",
            r"\w+_\D+",
            "(?:a|b){1,3}",
            r".+?\.fc1$",
        ),
    ],
)
def test_a_pattern_fits_the_names_that_it_fits_in_python(pattern: str) -> None:
    found = parse_pattern(pattern, Budget())
    assert [found.fits(name) for name in NAMES] == [bool(re.fullmatch(pattern, name)) for name in NAMES]
    ends = [bool(re.match(rf"(.*\.)?({pattern})$", name)) for name in NAMES]
    assert [found.fits_end(name) for name in NAMES] == ends


@pytest.mark.filterwarnings("ignore:Possible")
def test_whatever_it_reads_of_patterns_made_at_random_it_reads_as_python_does() -> None:
    chance, letters, seen = random.Random(0), list("ab.()|*+?^$[]-\\dw{}2,1!=:"), 0
    for _ in range(40_000):
        pattern = "".join(chance.choice(letters) for _ in range(chance.randint(1, 9)))
        try:
            compiled, found = re.compile(pattern), parse_pattern(pattern, Budget())
        except (re.error, PatternError):
            continue
        seen += 1
        for name in ("", "a", "ab", "a.b", "aab2", "b.a1", "-w"):
            assert found.fits(name) == bool(compiled.fullmatch(name)), (pattern, name)
    assert seen > 5_000


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        *(
            (endless, "take for ever")
            for endless in ("(a+)+$", "(a*)*", "((a|aa)+)+b", "(.*.*)*", "(?:a|.*)+x")
        ),
        *((group, "kind of group") for group in ("(?P<x>a)", "(?<=a)b", "(?i)a", "(?#a)")),
        *((broken, "bracket|middle|repeats") for broken in ("(a", "a)", "[a", "\\", "*a", "a**", "a++")),
        (r"(a)\1", r"holds \\1"),
        ("a{999}", "repeats a part 999 times"),
        ("(" * 40 + ")" * 40, "groups in groups"),
        ("a" * 30_000, "30,000 characters"),
    ],
)
def test_what_could_take_for_ever_or_is_not_understood_is_not_read(pattern: str, problem: str) -> None:
    with pytest.raises(PatternError, match=problem):
        parse_pattern(pattern, Budget())


def test_time_has_a_limit_for_all_patterns_of_an_adapter_together() -> None:
    budget, began = Budget(), time.monotonic()
    with pytest.raises(PatternError, match="takes too long"):
        parse_pattern("(?=.*" * 18 + "x" + ")" * 18, budget).fits("a" * 100)
    assert time.monotonic() - began < 10
    with pytest.raises(PatternError, match="takes too long"):
        parse_pattern("a+", budget).fits("aaa")
    assert time.monotonic() - began < 10


def test_a_pattern_with_many_ways_to_match_is_followed_at_once() -> None:
    began = time.monotonic()
    assert not parse_pattern(".*" * 50 + "x", Budget()).fits("a" * 300)
    for name in NAMES * 100:
        parse_pattern(UNSLOTH, Budget()).fits(name)
    assert time.monotonic() - began < 5
