"""What HyperSound makes of clips: a table of measures, spectrograms, and wav files to listen to.

Shapes: B clips, N samples.
"""

from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path

import matplotlib
import torch
from matplotlib.figure import Figure
from rich.table import Table
from torch import Tensor

from cl_ac.recording.figures import STYLE, Line, line_figure
from cl_ac.recording.files import write_atomically
from cl_ac.report.formats import ResultTable
from cl_ac.report.page import write_page
from cl_ac.report.sections import Section

# Decibels below the loudest that are black.
RANGE = 70.0


def means(measured: Mapping[str, Tensor]) -> dict[str, float]:
    """The mean of each measure over the clips that have it; NaN if none has."""
    return {name: values[values.isfinite()].double().mean().item() for name, values in measured.items()}


def measure_table(rows: Mapping[str, Mapping[str, float]], name: str = "reconstructions") -> ResultTable:
    """Measures (columns) of some ways to reconstruct clips (rows)."""
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    cells = [[label, *(_shown(row.get(column, float("nan")), column) for column in columns)]
             for label, row in rows.items()]  # fmt: skip
    return ResultTable(name, "Means over clips; SNR and SI-SNR in dB", ["", *columns], cells)


def for_people(table: ResultTable) -> Table:
    """The table for a terminal."""
    shown = Table(title=table.title)
    for number, column in enumerate(table.columns):
        shown.add_column(column, justify="right" if number else "left")
    for row in table.rows:
        shown.add_row(*map(str, row))
    return shown


def spectrogram(wave: Tensor, rate: int) -> Tensor:
    """Decibels [frequencies, frames] of a wave [N] below its loudest, down to `RANGE`."""
    size = max(8, 2 ** round(torch.tensor(rate / 40).log2().item()))
    found = torch.stft(wave, size, size // 8, window=torch.hann_window(size), pad_mode="constant", return_complex=True)
    decibels = 20 * found.abs().clamp(min=1e-8).log10()
    return (decibels - decibels.max()).clamp(min=-RANGE)


def spectrograms(clips: Mapping[str, Tensor], rates: Mapping[str, int], title: str) -> Figure:
    """The spectrograms of some waves [N] side by side, by name, up to half the rate of each."""
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(2.3 * len(clips) + 0.6, 2.5))
        axes = figure.subplots(1, len(clips), sharey=True, squeeze=False)[0]
        for place, (name, wave) in enumerate(clips.items()):
            extent = (0.0, len(wave) / rates[name], 0.0, rates[name] / 2000)
            axes[place].imshow(spectrogram(wave, rates[name]).numpy(), origin="lower", aspect="auto", cmap="magma",
                               extent=extent)  # fmt: skip
            axes[place].set_title(name)
            axes[place].set_xlabel("s")
        axes[0].set_ylabel("kHz")
        figure.suptitle(title, fontsize=10)
    return figure


def write_wave(path: Path, wave: Tensor, rate: int) -> None:
    """Writes a wave [N], its values from -1 to 1, as 16 bits of one channel."""
    from scipy.io import wavfile

    values = (32767 * wave.clamp(-1, 1)).round().to(torch.int16).numpy()
    write_atomically(path, lambda file: wavfile.write(file, rate, values))


def write_sound_report(
    text: str,
    rows: Mapping[str, Mapping[str, float]],
    clips: Mapping[str, Mapping[str, Tensor]],
    rates: Mapping[str, int],
    losses: Sequence[float],
    folder: Path,
) -> Path:
    """Writes the page `report.html`, and each wave as `waves/<clip>-<way>.wav`.

    Args:
        text: what was trained on what.
        rows: measures of each way to reconstruct.
        clips: for each clip that is shown, the waves [N] by the way they came about.
        rates: samples a second of each way.
        losses: of each epoch.
        folder: where all goes.
    """
    figures = {}
    for clip, waves in clips.items():
        figures[f"spectrograms-{clip}"] = spectrograms(waves, rates, clip)
        for way, wave in waves.items():
            write_wave(folder / "waves" / f"{clip}-{way.replace(' ', '_')}.wav", wave, rates[way])
    sections = [
        Section("Reconstructions", "Each wave is also in waves/, to listen to.", [measure_table(rows)] if rows else []),
        Section("Spectrograms", f"Down to {RANGE:.0f} dB below the loudest of each.", [], figures),
    ]
    if losses:
        # Lines are drawn in per cent.
        line = Line("loss", range(1, len(losses) + 1), torch.tensor([losses]) / 100)
        sections.append(
            Section("Training", "Mean loss of each epoch.", [], {"loss": line_figure([line], "", "epoch", "loss")})
        )
    return write_page("HyperSound", text, sections, folder)


def _shown(value: float, column: str) -> str:
    if not isfinite(value):
        return "–"
    return f"{value:.5f}" if column == "MSE" else f"{value:.2f}"
