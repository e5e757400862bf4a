"""What is wrong with a model, its files or the Hub is told by its code, and in Vietnamese as well."""

import errno
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi, close_session, constants
from transformers import (
    GitConfig,
    GitForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    VisionEncoderDecoderModel,
    ViTImageProcessor,
)

from support.composed_towers import make_text, make_vision
from support.stub_hub import StubHub, serving
from support.tiny import tiny_captioner
from support.told import codes_raised
from vlm.composed.pretrained import load_towers
from vlm.models import hub
from vlm.models.checkpoint_files import INDEX_FILE, WEIGHTS_FILE, check_config, check_names, check_weights
from vlm.models.hub_errors import errors_explained
from vlm.models.loading import attention_arguments
from vlm.models.quantization import check_quantization, check_quantized
from vlm.models.towers import find_towers, target_modules
from vlm.prompting import prompt_style
from vlm.settings import ModelSettings

CONFIGS = {
    "model-type-unknown": {"model_type": "moondream9"},
    "model-already-quantized": {"model_type": "llava", "quantization_config": {"quant_method": "gptq"}},
    "unknown-method": {"model_type": "llava", "quantization_config": {}},
    "choose-one-that-sees": {"model_type": "llama"},
    "give-words": {"model_type": "vit"},
    "choose-vision-language": {"model_type": "wav2vec2"},
}
NAMES = {
    "model-makes-images": ["model_index.json"],
    "model-no-config-file": ["README.md"],
    "its-own-base": ["adapter_config.json"],
}


@pytest.mark.parametrize("code", CONFIGS)
def test_why_a_configuration_can_t_be_trained(code: str) -> None:
    assert code in codes_raised(lambda: check_config("a/b", CONFIGS[code]))


@pytest.mark.parametrize("code", NAMES)
def test_what_is_no_model_by_its_files(code: str) -> None:
    assert code in codes_raised(lambda: check_names("a/b", NAMES[code]))


WEIGHTS = {
    "index-unreadable": (INDEX_FILE, b"{"),
    "index-bad-name": (INDEX_FILE, b'{"weight_map": {"w": "../w.safetensors"}}'),
    "weights-missing": (INDEX_FILE, b'{"weight_map": {"w": "w.safetensors"}}'),
    "weights-no-header": (WEIGHTS_FILE, (2).to_bytes(8, "little") + b"{["),
}


