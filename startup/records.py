"""``@dataclass`` for what a boot with nothing to do loads.

The standard library's imports ``inspect`` and compiles each class's methods: with what follows from that, a third of
such a boot. This one has the same names and meaning, as far as they are used here, and to mypy it is the other; what is
frozen is so to mypy alone.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dataclasses import dataclass, field, fields, replace

    __all__ = ["dataclass", "field", "fields", "replace"]
else:
    _MISSING = object()

    class Field:
        """One field, as :func:`fields` tells it."""

        def __init__(self, default=_MISSING, default_factory=None, init=True, repr=True, compare=True, metadata=None):
            self.name = self.type = ""
            self.default, self.default_factory = default, default_factory
            self.init, self.repr, self.compare, self.metadata = init, repr, compare, metadata or {}

        def value(self, owner):
            """What stands in where nothing is given."""
            if self.default_factory is not None:
                return self.default_factory()
            if self.default is _MISSING:
                raise TypeError(f"{owner.__name__}() misses {self.name}")
            return self.default

    field = Field

    def fields(owner):
        """In the order in which they are written."""
        return owner.__fields

    def replace(record, /, **changes):
        """Another one, with these *changes*."""
        same = {one.name: getattr(record, one.name) for one in fields(record) if one.init}
        return type(record)(**(same | changes))

    def dataclass(owner=None, /, **options):
        """A class whose annotations are its fields."""
        if owner is None:
            return lambda owner: dataclass(owner, **options)
        found = []
        for name, kind in owner.__dict__.get("__annotations__", {}).items():  # noqa: RUF063 - inspect is what costs
            one = owner.__dict__.get(name, _MISSING)
            if not isinstance(one, Field):
                one = Field(one)
            elif one.default is _MISSING:
                delattr(owner, name)
            else:
                setattr(owner, name, one.default)
            one.name, one.type = name, kind
            found.append(one)
        owner.__fields = tuple(found)
        for name, method in _methods(owner, found, options).items():
            if name not in owner.__dict__:
                setattr(owner, name, method)
        return owner

    def _methods(owner, found, options):
        names = tuple(one.name for one in found if one.init)
        others = tuple(one for one in found if not one.init)
        compared = tuple(one.name for one in found if one.compare)
        shown = tuple(one.name for one in found if one.repr)
        finish = hasattr(owner, "__post_init__")

        def __init__(self, *values, **named):
            if values:
                if options.get("kw_only") or len(values) > len(names) or named.keys() & set(names[: len(values)]):
                    raise TypeError(f"{owner.__name__}() was given {values} and {named}")
                named = dict(zip(names, values), **named)  # noqa: B905 - a few may be enough
            if len(named) < len(names):
                for one in found:
                    if one.init and one.name not in named:
                        named[one.name] = one.value(owner)
            if len(named) > len(names):
                raise TypeError(f"{owner.__name__}() has no {', '.join(named.keys() - set(names))}")
            for one in others:
                named[one.name] = one.value(owner)
            self.__dict__.update(named)
            if finish:
                self.__post_init__()

        def key(self):
            return tuple(getattr(self, name) for name in compared)

        def __eq__(self, other):
            return key(self) == key(other) if type(other) is type(self) else NotImplemented

        def __repr__(self):
            return f"{type(self).__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"

        methods = {"__init__": __init__, "__eq__": __eq__, "__repr__": __repr__}
        methods["__hash__"] = (lambda self: hash(key(self))) if options.get("frozen") else None
        return methods if options.get("repr", True) else {**methods, "__repr__": object.__repr__}
