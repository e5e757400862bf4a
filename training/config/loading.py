"""Reading settings: from values or a YAML file; all that is wrong is reported at once. No torch.

Whether a dataset or a model exists is not checked here: those who open them find out.
"""

import difflib
import os
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from training.config.fields import AUTO, MAY_BE_FOLDERS, TrainingConfig
from training.config.rules import Problem, broken_rules, short_repr
from training.program import command
from vlm.errors import Phrase, UserError
from vlm.machine import system

# A setting is a few words; a run's own file has some 2,000 bytes.
MOST_BYTES, LONGEST_KEY = 256 * 1024, 200
ONE_SETTING_A_LINE = "Write one `setting: value` on each line."


def build(values: Mapping[str, Any]) -> TrainingConfig:
    """Returns the settings that these values give.

    Raises:
        UserError: names every problem that `check` finds, each by its flag.
    """
    if problems := check(values):
        raise settings_error(problems)
    return TrainingConfig.model_validate(dict(values))


def load(path: Path) -> TrainingConfig:
    """Returns the settings in a YAML file.

    Raises:
        UserError: the file can't be read, or a setting in it can't be used.
    """
    return build(read_file(path))


def settings_error(problems: Sequence[Problem]) -> UserError:
    """Returns one error that names every problem by its flag."""
    if len(problems) > 1:
        each = [settings_error([problem]) for problem in problems]
        return UserError(
            "{count} settings can't be used:\n{lines:\n}",
            "Nothing was started. `{command} run --help` lists every setting.",
            "settings-refused",
            count=len(problems),
            lines=[
                Phrase("  {problem} {remedy}", "refused-setting", problem=one.problem, remedy=one.remedy)
                for one in each
            ],
            command=command(),
        )
    (problem,) = problems
    if not problem.field:
        return problem.error
    return UserError(
        "--{field}: {problem}",
        "{remedy}",
        "setting-refused",
        change=problem.error.change,
        field=problem.field,
        problem=problem.message,
        remedy=problem.remedy,
    )


def check(values: Mapping[str, Any]) -> list[Problem]:
    """Returns all that is wrong with these values, in the order of the fields; nothing if a run may start."""
    known = {field: value for field, value in values.items() if field in TrainingConfig.model_fields}
    problems = []
    try:
        config = TrainingConfig.model_validate(known)
    except ValidationError as error:
        # Pydantic's own words are for programmers: the message has the bound instead.
        wrong = dict.fromkeys(str(detail["loc"][0]) for detail in error.errors(include_url=False))
        for field in wrong:
            refused = UserError(
                "{value} can't be used.",
                "Give {allowed}.",
                "value-refused",
                value=short_repr(known[field]),
                allowed=allowed(field),
            )
            problems.append(Problem(field, refused))
        # The rules across fields need a whole config: defaults stand in for what is wrong, and no rule about
        # such a field applies.
        config = TrainingConfig.model_validate({field: known[field] for field in known if field not in wrong})
    problems += broken_rules(config, unusable={problem.field for problem in problems})
    order = list(TrainingConfig.model_fields)
    problems.sort(key=lambda problem: order.index(problem.field))
    return problems + [unknown_setting(key, order) for key in values if key not in known]


def unknown_setting(key: str, settings: Collection[str]) -> Problem:
    """Returns the problem with a setting that is none of these; its remedy names the nearest."""
    near = difflib.get_close_matches(key[:LONGEST_KEY].replace("-", "_").casefold(), settings, n=1)
    if near:
        error = UserError(
            "there is no such setting.", "Did you mean --{near}?", "setting-misspelt", near=near[0]
        )
    else:
        error = UserError("there is no such setting.", "--help lists every one.", "setting-unknown")
    return Problem(key, error)