@pytest.mark.parametrize("code", WEIGHTS)
def test_what_is_wrong_with_weights(tmp_path: Path, code: str) -> None:
    name, content = WEIGHTS[code]
    (tmp_path / name).write_bytes(content)
    assert code in codes_raised(lambda: check_weights(tmp_path))


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[StubHub]:
    """A Hub that the client of this process asks."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with serving() as stub:
        monkeypatch.setattr(constants, "ENDPOINT", stub.endpoint)
        files = f"{stub.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        close_session()
        yield stub
    close_session()


def asked(revision: str | None = None) -> None:
    with errors_explained("a/b", revision):
        HfApi().model_info("a/b", revision=revision)


def gated(stub: StubHub) -> None:
    stub.add("a/b", {"config.json": b"{}"}, gated=True)
    with errors_explained("a/b", None):
        HfApi().get_hf_file_metadata(url=f"{stub.endpoint}/a/b/resolve/main/config.json")


def dataset(stub: StubHub) -> None:
    stub.add("a/b", {}, kind="datasets")
    asked()


def without_revision(stub: StubHub) -> None:
    stub.add("a/b", {})
    asked("v2")


def answering(status: int) -> Callable[[StubHub], None]:
    def ask(stub: StubHub) -> None:
        stub.status = status
        asked()

    return ask


def unreachable(stub: StubHub) -> None:
    with errors_explained("a/b", None):
        HfApi(endpoint="http://127.0.0.1:9").model_info("a/b")


ANSWERS = {
    "model-gated": gated,
    "model-is-dataset": dataset,
    "model-not-found": lambda stub: asked(),
    "model-no-revision": without_revision,
    "hub-token": answering(403),
    "hub-answered": answering(500),
    "hub-unreachable": unreachable,
}


@pytest.mark.parametrize("code", ANSWERS)
def test_what_an_answer_of_the_hub_means(stub: StubHub, code: str) -> None:
    assert code in codes_raised(lambda: ANSWERS[code](stub))


@pytest.mark.parametrize(("revision", "code"), [(None, "download-from-hub"), ("main", "download-revision")])
def test_how_to_download_a_model_again(
    stub: StubHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, revision: str | None, code: str
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    stub.add("a/b", {"config.json": b'{"model_type": "llava"}', WEIGHTS_FILE: b"version 1"})
    assert codes_raised(lambda: hub.model_folder("a/b", revision)) >= {"weights-damaged", code}


RAISED = {
    "hub-disk-full": (OSError(errno.ENOSPC, "full"), False),
    "hub-cache-unwritable": (OSError(errno.EROFS, "read-only"), False),
    "hub-offline": (OSError("nothing in the cache"), True),
    "download-broke-off": (OSError("Consistency check failed: file should be of size 2"), False),
}


@pytest.mark.parametrize("code", RAISED)
def test_what_breaks_a_download(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    error, offline = RAISED[code]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)

    def download() -> None:
        with errors_explained("a/b", None):
            raise error

    assert code in codes_raised(download)


def test_a_name_that_is_no_hub_id() -> None:
    def ask() -> None:
        with errors_explained("a--b/c", None):
            HfApi().model_info("a--b/c")

    assert codes_raised(ask) == {"no-hub-id"}


@pytest.fixture(scope="module")
def captioner() -> VisionEncoderDecoderModel:
    return tiny_captioner()


TARGETS = {
    "no-layers-named": ("text", "q_proj", "all"),
    "choose-layers": ("text", ",", "all"),
    "leave-tower-off": ("connector", "all_linear", "all"),
    "no-layers-for": ("connector", "all_linear", "all"),
    "no-layers-in-part": ("text", "attention", "encoder"),
}


@pytest.mark.parametrize("code", TARGETS)
def test_why_a_tower_has_no_such_layers(captioner: VisionEncoderDecoderModel, code: str) -> None:
    tower, targets, part = TARGETS[code]
    towers = find_towers(captioner)
    assert code in codes_raised(lambda: target_modules(captioner, towers, tower, targets, part))


def test_a_text_model_has_no_image_encoder() -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=9, n_embd=4, n_layer=1, n_head=1))
    assert codes_raised(lambda: find_towers(model)) == {"no-image-encoder"}


def test_an_image_processor_reads_no_text(captioner: VisionEncoderDecoderModel) -> None:
    found = codes_raised(lambda: prompt_style(captioner.config, ViTImageProcessor(), None))
    assert found == {"processor-no-tokenizer"}


def test_what_can_t_be_quantized(captioner: VisionEncoderDecoderModel) -> None:
    small = ModelSettings(quantization="4bit")
    assert codes_raised(lambda: check_quantization(small, torch.device("mps"))) == {"device-not-quantized"}
    towers = find_towers(captioner)
    assert codes_raised(lambda: check_quantized(small, captioner, towers, [])) == {"nothing-quantized"}


KERNELS = {
    "flash-needs-16-bits": "fp32",
    "flash-missing": "bf16",
}


@pytest.mark.parametrize("code", KERNELS)
def test_why_an_attention_kernel_can_t_be_used(
    monkeypatch: pytest.MonkeyPatch, captioner: VisionEncoderDecoderModel, code: str
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # on any machine
    settings = ModelSettings(attn_implementation="flash_attention_2")
    assert codes_raised(lambda: attention_arguments(settings, captioner, "cuda", KERNELS[code])) == {code}


def test_a_model_that_lacks_an_attention_kernel() -> None:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    config = GitConfig(vision_config=sizes | {"image_size": 8, "patch_size": 4}, vocab_size=9, **sizes)
    settings = ModelSettings(attn_implementation="sdpa")
    found = codes_raised(lambda: attention_arguments(settings, GitForCausalLM(config), "cpu", "fp32"))
    assert found == {"attention-unsupported"}


def test_a_tower_without_weights(tmp_path: Path) -> None:
    vision, text = tmp_path / "vision", tmp_path / "text"
    make_vision("dinov2", vision)
    make_text("bart", text)
    (vision / WEIGHTS_FILE).unlink()
    assert "model-no-weights" in codes_raised(lambda: load_towers(vision, text))
