"""`Recipe`: every setting of an inspector, in one flat, frozen dataclass."""

from __future__ import annotations

import difflib
import functools
import os
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, TypeVar

from goodparts.errors import RecipeError, quoted
from goodparts.files import JsonRecord
from goodparts.recipe.keys import KEYS, MACHINE, SECTIONS, Keys, keys_of
from goodparts.recipe.presets import PRESETS
from goodparts.recipe.rules import RULES
from goodparts.recipe.toml import parse, read_text, require_plain
from goodparts.recipe.values import coerce, size_text

_WIDTH = 100  # columns of comments


_Checked = TypeVar("_Checked", bound=Keys)


def _names_keys(recipe: type[_Checked]) -> type[_Checked]:
    """Has it say which key was meant, rather than that an argument of `__init__` is unexpected."""
    given = recipe.__init__

    @functools.wraps(given)
    def init(self: _Checked, *positional: Any, **values: Any) -> None:
        _require_known(values)
        given(self, *positional, **values)

    recipe.__init__ = init  # type: ignore[assignment, method-assign]
    return recipe


def _require_known(names: Iterable[str]) -> None:
    """RecipeError if one of them is no key; it names the nearest ones."""
    for name in names:
        if name not in KEYS:
            near = difflib.get_close_matches(str(name)[:100], KEYS, n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else f"keys are {', '.join(KEYS)}"
            shown = name if len(str(name)) <= 60 else quoted(name)
            raise RecipeError(f"{shown}: no such recipe key; {hint}", key=name)


@_names_keys
@dataclass(frozen=True)
class Recipe(Keys):
    """How to learn and inspect. Values are checked when it is made; RecipeError names a key that does not fit.

    `keys` says what each key means, `rules` which do not go together.

    >>> Recipe(image_size=320, sampling_ratio=0.01).image_size
    (320, 320)
    """

    def __post_init__(self) -> None:
        for key, item in KEYS.items():
            object.__setattr__(self, key, coerce(item, getattr(self, key)))
        for rule in RULES:
            if rule.refused(self):
                raise RecipeError(rule.message(self), key=rule.keys[0])

    @classmethod
    def preset(cls, name: str) -> Self:
        """The preset of that name: one of `PRESETS`."""
        if not isinstance(name, str) or name not in PRESETS:
            raise RecipeError(
                f"recipe: no preset {quoted(name)}; there are {', '.join(PRESETS)}", key="recipe"
            )
        return cls(**PRESETS[name])

    @classmethod
    def of(cls, given: Recipe | str | os.PathLike[str] | None) -> Recipe:
        """A recipe as it is, one by a preset's name or from a TOML file, or the default where none is given."""
        if isinstance(given, Recipe):
            return given
        if given is None or isinstance(given, str | os.PathLike):
            return cls() if given is None else cls.load(given)
        raise RecipeError(
            f"recipe: expected a Recipe, a preset's name ({', '.join(PRESETS)}) or a TOML file, found {quoted(given)}",
            key="recipe",
        )

    @classmethod
    def load(cls, name_or_file: str | os.PathLike[str], changes: Mapping[str, Any] | None = None) -> Self:
        """A preset by its name, or a TOML file of recipe keys (those it leaves out keep their defaults).

        `changes` are keys that are changed before all of it is checked.
        """
        if str(name_or_file) in PRESETS:
            return cls.preset(str(name_or_file)).replace(changes or {})
        path = Path(name_or_file)
        try:
            text = read_text(path, expected="a TOML file of recipe keys")
            require_plain(parse(text))
        except FileNotFoundError:
            near = difflib.get_close_matches(str(name_or_file)[:100], PRESETS, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise RecipeError(
                f"recipe: {name_or_file} is neither a file nor a preset ({', '.join(PRESETS)}){hint}",
                key="recipe",
            ) from None
        except RecipeError as error:
            raise RecipeError(f"{path}: {error}", key="recipe") from None
        return cls.from_toml(text, changes, source=str(path))

    @classmethod
    def from_toml(
        cls, text: str, changes: Mapping[str, Any] | None = None, *, source: str = "recipe"
    ) -> Self:
        """The recipe that `text` spells, with changes; `source` is named in errors about keys that are not changed.

        Key `recipe` may name a preset to start from.
        """
        try:
            values = parse(text)
            start = values.pop("recipe", None)
            recipe = cls.preset(start) if start is not None else cls()
            return recipe.replace({**values, **(changes or {})})
        except RecipeError as error:
            if error.key in (changes or {}):
                raise
            raise RecipeError(f"{source}: {error}", key=error.key) from None

    def replace(self, values: Mapping[str, Any]) -> Self:
        """A copy with these keys changed; an unknown key is an error that names the nearest ones."""
        _require_known(values)
        return replace(self, **values)

    def to_dict(self) -> JsonRecord:
        """Keys and values as TOML and JSON take them."""
        values: dict[str, Any] = {}
        for key in KEYS:
            value = getattr(self, key)
            if key == "image_size":
                value = value[0] if value[0] == value[1] else size_text(value)
            values[key] = list(value) if isinstance(value, tuple) else value
        return values

    @property
    def product(self) -> JsonRecord:
        """Keys and values that belong to the product: all but those of the machine that runs it.

        A key that came later is left out where it is as it was before, so that models from then keep their identity.
        """
        values = self.to_dict()
        return {
            key: values[key]
            for key, item in KEYS.items()
            if item.metadata["section"] is not MACHINE
            and (item.metadata["before"] is None or values[key] != item.metadata["before"])
        }

    def to_toml(self, *, comments: bool = True, machine: bool = True) -> str:
        """This recipe as TOML, by section, each key with a word of explanation.

        Args:
            comments: with the headings and explanations.
            machine: with the keys of the machine.
        """
        import tomli_w

        values = self.to_dict()
        sections = []
        for section in SECTIONS:
            if section is MACHINE and not machine:
                continue
            lines = [f"# ---- {section.title}: {section.about} ----"] if comments else []
            for item in keys_of(section):
                lines += _comment(item.metadata["about"]) if comments else []
                lines.append(tomli_w.dumps({item.name: values[item.name]}).rstrip("\n"))
            sections.append("\n".join(lines) + "\n")
        return ("\n" if comments else "").join(sections)


def _comment(text: str) -> list[str]:
    marks: dict[str, Any] = {"initial_indent": "# ", "subsequent_indent": "#   "}
    return textwrap.wrap(text, _WIDTH, **marks, break_long_words=False, break_on_hyphens=False)