def allowed(field: str) -> Phrase:
    """Returns what a field takes, in words, from its own bounds: "a whole number from 1 to 1024"."""
    options = _schema()[field].get("anyOf", [_schema()[field]])
    if field in AUTO:  # null is how `auto` is kept, and nothing to type
        options = [option for option in options if option.get("type") != "null"]
    words = []
    for option in options:
        kind = option.get("type")
        if "enum" in option or kind == "array":
            names = option["items"]["enum"] if kind == "array" else option["enum"]
            words.append(Phrase("one of {names}", "one-of", names=names))
        elif "pattern" in option:  # no reader knows what a regular expression allows
            words.append(Phrase("layer names with commas between them", "layer-names"))
        elif kind == "string":
            is_folder = option.get("format") == "path"
            words.append(Phrase("a folder", "takes-folder") if is_folder else Phrase("a text", "takes-text"))
        elif kind == "boolean":
            words.append(Phrase("true or false", "true-or-false"))
        elif kind != "null":
            whole = Phrase("a whole number", "whole-number")
            bounds = {"kind": whole if kind == "integer" else Phrase("a number", "any-number")}
            bounds["low"] = option.get("minimum", option.get("exclusiveMinimum"))
            bounds["high"] = option.get("maximum", option.get("exclusiveMaximum"))
            if "minimum" not in option:  # fields have bounds of these three kinds
                words.append(Phrase("{kind} above {low:.10g} up to {high:.10g}", "number-above", **bounds))
            elif "maximum" not in option:
                words.append(Phrase("{kind} from {low:.10g} below {high:.10g}", "number-below", **bounds))
            else:
                words.append(Phrase("{kind} from {low:.10g} to {high:.10g}", "number-from-to", **bounds))
    text = words[0] if len(words) == 1 else Phrase("{kinds:or}", "either", kinds=words)
    return Phrase("{kind}, or leave it out", "or-leave-out", kind=text) if len(words) < len(options) else text


@cache
def _schema() -> dict[str, dict[str, Any]]:
    return TrainingConfig.model_json_schema()["properties"]


def read_file(path: Path) -> dict[str, Any]:
    """Returns the values in a YAML file of settings, unchecked.

    Raises:
        UserError: there is no such file, or it is not a YAML mapping.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise UserError(
                "{path} is too large for a file of settings.",
                ONE_SETTING_A_LINE,
                "settings-file-large",
                path=path,
            )
        # utf-8-sig: editors on Windows write a byte order mark first, which is no part of the first key.
        values = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(
            "{path}: {reason}.",
            "Give --config a YAML file of settings.",
            "settings-file-unreadable",
            path=path,
            reason=error.strerror,
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(
            "{path} is not UTF-8 text.", "Save it as UTF-8.", "settings-file-not-utf8", path=path
        ) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # PyYAML raises others for a date that is none, a number of thousands of digits, a thousand levels.
        mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
        place = f"{path}:{mark.line + 1}" if mark else path
        raise UserError(
            "{place}: not valid YAML.", ONE_SETTING_A_LINE, "settings-file-not-yaml", place=place
        ) from error
    if values is not None and not isinstance(values, dict):
        raise UserError("{path} holds no settings.", ONE_SETTING_A_LINE, "settings-file-empty", path=path)
    # An empty file is the defaults. YAML has keys that are no texts, as in `5: 6`: they are unknown settings.
    values = {str(key)[:LONGEST_KEY]: value for key, value in (values or {}).items()}
    for field in MAY_BE_FOLDERS:
        # Meant from the file's own folder, so that a workspace moves with its runs.
        if str(values.get(field, "")).startswith(("./", "../")):
            values[field] = os.path.normpath(path.parent.absolute() / values[field])
    return values


def as_flags(values: Mapping[str, Any]) -> str:
    """Returns settings as they are typed in a shell; one that is None is left out."""
    words = []
    for field, value in values.items():
        if isinstance(value, bool):
            words.append(f"--{field}" if value else f"--no-{field}")
        elif value is not None:
            words += [f"--{field}", system.quoted(str(value))]
    return " ".join(words)
