"""The check of an adapter before it is loaded: what fits, and every kind of bad adapter with its reason."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from support.adapter_folders import CONFIG, WEIGHTS, holds, saved, says
from vlm import adapters
from vlm.errors import UserError
from vlm.methods import Method
from vlm.models.loading import blueprint_model
from vlm.settings import ModelSettings

SECONDS = 2.0
FOREVER = r"(.*a+)+$"
"""What `re` would take for ever to match against a long name."""

Spoil = Callable[[Path], object]


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> PreTrainedModel:
    return blueprint_model(ModelSettings(model=str(tiny_base)))


@pytest.fixture(scope="module")
def lora(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good adapter. Tests spoil copies of it."""
    return saved("lora", tiny_base, tmp_path_factory.mktemp("good") / "good-lora")


@pytest.fixture
def copy(lora: Path, tmp_path: Path) -> Path:
    return shutil.copytree(lora, tmp_path / "bad-one")


def saying(**values: Any) -> Spoil:
    return lambda folder: says(folder, **values)


def holding(change: Callable[[str, torch.Tensor], dict[str, torch.Tensor]]) -> Spoil:
    return lambda folder: holds(folder, change)


def without(*words: str) -> Spoil:
    """Leave out the tensors whose names hold one of these words."""
    return holding(lambda name, tensor: {} if any(word in name for word in words) else {name: tensor})


def renamed(old: str, new: str) -> Spoil:
    return holding(lambda name, tensor: {name.replace(old, new): tensor})


