import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from cl_ac.cli.main import main
from cl_ac.errors import ConfigurationError, UserError
from cl_ac.report.formats import ResultTable
from cl_ac.report.page import _table, write_report

OPEN_ENDED = {"meta", "link", "br", "img", "hr"}


class Page(HTMLParser):
    """Checks that elements nest, and collects their attributes and texts."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.attributes, self.text = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.attributes += attributes
        if tag not in OPEN_ENDED:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.attributes += attributes

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def config(approach: str, seed: int, exits: str | None = "sdn") -> dict:
    return {"approach": {"class_path": approach, "init_args": {"strength": "<&>"}}, "exits": exits, "seed": seed}


@pytest.fixture(scope="module")
def runs(stored_run, tmp_path_factory):
    """A watched group of two seeds, one without ACs, and a run without a finished task."""
    out = tmp_path_factory.mktemp("runs")
    return [
        stored_run(out / "lwf0", config("LwF", 0), watch=True),
        stored_run(out / "lwf1", config("LwF", 1), watch=True),
        stored_run(out / "plain", config("LwF", 0, None), exits=1),
        stored_run(out / "none_yet", config("ER", 0), tasks=0),
    ]


@pytest.fixture(scope="module")
def report(runs) -> Path:
    """The folder that the command writes beside the runs."""
    assert main(["report", *(str(run.path) for run in runs)]) == 0
    return runs[0].path.parent / "report"


@pytest.fixture
def text(report) -> str:
    return (report / "report.html").read_text()


def test_the_page_needs_nothing_else(text):
    page = Page(text)
    addresses = [value for name, value in page.attributes if name in ("src", "href", "xlink:href", "action")]
    assert addresses
    assert all(address.startswith(("#", "data:")) for address in addresses)
    read = "".join(page.text)
    assert "@import" not in read
    assert "No task is finished yet in none_yet." in read
    assert "strength: <&>" in read


def test_links_lead_to_one_place_each(text):
    page = Page(text)
    names = [value for name, value in page.attributes if name == "id"]
    assert len(names) == len(set(names))
    links = {value[1:] for name, value in page.attributes if name in ("href", "xlink:href") and value.startswith("#")}
    assert links <= set(names)
    clips = {value[5:-1] for name, value in page.attributes if name == "clip-path" and value.startswith("url(#")}
    assert clips
    assert clips <= set(names)


def test_every_figure_and_table_is_a_file_in_each_format(report, text):
    figures = {path.stem for path in (report / "figures").iterdir()}
    assert len(figures) == text.count("<figure>") == 8
    for name in figures:
        assert all((report / "figures" / f"{name}.{ending}").stat().st_size for ending in ("svg", "png", "pdf"))
    tables = {path.name for path in (report / "tables").iterdir()}
    names = (
        "summary",
        "settings",
        "accuracy_per_task",
        "accuracy_known_task",
        "accuracy_per_exit",
        "cost_per_task",
        "stability_gap",
    )
    assert tables == {f"{name}.{ending}" for name in names for ending in ("csv", "md", "tex")}
    assert (report / "tables" / "summary.csv").read_text().startswith("run,seeds,tasks,accuracy,accuracy std")


def test_text_in_figures_stays_text(text):
    assert re.search(r"<text[^>]*>average accuracy \(%\)</text>", text)


def test_benchmarks_have_their_own_parts_and_files(stored_run, tmp_path):
    settings = {name: {"benchmark": {"class_path": name}, "seed": 0} for name in ("Digits", "CIFAR100")}
    runs = [stored_run(tmp_path / name, each, tasks=2) for name, each in settings.items()]
    text = write_report(runs, tmp_path).read_text()
    assert re.findall(r"<h2[^>]*>(.*?)</h2>", text) == ["Digits, 2 tasks", "CIFAR100, 2 tasks"]
    assert re.search(r"<h1>(.*?)</h1>", text)[1] == "Continual learning on 2 benchmarks"
    assert (tmp_path / "tables" / "CIFAR100_2_tasks-summary.csv").exists()
    assert (tmp_path / "tables" / "Digits_2_tasks-summary.csv").exists()


def test_nothing_to_report_is_one_sentence(stored_run, tmp_path):
    with pytest.raises(ConfigurationError, match="none of the runs has a finished task"):
        write_report([stored_run(tmp_path / "run", tasks=0)], tmp_path / "report")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        write_report([stored_run(tmp_path / "other")], tmp_path / "file" / "report")


def test_the_command_prints_the_table_and_the_page(runs, tmp_path, capsys):
    assert main(["report", str(runs[2].path), "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "plain" in printed
    assert str(tmp_path / "report.html") in printed
    assert main(["report", str(runs[2].path)]) == 0
    assert (runs[2].path / "report" / "report.html").exists()


def test_exits_go_by_one_name(text):
    assert "exit_0" not in text
    assert "exit 0" in text


def test_a_table_with_many_columns_says_that_it_scrolls():
    few, many = (ResultTable("t", "title", [str(place) for place in range(n)], []) for n in (4, 14))
    assert "scrolls sideways" not in _table(few)
    assert "scrolls sideways" in _table(many)
