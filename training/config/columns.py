"""Column mapping: which of a row's columns holds its images, its question, its answer. No torch.

The setting `columns` names columns that the synonyms don't; `training.data.rows.layouts` reads rows with it.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from vlm.errors import UserError

# What the class of a picture may stand in: an answer, whether something is asked or not.
LABELS = ("label", "labels", "class", "class_name", "category", "nhãn")
# What a column may be called, by its kind; the first that a row has is taken. Capitals, spaces and hyphens
# make no difference.
SYNONYMS: dict[str, tuple[str, ...]] = {
    "images": (
        *("file_name", "image", "images", "file_names", "image_path", "image_file", "image_paths"),
        *("image_file_name", "images_file_names", "filename", "img"),
        *(
            "image_name",
            "img_name",
            "imgname",
            "image_filename",
            "img_path",
            "img_file",
            "filepath",
            "file_path",
        ),
        *("picture", "pictures", "photo", "ảnh", "hình", "hình_ảnh"),
    ),
    "messages": ("messages",),
    "conversations": ("conversations", "conversation", "texts"),
    "question": ("question", "query", "problem", "instruction", "prompt", "câu_hỏi", "prefix"),
    "answer": (
        *("answer", "response", "output", "completion", "multiple_choice_answer", "answers"),
        *("câu_trả_lời", "trả_lời", "đáp_án", "suffix", "direct_answers"),
        *LABELS,
    ),
    "text": (
        *("text", "caption", "captions", "description", "mô_tả", "chú_thích"),
        *("comment", "sentence", "sentences", "ground_truth"),
    ),
    "input": ("input",),
    "history": ("history",),
    "system": ("system",),
    "id": ("id",),
    "split": ("split",),
    "type": ("type",),
}
KINDS = tuple(SYNONYMS)
# The page and the remedies say `image` and `caption`, as people do.
OTHER_KINDS = {"image": "images", "caption": "text"}
ASSIGNMENT = re.compile(r"\s*([a-z]+)\s*=\s*([^,]+?)\s*")
# Cells without content: tables fill in null, and CSV an empty text.
SILENT = (None, [], "")


@dataclass(frozen=True, slots=True)
class ColumnMapping:
    """Kind -> column. `tags` renames the keys and roles of turns, as in LLaMA-Factory's dataset_info.json.

    `asked` is the question of rows that have none.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    asked: str | None = None

    @classmethod
    def parse(cls, text: str | None, asked: str | None = None) -> "ColumnMapping":
        """Reads `image=photo,question=ask`; `asked` is the setting `question`.

        Raises:
            UserError: a part is no `kind=column`, or there is no such kind.
        """
        columns: dict[str, str] = {}
        for part in (text or "").split(",") if (text or "").strip() else ():
            match = ASSIGNMENT.fullmatch(part)
            kind = OTHER_KINDS.get(match[1], match[1]) if match else None
            if kind not in KINDS:
                raise UserError(
                    "{part!r} does not say which column is which.",
                    "Write kind=column; the kinds are {kinds}.",
                    "columns-not-assigned",
                    part=part.strip(),
                    kinds=[*OTHER_KINDS, *KINDS],
                )
            columns[kind] = match[2]
        return cls(columns, asked=asked)

    def candidates(self, kind: str, values: Mapping[str, object]) -> Sequence[str]:
        """Returns the columns that may be of this kind, the likeliest first."""
        if kind in self.columns:
            return (self.columns[kind],)
        # A column that the mapping names for one kind is no synonym of another.
        return [name for name in _by_kind(tuple(values)).get(kind, ()) if name not in self.columns.values()]

    def column(self, kind: str, values: Mapping[str, object]) -> str | None:
        """Returns the first column of this kind that isn't empty in this row."""
        return next((name for name in self.candidates(kind, values) if values.get(name) not in SILENT), None)

    def get(self, kind: str, values: Mapping[str, object]) -> object:
        """Returns the row's value of this kind: None without such a column, "" where its text is empty."""
        name = self.column(kind, values)
        if name:
            return values[name]
        return "" if "" in [values.get(name) for name in self.candidates(kind, values)] else None

    def over(self, other: "ColumnMapping") -> "ColumnMapping":
        """Returns `other` with this mapping's columns in place of its own."""
        return ColumnMapping({**other.columns, **self.columns}, other.tags, self.asked)


# The rows of a file mostly have the same columns: this runs once for them, not once a row.
@lru_cache(maxsize=1024)
def _by_kind(columns: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    by_name: dict[str, list[str]] = {}
    for column in columns:
        by_name.setdefault(plain(column), []).append(column)
    return {
        kind: tuple(column for name in names for column in by_name.get(name, ()))
        for kind, names in SYNONYMS.items()
        if any(name in by_name for name in names)
    }


def plain(column: str) -> str:
    """Returns a column's name as SYNONYMS spells it: NFC, lower case, underscores for spaces and hyphens."""
    return re.sub(r"[\s-]+", "_", unicodedata.normalize("NFC", column).strip().casefold())
