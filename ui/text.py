"""Every word the page shows, in English and Vietnamese. An error comes as it was raised."""

from collections.abc import Callable
from html import escape
from typing import Any, Literal, TypeVar

import gradio as gr

Language = Literal["en", "vi"]
LANGUAGES: tuple[Language, ...] = ("en", "vi")

TEXTS: dict[str, tuple[str, str]] = {
    # The bar
    "train": ("Train", "Huấn luyện"),
    "try": ("Try", "Dùng thử"),
    "runs": ("Runs", "Lượt chạy"),
    "other_language": ("Tiếng Việt", "English"),
    "theme": ("Light or dark", "Sáng hay tối"),
    "hardware": ("{cores} cores · {memory} GB", "{cores} nhân · {memory} GB"),
    # 1 Data
    "data": ("Data", "Dữ liệu"),
    "dataset": ("Dataset", "Bộ dữ liệu"),
    "sample_note": ("sample", "bộ mẫu"),
    "own_note": ("yours", "của bạn"),
    "examples_note": ("{kind} · {count} examples", "{kind} · {count} ví dụ"),
    "loading_data": ("Getting the pictures ready…", "Đang chuẩn bị ảnh…"),
    "example_line": ("“{question}” → “{answer}”", "“{question}” → “{answer}”"),
    "caption_line": ("caption: “{answer}”", "chú thích: “{answer}”"),
    "about_shapes": (
        "English questions about coloured shapes: what the starter already knows.",
        "Câu hỏi tiếng Anh về các hình có màu: điều mô hình Starter đã biết.",
    ),
    "about_shapes-vi": (
        "The same kind of pictures, asked about in Vietnamese: a new language to learn.",
        "Vẫn kiểu ảnh ấy, nhưng hỏi bằng tiếng Việt: một ngôn ngữ mới cần học.",
    ),
    "about_blueprints": (
        "White drawings on blue, hatching instead of colour: a new look. Switch Vision on for these.",
        "Nét trắng trên nền xanh, gạch bóng thay cho màu: một diện mạo mới. Hãy bật Thị giác cho bộ này.",
    ),
    "bad_rows": (
        "{count} rows can't be used. First: {first}",
        "{count} dòng không dùng được. Dòng đầu tiên: {first}",
    ),
    "add_yours": ("Add yours…", "Thêm dữ liệu của bạn…"),
    "folder": ("Folder inside the workspace", "Thư mục trong không gian làm việc"),
    "folder_hint": (
        "A folder with images and metadata.jsonl, or one JSONL file.",
        "Thư mục gồm ảnh và metadata.jsonl, hoặc một tệp JSONL.",
    ),
    "use_folder": ("Use this folder", "Dùng thư mục này"),
    "upload_zip": ("Upload a zip", "Tải lên tệp zip"),
    # 2 Model
    "model": ("Model", "Mô hình"),
    "base_model": ("Base model", "Mô hình gốc"),
    "starter": ("Starter", "Starter"),
    "starter_note": ("{count} M parameters · offline", "{count} triệu tham số · ngoại tuyến"),
    "folder_note": ("model folder", "thư mục mô hình"),
    "about_starter": (
        "Answers in English about coloured shapes. Small enough to learn in {time} on this computer.",
        "Trả lời bằng tiếng Anh về các hình có màu. Đủ nhỏ để học trong {time} trên máy này.",
    ),
    "about_folder": ("A model folder on this computer.", "Một thư mục mô hình trên máy này."),
    "another_model": ("Another model…", "Mô hình khác…"),
    "model_folder": ("Model folder", "Thư mục mô hình"),
    "use_model": ("Use this model", "Dùng mô hình này"),
    # 3 Adapter
    "adapter": ("Adapter", "Adapter"),
    "vision": ("Vision", "Thị giác"),
    "connector": ("Connector", "Cầu nối"),
    "text": ("Text", "Văn bản"),
    "frozen": ("frozen", "đóng băng"),
    "vision_rank": ("Rank of the vision LoRA", "Hạng của LoRA thị giác"),
    "text_rank": ("Rank of the text LoRA", "Hạng của LoRA văn bản"),
    "trainable_of": (
        "Trainable {trainable} of {total} {share}",
        "Huấn luyện {trainable} trên {total} {share}",
    ),
    "megabytes": ("{size} MB", "{size} MB"),
    "no_tower": ("Nothing would be trained.", "Không có gì để huấn luyện."),
    # Advanced
    "advanced": ("Advanced", "Nâng cao"),
    "group_learning": ("Learning", "Việc học"),
    "group_lora": ("LoRA", "LoRA"),
    "group_machine": ("Computer and data", "Máy và dữ liệu"),
    "learning_rate": ("Learning rate", "Tốc độ học"),
    "epochs": ("Epochs", "Số vòng học"),
    "batch_size": ("Batch size", "Kích thước lô"),
    "gradient_accumulation_steps": ("Gradient accumulation", "Tích lũy gradient"),
    "lr_scheduler_type": ("Schedule", "Lịch tốc độ học"),
    "seed": ("Seed", "Hạt giống ngẫu nhiên"),
    "vision_lora_alpha": ("Vision alpha", "Alpha thị giác"),
    "text_lora_alpha": ("Text alpha", "Alpha văn bản"),
    "vision_lora_targets": ("Vision layers", "Lớp thị giác"),
    "text_lora_targets": ("Text layers", "Lớp văn bản"),
    "text_lora_part": ("Part of the text tower", "Phần của tháp văn bản"),
    "lora_dropout": ("Dropout", "Dropout"),
    "quantization": ("Quantization", "Lượng tử hóa"),
    "precision": ("Precision", "Độ chính xác số"),
    "held_out": ("Held out", "Phần giữ lại"),
    "skip_bad_rows": ("Skip bad rows", "Bỏ qua dòng lỗi"),
    "twice_the_rank": ("2r", "2r"),
    # Starting
    "start": ("Start training", "Bắt đầu huấn luyện"),
    "takes": (
        "about {time} on this computer · the same in a shell:",
        "khoảng {time} trên máy này · lệnh tương đương:",
    ),
    "same_in_shell": ("the same in a shell:", "lệnh tương đương:"),
    "training_off": (
        "Training is off: this page is public. Its owner turns it on by setting LORA_LENS_PASSWORD.",
        "Huấn luyện đang tắt: trang này công khai. Chủ trang bật lên bằng cách đặt LORA_LENS_PASSWORD.",
    ),
    "fix_settings": ("Please mend these settings:", "Hãy sửa các thiết lập sau:"),
    # The live run
    "no_run_title": ("Your first run appears here", "Lượt chạy đầu tiên sẽ hiện ở đây"),
    "no_run_1": (
        "Press <b>Start training</b>: everything on the left is filled in, nothing is downloaded.",
        "Nhấn <b>Bắt đầu huấn luyện</b>: mọi thứ bên trái đã điền sẵn, không cần tải gì về.",
    ),
    "no_run_2": (
        "Watch the loss fall and four answers improve while the starter learns to answer in Vietnamese.",
        "Xem mất mát giảm và bốn câu trả lời tốt dần khi mô hình học trả lời bằng tiếng Việt.",
    ),
    "no_run_3": (
        "Close the page if you like. The run goes on by itself and is here when you come back.",
        "Cứ đóng trang nếu muốn. Lượt chạy vẫn tiếp tục và chờ bạn ở đây khi quay lại.",
    ),
    "state_queued": ("Queued", "Đang chờ"),
    "state_starting": ("Starting", "Đang khởi động"),
    "state_running": ("Training", "Đang huấn luyện"),
    "state_finished": ("Finished", "Hoàn tất"),
    "state_stopped": ("Stopped", "Đã dừng"),
    "state_failed": ("Failed", "Thất bại"),
    "state_interrupted": ("Interrupted", "Bị gián đoạn"),
    "phase_loading": ("loading", "đang nạp"),
    "phase_reading_data": ("reading the data", "đang đọc dữ liệu"),
    "phase_encoding_images": ("encoding images", "đang mã hóa ảnh"),
    "phase_training": ("training", "đang huấn luyện"),
    "phase_evaluating": ("evaluating", "đang đánh giá"),
    "phase_saving": ("saving", "đang lưu"),
    "phase_count": ("{phase} {done} of {total}", "{phase} {done} trên {total}"),
    "step_of": ("step {step} of {total}", "bước {step} trên {total}"),
    "time_left": ("{time} left", "còn {time}"),
    "took": ("took {time}", "mất {time}"),
    "seconds": ("{s} s", "{s} giây"),
    "minutes": ("{m} min {s} s", "{m} phút {s} giây"),
    "hours": ("{h} h {m} min", "{h} giờ {m} phút"),
    "stop": ("Stop", "Dừng"),
    "stopping": ("Stopping…", "Đang dừng…"),
    "resume": ("Resume", "Chạy tiếp"),
    "try_it": ("Try it", "Dùng thử"),
    "tile_vision": ("Vision, trainable", "Thị giác, huấn luyện"),
    "tile_text": ("Text, trainable", "Văn bản, huấn luyện"),
    "tile_exact": ("Exact match", "Khớp hoàn toàn"),
    "tile_speed": ("Examples a second", "Ví dụ mỗi giây"),
    "tile_memory": ("Memory", "Bộ nhớ"),
    "gigabytes": ("{size} GB", "{size} GB"),
    "before_after": ("{before} → {after}", "{before} → {after}"),
    "loss": ("Loss", "Mất mát"),
    "loss_label": (
        "Loss from step 0 to step {total}, now {loss}",
        "Mất mát từ bước 0 đến bước {total}, hiện là {loss}",
    ),
    "loss_waiting": (
        "The curve starts with the first logged step.",
        "Đường cong bắt đầu từ bước ghi đầu tiên.",
    ),
    "legend_train": ("training", "huấn luyện"),
    "legend_held_out": ("held out", "phần giữ lại"),
    "step_n": ("step {step}", "bước {step}"),
    "scores": ("Right answers", "Câu trả lời đúng"),
    "scores_note": (
        "Exact match on {count} examples the adapter never trains on.",
        "Khớp hoàn toàn trên {count} ví dụ mà adapter không hề được học.",
    ),
    "scores_waiting": (
        "The untouched base is asked first, then the adapter as it learns.",
        "Mô hình gốc được hỏi trước, rồi đến adapter trong lúc học.",
    ),
    "film": ("Answers as they improve", "Câu trả lời tốt dần"),
    "film_waiting": (
        "Four held-out pictures, asked again and again.",
        "Bốn ảnh giữ lại, được hỏi đi hỏi lại.",
    ),
    "base": ("base", "gốc"),
    "describe": ("Describe the picture", "Mô tả bức ảnh"),
    "nothing_said": ("(nothing)", "(không nói gì)"),
    "log": ("Log", "Nhật ký"),
    "log_waiting": ("The worker has not written yet.", "Tiến trình chưa ghi gì."),
    "failed_title": ("This run failed", "Lượt chạy này thất bại"),
    "interrupted_title": ("This run was interrupted", "Lượt chạy này bị gián đoạn"),
    "interrupted": (
        "Its process ended without a word: the computer restarted, memory ran out, or it was killed.",
        "Tiến trình kết thúc đột ngột: máy khởi động lại, hết bộ nhớ hoặc bị tắt.",
    ),
    "can_resume": (
        "Resume continues from the last checkpoint.",
        "Chạy tiếp sẽ bắt đầu từ điểm lưu gần nhất.",
    ),
    "no_checkpoint": (
        "No checkpoint was saved yet. Start it again.",
        "Chưa có điểm lưu nào. Hãy bắt đầu lại.",
    ),
    "warning_title": ("Worth knowing", "Nên biết"),
    "output": ("Everything the worker printed", "Toàn bộ đầu ra của tiến trình"),
    # The log: one line for each event that matters
    "log_queued": ("queued", "đã xếp hàng"),
    "log_started": ("{base_model} on {device}, {precision}", "{base_model} trên {device}, {precision}"),
    "log_tower": (
        "[LoRA] {tower} - Trainable: {trainable} ({share} %) | Total: {total}",
        "[LoRA] {tower} - Huấn luyện: {trainable} ({share} %) | Tổng: {total}",
    ),
    "log_data": (
        "{train} examples to train on, {held_out} held out, {images} distinct images",
        "{train} ví dụ để học, {held_out} giữ lại, {images} ảnh khác nhau",
    ),
    "log_skipped": ("{skipped} rows skipped: {reasons}", "bỏ qua {skipped} dòng: {reasons}"),
    "log_evaluated": (
        "step {step}: held-out loss {loss}, exact match {exact}",
        "bước {step}: mất mát giữ lại {loss}, khớp hoàn toàn {exact}",
    ),
    "log_checkpoint": ("step {step}: checkpoint saved", "bước {step}: đã lưu điểm dừng"),
    "log_warning": ("note: {problem}", "lưu ý: {problem}"),
    "log_finished": (
        "finished after {time}; the adapter is saved",
        "hoàn tất sau {time}; adapter đã được lưu",
    ),
    "log_stopped": ("stopped at step {step} after {time}", "dừng ở bước {step} sau {time}"),
    "log_failed": ("failed: {problem}", "thất bại: {problem}"),
    # Try
    "image": ("Image", "Ảnh"),
    "image_hint": ("Drop an image here, paste one, or click", "Thả ảnh vào đây, dán ảnh, hoặc nhấn để chọn"),
    "held_out_images": (
        "Or one of these, which the adapter never saw:",
        "Hoặc một trong các ảnh adapter chưa từng thấy:",
    ),
    "pick_image": ("Use picture {number}", "Dùng ảnh {number}"),
    "who": ("Who answers", "Ai trả lời"),
    "answerers": ("Base model and adapters", "Mô hình gốc và các adapter"),
    "no_adapters": (
        "Adapters appear here as runs finish. Until then the base answers alone.",
        "Adapter sẽ hiện ở đây khi lượt chạy hoàn tất. Trước đó chỉ mô hình gốc trả lời.",
    ),
    "question": ("Question", "Câu hỏi"),
    "question_hint": ("Ask something about the image", "Hỏi điều gì đó về bức ảnh"),
    "ask": ("Ask", "Hỏi"),
    "ask_note": (
        "Enter asks. The first answer takes a moment longer: the model is loaded.",
        "Nhấn Enter để hỏi. Câu đầu tiên lâu hơn một chút vì phải nạp mô hình.",
    ),
    "answers_waiting": (
        "Choose a picture, ask a question, and compare the answers here.",
        "Chọn ảnh, đặt câu hỏi, rồi so sánh các câu trả lời tại đây.",
    ),
    "thinking": ("thinking…", "đang nghĩ…"),
    "answer_cost": ("{time} · {tokens} tokens", "{time} · {tokens} token"),
    "right_answer": ("Right answer: {answer}", "Đáp án đúng: {answer}"),
    "earlier": ("Earlier about this image", "Đã hỏi về ảnh này"),
    "ask_needs_question": ("There is no question yet.", "Chưa có câu hỏi."),
    "ask_needs_question_remedy": ("Type one, then press Ask.", "Hãy gõ câu hỏi rồi nhấn Hỏi."),
    "ask_needs_image": ("There is no image yet.", "Chưa có ảnh."),
    "ask_needs_image_remedy": (
        "Upload one, or click one of the small pictures.",
        "Tải ảnh lên, hoặc nhấn vào một ảnh nhỏ.",
    ),
    "ask_needs_answerer": ("Nobody is chosen to answer.", "Chưa chọn ai trả lời."),
    "ask_needs_answerer_remedy": (
        "Switch on the base or an adapter.",
        "Hãy bật mô hình gốc hoặc một adapter.",
    ),
    "two_bases": (
        "These adapters belong to different base models.",
        "Các adapter này thuộc những mô hình gốc khác nhau.",
    ),
    "two_bases_remedy": ("Choose adapters of one base.", "Hãy chọn các adapter của cùng một mô hình gốc."),
    # Runs
    "runs_title": ("Runs", "Các lượt chạy"),
    "runs_empty": (
        "No runs yet. Start one in Train.",
        "Chưa có lượt chạy nào. Hãy bắt đầu ở mục Huấn luyện.",
    ),
    "col_run": ("Run", "Lượt chạy"),
    "col_state": ("State", "Trạng thái"),
    "col_dataset": ("Dataset", "Bộ dữ liệu"),
    "col_exact": ("Exact match", "Khớp hoàn toàn"),
    "col_when": ("Started", "Bắt đầu"),
    "open": ("Open", "Mở"),
    "delete": ("Delete", "Xóa"),
    "delete_ask": ("Move to the trash folder?", "Chuyển vào thư mục rác?"),
    "delete_yes": ("Yes, delete", "Có, xóa"),
    "delete_no": ("Keep", "Giữ lại"),
    "just_now": ("just now", "vừa xong"),
    "minutes_ago": ("{n} min ago", "{n} phút trước"),
    "hours_ago": ("{n} h ago", "{n} giờ trước"),
    "days_ago": ("{n} d ago", "{n} ngày trước"),
}
"""key -> (English, Vietnamese). Plain text, escaped where it becomes HTML, but for the few that hold <b>."""


