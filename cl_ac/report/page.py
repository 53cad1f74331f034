"""The report: one HTML page that needs no network, and its figures and tables as files."""

import html
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import matplotlib
import yaml
from matplotlib.figure import Figure

import cl_ac
from cl_ac.errors import ConfigurationError, UserError
from cl_ac.recording.figures import STYLE
from cl_ac.recording.files import storing, writable_folder, write_atomically
from cl_ac.recording.rundir import RunDirectory
from cl_ac.report.comparison import Comparison, Group, compare
from cl_ac.report.formats import ResultTable
from cl_ac.report.sections import Section, sections

FIGURE_FORMATS = ("svg", "png", "pdf")
# More columns than these do not fit on a page.
MOST_COLUMNS = 10
TABLE_FORMATS = ("csv", "md", "tex")

CSS = """
:root { color-scheme: light; --ink: #1c2430; --soft: #5b6676; --line: #dfe3e8; --paper: #fff; --accent: #1f5fa8; }
* { box-sizing: border-box; }
body { margin: 0; font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
  color: var(--ink); background: #f5f6f8; }
header, main { max-width: 1320px; margin: 0 auto; padding: 0 20px; }
header { padding-top: 28px; }
h1 { font-size: 1.7rem; margin: 0 0 .2em; } h2 { font-size: 1.35rem; margin: 2em 0 .4em; }
h3 { font-size: 1.08rem; margin: 0 0 .2em; }
p { margin: .2em 0 .8em; } .soft, section > p { color: var(--soft); max-width: 75ch; }
nav { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: .8em 0 0; } a { color: var(--accent); }
section { background: var(--paper); border: 1px solid var(--line); border-radius: 8px;
  padding: 16px 18px; margin: 14px 0; }
/* A shadow at an edge beyond which the table goes on: covers that move with the table hide it elsewhere. */
.scroll { overflow-x: auto; margin: 8px 0; background:
  linear-gradient(to right, var(--paper) 40%, #fff0) left / 48px 100% no-repeat local,
  linear-gradient(to left, var(--paper) 40%, #fff0) right / 48px 100% no-repeat local,
  linear-gradient(to right, #0004, #0000) left / 14px 100% no-repeat scroll,
  linear-gradient(to left, #0004, #0000) right / 14px 100% no-repeat scroll; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); padding-bottom: 4px; }
th, td { padding: 4px 12px 4px 0; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; }
th { border-bottom: 2px solid var(--ink); white-space: nowrap; }
td.number { white-space: nowrap; } .number { text-align: right; }
td:first-child { white-space: nowrap; font-weight: 600; }
tbody tr:hover { background: #eef4fb; }
.figures { display: flex; flex-wrap: wrap; gap: 12px 20px; align-items: flex-start; }
figure { margin: 0; max-width: 100%; } figure svg { display: block; max-width: 100%; height: auto; }
details { margin: 6px 0; } summary { cursor: pointer; overflow-wrap: anywhere; }
pre { overflow-x: auto; background: #f5f6f8; padding: 10px; font-size: .8rem; line-height: 1.4; border-radius: 6px; }
@media (max-width: 560px) { header, main { padding: 0 10px; } section { padding: 12px 10px; }
  td:first-child { white-space: normal; min-width: 8em; } h1 { font-size: 1.4rem; } }
@media print { body { background: none; } section { border: 0; padding: 0; break-inside: avoid; }
  nav { display: none; } }
"""


def write_report(directories: Sequence[RunDirectory], folder: Path) -> Path:
    """Writes `report.html`, `figures/` and `tables/` to `folder`.

    Returns:
        The page.
    Raises:
        ConfigurationError: if no run has a finished task, or the folder cannot be written.
    """
    comparisons, empty = compare(directories)
    if not comparisons:
        raise ConfigurationError("none of the runs has a finished task; there is nothing to report")
    parts = []
    for number, comparison in enumerate(comparisons, start=1):
        # Files of one benchmark need no word for it.
        prefix = f"{_slug(comparison.title)}-" if len(comparisons) > 1 else ""
        found = list(sections(comparison))
        drawn = _write_files(found, folder, prefix)
        parts.append(_comparison(comparison, found, drawn, f"benchmark-{number}", len(comparisons) > 1))
    return _write(folder, _page(comparisons, empty, parts))


def write_page(title: str, text: str, found: Sequence[Section], folder: Path) -> Path:
    """Writes a page of any sections, and their figures and tables, as `write_report` does."""
    drawn = _write_files(found, folder)
    body = "\n".join(_section(section, drawn, f"section-{number}") for number, section in enumerate(found))
    return _write(folder, _document(title, f'<p class="soft">{_escape(text)} {_made()}.</p>', body))


def _write(folder: Path, content: str) -> Path:
    page = folder / "report.html"
    write_atomically(page, lambda path: path.write_text(content))
    return page


def _write_files(found: Sequence[Section], folder: Path, prefix: str = "") -> dict[str, str]:
    """Writes the figures and tables of some sections; the SVG of each figure by its name."""
    for name in ("figures", "tables"):
        writable_folder(folder / name)
    drawn = {}
    for section in found:
        for name, figure in section.figures.items():
            with storing(folder):
                drawn[name] = save_figure(figure, folder / "figures" / _slug(prefix + name))
        for table in section.tables:
            for ending, text in zip(TABLE_FORMATS, (table.csv(), table.markdown(), table.latex()), strict=True):
                path = folder / "tables" / f"{_slug(prefix + table.name)}.{ending}"
                write_atomically(path, partial(Path.write_text, data=text))
    return drawn


