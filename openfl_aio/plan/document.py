"""A YAML document whose errors name file, line and key path."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

import yaml

from openfl_aio.errors import ConfigurationError

__all__ = ["MAX_CHARACTERS", "REQUIRED", "Document", "Key"]

Key = str | int
# a plan may come from a peer; real ones have a few thousand characters and no aliases at all
MAX_CHARACTERS: Final = 256 * 1024
_MAX_ALIASES: Final = 1000
_MAX_MERGED_KEYS: Final = 1000
# what PyYAML's constructors and representers raise, besides its own errors, for values such as `2024-13-99` or `!!bool x`
_LOOSE: Final = (ValueError, KeyError, AttributeError, TypeError, OverflowError, RecursionError)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with a bound on what a short text may grow into (merge keys multiply what aliases repeat)."""

    _aliases = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            self._aliases += 1
            if self._aliases > _MAX_ALIASES:
                mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
                raise yaml.composer.ComposerError(None, None, f"more than {_MAX_ALIASES} aliases", mark)
        return super().compose_node(parent, index)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        written = len(node.value)
        super().flatten_mapping(node)
        if len(node.value) > max(written, _MAX_MERGED_KEYS):
            problem = f"more than {_MAX_MERGED_KEYS} keys by merging"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


class _Required:
    """The default of a value that has none."""


REQUIRED: Final = _Required()


