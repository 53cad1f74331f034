"""`cl-ac run`: trains an approach on a benchmark."""

from collections.abc import Sequence

from cl_ac.cli.show import show
from cl_ac.report.tables import summary_table
from cl_ac.run import run
from cl_ac.settings.configured import from_settings
from cl_ac.settings.parser import parse, run_parser


def command(arguments: Sequence[str]) -> None:
    """`cl-ac run`: parses, builds what the settings describe, and runs it."""
    parser = run_parser()
    configured = from_settings(parser, parse(parser, arguments))
    run(**vars(configured))
    show(summary_table([configured.directory]))
    print(f"results and TensorBoard events: {configured.directory.path}")