def first(value: float) -> Spoil:
    """Put a number into one tensor."""

    def change(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
        if "fc1.lora_A" in name:
            tensor[0, 0] = value
        return {name: tensor}

    return holding(change)


def as_type(dtype: torch.dtype) -> Spoil:
    return holding(lambda name, tensor: {name: tensor.to(dtype)})


def of_rank(rank: int) -> Spoil:
    """Weights and configuration agree on a rank."""

    def change(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
        shape = (rank, tensor.shape[1]) if "lora_A" in name else (tensor.shape[0], rank)
        return {name: torch.zeros(shape)}

    def spoil(folder: Path) -> None:
        holds(folder, change)
        says(folder, r=rank, rank_pattern={})

    return spoil


def writes(name: str, content: bytes) -> Spoil:
    return lambda folder: (folder / name).write_bytes(content)


def cut(name: str, size: int) -> Spoil:
    return lambda folder: os.truncate(folder / name, size)


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "adapter_model.bin")
    (folder / WEIGHTS).unlink()


def pipe(name: str) -> Spoil:
    """A pipe in the file's place: who opens it waits for ever."""

    def spoil(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return spoil


def both(*spoils: Spoil) -> Spoil:
    return lambda folder: [spoil(folder) for spoil in spoils]


ENCODER = "language_model.model.encoder.layers.0"

BAD: dict[str, tuple[Spoil, str]] = {
    # Files
    "no configuration": (lambda folder: (folder / CONFIG).unlink(), "no readable adapter_config.json"),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), "no readable adapter_model.safetensors"),
    "a pickle alone": (pickled, "only adapter_model.bin, a pickle, which may run code"),
    "weights cut short": (cut(WEIGHTS, 3000), "no readable adapter_model.safetensors"),
    "a header cut short": (cut(WEIGHTS, 300), "no readable adapter_model.safetensors"),
    "nothing in the weights": (cut(WEIGHTS, 0), "no readable adapter_model.safetensors"),
    "text for weights": (writes(WEIGHTS, b"not weights at all"), "no readable adapter_model.safetensors"),
    "an LFS pointer": (writes(WEIGHTS, b"version https://git-lfs.github.com/spec/v1\n"), "Git LFS pointer"),
    "a header of terabytes": (writes(WEIGHTS, b"\xff\xff\xff\xff\xff\0\0\0{}"), "no readable adapter_model"),
    "no tensors": (lambda folder: save_file({}, folder / WEIGHTS), "holds nothing"),
    "a pipe for configuration": (pipe(CONFIG), "no readable adapter_config.json"),
    "a pipe for weights": (pipe(WEIGHTS), "no readable adapter_model.safetensors"),
    "broken JSON": (cut(CONFIG, 40), "no readable adapter_config.json"),
    "a list": (writes(CONFIG, b"[1, 2]"), "no readable adapter_config.json"),
    "brackets in brackets": (writes(CONFIG, b"[" * 200_000), "no readable adapter_config.json"),
    "5 MB of JSON": (
        writes(CONFIG, b'{"a": "' + b"x" * 5_000_000 + b'"}'),
        "no readable adapter_config.json",
    ),
    "no text": (writes(CONFIG, b"\xff\xfe\0{"), "no readable adapter_config.json"),
    # Methods
    "no method": (saying(peft_type=None), "a method that can't be loaded here: None"),
    "another method": (saying(peft_type="XLORA"), "a method that can't be loaded here: XLORA"),
    "no name of a method": (saying(peft_type=["LORA"]), "a method that can't be loaded here"),
    "the wrong method": (saying(peft_type="IA3"), "holds no weights of its method"),
    # Tensors
    "B without A": (without("fc1.lora_A"), "is not complete: .*fc1 has lora_B.weight and no lora_A.weight"),
    "A without B": (without("lora_B"), "has lora_A.weight and no lora_B.weight"),
    "a layer missing": (
        without(f"{ENCODER}.fc1"),
        "not complete: it names 1 more layer than .*encoder.layers.0.fc1",
    ),
    "half of it missing": (
        without("self_attn", "vision_tower"),
        "it names 14 more layers than it has weights",
    ),
    "a tower missing": (without("vision_tower"), "it names 6 more layers than it has weights for"),
    "a number that is none": (first(float("nan")), "not finite, in .*fc1.lora_A"),
    "an infinite number": (first(float("inf")), "not finite, in .*fc1.lora_A"),
    "8-bit numbers": (as_type(torch.int8), "holds I8 numbers, not floating-point ones"),
    "float8 numbers": (as_type(torch.float8_e4m3fn), "holds F8_E4M3 numbers, not floating-point ones"),
    "switches for numbers": (as_type(torch.bool), "holds BOOL numbers, not floating-point ones"),
    "a foreign tensor": (
        holding(lambda name, t: {name: t, "state.optimizer": torch.zeros(1)}),
        "holds state.optimizer, and a PEFT adapter's tensors are called base_model.model.…",
    ),
    "a way out of the folder": (renamed("base_model.model.", "../../"), "holds ../../language_model"),
    "a line break in a name": (renamed("fc1", "fc1\n"), "of a name that PEFT never gives: .*fc1�"),
    "one tensor twice": (
        holding(lambda name, t: {name: t, name.replace("A.weight", "A.default.weight"): t.clone()}),
        "of a name that PEFT never gives",
    ),
    "an unknown part": (
        holding(lambda name, t: {name: t, name.replace("lora_A", "lora_Q"): t.clone()}),
        "does not fit tiny: .*lora_Q.weight is a tensor of no layer there",
    ),
    "a layer of no base": (renamed("decoder.layers.0", "decoder.layers.7"), "tiny has no .*decoder.layers.7"),
    "a weight of no base": (
        holding(lambda name, t: {name: t, "base_model.model.head.weight": torch.zeros(2, 2)}),
        "tiny has no head.weight",
    ),
    "a saved weight too large": (
        holding(lambda name, t: {name: t, "base_model.model.connector.weight": torch.zeros(999, 2)}),
        "does not fit tiny",
    ),
    # Numbers of the configuration
    "alpha is no number": (saying(lora_alpha=float("nan")), "says lora_alpha = nan, and it must lie between"),
    "infinite alpha": (saying(lora_alpha=float("inf")), "says lora_alpha = inf"),
    "negative alpha": (saying(lora_alpha=-8), "says lora_alpha = -8"),
    "no alpha": (saying(lora_alpha=0), "says lora_alpha = 0 for .*: it would change nothing"),
    "absurd alpha": (saying(lora_alpha=1e30), r"says lora_alpha = 1e\+30"),
    "an alpha of 400 digits": (saying(lora_alpha=10**400), "says lora_alpha = 10000"),
    "alpha is text": (saying(lora_alpha="32"), "says lora_alpha = 32, and it must lie between"),
    "alpha is a switch": (saying(lora_alpha=True), "says lora_alpha = True"),
    "a layer's alpha is no number": (
        saying(alpha_pattern={"fc1": float("nan")}),
        "lora_alpha of .*fc1 = nan",
    ),
    "rank 0": (saying(r=0), "says rank 0"),
    "a negative rank": (saying(r=-1), "says rank -1"),
    "half a rank": (saying(r=2.5), "says rank 2.5"),
    "a rank of text": (saying(r="4"), "says rank 4"),
    "another rank than the weights'": (saying(r=8), "says rank 8, and the weights of .* have 4"),
    "a rank of millions": (saying(r=3_000_000), "says rank 3000000, and the weights of .* have 4"),
    "a rank of millions for one layer": (
        saying(rank_pattern={"fc1": 3_000_000}),
        "says rank 3000000, and the weights of .*fc1 have",
    ),
    "a rank larger than its layer": (of_rank(1000), "has rank 1,000 in .*, whose size allows 64"),
    "a switch of text": (saying(use_rslora="yes"), "says use_rslora = yes, and it must be true or false"),
    "dropout of 2": (saying(lora_dropout=2), "says lora_dropout = 2"),
    # Options
    "layers repeated": (saying(layer_replication=[[0, 9000]]), "repeats layers of the base"),
    "single weights": (saying(target_parameters=["weight"]), "adapts single weights"),
    "single tokens": (saying(trainable_token_indices=[1]), "trains single tokens"),
    "biases of the base": (saying(bias="all"), "the base's biases, which would change the base itself"),
    "PiSSA": (saying(init_lora_weights="pissa"), "saved as pissa, .* would rewrite the base's weights"),
    "fast PiSSA": (saying(init_lora_weights="pissa_niter_16"), "would rewrite the base's weights"),
    "OLoRA": (saying(init_lora_weights="olora"), "would rewrite the base's weights"),
    "CorDA": (saying(init_lora_weights="corda"), "would rewrite the base's weights"),
    "LoftQ": (saying(init_lora_weights="loftq"), "would rewrite the base's weights"),
    "a kernel from the Hub": (saying(attn_implementation="org/repo"), "asks for attn_implementation"),
    "trust": (saying(trust_remote_code=True), "asks for trust_remote_code"),
    "Megatron": (saying(megatron_config={"a": 1}), "is made for Megatron"),
    "code to import": (saying(auto_mapping={"parent_library": "../evil"}), "names code to import"),
    "no mapping": (saying(auto_mapping="os.system"), "names code to import"),
    "a base of two lines": (saying(base_model_name_or_path="a\nb"), "names a base model that is no name"),
    "a base that is no text": (saying(base_model_name_or_path=["a"]), "names a base model that is no name"),
    # Patterns that are never run
    "endless targets": (saying(target_modules=FOREVER), "pattern in target_modules that .* take for ever"),
    "endless exclusions": (
        saying(exclude_modules=FOREVER),
        "pattern in exclude_modules that .* take for ever",
    ),
    "endless modules": (saying(modules_to_save=[FOREVER]), "modules_to_save that are no names of layers"),
    "endless ranks": (saying(rank_pattern={FOREVER: 4}), "pattern in rank_pattern that .* take for ever"),
    "endless alphas": (saying(alpha_pattern={FOREVER: 4}), "pattern in alpha_pattern that .* take for ever"),
    "endless stacks": (
        saying(target_modules=["fc1"], layers_to_transform=[0], layers_pattern=FOREVER),
        "a layers_pattern that is no name",
    ),
    "slow targets": (saying(target_modules="(?=.*" * 18 + "x" + ")" * 18), "pattern in target_modules that"),
    "a pattern of 30,000 letters": (saying(target_modules="a" * 30_000), "that has 30,000 characters"),
    "a pattern that looks behind": (saying(target_modules="(?<=a)b"), "has a kind of group that is not read"),
    "10,000 patterns": (
        saying(rank_pattern={f"a{n}": 4 for n in range(10_000)}),
        "a rank_pattern that can't",
    ),
    "targets that are numbers": (saying(target_modules=[1, 2]), "target_modules that are neither names nor"),
    # Models of text alone
    "a text model's class": (
        saying(auto_mapping={"base_model_class": "LlamaForCausalLM"}),
        "does not fit tiny: its base is a LlamaForCausalLM, which reads text alone",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_adapter_is_refused_at_once_with_its_reason(
    case: str, copy: Path, base: PreTrainedModel
) -> None:
    spoil, problem = BAD[case]
    spoil(copy)
    began = time.monotonic()
    with pytest.raises(UserError, match=problem) as refused:
        adapters.check_fit(copy, base, "tiny")
    assert time.monotonic() - began < SECONDS
    assert "bad-one" in refused.value.problem
    assert refused.value.remedy
    assert len(refused.value.problem) < 500
    assert refused.value.problem.isprintable()


def test_the_good_one_among_them_is_not_refused(copy: Path, base: PreTrainedModel) -> None:
    found = adapters.check_fit(copy, base, "tiny")
    assert str(found) == "44 of 44 tensors match"
    assert found.notes == ()


@pytest.mark.parametrize(
    ("method", "spoil", "problem"),
    [
        ("adalora", saying(init_r=3), "says init_r = 3, and it must lie between 6 and"),
        ("adalora", without("lora_E"), "has lora_A and no lora_E"),
        ("adalora", saying(target_r=99), "says target_r = 99"),
        ("dora", without("magnitude"), "22 of 66 tensors are missing"),
        ("dora", saying(use_dora=False), "lora_magnitude_vector is a tensor of no layer there"),
        ("ia3", without("fc1"), "names 3 more layers than it has weights for"),
        ("loha", without("hada_w2_a"), "and no hada_w2_a"),
        ("lokr", saying(decompose_factor=10**9), "says decompose_factor = 1000000000"),
        ("lokr", saying(r=None), "says rank None for"),
        ("oft", saying(r=4), "must say either r or oft_block_size"),
        ("oft", saying(num_cayley_neumann_terms=10**9), "says num_cayley_neumann_terms"),
        ("oft", saying(oft_block_size=16), "is 1 x 496, not 2 x 120"),
        ("vera", without("vera_A"), "1 of 46 tensors is missing, base_model.vera_A first"),
        ("hira", saying(r=5), "says rank 5, and the weights of .* have 4"),
        ("miss", saying(init_weights="evil"), "a MiSS of a kind that is not known here: evil"),
        (
            "prefix_tuning",
            saying(num_virtual_tokens=10**9),
            "says 1000000000 virtual tokens, and its weights",
        ),
        ("prompt_tuning", without("prompt"), "holds nothing"),
        ("prompt_tuning", holding(lambda name, t: {name: t[:, :7].clone()}), "is 4 x 7, not 4 x 32"),
    ],
)
def test_other_methods_are_looked_at_as_closely(
    method: Method, spoil: Spoil, problem: str, tiny_base: Path, base: PreTrainedModel, tmp_path: Path
) -> None:
    folder = saved(method, tiny_base, tmp_path / "bad-one")
    spoil(folder)
    with pytest.raises(UserError, match=problem):
        adapters.check_fit(folder, base, "tiny")
