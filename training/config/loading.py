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

from training.config.fields import MAY_BE_FOLDERS, TrainingConfig
from training.config.rules import Problem, broken_rules, short_repr
from vlm.errors import UserError

ONE_SETTING_A_LINE = "Write one `setting: value` on each line."
# JSON schema's keyword for a bound -> the word for it.
BOUNDS = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "up to", "exclusiveMaximum": "below"}


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
    named = [
        f"--{problem.field}: {problem.message}." if problem.field else f"{problem.message}."
        for problem in problems
    ]
    if len(problems) == 1:
        return UserError(named[0], problems[0].remedy)
    lines = [f"  {name} {problem.remedy}" for name, problem in zip(named, problems, strict=True)]
    return UserError(
        "\n".join([f"{len(problems)} settings can't be used:", *lines]),
        "Nothing was started. `python -m training run --help` lists every setting.",
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
        problems = [
            Problem(field, f"{short_repr(known[field])} can't be used", f"Give {allowed(field)}.")
            for field in wrong
        ]
        # The rules across fields need a whole config: defaults stand in for what is wrong, and no rule about
        # such a field applies.
        config = TrainingConfig.model_validate({field: known[field] for field in known if field not in wrong})
    problems += broken_rules(config, unusable={problem.field for problem in problems})
    order = list(TrainingConfig.model_fields)
    problems.sort(key=lambda problem: order.index(problem.field))
    return problems + [unknown_setting(key, order) for key in values if key not in known]


def unknown_setting(key: str, settings: Collection[str]) -> Problem:
    """Returns the problem with a setting that is none of these; its remedy names the nearest."""
    near = difflib.get_close_matches(key.replace("-", "_").casefold(), settings, n=1)
    remedy = f"Did you mean --{near[0]}?" if near else "--help lists every one."
    return Problem(key, "there is no such setting", remedy)


def allowed(field: str) -> str:
    """Returns what a field takes, in words, from its own bounds: "a whole number from 1 to 1024"."""
    options = _schema()[field].get("anyOf", [_schema()[field]])
    words = []
    for option in options:
        kind = option.get("type")
        if "enum" in option:
            words.append("one of " + ", ".join(option["enum"]))
        elif "pattern" in option:  # no reader knows what a regular expression allows
            words.append(option["description"])
        elif kind == "string":
            words.append("a folder" if option.get("format") == "path" else "a text")
        elif kind != "null":
            kind = {"integer": "a whole number", "number": "a number", "boolean": "true or false"}[kind]
            if {"minimum", "maximum"} <= option.keys():
                bounds = [f"from {option['minimum']:.10g} to {option['maximum']:.10g}"]
            else:
                bounds = [f"{word} {option[key]:.10g}" for key, word in BOUNDS.items() if key in option]
            words.append(" ".join([kind, *bounds]))
    text = " or ".join(words)
    return f"{text}, or leave it out" if {"type": "null"} in options else text


@cache
def _schema() -> dict[str, dict[str, Any]]:
    return TrainingConfig.model_json_schema()["properties"]


def read_file(path: Path) -> dict[str, Any]:
    """Returns the values in a YAML file of settings, unchecked.

    Raises:
        UserError: there is no such file, or it is not a YAML mapping.
    """
    try:
        # utf-8-sig: editors on Windows write a byte order mark first, which is no part of the first key.
        values = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}.", "Give --config a YAML file of settings.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text.", "Save it as UTF-8.") from error
    except yaml.YAMLError as error:
        where = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
        line = f" line {where.line + 1}" if where else ""
        raise UserError(f"{path}{line}: not valid YAML.", ONE_SETTING_A_LINE) from error
    if values is not None and not isinstance(values, dict):
        raise UserError(f"{path} holds no settings.", ONE_SETTING_A_LINE)
    # An empty file is the defaults. YAML has keys that are no texts, as in `5: 6`: they are unknown settings.
    values = {str(key): value for key, value in (values or {}).items()}
    for field in MAY_BE_FOLDERS:
        # Meant from the file's own folder, so that a workspace moves with its runs.
        if str(values.get(field, "")).startswith(("./", "../")):
            values[field] = os.path.normpath(path.parent.absolute() / values[field])
    return values
