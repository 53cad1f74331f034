"""`cl-ac retrieve`: teaches two towers to find what belongs together, one domain after the other."""

from collections.abc import Sequence

from cl_ac.cli.show import show
from cl_ac.report.retrieval import answers, recall_tables, write_retrieval_report
from cl_ac.retrieval.run import run
from cl_ac.run import choose_device
from cl_ac.settings.retrieval import configured_retrieval
from cl_ac.studies.chosen import for_people


def command(arguments: Sequence[str]) -> None:
    """`cl-ac retrieve`: parses, builds what the settings describe, runs it, and writes its report."""
    configured = configured_retrieval(arguments)
    run(**{**vars(configured), "device": choose_device(configured.device)})
    for table in recall_tables(answers([configured.folder])):
        show(for_people(table))
    print(write_retrieval_report([configured.folder], configured.folder.path / "report"))
