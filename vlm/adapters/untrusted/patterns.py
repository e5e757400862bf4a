r"""Match the regular expressions of an untrusted adapter in bounded time, without giving them to `re`.

Python's `re` can take hours on a pattern made for that. Here the positions that a match may have reached are
the bits of one whole number, and all advance at once (Thompson's simulation of an automaton): time grows with
pattern and name, not with the ways to match. Read are characters, `.`, classes, groups, `|`, repeats,
`^ $ \b`, looking ahead.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from vlm.errors import Phrase

MAX_LENGTH = 20_000
# Groups are parsed and matched by recursion: Python's own limit is 1,000 calls.
MAX_DEPTH = 20
# A counted repeat costs its count in steps, and multiplies with those around it.
MAX_REPEATS = 100
# Steps that all patterns of an adapter may take together, about a second; a real one takes some 60 a name.
MAX_STEPS = 1_000_000

CharacterTest = Callable[[str], bool]
SHORTHANDS: dict[str, CharacterTest] = {
    "d": str.isdecimal,
    "w": lambda character: character.isalnum() or character == "_",
    "s": str.isspace,
}
Node = tuple[Any, ...]


class PatternError(ValueError):
    """Why a pattern is not read or matched: a phrase, the end of a sentence that begins with the pattern."""

    def __init__(self, reason: Phrase) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(slots=True)
class NameBits:
    """A name that is matched. `at`: for each character the positions where it stands, as bits.

    `edges`: the positions between a word's character and another, or an end. `classes`: `at` of the classes
    of characters that have been needed.
    """

    length: int
    at: dict[str, int]
    edges: int
    classes: dict[CharacterTest, int] = field(default_factory=dict)


@dataclass(slots=True)
class Budget:
    """The steps that are left for all patterns that share it, and the names that they were matched with."""

    steps: int = MAX_STEPS
    names: dict[str, NameBits] = field(default_factory=dict)

    def step(self) -> None:
        self.steps -= 1
        if self.steps < 0:
            raise PatternError(Phrase("takes too long to match", "pattern-too-slow"))


@dataclass(frozen=True, slots=True)
class Pattern:
    """A pattern that was read. Matching raises `PatternError` where it would take too long."""

    node: Node
    budget: Budget

    def fits(self, name: str, starts: int = 1) -> bool:
        """Whether it matches from one of these positions to the name's end; as `re.fullmatch` by default."""
        known = self.budget.names
        if name not in known:
            at: dict[str, int] = {}
            edges, before = 0, False
            for position, character in enumerate(name):
                at[character] = at.get(character, 0) | 1 << position
                inside = SHORTHANDS["w"](character)
                edges |= (inside != before) << position
                before = inside
            known[name] = NameBits(len(name), at, edges | before << len(name))
        return bool(_advance(self.node, known[name], self.budget, starts) >> len(name) & 1)

    def fits_end(self, name: str) -> bool:
        r"""Whether it matches the whole name or all after one of its dots: PEFT's `(.*\.)?(…)$`."""
        after_dots = sum(1 << position + 1 for position, character in enumerate(name) if character == ".")
        return self.fits(name, 1 | after_dots)


def _advance(node: Node, name: NameBits, budget: Budget, starts: int) -> int:
    """From the positions where a part of a pattern may begin, those where it may end."""
    kind = node[0]
    if kind == "character":
        return (starts & name.at.get(node[1], 0)) << 1
    if kind == "sequence":
        for part in node[1]:
            if not starts:
                break
            budget.step()
            starts = _advance(part, name, budget, starts)
        return starts
    if kind == "repeat":
        _, inner, least, most = node
        for _ in range(least):
            budget.step()
            starts = _advance(inner, name, budget, starts)
        ends = reached = starts
        # A round that reaches no new position is the last: nothing that follows could.
        for _ in range(name.length + 1 if most is None else most - least):
            budget.step()
            reached = _advance(inner, name, budget, reached)
            if not reached & ~ends:
                break
            ends |= reached
        return ends
    if kind == "any":
        return (starts & ((1 << name.length) - 1)) << 1
    if kind == "class":
        test = node[1]
        if test not in name.classes:  # no two characters share a position
            name.classes[test] = sum(bits for character, bits in name.at.items() if test(character))
        return (starts & name.classes[test]) << 1
    if kind == "either":
        ends = 0
        for choice in node[1]:
            ends |= _advance(choice, name, budget, starts)
        return ends
    if kind == "ahead":
        # Each position by itself: of several at once one could not tell which of them had a match.
        _, inner, wanted = node
        found = 0
        for position in range(name.length + 1):
            if starts >> position & 1:
                budget.step()
                found |= (bool(_advance(inner, name, budget, 1 << position)) == wanted) << position
        return found
    return starts & {"start": 1, "end": 1 << name.length, "edge": name.edges}[kind]


def parse_pattern(pattern: str, budget: Budget) -> Pattern:
    """The pattern, ready to match.

    Raises:
        PatternError: it can't be read, or repeats what already repeats.
    """
    if len(pattern) > MAX_LENGTH:
        raise PatternError(Phrase("has {count:,} characters", "pattern-too-long", count=len(pattern)))
    reader = _Reader(pattern)
    node, _ = reader.alternatives(0)
    if reader.position < len(pattern):
        raise PatternError(Phrase("has a bracket too many", "pattern-bracket-more"))
    return Pattern(node, budget)


