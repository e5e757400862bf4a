"""Nothing reads a sentence that was written for people: what is to be known of it are its code and fields.

The rule is a function over source text, and is tried on planted violations as well as on the project.
"""

import ast
from collections.abc import Iterator

import pytest

from support.source_tree import sources

SENTENCES = {"problem", "remedy", "reason"}
# Conversations have messages too: of these names an attribute alone is a sentence.
ATTRIBUTES = SENTENCES | {"message"}
PARSES = {
    *("split", "rsplit", "splitlines", "partition", "rpartition", "startswith", "endswith", "removeprefix"),
    *("removesuffix", "find", "rfind", "index", "rindex", "replace", "count", "translate"),
}
PATTERNS = {"match", "fullmatch", "search", "findall", "finditer", "sub", "subn", "split"}
SAME_WORDS = {"strip", "lstrip", "rstrip", "lower", "upper", "casefold"}


def is_sentence(node: ast.AST, caught: frozenset[str]) -> bool:
    """Whether this is a sentence; `caught` are the names of user errors, of which `str(…)` is one."""
    match node:
        case ast.Name(id=name):
            return name in SENTENCES
        case ast.Attribute(attr=name):
            return name in ATTRIBUTES
        case ast.Subscript(slice=ast.Constant(value=name)):
            return name in SENTENCES
        case ast.BoolOp(values=parts) | ast.JoinedStr(values=parts):
            return any(is_sentence(part, caught) for part in parts)
        case ast.FormattedValue(value=value):
            return is_sentence(value, caught) or (isinstance(value, ast.Name) and value.id in caught)
        case ast.Call(func=ast.Name(id="str"), args=[value]):
            return is_sentence(value, caught) or (isinstance(value, ast.Name) and value.id in caught)
        case ast.Call(func=ast.Attribute(value=value, attr=method)):
            return method in SAME_WORDS and is_sentence(value, caught)
    return False


def parsed(node: ast.AST, caught: frozenset[str] = frozenset()) -> Iterator[int]:
    """The lines on which a sentence is taken apart, or looked into."""
    match node:
        case ast.ExceptHandler(name=str(name), type=ast.expr() as kind) if "UserError" in ast.unparse(kind):
            caught |= {name}
        case ast.Call(func=ast.Attribute(value=value, attr=method), args=given):
            if method in PARSES and is_sentence(value, caught):
                yield node.lineno
            elif method in PATTERNS and any(is_sentence(each, caught) for each in given):
                yield node.lineno
        case ast.Compare(left=left, ops=ops, comparators=others):
            for words, how, other in zip((left, *others), ops, others, strict=False):
                looked_into = isinstance(how, ast.In | ast.NotIn) and is_sentence(other, caught)
                same = isinstance(how, ast.Eq | ast.NotEq) and any(
                    isinstance(one, ast.Constant) and one.value and is_sentence(two, caught)
                    for one, two in ((words, other), (other, words))
                )
                if looked_into or same:
                    yield node.lineno
    for child in ast.iter_child_nodes(node):
        yield from parsed(child, caught)


def violations(path: str, source: str) -> list[str]:
    lines = source.splitlines()
    return [f"{path}:{line}: {lines[line - 1].strip()}" for line in parsed(ast.parse(source))]


def test_nothing_parses_a_sentence():
    rooms = sources("vlm", "training", "ui", "app")
    assert [found for path, source in rooms.items() for found in violations(path, source)] == []


@pytest.mark.parametrize(
    "planted",
    [
        "problem.startswith('No')",
        "error.remedy.partition('--')",
        "finding.reason.rstrip('.').split(':')",
        "event['problem'].replace('a', 'b')",
        "(status.remedy or '').find('--')",
        "NAMED.finditer(remedy)",
        "re.sub('x', 'y', finding.reason)",
        "'memory' in status.problem",
        "'memory' not in f'{problem}'",
        "problem.lower() == 'no'",
        "found.message.endswith('.')",
        "reason.splitlines()[0]",
        "try: pass\nexcept UserError as error:\n    x = 'memory' in str(error)",
        "try: pass\nexcept (OSError, UserError) as error:\n    x = str(error).split()",
    ],
)
def test_a_planted_violation_is_found(planted):
    assert len(violations("vlm/a.py", planted)) == 1


@pytest.mark.parametrize(
    "fine",
    [
        "message.startswith('user')",
        "name in problems",
        "problem == ''",
        "problem is None",
        "say(language, 'x', problem=problem)",
        "error.code in {'no-memory'}",
        "'reason' in values",
        "try: pass\nexcept OSError as error:\n    x = 'memory' in str(error)",
    ],
)
def test_what_reads_no_sentence_passes(fine):
    assert violations("vlm/a.py", fine) == []