def say(language: Language, key: str, **values: Any) -> str:
    """The text of `key` in that language, with `values` put in."""
    text = TEXTS[key][LANGUAGES.index(language)]
    return text.format(**values) if values else text


def escaped(language: Language, key: str, **values: Any) -> str:
    """`say`, made safe to stand in HTML."""
    return escape(say(language, key, **values))


def number(language: Language, value: float, decimals: int = 0) -> str:
    """`122,880` or `6.2` in English, `122.880` or `6,2` in Vietnamese."""
    written = f"{value:,.{decimals}f}"
    return written.translate(str.maketrans(",.", ".,")) if language == "vi" else written


def percent(language: Language, fraction: float, decimals: int = 0) -> str:
    return f"{number(language, 100 * fraction, decimals)} %"


def duration(language: Language, seconds: float) -> str:
    """`21 s`, `2 min 5 s`, `3 h 4 min`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return say(language, "seconds", s=whole)
    if whole < 3600:
        return say(language, "minutes", m=whole // 60, s=whole % 60)
    return say(language, "hours", h=whole // 3600, m=whole % 3600 // 60)


def ago(language: Language, seconds: float) -> str:
    """How long ago, in the largest unit that fits."""
    for size, key in ((86400, "days_ago"), (3600, "hours_ago"), (60, "minutes_ago")):
        if seconds >= size:
            return say(language, key, n=int(seconds // size))
    return say(language, "just_now")


Wording = str | Callable[[Language], Any]
"""A key of TEXTS, or a function of the language for what is more than one text (HTML, a list of choices)."""


Bound = TypeVar("Bound", bound=gr.blocks.Block)


class Wordings:
    """Which property of which component shows which text, so that one event switches the whole page."""

    def __init__(self) -> None:
        self._bound: list[tuple[gr.blocks.Block, dict[str, Wording]]] = []

    def bind(self, component: Bound, **wordings: Wording) -> Bound:
        self._bound.append((component, wordings))
        return component

    @property
    def components(self) -> list[gr.blocks.Block]:
        return [component for component, _ in self._bound]

    def updates(self, language: Language) -> list[dict[str, Any]]:
        """One update for each of `components`, in order."""
        return [
            gr.update(**{name: _worded(language, wording) for name, wording in wordings.items()})
            for _, wordings in self._bound
        ]


def _worded(language: Language, wording: Wording) -> Any:
    return wording(language) if callable(wording) else say(language, wording)
