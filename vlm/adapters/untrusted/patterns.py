r"""Read the patterns of somebody else's adapter without running them: a matcher in bounded time.

Python's `re` can take hours on a pattern made for that. Here the positions that a match may have reached are
the bits of one whole number, and all go on at once: time grows with pattern and name, not with the
ways to match. What is read: characters, `.`, classes, groups, `|`, repeats, `^ $ \b`, looking ahead.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

LONGEST_PATTERN = 20_000
DEEPEST_GROUP = 20
MOST_REPEATS = 100
MOST_STEPS = 1_000_000
"""Steps that all the patterns of an adapter may take, about a second; a real one takes some 60 a name."""

SHORTHANDS: dict[str, Callable[[str], bool]] = {
    "d": str.isdecimal,
    "w": lambda character: character.isalnum() or character == "_",
    "s": str.isspace,
}


class PatternError(ValueError):
    """Why a pattern is not read, as the end of a sentence that begins with the pattern."""


@dataclass(slots=True)
class Budget:
    """The steps that are left for all patterns that share it, and the names that they were matched with."""

    steps: int = MOST_STEPS
    names: dict[str, "_Name"] = field(default_factory=dict)


@dataclass(slots=True)
class _Name:
    """The name that is matched: for each character the positions where it stands, as bits."""

    length: int
    at: dict[str, int]
    edges: int
    budget: Budget
    classes: dict[Callable[[str], bool], int] = field(default_factory=dict)

    def step(self) -> None:
        self.budget.steps -= 1
        if self.budget.steps < 0:
            raise PatternError("takes too long to match")


Matcher = Callable[[_Name, int], int]
"""From the positions where a part of a pattern may begin to those where it may end."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """A pattern that was read. Matching raises `PatternError` where it would take too long."""

    matcher: Matcher
    budget: Budget

    def fits(self, name: str) -> bool:
        """Whether it matches the whole name, as `re.fullmatch` would."""
        return self._ends(name, 1)

    def fits_end(self, name: str) -> bool:
        r"""Whether it matches the whole name or all after one of its dots: PEFT's `(.*\.)?(…)$`."""
        starts = 1
        for position, character in enumerate(name):
            if character == ".":
                starts |= 1 << (position + 1)
        return self._ends(name, starts)

    def _ends(self, name: str, starts: int) -> bool:
        known = self.budget.names
        if name not in known:
            known[name] = _named(name, self.budget)
        return bool(self.matcher(known[name], starts) >> len(name) & 1)


def _named(name: str, budget: Budget) -> _Name:
    at: dict[str, int] = {}
    edges, before = 0, False
    for position, character in enumerate(name):
        at[character] = at.get(character, 0) | 1 << position
        inside = SHORTHANDS["w"](character)
        edges |= (inside != before) << position
        before = inside
    return _Name(len(name), at, edges | before << len(name), budget)


def read(pattern: str, budget: Budget) -> Pattern:
    """The pattern, ready to match. Raises `PatternError` where it is not read, or made to take for ever."""
    if len(pattern) > LONGEST_PATTERN:
        raise PatternError(f"has {len(pattern):,} characters")
    reader = _Reader(pattern)
    matcher, _ = reader.alternatives(0)
    if reader.position < len(pattern):
        raise PatternError("has a bracket too many")
    return Pattern(matcher, budget)


