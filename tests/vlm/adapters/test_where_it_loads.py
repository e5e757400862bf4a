"""What loads an adapter: the table's rules on what servers refused, and on what libraries here do."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model

from support.adapter_folders import fresh, logits, saved, says, settings_of, trained
from ui.i18n import LOCALES
from vlm import adapters
from vlm.adapters.peft_config import layer_pattern
from vlm.methods import METHODS, Method
from vlm.models.where_it_loads import BECAUSE, RUNTIMES, AdapterFacts, facts_of_settings, where_it_loads
from vlm.settings import AdapterSettings, ModelSettings

TEXT = {"use_text_lora": True, "use_vision_lora": False}
BOTH = {"use_vision_lora": True}


def verdicts(facts: AdapterFacts) -> dict[str, tuple[str, str | None]]:
    return {found.runtime.name: (found.rule.verdict, found.rule.because) for found in where_it_loads(facts)}


# What each server did with such an adapter, as its own code and threads say: the cases are recorded, and hold
# the rules. (settings, the base's type, server, verdict, because)
RECORDED = {
    "vLLM takes two ranks by shape": (BOTH, "qwen2_5_vl", "vLLM", "loads", "tower_flag"),
    "vLLM leaves vision layers of other families out": (
        *(BOTH, "internvl", "vLLM"),
        *("without_vision", "some_families"),
    ),
    "vLLM has one alpha / r": (
        *(BOTH | {"vision_lora_alpha": 8}, "qwen2_5_vl", "vLLM"),
        *("does_not", "one_scale"),
    ),
    "vLLM takes rsLoRA by the global r": (
        *(BOTH | {"method": "rslora"}, "qwen2_5_vl", "vLLM"),
        *("does_not", "one_scale"),
    ),
    "vLLM takes rsLoRA of one tower": (TEXT | {"method": "rslora"}, "qwen2_5_vl", "vLLM", "loads", None),
    "vLLM takes ranks up to 512": (
        *(TEXT | {"text_lora_r": 513}, "qwen2_5_vl", "vLLM"),
        *("does_not", "rank_512"),
    ),
    "vLLM refuses DoRA": (TEXT | {"method": "dora"}, "llava", "vLLM", "does_not", "dora"),
    "vLLM refuses modules_to_save": (TEXT | {"connector": "full"}, "llava", "vLLM", "does_not", "in_full"),
    "vLLM knows no composed model": (TEXT, "composed", "vLLM", "does_not", "composed"),
    "vLLM leaves nothing of a vision LoRA": (
        *(BOTH | {"use_text_lora": False}, "internvl", "vLLM"),
        *("does_not", "nothing_left"),
    ),
    "SGLang takes text": (TEXT, "qwen2_5_vl", "SGLang", "loads", None),
    "SGLang refuses rank overrides": (BOTH, "qwen2_5_vl", "SGLang", "does_not", "ranks"),
    "SGLang refuses alpha overrides": (
        *(BOTH | {"vision_lora_r": 16, "vision_lora_alpha": 8}, "qwen2_5_vl", "SGLang"),
        *("does_not", "ranks"),
    ),
    "SGLang adapts language layers": (
        *(BOTH | {"vision_lora_r": 16}, "qwen2_5_vl", "SGLang"),
        *("without_vision", "text_alone"),
    ),
    "llama.cpp takes text": (TEXT, "qwen2_vl", "llama.cpp", "loads", None),
    "llama.cpp converts no vision layer": (BOTH, "qwen2_vl", "llama.cpp", "does_not", "text_converted"),
    "llama.cpp does not read use_rslora": (
        *(TEXT | {"method": "rslora"}, "qwen2_vl", "llama.cpp"),
        *("does_not", "rslora_not_read"),
    ),
    "llama.cpp stops at the magnitude": (TEXT | {"method": "dora"}, "llava", "llama.cpp", "does_not", "dora"),
    "llama.cpp stops at a connector in full": (
        *(TEXT | {"connector": "full"}, "llava", "llama.cpp"),
        *("does_not", "in_full"),
    ),
}


@pytest.mark.parametrize(
    ("values", "model_type", "server", "verdict", "because"), RECORDED.values(), ids=RECORDED
)
def test_what_a_server_was_seen_to_do_is_what_the_rules_say(
    values: dict, model_type: str, server: str, verdict: str, because: str | None
) -> None:
    facts = facts_of_settings(AdapterSettings(**values), model_type)
    assert verdicts(facts)[server] == (verdict, because)


def test_each_runtime_has_a_verdict_on_anything_and_each_rule_a_source_and_a_sentence() -> None:
    said = {rule.because for runtime in RUNTIMES for rule in runtime.rules} - {None}
    assert said == BECAUSE.keys()
    for runtime in RUNTIMES:
        assert not runtime.rules[-1].when, "the last rule is met by all"
        assert all(rule.source for rule in runtime.rules)
        assert all(rule.because or rule.verdict == "loads" for rule in runtime.rules)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("values", [{}, {"vision_lora_r": 4, "vision_lora_alpha": 8}], ids=["apart", "alike"])
def test_a_folder_says_what_the_settings_said_before_the_run(
    method: Method, values: dict, tiny_base: Path, tmp_path: Path
) -> None:
    settings = settings_of(method, **values)
    adapters.save(trained(fresh(tiny_base), settings), tmp_path)
    before, after = facts_of_settings(settings, "qwen2_vl"), adapters.read_facts(tmp_path, "qwen2_vl")
    assert verdicts(after) == verdicts(before)
    assert not after.pattern


def test_a_connector_in_full_and_the_pattern_of_before_are_seen_in_the_folder(
    tiny_base: Path, tmp_path: Path
) -> None:
    settings = settings_of("lora", connector="full")
    model = trained(fresh(tiny_base), settings)
    adapters.save(model, tmp_path / "full")
    assert verdicts(adapters.read_facts(tmp_path / "full", "llava"))["vLLM"] == ("does_not", "in_full")
    text = settings_of("lora", use_vision_lora=False)
    adapters.save(trained(fresh(tiny_base), text), tmp_path / "text")
    assert verdicts(adapters.read_facts(tmp_path / "text", "llava"))["SGLang"] == ("loads", None)
    says(tmp_path / "text", target_modules=layer_pattern(["a.q_proj"]))
    assert verdicts(adapters.read_facts(tmp_path / "text", "llava"))["SGLang"] == ("does_not", "pattern")


def test_alphas_of_single_text_layers_are_seen(tiny_base: Path, tmp_path: Path) -> None:
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["fc1", "q_proj"], alpha_pattern={"fc1": 16})
    get_peft_model(fresh(tiny_base).language_model, config).save_pretrained(tmp_path)
    found = verdicts(adapters.read_facts(tmp_path, "llama"))
    assert found["llama.cpp"] == ("does_not", "one_alpha")
    assert found["vLLM"] == ("does_not", "one_scale")


@pytest.mark.parametrize("method", METHODS)
def test_transformers_loads_what_the_table_says_and_answers_alike(
    method: Method, tiny_base: Path, tmp_path: Path
) -> None:
    model = trained(fresh(tiny_base), settings_of(method))
    adapters.save(model, tmp_path)
    [found] = (f for f in where_it_loads(adapters.read_facts(tmp_path)) if f.runtime.name == "transformers")
    base = fresh(tiny_base)
    if found.rule.because in ("no_prompts", "no_vera"):
        with pytest.raises(ValueError, match="not support"):
            base.load_adapter(str(tmp_path))
        return
    base.load_adapter(str(tmp_path))
    if found.rule.because == "no_magnitudes":  # a warning alone
        assert not torch.allclose(logits(base.eval()), logits(model), atol=1e-2)
        return
    assert found.rule.verdict == "loads"
    torch.testing.assert_close(logits(base.eval()), logits(model), rtol=0, atol=1e-5)


def test_an_exported_adapter_loads_where_its_own_did_not(tiny_base: Path, tmp_path: Path) -> None:
    own, out = saved("rslora", tiny_base, tmp_path / "own"), tmp_path / "out"
    out.mkdir()
    adapters.export_for_servers(ModelSettings(model=str(tiny_base), device="cpu"), own, out)
    before, after = (verdicts(adapters.read_facts(folder, "qwen2_vl")) for folder in (own, out))
    assert (before["vLLM"], before["SGLang"]) == (("does_not", "one_scale"), ("does_not", "ranks"))
    assert (after["vLLM"], after["SGLang"]) == (("loads", "tower_flag"), ("without_vision", "text_alone"))


def test_the_page_gives_the_reasons_in_the_same_words() -> None:
    english, vietnamese = (LOCALES[language]["words"] for language in ("en", "vi"))
    assert {f"load_{name}": text for name, text in BECAUSE.items()}.items() <= english.items()
    assert {f"load_{name}" for name in BECAUSE} <= vietnamese.keys()
