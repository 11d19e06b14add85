"""Writes reference/config.md: every field of a run's configuration, from the dataclasses in easq_rec.config.

`make docs` runs it before it builds the site; tests/docs/test_generated.py holds the committed page equal to it.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
import types
import typing
from pathlib import Path
from typing import Any

import tyro

from easq_rec.config import Config

FILE = Path(__file__).resolve().parents[1] / "reference" / "config.md"
WIDTH = 118

INTRODUCTION = """\
# Configuration

Every field of a run's configuration, as `RUN_DIR/config.json` stores it. This page is generated from the dataclasses
in `easq_rec/config/` by `docs/scripts/config_page.py`.

A field with a **flag** can be set on the command line of `easq-rec train`: `--trainer.batch-size 256`. A field without
one is chosen in Python, by a [recipe](../../easq_rec/config/recipes.py) or a [schema file](schema.md). Defaults are
those of the class; a recipe may set others, and `easq-rec train RECIPE --help` shows the defaults of a recipe.
"""


def content() -> str:
    """The text of the page."""
    sections = _sections()
    return "\n".join([INTRODUCTION, *(_section(cls, prefixes) for cls, prefixes in sections.items())])


def _sections() -> dict[type[Any], list[str]]:
    """Every dataclass of a configuration, breadth first, with the prefixes of its flags: `trainer.`; none: no flags."""
    found: dict[type[Any], list[str]] = {Config: [""]}
    queue = [Config]
    while queue:
        cls = queue.pop(0)
        for field, hint in _fields(cls):
            for nested in _dataclasses_in(hint):
                if nested not in found:
                    found[nested] = []
                    queue.append(nested)
                if not _is_hidden(hint):
                    found[nested] += [f"{prefix}{field.name}." for prefix in found[cls]]
    return found


def _section(cls: type[Any], prefixes: list[str]) -> str:
    lines = [f"\n## {cls.__name__}\n", *_wrapped(inspect.getdoc(cls) or ""), ""]
    if len(prefixes) > 1:
        others = " and ".join(f"`--{prefix}*`" for prefix in prefixes[1:])
        lines += [f"The flags `--{prefixes[0]}*` below exist as {others} too.", ""]
    described = _field_docstrings(cls)
    for field, hint in _fields(cls):
        flag = _flag(prefixes, field.name, hint)
        about = ", ".join(part for part in (flag, _type_text(hint), _default_text(field)) if part)
        description = described.get(field.name, "")
        lines += _item(f"`{field.name}` ({about}){': ' if description else ''}{description}")
    return "\n".join(lines)


def _flag(prefixes: list[str], name: str, hint: Any) -> str:
    """The flag that sets a field, in backticks; empty for a field without one."""
    if not prefixes or _is_hidden(hint) or _dataclasses_in(hint):
        return ""
    aliases = [alias for mark in getattr(hint, "__metadata__", ()) for alias in getattr(mark, "aliases", None) or ()]
    return f"`{aliases[0] if aliases else '--' + (prefixes[0] + name).replace('_', '-')}`"


def _is_hidden(hint: Any) -> bool:
    return tyro.conf.Suppress in getattr(hint, "__metadata__", ())


def _fields(cls: type[Any]) -> list[tuple[dataclasses.Field[Any], Any]]:
    hints = typing.get_type_hints(cls, include_extras=True)
    return [(field, hints[field.name]) for field in dataclasses.fields(cls)]


def _dataclasses_in(hint: Any) -> list[type[Any]]:
    """Dataclasses that an annotation names, at any depth."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return [hint]
    return [found for part in typing.get_args(hint) for found in _dataclasses_in(part)]


def _type_text(hint: Any) -> str:
    """An annotation as a reader would write it; dataclasses are links to their sections."""
    if typing.get_origin(hint) is typing.Annotated:
        return _type_text(typing.get_args(hint)[0])
    if nested := _dataclasses_in(hint):
        links = [f"[{cls.__name__}](#{cls.__name__.lower()})" for cls in nested]
        return " or ".join([*links, *(["`None`"] if type(None) in typing.get_args(hint) else [])])
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(f"`{option!r}`" for option in typing.get_args(hint))
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(_type_text(part) for part in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        return f"tuple of {_type_text(typing.get_args(hint)[0])}"
    if hint is type(None):
        return "`None`"
    return f"`{hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else hint}`"


def _default_text(field: dataclasses.Field[Any]) -> str:
    value = _default(field)
    if value is dataclasses.MISSING:
        return "required"
    if dataclasses.is_dataclass(value):
        changed = [
            f"{part.name}={getattr(value, part.name)!r}"
            for part in dataclasses.fields(value)
            if getattr(value, part.name) != _default(part)
        ]
        return f"default `{type(value).__name__}({', '.join(changed)})`"
    return f"default `{value!r}`"


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _field_docstrings(cls: type[Any]) -> dict[str, str]:
    """The string below each field, which Python itself does not keep."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
        ):
            found[field.target.id] = inspect.cleandoc(str(text.value.value))
    return found


def _wrapped(text: str) -> list[str]:
    """Paragraphs, each wrapped to the width of the docs."""
    return "\n\n".join(textwrap.fill(part, WIDTH) for part in text.split("\n\n")).splitlines()


def _item(text: str) -> list[str]:
    """An item of a Markdown list."""
    return textwrap.fill(
        " ".join(text.split()),
        WIDTH,
        initial_indent="- ",
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    ).splitlines()


if __name__ == "__main__":
    FILE.write_text(content(), encoding="utf-8")
    print(f"wrote {FILE}")
