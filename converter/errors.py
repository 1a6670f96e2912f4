"""What can go wrong, as data: what, where, what was expected and met, and the options that lead on.

An error says its remedies as options of `converter.options`; whoever shows it chooses the language: ``str(error)`` has
the keywords of Python, the command line asks for `FLAGS`.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

#: What a terminal obeys or hides, and what is half a character: control codes, and those that turn the direction.
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def printable(line: str) -> str:
    """The text as one line that can be shown: names come from files, and may hold anything."""
    return UNPRINTABLE.sub(lambda met: met[0].encode("unicode_escape").decode(), line)


def text_of(lines: Iterable[str]) -> str:
    """The lines, each of which is one whatever the names in it hold."""
    return "\n".join(map(printable, lines))


#: How a remedy is written.
Language = Callable[["Remedy"], str]
#: So many problems of one kind are told one by one; more are told together.
TOLD_APART = 4
#: So many subjects and candidates are named before they are counted.
NAMED = 6


class Placeholder(str):
    """A value that only the user knows, such as N or PATH: written without quotes."""

    def __repr__(self) -> str:
        return str(self)


class Remedy(msgspec.Struct, frozen=True):
    """An option that settles a problem. ``value``: a pair is an entry of a mapping (``map``: source, target).

    effect: what it does, to follow the option in a sentence ("leaves it out"); "" where it settles the problem.
    """

    option: str
    value: Any = True
    effect: str = ""


def KEYWORDS(remedy: Remedy) -> str:  # noqa: N802 - a language, named like a constant
    """``map={'a': 'b'}``"""
    value = {remedy.value[0]: remedy.value[1]} if isinstance(remedy.value, tuple) else remedy.value
    return f"{remedy.option}={value!r}"


def FLAGS(remedy: Remedy) -> str:  # noqa: N802
    """``--map a=b``"""
    import shlex  # only errors need it

    flag = "-o" if remedy.option == "output" else f"--{remedy.option.replace('_', '-')}"
    if isinstance(remedy.value, bool):
        return flag if remedy.value else f"--no-{flag[2:]}"
    value = "=".join(map(str, remedy.value)) if isinstance(remedy.value, tuple) else str(remedy.value)
    return f"{flag} {shlex.quote(value)}"


class Problem(msgspec.Struct, frozen=True):
    """One thing that speaks against a conversion.

    text: one or two sentences without the remedies. kind: the same for problems that are told together; summary: what
    these have in common, with ``{count}`` for their number. subject: the layer, tensor, file or option that has it.
    about: the option that is wrong, which is said first. expected, met: where two things differ. candidates: what the
    subject could be. alike: other subjects of which the same is said. wide: remedies that settle many problems of this
    kind at once, one for each subject that they settle.
    """

    text: str
    kind: str = ""
    subject: str = ""
    expected: str = ""
    met: str = ""
    candidates: tuple[str, ...] = ()
    alike: tuple[str, ...] = ()
    remedies: tuple[Remedy, ...] = ()
    summary: str = ""
    wide: tuple[Remedy, ...] = ()
    about: Remedy | None = None

    def said(self, language: Language = KEYWORDS) -> str:
        option = f"{language(self.about)}: " if self.about else ""
        return printable(" ".join(filter(None, (option + self.text, advice(self.remedies, language)))))

    def __str__(self) -> str:
        return self.said()


def advice(remedies: Iterable[Remedy], language: Language) -> str:
    """The remedies as sentences; "" where there are none."""
    settling = [language(remedy) for remedy in remedies if not remedy.effect]
    others = [f"{language(remedy)} {remedy.effect}" for remedy in remedies if remedy.effect]
    sentences = [f"Say {either(settling)}."] if settling else []
    return " ".join([*sentences, *([f"{'; '.join(others)}."] if others else [])])


def either(words: Sequence[str]) -> str:
    """``a, b or c``"""
    return " or ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def listed(names: Iterable[str]) -> str:
    """Quoted, and no more than `NAMED` of them."""
    quoted = [f"'{name}'" for name in names]
    more = f" and {len(quoted) - NAMED} more" if len(quoted) > NAMED else ""
    return ", ".join(quoted[:NAMED]) + more if quoted else "nothing"


class ConversionError(Exception):
    """Any failure of a conversion that the user can act on (exit code 1). ``problems``: all of them, at least one."""

    def __init__(self, text: str | Problem, *remedies: Remedy) -> None:
        problem = text if isinstance(text, Problem) else Problem(text, remedies=remedies)
        self.problems: tuple[Problem, ...] = (problem,)
        super().__init__(problem.said())

    def said(self, language: Language = KEYWORDS) -> str:
        """The whole error for people; many problems of one kind are one paragraph."""
        return grouped(self.problems, language)

    def __str__(self) -> str:
        return self.said()

    def to_dict(self, language: Language = KEYWORDS) -> dict[str, Any]:
        """For programs: every problem, with its remedies also as they are said."""
        problems = []
        for problem in self.problems:
            entry = {**msgspec.to_builtins(problem, enc_hook=repr), "said": problem.said(language)}
            for name in ("remedies", "wide"):
                for remedy, document in zip(getattr(problem, name), entry[name], strict=True):
                    document["said"] = language(remedy)
            if problem.about:
                entry["about"]["said"] = language(problem.about)
            problems.append(entry)
        return {"error": type(self).__name__, "message": self.said(language), "problems": problems}


class FormatError(ConversionError):
    """A file that cannot be read as what it claims to be: truncated, damaged or hostile.

    The message is ``FILE: REASON``; the reason names the offset or the entry inside the file, if it is of one.
    """

    def __init__(self, path: str | os.PathLike[str], reason: str, *remedies: Remedy) -> None:
        self.path = str(path)
        self.reason = reason
        super().__init__(Problem(f"{self.path}: {reason}", "file", self.path, remedies=remedies))


class UnsafeFileError(FormatError):
    """A file that asks for code to be run, or for a path outside of itself. It was not obeyed."""


class OutputError(ConversionError):
    """The result cannot be written: it exists, the folder is missing, or writing is not allowed."""


class MissingLibraryError(ConversionError):
    """An optional library is needed for this one format or net, and is not installed."""


class NamedShape(msgspec.Struct, frozen=True, gc=False):
    name: str
    shape: tuple[int, ...]


class Paired(msgspec.Struct, frozen=True, gc=False):
    """Two layers that had found each other before the conversion was refused.

    layer, into: their paths in the source and in the target; sources, targets: their tensors.
    """

    layer: str
    into: str
    kind: str
    sources: tuple[NamedShape, ...]
    targets: tuple[NamedShape, ...]
    reason: str
    likely: bool


class MatchError(ConversionError):
    """Layers that could not be paired. Holds every problem of the conversion, not just the first.

    paired: what could be. Some of these may have a problem, too.
    """

    def __init__(self, problems: Sequence[str | Problem], source: str = "", paired: Iterable[Paired] = ()) -> None:
        self.source = source
        self.paired = tuple(paired)
        self.problems = tuple(item if isinstance(item, Problem) else Problem(item) for item in problems)
        Exception.__init__(self, grouped(self.problems, KEYWORDS))

    def of(self, source: str) -> MatchError:
        """The same error, said of this file."""
        return MatchError(self.problems, source, self.paired)

    def said(self, language: Language = KEYWORDS) -> str:
        text = grouped(self.problems, language)
        return f"{printable(self.source)}: {text}" if self.source else text

    def to_dict(self, language: Language = KEYWORDS) -> dict[str, Any]:
        return {**super().to_dict(language), "source": self.source, "paired": msgspec.to_builtins(self.paired)}


class CloneWarning(UserWarning):
    """A live net that is set otherwise than its source, so that equal weights are not an equal function.

    layers: their paths in the clone. property: such as "BatchNorm epsilon". source, target: the two values.
    """

    def __init__(
        self, message: str, layers: Sequence[str], property: str, source: float | str | bool, target: float | str | bool
    ) -> None:
        self.layers = tuple(layers)
        self.property = property
        self.source = source
        self.target = target
        super().__init__(message)


def grouped(problems: Sequence[Problem], language: Language) -> str:
    """A line for each problem; many of one kind are one paragraph: how many, the first two, and what settles most."""
    kinds: dict[str, list[Problem]] = {}
    for number, problem in enumerate(problems):
        kinds.setdefault(problem.kind or str(number), []).append(problem)
    return "\n".join(
        _together(alike, language)
        if len(alike) > TOLD_APART and alike[0].summary
        else "\n".join(problem.said(language) for problem in alike)
        for alike in kinds.values()
    )


def _together(alike: Sequence[Problem], language: Language) -> str:
    first = alike[0]
    lines = [first.summary.format(count=sum(1 + len(problem.alike) for problem in alike))]
    lines += [f"  {problem.said(language)}" for problem in alike[:2]]
    lines.append(f"  … and {len(alike) - 2} more: {listed(problem.subject for problem in alike[2:])}")
    wide = Counter(remedy for problem in alike for remedy in problem.wide)
    if wide:
        settle = [f"{language(remedy)} (settles {count})" for remedy, count in wide.most_common(NAMED)]
        lines.append(f"  Many at once: {either(settle)}.")
    return text_of(lines)


def near_misses(name: str, known: Iterable[str]) -> tuple[str, ...]:
    """The names that were probably meant."""
    import difflib

    return tuple(difflib.get_close_matches(name, list(known), 3, 0.6))


def unknown_name(option: Remedy, name: str, where: str, known: Iterable[str]) -> Problem:
    """An option names a layer, and no layer is called so. where: such as "the source has no layer"."""
    names = list(known)
    near = near_misses(name.replace("*", ""), names)
    others = f"{'They have' if where.startswith('neither') else 'It has'} {listed(names)}."
    hint = f"Did you mean {either([repr(near_name) for near_name in near])}?" if near else others
    return Problem(f"{where} '{name}'. {hint}", "unknown name", name, candidates=near, about=option)
