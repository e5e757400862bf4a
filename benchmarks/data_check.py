"""How long it takes to open and check large datasets, and how much memory: `python -m benchmarks.data_check`.

100,000 rows with images are opened, checked for structure and shown page by page; 10,000 images of 512 pixels
are decoded. Beside each stands what the usual tools need for the same files. Every measurement is a process
of its own; memory is the growth of RssAnon (Linux alone has it) over what the process had with everything
imported, at its peak.
Prints a table, then one line of JSON.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from training.data.edit.search import page
from training.data.edit.thumbnails import thumbnail
from training.data.open import open_dataset
from training.data.validate.dataset_check import check_dataset

ROWS, PICTURES, SIDE = 100_000, 10_000, 512
MOTIFS = 60
SAMPLE_S = 0.02


@dataclass(frozen=True)
class Result:
    """One measurement: what was done, with what, in how many seconds, and the peak growth of RssAnon.

    `cpu_s` is what all threads computed: on a machine that others use too, it says more than `seconds`.
    """

    job: str
    tool: str
    seconds: float
    cpu_s: float
    memory_mb: float
    detail: str = ""


def rss_anon_mb() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    return 0.0


def measured(job: str, tool: str, work: Callable[[], str]) -> Result:
    """Runs `work` while a thread watches the memory."""
    before, peak, done = rss_anon_mb(), [rss_anon_mb()], threading.Event()

    def watch() -> None:
        while not done.wait(SAMPLE_S):
            peak[0] = max(peak[0], rss_anon_mb())

    watcher = threading.Thread(target=watch)
    watcher.start()
    began, began_cpu = time.perf_counter(), time.process_time()
    detail = work()
    seconds, cpu_s = time.perf_counter() - began, time.process_time() - began_cpu
    done.set()
    watcher.join()
    return Result(job, tool, seconds, cpu_s, max(peak[0], rss_anon_mb()) - before, detail)


def make_rows(folder: Path) -> None:
    """An ImageFolder of 100,000 small pictures, no two alike, each with a question and an answer."""
    (folder / "images").mkdir(parents=True)
    rng = random.Random(0)
    words = ["đây", "là", "một", "hình", "vuông", "red", "circle", "on", "the", "left"]
    with (folder / "metadata.jsonl").open("w", encoding="utf-8") as lines:
        for number in range(ROWS):
            name = f"images/{number:06}.png"
            colour = (number & 255, number >> 8 & 255, number >> 16)
            Image.new("RGB", (16, 16), colour).save(folder / name)
            question, answer = (" ".join(rng.choices(words, k=rng.randint(4, 24))) for _ in range(2))
            row = {"file_name": name, "question": question, "answer": answer}
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")


def make_table(folder: Path, source: Path) -> None:
    """The JPEGs of the pictures in one Parquet file, 1,000 in a row group."""
    import pyarrow
    import pyarrow.parquet

    folder.mkdir()
    image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    schema = pyarrow.schema([("image", image), ("text", pyarrow.string())])
    pictures = sorted(source.glob("*.jpg"))
    with pyarrow.parquet.ParquetWriter(folder / "train.parquet", schema) as writer:
        for start in range(0, len(pictures), 1000):
            part = [
                {"image": {"bytes": path.read_bytes(), "path": None}, "text": path.stem}
                for path in pictures[start : start + 1000]
            ]
            writer.write_table(pyarrow.Table.from_pylist(part, schema))


def make_pictures(folder: Path) -> None:
    """10,000 pictures of 512 x 512, half JPEG and half PNG, smooth and rough as photographs are."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    motifs: dict[str, list[bytes]] = {"jpg": [], "png": []}
    for ending, files in motifs.items():
        for number in range(MOTIFS):
            noise = Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).resize((SIDE, SIDE))
            grain = Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
            picture = Image.blend(noise.filter(ImageFilter.GaussianBlur(4)), grain, 0.04)
            file = folder / f"motif-{number}.{ending}"
            picture.save(file, quality=90)
            files.append(file.read_bytes())
            file.unlink()
    with (folder / "metadata.jsonl").open("w") as lines:
        for number in range(PICTURES):
            ending = "jpg" if number % 2 else "png"
            name = f"{number:05}.{ending}"
            # Bytes after the picture's end make each file its own.
            (folder / name).write_bytes(motifs[ending][number // 2 % MOTIFS] + number.to_bytes(4, "big"))
            lines.write(json.dumps({"file_name": name, "text": f"picture {number}"}) + "\n")


def open_and_show(folder: Path, workspace: Path) -> str:
    """Open, look at the structure, and show the first page with thumbnails, then a page of a search."""
    told: list[int] = []
    dataset = open_dataset(str(folder), workspace, progress=lambda what, done, total: told.append(done))
    opened = time.perf_counter()
    shown = page(dataset, 0, 24).examples
    for example in shown:
        thumbnail(example.images[0], workspace / "thumbnails")
    found = page(dataset, 0, 24, "hinh vuong").total
    preview_s = time.perf_counter() - opened
    counts = f"{len(dataset.examples):,} examples, {len(dataset.findings)} faults"
    return f"{counts}, {len(told)} times told how far; preview {preview_s:.1f} s, {found:,} found"


def check(folder: Path, workspace: Path) -> str:
    report = check_dataset(open_dataset(str(folder), workspace))
    return f"{len(report.facts):,} images, {len(report.faults)} faults"


def cancel(folder: Path, workspace: Path) -> str:
    """How long a check goes on after it was told to stop."""
    dataset, told = open_dataset(str(folder), workspace), []

    def progress(what: str, done: int, total: int) -> None:
        if done == 500:
            told.append(time.perf_counter())

    check_dataset(dataset, progress=progress, cancelled=lambda: bool(told))
    return f"ended {time.perf_counter() - told[0]:.2f} s after it was cancelled"


def with_datasets(folder: Path, workspace: Path) -> str:
    import datasets

    datasets.disable_progress_bars()
    table = datasets.load_dataset(
        "imagefolder", data_dir=str(folder), split="train", cache_dir=str(workspace)
    )
    return f"{table.num_rows:,} rows"


def decode_with_datasets(folder: Path, workspace: Path) -> str:
    import datasets

    paths = sorted(str(path) for path in folder.iterdir() if path.suffix != ".jsonl")
    table = datasets.Dataset.from_dict({"image": paths}).cast_column("image", datasets.Image())
    return f"{sum(row['image'].convert('RGB').width > 0 for row in table):,} images"


def decode_with_pillow(folder: Path, workspace: Path) -> str:
    paths = sorted(path for path in folder.iterdir() if path.suffix != ".jsonl")
    return f"{sum(Image.open(path).convert('RGB').width > 0 for path in paths):,} images"


JOBS: dict[str, tuple[str, str, str, Callable[[Path, Path], str]]] = {
    "open-rows": ("open 100,000 rows and preview", "LoRA Lens", "rows", open_and_show),
    "check-rows": ("check 100,000 rows and their pictures of 16 px", "LoRA Lens", "rows", check),
    "open-rows-datasets": ("open 100,000 rows", "datasets, imagefolder", "rows", with_datasets),
    "open-table": ("open 5,000 rows of Parquet with images of 512 px", "LoRA Lens", "table", open_and_show),
    "check-pixels": ("check 10,000 images of 512 px", "LoRA Lens", "pictures", check),
    "check-pixels-datasets": ("decode 10,000 images", "datasets loop", "pictures", decode_with_datasets),
    "check-pixels-pillow": ("decode 10,000 images", "Pillow loop", "pictures", decode_with_pillow),
    "cancel": ("cancel a check", "LoRA Lens", "pictures", cancel),
}


def run(part: str, root: Path) -> Result:
    """One measurement, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.data_check", "--part", part, "--root", str(root)]
    ended = subprocess.run(command, check=True, capture_output=True, text=True)
    return Result(**json.loads(ended.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=JOBS, help="one measurement, on files that are there already")
    parser.add_argument(
        "--root", type=Path, help="where the files are made, and kept; a temporary folder if not given"
    )
    arguments = parser.parse_args()
    if arguments.part:
        job, tool, files, work = JOBS[arguments.part]
        with tempfile.TemporaryDirectory(dir=arguments.root) as workspace:
            result = measured(job, tool, lambda: work(arguments.root / files, Path(workspace)))
        print(json.dumps(asdict(result)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        root = arguments.root or Path(temporary)
        if not (root / "pictures").exists():
            make_rows(root / "rows")
            make_pictures(root / "pictures")
            make_table(root / "table", root / "pictures")
        load = os.getloadavg()[0]
        results = [run(part, root) for part in JOBS]
    print("| job | tool | seconds | CPU seconds | RssAnon grows by, MB | |")
    print("|---|---|---|---|---|---|")
    for r in results:
        print(f"| {r.job} | {r.tool} | {r.seconds:.1f} | {r.cpu_s:.1f} | {r.memory_mb:.0f} | {r.detail} |")
    facts = {"cores": len(os.sched_getaffinity(0)), "load_before": load, "load_after": os.getloadavg()[0]}
    print(json.dumps(facts | {"results": [asdict(r) for r in results]}))


if __name__ == "__main__":
    main()
