"""startup/records.py means what dataclasses means, as far as it is used."""

from __future__ import annotations

import dataclasses
import sys
from functools import cached_property
from types import ModuleType
from typing import Any

import pytest

from startup import records

SOURCE = """
from __future__ import annotations

@dataclass(frozen=True)
class Point:
    "x and y"
    x: int
    y: int = 2
    names: list[str] = field(default_factory=list, compare=False)
    kept: dict[str, int] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def sum(self):
        return self.x + self.y

@dataclass
class Watch:
    running: bool = False

    def __post_init__(self):
        self.since = 1

@dataclass(kw_only=True, repr=False)
class Settings:
    env: str = field(metadata={"entry": 1})
    url: str
    faults: list[str] = field(default_factory=list)

@dataclass
class Own:
    a: int = 1

    def __repr__(self):
        return "mine"
"""


@pytest.fixture(params=[dataclasses, records], ids=lambda module: module.__name__)
def of(request: pytest.FixtureRequest) -> Any:
    """The classes of SOURCE, as either module makes them, and the module's own functions."""
    module = ModuleType("source")
    sys.modules["source"] = module
    names = {name: getattr(request.param, name) for name in ("dataclass", "field", "fields", "replace")}
    module.__dict__.update(names, cached_property=cached_property)
    exec(SOURCE, module.__dict__)
    yield module
    del sys.modules["source"]


def test_fields_are_given_by_place_by_name_or_by_default(of: Any) -> None:
    assert vars(of.Point(1)) == {"x": 1, "y": 2, "names": [], "kept": {}}
    assert vars(of.Point(1, 3, ["a"])) == {"x": 1, "y": 3, "names": ["a"], "kept": {}}
    assert of.Point(y=5, x=1) == of.Point(1, 5)
    assert of.Point(1).names is not of.Point(1).names
    assert of.Settings(env="a", url="b").faults == []


@pytest.mark.parametrize(
    "make",
    [
        lambda of: of.Point(),
        lambda of: of.Point(y=1),
        lambda of: of.Point(1, 2, [], {}),
        lambda of: of.Point(1, x=1),
        lambda of: of.Point(1, z=1),
        lambda of: of.Point(1, kept={}),
        lambda of: of.Settings("a", "b"),
        lambda of: of.Settings(env="a"),
        lambda of: of.Watch(running=True, since=2),
    ],
)
def test_what_does_not_fit_is_refused(of: Any, make: Any) -> None:
    with pytest.raises(TypeError):
        make(of)


def test_equal_are_those_of_one_class_whose_compared_fields_are(of: Any) -> None:
    assert of.Point(1, 2, ["a"]) == of.Point(1, 2, ["b"]) != of.Point(2, 2)
    assert of.Watch() != of.Own() and of.Watch() != 1
    assert len({of.Point(1), of.Point(1, 2), of.Point(3)}) == 2
    with pytest.raises(TypeError, match="unhashable"):
        hash(of.Watch())


def test_it_is_shown_with_its_fields_or_not_at_all(of: Any) -> None:
    assert repr(of.Point(1)) == "Point(x=1, y=2, names=[])"
    assert repr(of.Own()) == "mine"
    assert "secret" not in repr(of.Settings(env="secret", url="secret"))


def test_one_is_made_of_another_with_changes(of: Any) -> None:
    point = of.Point(1, 3, ["a"])
    assert (point.sum, of.replace(point, x=4).sum) == (4, 7)
    assert of.replace(point, x=4).names is point.names
    with pytest.raises(TypeError):
        of.replace(point, z=4)
    assert of.replace(of.Watch(), running=True).since == 1


def test_fields_tell_names_types_and_metadata_in_their_order(of: Any) -> None:
    assert [(one.name, one.type) for one in of.fields(of.Point)][:2] == [("x", "int"), ("y", "int")]
    assert [one.metadata.get("entry") for one in of.fields(of.Settings)] == [1, None, None]
