"""The base models on offer, by job and by memory, with sensible settings for each. No torch.

A user may type any other Hub id or folder; these are the ones to start from. Ids, licences and sizes as their
model cards gave them in November 2026. None of them runs code of its own, all have safetensors (a composed
one may get them from the Hub's own conversion).
"""

from dataclasses import dataclass
from typing import Literal, get_args

from vlm.settings import Quantization

Job = Literal["captioning", "questions", "documents", "vietnamese"]
Memory = Literal["tiny", "8 GB", "16 GB", "24 GB", "80 GB"]
"""The smallest GPU on which a LoRA of it trains with its settings here; `tiny` needs none."""

JOBS: tuple[Job, ...] = get_args(Job)
MEMORY: tuple[Memory, ...] = get_args(Memory)


@dataclass(frozen=True, slots=True)
class Defaults:
    """Settings to start from, named as in `TrainingConfig`; a step sees 16 examples or more with each."""

    learning_rate: float
    batch_size: int
    gradient_accumulation_steps: int = 1
    quantization: Quantization = "none"
    gradient_checkpointing: bool = False


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """A base model: `model` is what the setting takes, `parameters` counts all towers, in millions."""

    model: str
    label: str
    model_type: str
    parameters: int
    licence: str
    memory: Memory
    jobs: tuple[Job, ...]
    note: str
    note_vi: str
    defaults: Defaults
    gated: bool = False

    @property
    def page(self) -> str | None:
        """The model's page on the Hub, where its licence is; None for the starter and composed ones."""
        return f"https://huggingface.co/{self.model}" if "/" in self.model and "+" not in self.model else None


def find(model: str) -> CatalogEntry | None:
    """The entry of a model, if it is one of these."""
    return next((entry for entry in CATALOG if entry.model == model), None)


def offered(job: Job | None = None, memory: Memory | None = None) -> list[CatalogEntry]:
    """The models for a job that train on a GPU of this size, largest last."""
    largest = MEMORY.index(memory) if memory else len(MEMORY)
    return [
        entry
        for entry in CATALOG
        if (job is None or job in entry.jobs) and MEMORY.index(entry.memory) <= largest
    ]


_APACHE = "Apache-2.0"
_TINY = Defaults(learning_rate=1e-3, batch_size=16)
_SMALL = Defaults(learning_rate=3e-4, batch_size=8, gradient_accumulation_steps=2)
_MIDDLE = Defaults(2e-4, 2, gradient_accumulation_steps=8, gradient_checkpointing=True)
_QLORA = Defaults(2e-4, 2, 8, quantization="4bit", gradient_checkpointing=True)
_LARGE_QLORA = Defaults(1e-4, 1, 16, quantization="4bit", gradient_checkpointing=True)

