"""`cl-ac approaches`: what there is to choose from, as the classes themselves say it."""

import inspect
import re
from collections.abc import Sequence
from typing import get_args

from jsonargparse import ArgumentParser
from rich import box
from rich.console import Console
from rich.table import Table

from cl_ac.approach import Approach, Challenge, Family, TaskApproach
from cl_ac.errors import ConfigurationError
from cl_ac.settings.parser import parse
from cl_ac.settings.plugins import classes

FAMILIES = get_args(Family)
# What a method that overrides a hook asks of everything around it.
NEEDS = {
    "prepare": "modules in the backbone",
    "expand": "a network that grows",
    "learns": "parameters or rates of its own",
    "inference_network": "another network that answers",
    "inference_classifier": "another classifier",
    "build_classifier": "another classifier in training",
    "correct": "corrected logits",
}


def command(arguments: Sequence[str]) -> None:
    """Prints the approaches, or those of some families."""
    parser = ArgumentParser(prog="cl-ac approaches", description="Lists the approaches by family.", exit_on_error=False)
    parser.add_argument("family", type=str, nargs="*", help=f"only these: {', '.join(FAMILIES)}")
    parser.add_argument(
        "--copes_with",
        type=Challenge | None,
        default=None,
        help="only approaches that can learn from streams which bring this",
    )
    given = parse(parser, arguments)
    families, challenge = given.family, given.copes_with
    for family in families:
        if family not in FAMILIES:
            raise ConfigurationError(f"'{family}' is no family of approaches; known: {', '.join(FAMILIES)}")
    table = Table(box=box.SIMPLE)
    for head in ("approach", "exemplars", "paper", "what else it needs"):
        table.add_column(head, no_wrap=head == "approach")
    for family in families or FAMILIES:
        table.add_section()
        rows = [
            (name, approach)
            for name, approach in by_family()
            if approach.family == family and (challenge is None or challenge in approach.copes_with)
        ]
        if rows:
            table.add_row(f"[bold]{family}[/bold]")
        for name, approach in rows:
            table.add_row(f"  {name}", approach.memory_use, citation(approach), ", ".join(needs(approach)))
    console = Console()
    console.print(table)
    console.print("`cl-ac run --approach.help NAME` explains the options of one.", highlight=False)


def by_family() -> list[tuple[str, type[Approach]]]:
    """All approaches that come with the framework, by name, those of one family together."""
    return sorted(classes("approach", Approach).items(), key=lambda each: (FAMILIES.index(each[1].family), each))


def needs(approach: type[Approach]) -> list[str]:
    """What a method asks for beside data and a network."""
    found = [need for hook, need in NEEDS.items() if getattr(approach, hook) is not getattr(Approach, hook)]
    found += ["a vision transformer"] if approach.needs_transformer else []
    return [*found, *(["images of a known task"] if issubclass(approach, TaskApproach) else [])]


def citation(approach: type[Approach]) -> str:
    """The papers that the first paragraph of a docstring names, as `Li & Hoiem 2016`."""
    first = inspect.cleandoc(approach.__doc__ or "").partition("\n\n")[0]
    author = r"(?:(?:van|von|de|der) )*[A-Z][\w’'-]+"
    authors = rf"((?:{author}, )*{author}(?: & {author}| et al\.)?)"
    found = re.findall(rf"{authors},? (\d{{4}})", " ".join(first.split()))
    return "; ".join(dict.fromkeys(f"{who.strip()} {year}" for who, year in found))
