"""What the README and the pages of docs/ show, run as it stands there.

Python blocks that begin with a comment that names a file are plugins: they are written to that file, and the commands
of their page use them. The blocks of docs/python.md are one program, that of docs/pretrained.md is one too. There are
no others. Nothing is downloaded: networks keep their initial weights.
"""

import importlib
import re
import shlex
from pathlib import Path

import pytest
import yaml

from cl_ac.approach import Approach
from cl_ac.backbones.wrapped import TimmModel, TorchvisionModel
from cl_ac.cli.main import main
from cl_ac.recording.rundir import RunDirectory
from cl_ac.serving.finished import finished
from cl_ac.settings.configured import from_settings
from cl_ac.settings.parser import parse, run_parser
from cl_ac.settings.plugins import classes
from cl_ac.studies.blind import Sight
from cl_ac.studies.search import Search
from cl_ac.studies.study import Study

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
BENCHMARKS = sorted((ROOT / "scripts" / "benchmarks").glob("*.yaml"))
TINY = ["--training.epochs", "1", "--benchmark.samples_per_class", "20", "--device", "cpu", "--loggers", "[]"]


def page_name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a page in one language."""
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


def plugins(page: Path) -> dict[str, str]:
    """The complete plugin files that a page shows, by name."""
    named = [(re.match(r"# (\w+\.py)\n", block), block) for block in blocks(page, "python")]
    return {match[1]: block for match, block in named if match}


def commands(page: Path, name: str = "") -> list[list[str]]:
    """The words of every `cl-ac` command that a page shows, or of every `cl-ac NAME`, without `cl-ac` itself."""
    lines = [shlex.split(line, comments=True) for block in blocks(page, "bash") for line in block.splitlines()]
    return [words[1:] for words in lines if words[:1] == ["cl-ac"] and name in ("", words[1])]


def value_of(option: str, words: list[str]) -> str:
    return words[words.index(option) + 1]


def resolved(name: str) -> object:
    """What stands at a dotted name."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        outer, _, inner = name.rpartition(".")
        return getattr(resolved(outer), inner)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """An empty folder with the checkout's scripts, which becomes the current one, and a way to write plugins there."""
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    for kind in (TorchvisionModel, TimmModel):
        build = kind.build
        monkeypatch.setattr(kind, "build", lambda *given, build=build: build(*given[:3], False, given[4]))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(page: Path) -> Path:
        for name, code in plugins(page).items():
            (tmp_path / name).write_text(code)
        importlib.invalidate_caches()
        return tmp_path

    return write


def test_readme_is_read_in_five_minutes():
    assert len(README.read_text().splitlines()) <= 150
    (code,) = plugins(README).values()
    assert len([line for line in code.splitlines() if line.strip()]) <= 30


def test_readme_leads_to_every_page_and_names_every_room():
    text = README.read_text()
    for page in PAGES:
        assert page == README or page.name == "README.md" or f"]({page_name(page)})" in text
    for room in (path.parent.name for path in (ROOT / "cl_ac").glob("*/__init__.py")):
        assert f"`{room}/`" in text or f"`cl_ac/{room}/`" in text, room


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_lead_somewhere(page):
    for target, anchor in re.findall(r"\]\(([^)#:]*)(#[^)]+)?\)", page.read_text()):
        path = (page.parent / target) if target else page
        assert path.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
            assert anchor[1:] in {re.sub(r"[^\w\- ]", "", each).lower().replace(" ", "-") for each in headings}


def test_the_index_of_docs_leads_to_every_page():
    index = (ROOT / "docs" / "README.md").read_text()
    assert all(f"]({page.name})" in index for page in (ROOT / "docs").glob("*.md") if page.name != "README.md")


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_no_table_tells_of_an_option_twice(page):
    for table in re.findall(r"(?:^\|.*\n)+", page.read_text(), re.MULTILINE):
        options = re.findall(r"^\| (`--[^|]+?) \|", table, re.MULTILINE)
        assert sorted(set(options)) == sorted(options)


