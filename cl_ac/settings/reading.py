"""Reading settings files, whoever wrote them: small, plain, and never more work than they are long."""

import re
from pathlib import Path
from typing import Any

import yaml

from cl_ac.errors import ConfigurationError

LARGEST = 1_000_000
DEEPEST = 20
ALIASES = 100


class Loader(yaml.SafeLoader):
    """YAML with numbers as everybody writes them: 1e-3 is one, which YAML 1.1 takes for text; no key stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        lines: dict[str, int] = {}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            line = key.start_mark.line + 1
            if key.value in lines:
                raise yaml.YAMLError(f"the key '{key.value}' stands twice, in lines {lines[key.value]} and {line}")
            lines[key.value] = line
        return super().construct_mapping(node, deep)


Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d[\d_]*\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def read(path: str, option: str = "--config") -> dict[str, Any]:
    """The mapping in the YAML file at `path`.

    Raises:
        ConfigurationError: if there is none.
    """
    try:
        with Path(path).expanduser().open("rb") as file:
            content = file.read(LARGEST + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigurationError(f"cannot read the settings file '{path}' ({option}): {reason}") from error
    if len(content) > LARGEST:
        raise ConfigurationError(f"'{path}' ({option}) is larger than {LARGEST} bytes, which is no settings file")
    try:
        text = content.decode("utf-8")
        check_size(text)
        settings = yaml.load(text, Loader)  # a safe loader
    except RecursionError:
        raise ConfigurationError(f"'{path}' ({option}) is nested too deep") from None
    except (yaml.YAMLError, ValueError, TypeError, AttributeError) as error:
        raise ConfigurationError(f"'{path}' ({option}) is no YAML: {' '.join(str(error).split())[:300]}") from error
    if not isinstance(settings, dict) or not settings:
        raise ConfigurationError(f"'{path}' ({option}) holds no settings; expected lines such as 'seed: 1'")
    return settings


def check_size(text: str) -> None:
    """Checks that YAML text is not nested deep, and does not name its parts again and again.

    Raises:
        ValueError: if it is or does.
    """
    depth = aliases = 0
    anchored: list[bool] = []
    for event in yaml.parse(text, yaml.SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            anchored.append(event.anchor is not None)
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchored.pop()
            depth -= 1
        elif isinstance(event, yaml.AliasEvent):
            aliases += 1
            if any(anchored) or aliases > ALIASES:
                raise ValueError("its aliases (*name) name parts that hold aliases, or are too many")
        if depth > DEEPEST:
            raise ValueError(f"it is nested more than {DEEPEST} deep")
