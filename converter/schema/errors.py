"""What is wrong with a schema file, with the line where it is and the key that was probably meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any

import msgspec

from converter.schema.bounds import MOST_SIGNS, signs


def near_miss(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown word: the nearest known one, or all."""
    names = list(known)
    near = difflib.get_close_matches(word, names, 1)
    return f"Did you mean '{near[0]}'?" if near else f"There are: {', '.join(names) or 'none'}."


def explained(error: Exception, text: str, structs: tuple[type[msgspec.Struct], ...]) -> str:
    """The message of msgspec or PyYAML about a schema with this text. structs: those that a key could belong to."""
    message = str(error)
    if not isinstance(error, msgspec.ValidationError):
        return message
    place = re.search(r"`\$([^`]*)`", message)
    unknown = re.search(r"unknown field `([^`]*)`", message)
    if unknown:
        keys = [field.encode_name for struct in structs for field in msgspec.structs.fields(struct)]
        near = difflib.get_close_matches(unknown[1], keys, 1)
        message += f". Did you mean `{near[0]}`?" if near else ""
    kind = re.search(r"Invalid value '([^']*)'", message)
    if kind and place and place[1].endswith(".kind"):
        tags = [str(struct.__struct_config__.tag) for struct in structs if struct.__struct_config__.tag]
        message += f". {near_miss(kind[1], tags)}"
    message = message.replace("Object contains unknown field", "unknown key")
    message = message.replace("Object missing required field", "missing key")
    line = _line(text, re.findall(r"\w+", place[1]) if place else [], unknown[1] if unknown else None)
    return f"line {line}: {message}" if line else message


def _line(text: str, path: list[str], key: str | None) -> int | None:
    """The line of the value at a path such as ``["layers", "2", "kind"]``, or of a key there."""
    import yaml

    if signs(text) > MOST_SIGNS // 2:  # it was read once already
        return None
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