def test_no_two_pages_say_the_same():
    told: dict[str, Path] = {}
    for page in PAGES:
        for line in page.read_text().splitlines():
            assert len(line) < 80 or told.setdefault(line, page) == page, f"{line} is in {told[line]} and {page}"


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_names_of_files_and_objects_exist(page):
    text = page.read_text()
    for name in re.findall(r"\bcl_ac(?:\.\w+)+\b(?!/)", text):
        if not name.endswith(".py"):
            assert resolved(name), name
    for path in re.findall(r"\b(?:cl_ac|scripts|results|approaches|datasets|tests)/[\w/.*+-]*\w", text):
        assert list(ROOT.glob(path)), path


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_run_commands_parse(page, checkout):
    checkout(page)
    for command in commands(page, "run"):
        assert parse(run_parser(), command[1:])


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_options_of_the_other_commands_exist(page, capsys):
    for name, *words in commands(page):
        with pytest.raises(SystemExit):
            main([name, "--help"])
        known = capsys.readouterr().out
        for option in (word for word in words if word.startswith("--") and name != "run"):
            assert re.search(rf"{re.escape(option)}\b", known), f"{name} {option}"


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_commands_in_order_make_new_folders_and_use_those_that_exist(page, checkout):
    """Whoever reads the README and then a page finds that no folder is in the way, and none is missing."""
    checkout(page)
    made: set[Path] = set()
    for command in [*commands(README), *(commands(page) if page != README else [])]:
        name, *words = command
        if name == "run" and "my_file.MyApproach" in words:
            continue  # runs below
        if name == "run":
            parser = run_parser()
            folder = from_settings(parser, parse(parser, words)).directory.path
        elif name == "retrieve":
            folder = Path("runs") / value_of("--name", words)
        elif name in ("study", "tune", "simulate", "sound"):
            folder = Path(value_of("--out", words))
            assert words[0] != "reconstruct" or Path(words[1]) in made, command
        elif name == "report":
            assert any(Path(words[0]) in (each, each.parent) for each in made), command
            continue
        else:
            assert Path(words[0]) in made, command
            assert "--plain" not in words or Path(value_of("--plain", words)) in made
            if name != "attach":
                continue
            folder = Path(words[0]).with_name(f"{Path(words[0]).name}_attached_{value_of('--exits', words)}")
        assert folder not in made, command
        made.add(folder)


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_a_study_says_how_many_runs_it_starts(page):
    for line in re.findall(r"^cl-ac study .*$", page.read_text(), re.MULTILINE):
        count = len(list(Study.read(str(ROOT / shlex.split(line)[2])).cells()))
        assert f"# starts {count} runs" in line


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_searches_can_be_made(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    for _, path, *words in commands(page, "tune"):
        tasks = int(value_of("--tasks", words)) if "--tasks" in words else None
        assert Sight.of(Search.read(path), tasks).sizes


@pytest.mark.parametrize("page", [page for page in PAGES if plugins(page)], ids=page_name)
def test_plugins_run_from_a_users_own_file(page, checkout):
    folder, ran = checkout(page), 0
    for command in commands(page, "run"):
        if any(f"{Path(name).stem}." in " ".join(command) for name in plugins(page)):
            assert (
                main([*command, *TINY, "--benchmark.samples_per_class", "20", "--out", "runs", "--name", str(ran)]) == 0
            )
            assert RunDirectory(folder / "runs" / str(ran)).records
            ran += 1
    assert ran == len(plugins(page))


def test_options_of_the_readme_plugin_reach_it(checkout):
    folder = checkout(README)
    (command,) = [words for words in commands(README, "run") if "my_file.MyApproach" in words]
    parser = run_parser()
    configured = from_settings(parser, parse(parser, command[1:]))
    assert configured.approach.strength == 0.5
    assert configured.config["approach"]["init_args"]["strength"] == 0.5
    assert (folder / "my_file.py").exists()


def test_python_page_is_a_program(checkout, capsys):
    page = ROOT / "docs" / "python.md"
    checkout(page)
    code = "\n".join(blocks(page, "python"))
    fewer = '"training.epochs": 1, "benchmark.tasks": 2, "benchmark.samples_per_class": 20, "device": "cpu"'
    tiny = code.replace('"training.epochs": 3', fewer).replace("epochs=3", "epochs=1")
    tiny = tiny.replace("Digits(tasks=5)", "Digits(tasks=2, samples_per_class=20)")
    assert fewer in tiny
    assert "tasks=5" not in tiny
    names: dict = {}
    exec(compile(tiny, "docs/python.md", "exec"), names)
    assert len(names["records"]) == 2
    assert names["rows"][-1].keys() == {"task_learned", "task", "exit", "accuracy"}
    assert finished(names["directory"], "cpu").network.num_classes == 10
    assert len(names["labels"]) == len(names["pictures"])
    assert main(["report", "runs/python"]) == 0


def test_pretrained_page_is_a_program(checkout):
    page = ROOT / "docs" / "pretrained.md"
    checkout(page)
    code, tuned = blocks(page, "python")
    assert len([line for line in code.splitlines() if line and "import" not in line]) <= 10
    tiny = code.replace('size": 64', 'size": 32, "benchmark.samples_per_class": 4, "device": "cpu", "loggers": []')
    assert tiny != code
    names: dict = {}
    exec(compile(tiny, "docs/pretrained.md", "exec"), names)
    assert names["label"] in range(10)
    assert names["experiment"].config["backbone"]["init_args"]["weights"] is True
    exec(compile(tuned, "docs/pretrained.md", "exec"), names)
    assert not any("parametrizations" in name for name in names["backbone"].state_dict())


def test_every_python_block_is_run():
    for page in PAGES:
        if page.name not in ("python.md", "pretrained.md"):
            assert len(blocks(page, "python")) == len(plugins(page)), page


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_every_benchmark_file_parses_for_every_approach_it_tunes(path):
    tuned = yaml.safe_load(path.read_text()).get("tuned", {})
    for approach in tuned:
        for exits in ([], ["--exits", "sdn"]):
            arguments = ["--config", str(path), "--approach", approach, *exits]
            assert parse(run_parser(), arguments)


def test_the_page_of_methods_has_every_approach_with_the_exemplars_it_needs():
    rows = re.findall(r"^\| (`.+?) \|.*\| (\w+) \|$", (ROOT / "docs" / "methods.md").read_text(), re.MULTILINE)
    uses = {"none", "optional", "required"}
    told = {name: use for names, use in rows if use in uses for name in names.split("`")[1::2]}
    assert told == {name: cls.memory_use for name, cls in classes("approach", Approach).items()}