class _Reader:
    """Takes a pattern apart from left to right. Each part comes with whether it can repeat without end."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.position = 0

    def _next(self, text: str) -> bool:
        """Whether this text comes next; if so it is taken."""
        found = self.pattern.startswith(text, self.position)
        self.position += len(text) if found else 0
        return found

    def _take(self) -> str:
        if self.position == len(self.pattern):
            raise PatternError("ends in the middle")
        self.position += 1
        return self.pattern[self.position - 1]

    def alternatives(self, depth: int) -> tuple[Matcher, bool]:
        if depth > DEEPEST_GROUP:
            raise PatternError("has too many groups in groups")
        found = [self._sequence(depth)]
        while self._next("|"):
            found.append(self._sequence(depth))
        if len(found) == 1:
            return found[0]
        matchers = [matcher for matcher, _ in found]

        def either(name: _Name, starts: int) -> int:
            ends = 0
            for matcher in matchers:
                ends |= matcher(name, starts)
            return ends

        return either, any(endless for _, endless in found)

    def _sequence(self, depth: int) -> tuple[Matcher, bool]:
        found = []
        while self.position < len(self.pattern) and self.pattern[self.position] not in "|)":
            found.append(self._repeated(depth))
        matchers = [matcher for matcher, _ in found]

        def one_after_the_other(name: _Name, starts: int) -> int:
            for matcher in matchers:
                if not starts:
                    break
                name.step()
                starts = matcher(name, starts)
            return starts

        return one_after_the_other, any(endless for _, endless in found)

    def _repeated(self, depth: int) -> tuple[Matcher, bool]:
        matcher, endless = self._atom(depth)
        least, most = self._bounds()
        if (least, most) == (1, 1):
            return matcher, endless
        if most is None and endless:
            raise PatternError("repeats what already repeats, which can take for ever to match")
        if self.position < len(self.pattern) and self.pattern[self.position] in "*+?{":
            raise PatternError("repeats a repeat")
        return _repeat(matcher, least, most), endless or most is None

    def _bounds(self) -> tuple[int, int | None]:
        """How often the atom before may come; None: without end."""
        bounds: tuple[int, int | None] = (1, 1)
        if self._next("*"):
            bounds = (0, None)
        elif self._next("+"):
            bounds = (1, None)
        elif self._next("?"):
            bounds = (0, 1)
        elif self._next("{"):
            bounds = self._counts()
        else:
            return bounds
        self._next("?")  # a lazy repeat matches the same names
        return bounds

    def _counts(self) -> tuple[int, int | None]:
        inside, closed, rest = self.pattern[self.position :].partition("}")
        least, comma, most = inside.partition(",")
        if (
            not closed
            or not (least or comma)
            or not all(part.isdecimal() and len(part) < 4 for part in (least, most) if part)
        ):
            raise PatternError("has a repeat that can't be read")
        self.position = len(self.pattern) - len(rest)
        lowest = int(least or 0)
        highest = (int(most) if most else None) if comma else lowest
        if max(lowest, highest or 0) > MOST_REPEATS:
            raise PatternError(f"repeats a part {max(lowest, highest or 0)} times")
        return lowest, highest

    def _atom(self, depth: int) -> tuple[Matcher, bool]:
        character = self._take()
        if character == "(":
            return self._group(depth)
        if character == "[":
            return _one_of(self._class()), False
        if character == "\\":
            return self._escaped(), False
        if character == ".":
            return _any, False
        if character == "^":
            return _start, False
        if character == "$":
            return _end, False
        if character in "*+?{":
            raise PatternError("repeats nothing")
        return _character(character), False

    def _group(self, depth: int) -> tuple[Matcher, bool]:
        ahead = True if self._next("?=") else False if self._next("?!") else None
        if ahead is None and not self._next("?:") and self._next("?"):
            raise PatternError("has a kind of group that is not read")
        matcher, endless = self.alternatives(depth + 1)
        if not self._next(")"):
            raise PatternError("has a bracket too few")
        return (matcher if ahead is None else _look(matcher, ahead)), endless

    def _escaped(self) -> Matcher:
        character = self._take()
        if character == "b":
            return _edge
        if character.lower() in SHORTHANDS:
            return _one_of(_shorthand(character))
        if character.isalnum():
            raise PatternError(f"holds \\{character}, which is not read")
        return _character(character)

    def _class(self) -> Callable[[str], bool]:
        r"""What lies between [ and ]: characters, ranges and \d \w \s."""
        wanted, tests = not self._next("^"), []
        while not self._next("]") or not tests:
            character = self.pattern[self.position - 1] if not tests and self._at_first() else self._take()
            if character == "\\":
                character = self._take()
                if character.lower() in SHORTHANDS:
                    tests.append(_shorthand(character))
                    continue
                if character.isalnum():
                    raise PatternError(f"holds \\{character}, which is not read")
            last = character
            if self.pattern[self.position : self.position + 1] == "-" and not self._closes_after_dash():
                self.position += 1
                last = self._take()
                if last == "\\":
                    last = self._take()
            tests.append(lambda found, first=character, last=last: first <= found <= last)
        return lambda character: any(test(character) for test in tests) == wanted

    def _at_first(self) -> bool:
        """Whether a ] was just taken as the first character of a class, where it stands for itself."""
        return self.pattern[self.position - 1] == "]"

    def _closes_after_dash(self) -> bool:
        return self.pattern[self.position + 1 : self.position + 2] == "]"


def _shorthand(letter: str) -> Callable[[str], bool]:
    test = SHORTHANDS[letter.lower()]
    return test if letter.islower() else lambda character: not test(character)


def _character(character: str) -> Matcher:
    return lambda name, starts: (starts & name.at.get(character, 0)) << 1


def _one_of(test: Callable[[str], bool]) -> Matcher:
    def match(name: _Name, starts: int) -> int:
        if test not in name.classes:
            found = (positions for character, positions in name.at.items() if test(character))
            name.classes[test] = sum(found)  # no two characters share a position
        return (starts & name.classes[test]) << 1

    return match


def _any(name: _Name, starts: int) -> int:
    return (starts & ((1 << name.length) - 1)) << 1


def _start(name: _Name, starts: int) -> int:
    return starts & 1


def _end(name: _Name, starts: int) -> int:
    return starts & 1 << name.length


def _edge(name: _Name, starts: int) -> int:
    return starts & name.edges


def _look(matcher: Matcher, wanted: bool) -> Matcher:
    def match(name: _Name, starts: int) -> int:
        kept = 0
        for position in range(name.length + 1):
            if starts >> position & 1:
                name.step()
                kept |= (bool(matcher(name, 1 << position)) == wanted) << position
        return kept

    return match


def _repeat(matcher: Matcher, least: int, most: int | None) -> Matcher:
    def match(name: _Name, starts: int) -> int:
        for _ in range(least):
            name.step()
            starts = matcher(name, starts)
        ends = reached = starts
        for _ in range(name.length + 1 if most is None else most - least):
            name.step()
            reached = matcher(name, reached)
            if not reached & ~ends:
                break
            ends |= reached
        return ends

    return match