CATALOG: tuple[CatalogEntry, ...] = (
    CatalogEntry(
        model="starter",
        label="Starter",
        model_type="composed",
        parameters=3,
        licence=_APACHE,
        memory="tiny",
        jobs=("captioning", "questions", "vietnamese"),
        note="Ships with LoRA Lens: learns simple scenes in minutes on a CPU, with no download.",
        note_vi="Có sẵn trong LoRA Lens: học cảnh đơn giản trong vài phút trên CPU, không cần tải.",
        defaults=Defaults(learning_rate=3e-3, batch_size=32),
    ),
    CatalogEntry(
        model="HuggingFaceTB/SmolVLM-256M-Instruct",
        label="SmolVLM 256M",
        model_type="idefics3",
        parameters=256,
        licence=_APACHE,
        memory="tiny",
        jobs=("captioning", "questions", "documents"),
        note="The smallest that chats; a good first model of one's own, patient users train it on a CPU.",
        note_vi="Mô hình trò chuyện nhỏ nhất; hợp cho lần đầu, có thể huấn luyện trên CPU.",
        defaults=_TINY,
    ),
    CatalogEntry(
        model="florence-community/Florence-2-base",
        label="Florence-2 base",
        model_type="florence2",
        parameters=232,
        licence="MIT",
        memory="tiny",
        jobs=("captioning", "documents"),
        note="Captions, OCR and regions by task words; an encoder-decoder that trains fast.",
        note_vi="Chú thích, OCR và vùng ảnh theo từ khóa; mã hóa-giải mã, huấn luyện nhanh.",
        defaults=_TINY,
    ),
    CatalogEntry(
        model="Salesforce/blip-image-captioning-large",
        label="BLIP captioning large",
        model_type="blip",
        parameters=470,
        licence="BSD-3-Clause",
        memory="8 GB",
        jobs=("captioning",),
        note="Plain English captions and nothing else.",
        note_vi="Chỉ viết chú thích ảnh bằng tiếng Anh.",
        defaults=_SMALL,
    ),
    CatalogEntry(
        model="LiquidAI/LFM2-VL-450M",
        label="LFM2-VL 450M",
        model_type="lfm2_vl",
        parameters=451,
        licence="LFM Open License 1.0",
        memory="8 GB",
        jobs=("captioning", "questions"),
        note="Made to be fine-tuned for one narrow job, and fast on small devices.",
        note_vi="Được làm ra để tinh chỉnh cho một việc hẹp, chạy nhanh trên thiết bị nhỏ.",
        defaults=_SMALL,
    ),
    CatalogEntry(
        model="HuggingFaceTB/SmolVLM-500M-Instruct",
        label="SmolVLM 500M",
        model_type="idefics3",
        parameters=507,
        licence=_APACHE,
        memory="8 GB",
        jobs=("captioning", "questions", "documents"),
        note="Twice the smallest, and clearly better at reading.",
        note_vi="Gấp đôi bản nhỏ nhất, đọc chữ tốt hơn rõ rệt.",
        defaults=_SMALL,
    ),
    CatalogEntry(
        model="facebook/dinov2-base+vinai/bartpho-syllable",
        label="DINOv2 + BARTpho",
        model_type="composed",
        parameters=485,
        licence="Apache-2.0 (DINOv2), MIT (BARTpho)",
        memory="8 GB",
        jobs=("captioning", "questions", "vietnamese"),
        note="A strong image encoder, a Vietnamese text model, and a new connector that trains fully.",
        note_vi="Bộ mã hóa ảnh mạnh và mô hình tiếng Việt; phần nối giữa là mới và được huấn luyện toàn bộ.",
        defaults=_SMALL,
    ),
    CatalogEntry(
        model="OpenGVLab/InternVL3_5-1B-HF",
        label="InternVL3.5 1B",
        model_type="internvl",
        parameters=1060,
        licence=_APACHE,
        memory="8 GB",
        jobs=("captioning", "questions", "documents"),
        note="Strong for its size, with a 300 M image encoder.",
        note_vi="Mạnh so với kích thước, bộ mã hóa ảnh 300 triệu tham số.",
        defaults=Defaults(2e-4, 4, gradient_accumulation_steps=4, gradient_checkpointing=True),
    ),
    CatalogEntry(
        model="Qwen/Qwen3-VL-2B-Instruct",
        label="Qwen3-VL 2B",
        model_type="qwen3_vl",
        parameters=2128,
        licence=_APACHE,
        memory="8 GB",
        jobs=("captioning", "questions", "documents", "vietnamese"),
        note="The best small all-rounder; reads Vietnamese and documents at full resolution.",
        note_vi="Mô hình nhỏ đa năng tốt nhất; đọc tiếng Việt và tài liệu ở độ phân giải gốc.",
        defaults=_QLORA,
    ),
    CatalogEntry(
        model="Qwen/Qwen2-VL-2B-Instruct",
        label="Qwen2-VL 2B",
        model_type="qwen2_vl",
        parameters=2209,
        licence=_APACHE,
        memory="8 GB",
        jobs=("questions", "documents", "vietnamese"),
        note="Older and well known: many adapters and recipes exist for it.",
        note_vi="Cũ hơn và quen thuộc: có sẵn nhiều adapter và công thức.",
        defaults=_QLORA,
    ),
    CatalogEntry(
        model="HuggingFaceTB/SmolVLM2-2.2B-Instruct",
        label="SmolVLM2 2.2B",
        model_type="smolvlm",
        parameters=2247,
        licence=_APACHE,
        memory="16 GB",
        jobs=("captioning", "questions", "documents"),
        note="The largest SmolVLM, in full precision on a 16 GB card.",
        note_vi="SmolVLM lớn nhất, giữ nguyên độ chính xác trên card 16 GB.",
        defaults=_MIDDLE,
    ),
    CatalogEntry(
        model="google/paligemma2-3b-pt-224",
        label="PaliGemma 2 3B",
        model_type="paligemma",
        parameters=3033,
        licence="Gemma",
        memory="16 GB",
        jobs=("captioning", "questions"),
        note="Pretrained to be fine-tuned: short answers and captions at 224 pixels.",
        note_vi="Được huấn luyện trước để tinh chỉnh: câu trả lời và chú thích ngắn ở 224 điểm ảnh.",
        defaults=_MIDDLE,
        gated=True,
    ),
    CatalogEntry(
        model="Qwen/Qwen2.5-VL-3B-Instruct",
        label="Qwen2.5-VL 3B",
        model_type="qwen2_5_vl",
        parameters=3755,
        licence="Qwen Research (no commercial use)",
        memory="16 GB",
        jobs=("questions", "documents", "vietnamese"),
        note="Documents, tables and charts; its licence is for research only.",
        note_vi="Tài liệu, bảng và biểu đồ; giấy phép chỉ cho nghiên cứu.",
        defaults=_QLORA,
    ),
    CatalogEntry(
        model="google/gemma-3-4b-it",
        label="Gemma 3 4B",
        model_type="gemma3",
        parameters=4300,
        licence="Gemma",
        memory="16 GB",
        jobs=("captioning", "questions", "vietnamese"),
        note="Writes well in many languages, Vietnamese among them; 256 tokens for each image.",
        note_vi="Viết tốt nhiều ngôn ngữ, có tiếng Việt; 256 token cho mỗi ảnh.",
        defaults=_QLORA,
        gated=True,
    ),
    CatalogEntry(
        model="Qwen/Qwen3-VL-4B-Instruct",
        label="Qwen3-VL 4B",
        model_type="qwen3_vl",
        parameters=4438,
        licence=_APACHE,
        memory="16 GB",
        jobs=("captioning", "questions", "documents", "vietnamese"),
        note="The all-rounder for a 16 GB card.",
        note_vi="Mô hình đa năng cho card 16 GB.",
        defaults=_QLORA,
    ),
    CatalogEntry(
        model="Qwen/Qwen3.5-4B",
        label="Qwen3.5 4B",
        model_type="qwen3_5",
        parameters=4540,
        licence=_APACHE,
        memory="16 GB",
        jobs=("questions", "documents", "vietnamese"),
        note="Newer, trained on images and text together, with 201 languages; thinks before it answers.",
        note_vi="Mới hơn, học ảnh và văn bản cùng lúc, 201 ngôn ngữ; suy nghĩ trước khi trả lời.",
        defaults=_QLORA,
    ),
    CatalogEntry(
        model="llava-hf/llava-1.5-7b-hf",
        label="LLaVA 1.5 7B",
        model_type="llava",
        parameters=7063,
        licence="Llama 2",
        memory="16 GB",
        jobs=("captioning", "questions"),
        note="The classic: what most papers compare with.",
        note_vi="Mô hình kinh điển: hầu hết bài báo so sánh với nó.",
        defaults=_LARGE_QLORA,
    ),
    CatalogEntry(
        model="Qwen/Qwen2.5-VL-7B-Instruct",
        label="Qwen2.5-VL 7B",
        model_type="qwen2_5_vl",
        parameters=8292,
        licence=_APACHE,
        memory="24 GB",
        jobs=("questions", "documents", "vietnamese"),
        note="Documents and grounding; the most used of its size.",
        note_vi="Tài liệu và định vị; được dùng nhiều nhất trong cỡ này.",
        defaults=_QLORA,
    ),
    CatalogEntry(
        model="Qwen/Qwen3-VL-8B-Instruct",
        label="Qwen3-VL 8B",
        model_type="qwen3_vl",
        parameters=8767,
        licence=_APACHE,
        memory="24 GB",
        jobs=("captioning", "questions", "documents", "vietnamese"),
        note="The all-rounder for a 24 GB card.",
        note_vi="Mô hình đa năng cho card 24 GB.",
        defaults=_QLORA,
    ),
    CatalogEntry(
        model="Qwen/Qwen3-VL-32B-Instruct",
        label="Qwen3-VL 32B",
        model_type="qwen3_vl",
        parameters=33357,
        licence=_APACHE,
        memory="80 GB",
        jobs=("captioning", "questions", "documents", "vietnamese"),
        note="The strongest that one 80 GB card can train, in 4 bits.",
        note_vi="Mạnh nhất có thể huấn luyện trên một card 80 GB, ở 4 bit.",
        defaults=_LARGE_QLORA,
    ),
)