class _Reader:
    """Parses a pattern from left to right. Each part comes with whether it can repeat without end."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.position = 0

    def _next(self, text: str) -> bool:
        """Whether this text comes next; if so it is consumed."""
        found = self.pattern.startswith(text, self.position)
        self.position += len(text) if found else 0
        return found

    def _take(self) -> str:
        if self.position == len(self.pattern):
            raise PatternError(Phrase("ends in the middle", "pattern-cut-short"))
        self.position += 1
        return self.pattern[self.position - 1]

    def alternatives(self, depth: int) -> tuple[Node, bool]:
        """What stands in a group, or in the whole pattern: sequences with `|` between them."""
        if depth > MAX_DEPTH:
            raise PatternError(Phrase("has too many groups in groups", "pattern-too-deep"))
        choices, endless = [[]], False
        while self.position < len(self.pattern) and self.pattern[self.position] != ")":
            if self._next("|"):
                choices.append([])
                continue
            node, repeats = self._atom(depth)
            least, most = self._bounds()
            if (least, most) != (1, 1):
                if most is None and repeats:
                    # One within another their rounds multiply: a name's length to the power of their depth.
                    raise PatternError(
                        Phrase(
                            "repeats what already repeats, which can take for ever to match",
                            "pattern-endless",
                        )
                    )
                if self.position < len(self.pattern) and self.pattern[self.position] in "*+?{":
                    raise PatternError(Phrase("repeats a repeat", "pattern-repeat-twice"))
                node = ("repeat", node, least, most)
            choices[-1].append(node)
            endless |= repeats or most is None
        sequences = [("sequence", parts) for parts in choices]
        return (("either", sequences) if len(sequences) > 1 else sequences[0]), endless

    def _bounds(self) -> tuple[int, int | None]:
        """How often the atom before may come; None: without end."""
        simple: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}
        character = self.pattern[self.position : self.position + 1]
        if character in simple:
            self.position += 1
            bounds = simple[character]
        elif self._next("{"):
            inside, closed, rest = self.pattern[self.position :].partition("}")
            least, comma, most = inside.partition(",")
            readable = all(part.isdecimal() and len(part) < 4 for part in (least, most) if part)
            if not closed or not (least or comma) or not readable:
                raise PatternError(Phrase("has a repeat that can't be read", "pattern-repeat"))
            self.position = len(self.pattern) - len(rest)
            bounds = (int(least or 0), int(least) if not comma else int(most) if most else None)
            if (largest := max(bounds[0], bounds[1] or 0)) > MAX_REPEATS:
                raise PatternError(Phrase("repeats a part {count} times", "pattern-repeats", count=largest))
        else:
            return 1, 1
        self._next("?")  # a lazy repeat matches the same names
        return bounds

    def _atom(self, depth: int) -> tuple[Node, bool]:
        character = self._take()
        simple = {".": "any", "^": "start", "$": "end"}
        if character in simple:
            return (simple[character],), False
        if character == "(":
            ahead = True if self._next("?=") else False if self._next("?!") else None
            if ahead is None and not self._next("?:") and self._next("?"):
                raise PatternError(Phrase("has a kind of group that is not read", "pattern-group"))
            node, endless = self.alternatives(depth + 1)
            if not self._next(")"):
                raise PatternError(Phrase("has a bracket too few", "pattern-bracket-less"))
            return (node if ahead is None else ("ahead", node, ahead)), endless
        if character == "[":
            return ("class", self._class()), False
        if character == "\\":
            character = self._take()
            if character == "b":
                return ("edge",), False
            test = _escaped(character)
            return (("class", test) if test else ("character", character)), False
        if character in "*+?{":
            raise PatternError(Phrase("repeats nothing", "pattern-repeats-nothing"))
        return ("character", character), False

    def _class(self) -> CharacterTest:
        r"""What lies between [ and ]: characters, ranges and \d \w \s."""
        wanted, tests = not self._next("^"), []
        while not tests or not self._next("]"):  # as the first character a ] stands for itself
            character = self._take()
            if character == "\\":
                character = self._take()
                if test := _escaped(character):
                    tests.append(test)
                    continue
            last = character
            following = self.pattern[self.position : self.position + 2]
            if following[:1] == "-" and following != "-]":  # before the ] a dash stands for itself
                self.position += 1
                last = self._take()
                if last == "\\":
                    last = self._take()
            tests.append(lambda found, first=character, last=last: first <= found <= last)
        return lambda character: any(test(character) for test in tests) == wanted


def _escaped(letter: str) -> CharacterTest | None:
    """What an escaped letter stands for in words, digits or spaces; None where it stands for itself."""
    test = SHORTHANDS.get(letter.lower())
    if test is None:
        if letter.isalnum():
            raise PatternError(Phrase("holds \\{letter}, which is not read", "pattern-escape", letter=letter))
        return None
    return test if letter.islower() else lambda character: not test(character)
