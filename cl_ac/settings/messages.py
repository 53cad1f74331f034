"""One clear sentence out of the parser's many."""

import re
from collections.abc import Mapping

from jsonargparse import ArgumentError, ArgumentParser

from cl_ac.errors import unknown
from cl_ac.settings.plugins import find

WRONG_VALUE = re.compile(r"Expected an? (?P<type>.+?)\. Got value: (?P<value>.+)")
WRONG_KEY = re.compile(r'Parser key "(?P<key>[^"]+)"')
WRONG_OPTION = re.compile(r"class_path '(?P<path>[^']+)':\s+Option '(?P<option>[^']+)' is not accepted")
WRONG_CLASS = re.compile(r"Expected a dot import path string: (?P<name>\S+)")
WRONG_NAME = re.compile(r"unrecognized arguments: (?P<name>[^\s=]+)|^Option '(?P<key>[^']+)' is not accepted")
NO_IMPORT = re.compile(r"(No module named '[^']+'|module '[^']+' has no attribute '[^']+')")
NESTED = re.compile(r"NestedArg\(key='(?P<key>[^']+)', val=(?P<value>.+)\)")
GIVEN = re.compile(r"Given value: (?P<value>.+)", re.DOTALL)
EXPECTED = re.compile(
    r"^(?P<depth> *)- Expected an? (?P<type><class '\S+'>|typing\.Literal\[[^\]]*\]|typing\.\S+|[a-z]+\[.+\])",
    re.MULTILINE,
)
LISTS = re.compile(r"\blist\[\w+\]")
REQUIRED = re.compile(r"the following arguments are required: (?P<names>.+)")


def sentence(error: ArgumentError, parser: ArgumentParser, classes: Mapping[str, Mapping[str, type]]) -> str:
    """What is wrong, with the setting, its value and what is allowed.

    Args:
        error: from `parser`.
        classes: the known classes by name, for each kind of plugin.
    """
    text = str(error)
    keys = WRONG_KEY.findall(text)
    kind = keys[0].split(".")[0] if keys else ""
    nested = NESTED.search(text)
    if match := WRONG_NAME.search(text):
        return unknown("option", match["name"] or f"--{match['key']}", option_names(parser))
    if match := REQUIRED.search(text):
        names = [".".join([*keys, name]) for name in match["names"].split(", ")]
        return f"missing: {', '.join(f'--{name}' for name in names)} (see --help)"
    if match := WRONG_OPTION.search(text):
        options = [f"{kind}.{option}" for option in class_options(find(match["path"]))]
        return unknown(f"option of {match['path'].rpartition('.')[2]}", f"{kind}.{match['option']}", options)
    if "is abstract" in text and nested:
        return f"give --{kind} before --{kind}.{nested['key']}, so that its options are known"
    if match := WRONG_VALUE.search(text):
        return f"{'.'.join(keys)} is '{match['value'].strip()}'; expected {plain_type(match['type'])}"
    if (match := WRONG_CLASS.search(text)) and kind in classes:
        return unknown(kind, match["name"], classes[kind])
    if (match := NO_IMPORT.search(text)) and kind in classes:
        return f"cannot import the {kind}: {match[1]}; give a class name or a dotted path such as my_file.MyClass"
    if "does not correspond to a subclass" in text and kind in classes:
        return f"{kind} is '{given(text)}', which is no {kind}; known: {', '.join(sorted(classes[kind]))}"
    if keys and keys[-1] in classes:
        return f"{keys[-1]} is '{given(text)}'; expected the name of a class; known: {', '.join(classes[keys[-1]])}"
    if keys and (types := expected(text)):
        inner = nested["key"] if nested else None
        key = ".".join([*keys, *([inner] if inner and inner != keys[-1].rpartition(".")[2] else [])])
        value = nested["value"].strip("'") if nested else given(text)
        return f"{key} is '{value}'; expected {' or '.join(dict.fromkeys(map(plain_type, types)))}"
    return " ".join(WRONG_KEY.sub(lambda match: match["key"], text).split())


def expected(text: str) -> list[str]:
    """The types that a setting may have, out of the parser's message: not those of what the setting belongs to."""
    found = [(len(match["depth"]), match["type"]) for match in EXPECTED.finditer(text)]
    lists = LISTS.search(text)
    inner = [name for depth, name in found if depth == max(found)[0]]
    return [lists[0] if lists and name == "<class 'list'>" else name for name in inner]


def given(text: str) -> str:
    """The value that the parser was given, out of its message."""
    match = GIVEN.search(text)
    return match["value"].strip() if match else ""


def option_names(parser: ArgumentParser) -> list[str]:
    """The options of `parser` that take a value."""
    names = [option for action in parser._actions for option in action.option_strings]
    return [n for n in names if n.startswith("--") and not n.endswith(("+", ".help")) and "print" not in n]


def class_options(cls: type) -> list[str]:
    """The options of `cls`: what its constructors take and do not hand on themselves."""
    parser = ArgumentParser(exit_on_error=False)
    # The benchmark says the shape of images.
    parser.add_class_arguments(cls, "of", skip={"image_shape"}, fail_untyped=False)
    return list(dict.fromkeys(name.split(".")[1] for name in option_names(parser) if "." in name))


def plain_type(name: str) -> str:
    """A type as a user would say it."""
    name = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", name).replace("NoneType", "null")
    return re.sub(r"typing\.Literal\[(.+?)\]", lambda match: "one of " + match[1], name)
