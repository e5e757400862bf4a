"""What each PEFT method does, in Vietnamese; in English `vlm.methods` says it. No torch."""

VIETNAMESE: dict[str, str] = {
    "lora": "Thêm tích của hai ma trận hẹp vào mỗi lớp (arXiv:2106.09685).",
    "rslora": "LoRA chia theo căn bậc hai của hạng, hợp với hạng cao (arXiv:2312.03732).",
    "dora": "LoRA học riêng độ lớn và hướng của trọng số; chậm hơn (arXiv:2402.09353).",
    "pissa": "LoRA bắt đầu từ các giá trị kỳ dị lớn nhất của trọng số (arXiv:2404.02948).",
    "olora": "LoRA bắt đầu từ một cơ sở trực chuẩn của trọng số (arXiv:2406.01775).",
    "adalora": "Bắt đầu với hạng gấp rưỡi rồi giữ lại ở nơi quan trọng (arXiv:2303.10512).",
    "ia3": "Chỉ co giãn những gì các lớp truyền đi: rất ít tham số (arXiv:2205.05638).",
    "loha": "Tích Hadamard của hai tích hạng thấp: hạng cao hơn với cùng kích thước (arXiv:2108.06098).",
    "lokr": "Tích Kronecker: tệp nhỏ (arXiv:2309.14859).",
    "oft": "Xoay đầu vào của mỗi lớp theo khối tối đa 32 chiều (arXiv:2306.07280).",
    "vera": "Co giãn một cặp ma trận ngẫu nhiên mà mọi lớp dùng chung (arXiv:2310.11454).",
    "hira": "Nhân từng trọng số với một tích hạng thấp: thay đổi có hạng cao (ICLR 2025, TwJrTz9cRS).",
    "miss": "Mỗi lớp một ma trận dùng chung: nhanh, khoảng nửa kích thước LoRA (arXiv:2409.15371).",
    "prefix_tuning": "Học các khóa và giá trị đặt trước của mỗi lớp, trong tháp văn bản (arXiv:2101.00190).",
    "prompt_tuning": "Học các token ảo đặt trước câu hỏi, trong tháp văn bản (arXiv:2104.08691).",
}
