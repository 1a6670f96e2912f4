"""What is wrong with a schema file, with the line where it is and the key that was probably meant."""

from __future__ import annotations

import difflib
import re
from typing import Any

import msgspec
import yaml


def explained(error: Exception, text: str, structs: tuple[type[msgspec.Struct], ...]) -> str:
    """The message of msgspec or PyYAML for this text; ``structs`` are those that a key could belong to."""
    message = str(error)
    place = re.search(r"`\$([^`]*)`", message)
    unknown = re.search(r"unknown field `([^`]*)`", message)
    if unknown:
        keys = [field for struct in structs for field in struct.__struct_fields__]
        near = difflib.get_close_matches(unknown[1], keys, 1)
        message += f". Did you mean `{near[0]}`?" if near else ""
    value = re.search(r"Invalid value '([^']*)'", message)
    if value and place and place[1].endswith(".kind"):
        kinds = [str(struct.__struct_config__.tag) for struct in structs if struct.__struct_config__.tag]
        near = difflib.get_close_matches(value[1], kinds, 1)
        message += f". Did you mean '{near[0]}'?" if near else f". There are {', '.join(kinds)}."
    if isinstance(error, msgspec.ValidationError):
        line = _line(text, re.findall(r"\w+", place[1]) if place else [], unknown[1] if unknown else None)
        return f"line {line}: {message}" if line else message
    return message


def _line(text: str, path: list[str], key: str | None) -> int | None:
    """The line of what a path such as ``["layers", "2", "kind"]`` leads to, or of a key there."""
    node: Any = yaml.compose(text, Loader=yaml.SafeLoader)
    for step in [*path, *([key] if key else [])]:
        if isinstance(node, yaml.SequenceNode) and step.isdigit() and int(step) < len(node.value):
            node = node.value[int(step)]
        elif isinstance(node, yaml.MappingNode):
            pair = next((pair for pair in node.value if pair[0].value == step), None)
            if pair is None:
                break
            node = pair[0] if step == key else pair[1]
        else:
            break
    return node.start_mark.line + 1 if node is not None else None