class Document:
    """A mapping read from YAML, with typed access by key path.

    Every getter takes the path as separate keys and raises `ConfigurationError` with the source, the line where the
    value is written (when it is written in the text), the key path, what was expected and what came. A value that is
    absent or null is its default.
    """

    def __init__(self, data: dict[Any, Any], *, source: str, node: yaml.Node | None = None) -> None:
        self.data = data
        self.source = source
        self._node = node

    @classmethod
    def parse(cls, text: str, *, source: str, empty_allowed: bool = False) -> Document:
        """Read ``text``, which must be one YAML mapping of plain values (no Python objects)."""
        if len(text) > MAX_CHARACTERS:
            raise ConfigurationError(f"{source}: expected at most {MAX_CHARACTERS} characters, got {len(text)}")
        try:
            node, data = _load(text)
        except yaml.MarkedYAMLError as exc:
            line = f", line {exc.problem_mark.line + 1}" if exc.problem_mark else ""
            raise ConfigurationError(f"{source}{line}: expected YAML, got an error: {exc.problem}") from None
        except (yaml.YAMLError, *_LOOSE) as exc:
            raise ConfigurationError(f"{source}: expected YAML, got an error: {exc}".replace("\n", " ")) from None
        if data is None and empty_allowed:
            data = {}
        if not isinstance(data, dict):
            raise ConfigurationError(f"{source}: expected a mapping of keys, got {_shown(data)}")
        return cls(data, source=source, node=node)

    def with_data(self, data: dict[Any, Any]) -> Document:
        """Return a document of other values whose errors still point into this text."""
        return Document(data, source=self.source, node=self._node)

    def dump(self) -> str:
        """Return the values as block YAML with sorted keys: the text that OpenFL hashes."""
        try:
            return str(yaml.dump(self.data))
        except (yaml.YAMLError, *_LOOSE) as exc:
            raise ConfigurationError(
                f"{self.source}: expected values that YAML can write, got an error: {exc}"
            ) from None

    def error(self, path: tuple[Key, ...], message: str) -> ConfigurationError:
        """Return the error to raise for the value at ``path``."""
        line = self._line(path)
        where = f"{self.source}, line {line}" if line else self.source
        return ConfigurationError(f"{where}: {_dotted(path)}: {message}" if path else f"{where}: {message}")

    def get(self, *path: Key) -> Any:
        """Return the value at ``path``, or None."""
        value: Any = self.data
        for key in path:
            if isinstance(value, dict):
                value = value.get(key)
            elif isinstance(value, list) and isinstance(key, int) and key < len(value):
                value = value[key]
            else:
                return None
        return value

    def mapping(self, *path: Key) -> dict[Any, Any]:
        """Return the mapping at ``path``; absent is empty."""
        value = self.get(*path)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self.error(path, f"expected a mapping of keys, got {_shown(value)}")
        return value

    def items(self, *path: Key) -> list[Any]:
        """Return the list at ``path``; absent is empty."""
        value = self.get(*path)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.error(path, f"expected a list, got {_shown(value)}")
        return value

    def string(self, *path: Key, default: str | _Required = REQUIRED) -> str:
        """Return the text at ``path``."""
        value = self._or_default(path, default, "text")
        if not isinstance(value, str):
            raise self.error(path, f"expected text, got {_shown(value)}")
        return value

    def boolean(self, *path: Key, default: bool | _Required = REQUIRED) -> bool:
        """Return the flag at ``path``."""
        value = self._or_default(path, default, "true or false")
        if not isinstance(value, bool):
            raise self.error(path, f"expected true or false, got {_shown(value)}")
        return value

    def integer(
        self, *path: Key, default: int | _Required = REQUIRED, minimum: int | None = None, maximum: int | None = None
    ) -> int:
        """Return the whole number at ``path``, bounds included."""
        expected = "a whole number" + _bounds(minimum, maximum)
        value = self._or_default(path, default, expected)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.error(path, f"expected {expected}, got {_shown(value)}")
        if (minimum is not None and value < minimum) or (maximum is not None and value > maximum):
            raise self.error(path, f"expected {expected}, got {_shown(value)}")
        return value

    def number(self, *path: Key, default: float | _Required = REQUIRED) -> float:
        """Return the number at ``path``; infinity is allowed, not-a-number is not."""
        value = self._or_default(path, default, "a number")
        if not isinstance(value, int | float) or isinstance(value, bool) or math.isnan(value):
            raise self.error(path, f"expected a number, got {_shown(value)}")
        return float(value)

    def strings(self, *path: Key) -> tuple[str, ...]:
        """Return the list of texts at ``path``; whole numbers count as text (``- 3`` for a collaborator's name)."""
        out = []
        for index, value in enumerate(self.items(*path)):
            if not isinstance(value, str | int) or isinstance(value, bool):
                raise self.error((*path, index), f"expected text, got {_shown(value)}")
            out.append(str(value))
        return tuple(out)

    def allow(self, path: tuple[Key, ...], known: Iterable[str]) -> None:
        """Refuse keys at ``path`` that are not ``known``."""
        expected = sorted(known)
        for key in self.mapping(*path):
            if key not in expected:
                raise self.error((*path, key), f"unknown key; expected one of {', '.join(expected)}")

    def _or_default(self, path: tuple[Key, ...], default: Any, expected: str) -> Any:
        value = self.get(*path)
        if value is not None:
            return value
        if default is REQUIRED:
            raise self.error(path, f"missing; expected {expected}")
        return default

    def _line(self, path: tuple[Key, ...]) -> int | None:
        """Return the line of the value, or of the nearest enclosing value that is written in the text."""
        node, line = self._node, None
        for key in path:
            child = _child(node, key)
            if child is None:
                return line
            node, line = child[1], child[0].start_mark.line + 1
        return line


def _load(text: str) -> tuple[yaml.Node | None, Any]:
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        return node, None if node is None else loader.construct_document(node)
    finally:
        loader.dispose()


def _child(node: yaml.Node | None, key: Key) -> tuple[yaml.Node, yaml.Node] | None:
    """Return the nodes of a key and its value; of an element, its node twice."""
    if isinstance(node, yaml.MappingNode):
        for key_node, value_node in reversed(node.value):  # the last of two equal keys is the one that counts
            if isinstance(key_node, yaml.ScalarNode) and key_node.value == str(key):
                return key_node, value_node
    elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
        return node.value[key], node.value[key]
    return None


def _dotted(path: tuple[Key, ...]) -> str:
    out = ""
    for key in path:
        out += f"[{key}]" if isinstance(key, int) else f".{key}" if out else str(key)
    return out


def _bounds(minimum: int | None, maximum: int | None) -> str:
    if minimum is not None and maximum is not None:
        return f" from {minimum} to {maximum}"
    if minimum is not None:
        return f" of at least {minimum}"
    return "" if maximum is None else f" of at most {maximum}"


def _shown(value: Any) -> str:
    """Show a value of any size in a few characters."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | set | tuple):
        return "a list"
    if value is None:
        return "nothing"
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 200:
        return "a very large number"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
