"""Rules broken on purpose, one at a time: each mutation must make the simulation fail.

A mutation replaces a piece of the text of one function of the engine, the core or the store in memory. Its old text
must occur exactly once: when the code moves on, the mutation says so instead of quietly changing nothing.
"""

from __future__ import annotations
import __future__

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


class Outdated(Exception):
    """The code that a mutation changes is not there any more."""


@dataclass(frozen=True, slots=True)
class Mutation:
    """One broken rule.

    Attributes:
        rule: what it breaks, as DESIGN's sections 2 and 3 have it; a star marks the rules that broke runs of the
            design's model when they were removed.
        owner, function: where.
        changes: pairs of old and new text.
    """

    name: str
    rule: str
    owner: Any
    function: str
    changes: tuple[tuple[str, str], ...]
    sealed: bool = False
    """Whether it shows in sealed runs only."""
    theme: str = ""
    """What the runs lean to in which it is looked for, where the broad mix seldom meets its situation."""

    def mutated(self) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """The function as it is, and as the mutation has it."""
        original = inspect.getattr_static(self.owner, self.function)
        if not inspect.isfunction(original):
            raise Outdated(f"{self.name}: {self.function} is no plain function")
        source = inspect.getsource(original)
        for old, new in self.changes:
            if source.count(old) != 1:
                raise Outdated(f"{self.name}: {self.function} has {source.count(old)} times the text {old!r}")
            source = source.replace(old, new)
        names: dict[str, Any] = {}
        flags = __future__.annotations.compiler_flag
        if source[0] == " ":
            source = (
                "if True:\n" + source
            )  # A method keeps its indentation, so that texts are as in the file.
        code = compile(source, f"<mutation {self.name}>", "exec", flags=flags, dont_inherit=True)
        exec(code, original.__globals__, names)
        return original, names[self.function]

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The rule is broken while this lasts."""
        original, broken = self.mutated()
        places: list[Any] = [self.owner]
        if inspect.ismodule(self.owner):
            # Functions are imported by name: every module that has this one gets the broken one.
            places = [
                module
                for name, module in sorted(sys.modules.items())
                if name.startswith(("adgovernor.", "tests.simulation."))
                and getattr(module, self.function, None) is original
            ]
        for place in places:
            setattr(place, self.function, broken)
        try:
            yield
        finally:
            for place in places:
                setattr(place, self.function, original)


def one(name: str, rule: str, owner: Any, function: str, old: str, new: str, *, theme: str = "") -> Mutation:
    return Mutation(name, rule, owner, function, ((old, new),), theme=theme)
