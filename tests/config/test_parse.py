"""The parser of plain values: unions by kind, containers, numbers, and messages with place and remedy of a problem."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from easq_rec.config.parse import Form, parse
from easq_rec.config.schema import require
from easq_rec.config.serialization import from_dict, to_dict
from easq_rec.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Sphere:
    radius: float = 1.0

    def __post_init__(self) -> None:
        require(self.radius > 0, "sphere.radius", self.radius, "more than 0")


@dataclass(frozen=True, kw_only=True)
class Box:
    sides: tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Label:
    text: str = ""


@dataclass(frozen=True, kw_only=True)
class Scene:
    shapes: tuple[Sphere | Box, ...] = ()
    main: Sphere | Box | None = None
    label: Label | None = None
    names: dict[str, Label] = field(default_factory=dict)
    ranks: tuple[int, ...] | None = None
    level: int | Literal["auto"] = "auto"
    extra: Any = None


def problems(values: object, form: Form = "json") -> list[str]:
    with pytest.raises(UserError) as raised:
        parse(Scene, values, title="scene.json is no scene", form=form)
    title, *lines = str(raised.value).splitlines()
    assert title == "scene.json is no scene:"
    return [line.strip() for line in lines]


@pytest.mark.parametrize(
    "scene",
    [
        Scene(),
        Scene(main=Sphere(radius=2.0), label=Label(text="a"), level=3, extra=[1, {"a": None}]),
        Scene(shapes=(Box(sides=(1.0, 2.0, 3.0)), Sphere(), Sphere(radius=0.5)), ranks=()),
        Scene(main=Box(sides=(0.0, 0.0, 1.0)), names={"x": Label(), "kind": Label(text="b")}, ranks=(0, 2)),
    ],
)
def test_values_round_trip(scene: Scene) -> None:
    assert from_dict(Scene, to_dict(scene)) == scene
    assert from_dict(Scene, json.loads(json.dumps(to_dict(scene)))) == scene


def test_a_kind_is_written_only_if_several_classes_are_allowed() -> None:
    values = to_dict(Scene(main=Sphere(), label=Label()))
    assert values["main"] == {"kind": "Sphere", "radius": 1.0}
    assert values["label"] == {"text": ""}


def test_whole_numbers_become_floats() -> None:
    scene = parse(Scene, {"main": {"kind": "Sphere", "radius": 2}}, title="", form="toml")
    assert isinstance(scene.main, Sphere) and type(scene.main.radius) is float


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], ["expected an object"]),
        ({"main": {"radius": 1.0}}, ['main.kind: missing: add one of "Sphere", "Box"']),
        ({"main": {"kind": "Cone"}}, ["main.kind: is 'Cone', expected one of \"Sphere\", \"Box\""]),
        ({"main": {"kind": ["Box"]}}, ["main.kind: is ['Box'], expected one of \"Sphere\", \"Box\""]),
        ({"main": {"kind": "Box"}}, ['main.sides: missing: add "sides": (a list)']),
        ({"main": {"kind": "Box", "sides": [1, 2]}}, ["main.sides: is [1, 2], expected a list of 3"]),
        ({"main": {"kind": "Box", "radius": 1, "sides": [1, 2, 3]}}, ["main.radius: unknown key: known: sides"]),
        ({"main": 3}, ["main: is 3, expected an object or null"]),
        ({"shapes": [{"kind": "Sphere"}, {"kind": "Sphere", "radius": -1}]},
         ["shapes[1]: sphere.radius=-1.0 is not allowed: more than 0"]),
        ({"shapes": [{"kind": "Sphere", "radius": True}, 4]},
         ["shapes[0].radius: is True, expected a number", "shapes[1]: is 4, expected an object"]),
        ({"names": {"a": {"txt": ""}}}, ["names.a.txt: unknown key: did you mean 'text'?"]),
        ({"ranks": [0, 1.5]}, ["ranks[1]: is 1.5, expected a whole number"]),
        ({"ranks": {}}, ["ranks: is {}, expected a list or null"]),
        ({"level": "high"}, ["level: is 'high', expected a whole number or one of \"auto\""]),
        ({"level": None}, ["level: is None, expected a whole number or one of \"auto\""]),
    ],
)  # fmt: skip
def test_messages_name_the_place_and_remedy_of_a_problem(values: object, expected: list[str]) -> None:
    assert problems(values) == expected


def test_messages_about_toml_use_its_terms() -> None:
    found = problems({"shapes": [{"kind": "Box"}], "names": {"a": 1}, "label": 2, "main": {}}, form="toml")
    assert found == [
        "[[shapes]] #1: sides: missing: add sides = (a list)",
        'main.kind: missing: add one of "Sphere", "Box"',
        "label: is 2, expected a table",
        "names.a: is 1, expected a table",
    ]


def test_a_bug_in_a_dataclass_is_not_a_user_error() -> None:
    @dataclass(frozen=True)
    class Broken:
        size: int = 1

        def __post_init__(self) -> None:
            int("not a number")

    with pytest.raises(ValueError, match="invalid literal") as raised:
        parse(Broken, {"size": 2}, title="", form="json")
    assert not isinstance(raised.value, UserError)
