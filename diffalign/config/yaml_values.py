"""YAML as people mean it: 1e-4 is a number, `no` and `off` are text (YAML 1.2), and no key may stand twice.

PyYAML reads YAML 1.1, in which `mixed_precision: no` is false, `1e-4` is text and of two equal keys the last one wins.
What is written here is quoted so that both versions read it alike.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

_MOST_VALUES = 100_000
_EXPONENT = r"[eE][-+]?[0-9]+"
_FLOAT = re.compile(
    rf"^(?:[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:{_EXPONENT})?|\.[0-9]+(?:{_EXPONENT})?|[0-9][0-9_]*{_EXPONENT}"
    r"|\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN))$"
)
_PLAIN = {  # tag -> (what it looks like, first characters)
    "null": (re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    "bool": (re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")),
    "int": (re.compile(r"^(?:[-+]?(?:0|[1-9][0-9_]*)|0x[0-9a-fA-F]+)$"), list("-+0123456789")),
    "float": (_FLOAT, list("-+.0123456789")),
    "merge": (re.compile(r"^(?:<<)$"), ["<"]),
}


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    pass


for _tag, (_pattern, _first) in _PLAIN.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _pattern, _first)
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", *_PLAIN["float"])


def read_yaml(text: str) -> Any:
    """The plain values that a text means.

    Raises:
        yaml.YAMLError: it is not YAML, a key stands twice, or it is made to take all memory (aliases of aliases,
            numbers of thousands of digits).
    """
    try:
        content = yaml.load(text, Loader=_Loader)
    except RecursionError:
        raise yaml.YAMLError("brackets are nested too deeply") from None
    except ValueError as error:  # of int()
        raise yaml.YAMLError(f"a number is too long: {error}") from None
    if _count(content, {}) > _MOST_VALUES:
        raise yaml.YAMLError(f"its aliases stand for more than {_MOST_VALUES} values")
    return content


def _count(content: Any, known: dict[int, int]) -> int:
    """How many values there are once every alias is written out; what refers to itself counts once."""
    if not isinstance(content, dict | list):
        return 1
    if id(content) not in known:
        known[id(content)] = 1
        inner = content.values() if isinstance(content, dict) else content
        known[id(content)] += sum(_count(value, known) for value in inner)
    return known[id(content)]


def write_yaml(content: Any) -> str:
    """A text that `read_yaml`, and every YAML 1.1 reader, reads as this content."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
