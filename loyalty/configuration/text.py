"""The configuration as YAML: written to be read and compared, read as the hostile input that any upload is.

Of YAML only what JSON can say is understood, in the notation of YAML. There are no anchors (a small text could stand
for a huge value), no tags, no repeated names, and no guessing: `12:30`, `2026-01-01` and `no` are texts.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any, Final

import orjson
import yaml

from loyalty.infra.problems import Problem

MOST_BYTES: Final = 1 << 20


class MalformedYaml(Problem):
    """The body is not a YAML (or JSON) document of the plain kind that a configuration is."""

    code = "malformed_yaml"
    status = 400
    title = "The document cannot be read"


class _Loader(yaml.SafeLoader):
    """Reads mappings, lists, texts, whole numbers, true, false and null."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.MarkedYAMLError(problem="anchors and aliases are not allowed", problem_mark=event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        names: set[object] = set()
        for key_node, _ in node.value:
            name = self.construct_object(key_node, deep=True)
            if not isinstance(name, str):
                raise yaml.MarkedYAMLError(problem="a name must be a text", problem_mark=key_node.start_mark)
            if name in names:
                raise yaml.MarkedYAMLError(problem=f"{name!r} stands here twice", problem_mark=key_node.start_mark)
            names.add(name)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"true|false", "tf"),
    ("null", r"null|~|", ["n", "~", ""]),
    ("int", r"-?(?:0|[1-9][0-9]{0,17})", "-0123456789"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), list(_first))


class _Dumper(yaml.SafeDumper):
    """Writes lists indented under their name, and never an anchor."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        # The library would write such line ends as they are, and read them as something else.
        style = '"' if _UNUSUAL.search(data) else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_UNUSUAL: Final = re.compile("[\x7f-\x9f\u2028\u2029\ufeff]")
_Dumper.add_representer(str, _Dumper.represent_str)


def read(text: bytes | str) -> Any:
    """The value that a YAML document says. MalformedYaml names line and column."""
    if len(text) > MOST_BYTES:
        raise MalformedYaml(f"A configuration has at most {MOST_BYTES} bytes.")
    try:
        value = yaml.load(text, Loader=_Loader)  # noqa: S506 - a safe loader that understands even less
        orjson.dumps(value)  # YAML can write halves of characters
        return value
    except TypeError:
        raise MalformedYaml("A text is not valid Unicode.") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"Line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise MalformedYaml(f"{where}{error.problem or error.context}.") from None
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        raise MalformedYaml(f"{str(error).splitlines()[0]}.") from None
    except RecursionError:
        raise MalformedYaml("The document is nested too deeply.") from None


def write(value: Any) -> str:
    """`value` as YAML; `read` gives it back."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