def save_figure(figure: Figure, stem: Path) -> str:
    """Writes a figure in all formats beside `stem`, and returns its SVG."""
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": stem.name}):
        # Once for all formats: the layout takes as long as drawing.
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        for ending in FIGURE_FORMATS:
            metadata = {} if ending == "png" else {"CreationDate": None} if ending == "pdf" else {"Date": None}
            figure.savefig(f"{stem}.{ending}", dpi=150, metadata=metadata)
    return Path(f"{stem}.svg").read_text()


def _page(comparisons: Sequence[Comparison], empty: Sequence[RunDirectory], parts: Iterable[str]) -> str:
    runs = sum(len(group.runs) for comparison in comparisons for group in comparison.groups)
    groups = sum(len(comparison.groups) for comparison in comparisons)
    links = [f'<a href="#benchmark-{n}">{_escape(each.title)}</a>' for n, each in enumerate(comparisons, start=1)]
    left_out = f"<p>No task is finished yet in {_escape(', '.join(each.name for each in empty))}.</p>" if empty else ""
    one = len(comparisons) == 1
    title = f"Continual learning on {comparisons[0].title if one else _count(len(comparisons), 'benchmark')}"
    head = (
        f'<p class="soft">{_count(runs, "run")} with {_count(groups, "combination")} of settings. {_made()}.</p>\n'
        f"{left_out}{'<nav>' + ''.join(links) + '</nav>' if len(links) > 1 else ''}"
    )
    return _document(title, head, "".join(parts))


def _made() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, cl_ac {cl_ac.__version__}"


def _document(title: str, head: str, body: str) -> str:
    """A whole page: `head` stands under its title."""
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_escape(title)}</title><link rel="icon" href="data:,"><style>{CSS}</style></head>
<body><header><h1>{_escape(title)}</h1>
{head}</header>
<main>
{body}
</main></body></html>
"""


def _comparison(
    comparison: Comparison, found: Sequence[Section], drawn: dict[str, str], anchor: str, is_one_of_many: bool
) -> str:
    body = "\n".join(_section(section, drawn, f"{anchor}-{number}") for number, section in enumerate(found))
    links = "".join(f'<a href="#{anchor}-{number}">{_escape(each.title)}</a>' for number, each in enumerate(found))
    heading = f'<h2 id="{anchor}">{_escape(comparison.title)}</h2>\n' if is_one_of_many else ""
    return (
        f'{heading}<nav>{links}<a href="#{anchor}-runs">Settings of each '
        f'run</a></nav>\n{body}\n<section id="{anchor}-runs"><h3>Settings of each run</h3>\n'
        f"{''.join(_settings(group) for group in comparison.groups)}</section>\n"
    )


def _section(section: Section, drawn: dict[str, str], anchor: str) -> str:
    tables = "".join(_table(table) for table in section.tables)
    figures = "".join(f"<figure>{_inline(drawn[name], name)}</figure>\n" for name in section.figures)
    box = f'<div class="figures">{figures}</div>' if figures else ""
    return (
        f'<section id="{anchor}"><h3>{_escape(section.title)}</h3><p>{_escape(section.text)}</p>{tables}{box}</section>'
    )


def _table(table: ResultTable) -> str:
    """A table in a box that scrolls, which one with many columns says."""
    hint = '<p class="soft">This table scrolls sideways.</p>\n' if len(table.columns) > MOST_COLUMNS else ""
    return f'{hint}<div class="scroll" tabindex="0">{table.html()}</div>\n'


def _inline(svg: str, name: str) -> str:
    """An SVG document as an element of the page: without its preamble, and without names that others have too."""
    element = re.sub(r'<g id="[^"]*"', "<g", svg[svg.index("<svg") :])
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
    return element.replace("<svg", f'<svg role="img" aria-label="{_escape(name)}"', 1)


def _settings(group: Group) -> str:
    """The complete settings of a group, and where, when and with what each of its runs ran."""
    config = {name: value for name, value in group.runs[0].config.items() if name not in ("seed", "name", "out")}
    runs = "\n".join(_provenance(group))
    return (
        f"<details><summary>{_escape(group.label)}, {_count(len(group.runs), 'run')}</summary>\n"
        f"<pre>{_escape(runs)}</pre><pre>{_escape(yaml.safe_dump(config, sort_keys=False))}</pre></details>\n"
    )


def _provenance(group: Group) -> Iterator[str]:
    for run in group.runs:
        try:
            known = run.provenance
        except UserError as error:
            known = {"started": f"unknown, for {error}"}
        seconds = sum(record.seconds for record in run.records)
        facts = [
            f"{name} {known[name]}" for name in ("started", "commit", "torch", "gpu", "platform") if known.get(name)
        ]
        yield f"{run.name}: seed {run.config.get('seed')}, {seconds:.0f} s; {', '.join(facts)}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _slug(name: str) -> str:
    """A file name that every system takes."""
    return re.sub(r"[^\w.+-]+", "_", name).strip("_")


def _escape(text: str) -> str:
    return html.escape(text)
