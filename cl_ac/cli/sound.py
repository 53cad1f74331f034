"""`cl-ac sound`: networks that stand for recordings, emitted in one pass."""

from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

import torch
from jsonargparse import ArgumentParser
from rich.console import Console

from cl_ac.cli.show import show
from cl_ac.data.seeding import global_stream
from cl_ac.errors import ConfigurationError, DataError, unknown
from cl_ac.recording.files import writable_folder
from cl_ac.recording.progress import phases
from cl_ac.report.sound import for_people, means, measure_table, write_sound_report, write_wave
from cl_ac.run import choose_device
from cl_ac.settings.parser import parse
from cl_ac.sound.clips import in_clips, middle, read_waves, wave_files
from cl_ac.sound.metrics import measures
from cl_ac.sound.model import HyperSound
from cl_ac.sound.training import SoundTraining, State, fit

MODEL = "model.pt"
SHOWN = 4
# Clips that pass the model at a time.
AT_ONCE = 64


def command(arguments: Sequence[str]) -> None:
    """`cl-ac sound fit | reconstruct`."""
    parts = {"fit": (fit_parser, fit_command), "reconstruct": (reconstruct_parser, reconstruct_command)}
    name, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if name in ("-h", "--help"):
        for make, _ in parts.values():
            print(make().format_help())
        raise SystemExit(0)
    if name not in parts:
        raise ConfigurationError(unknown("command of cl-ac sound", name, parts))
    make, run = parts[name]
    run(make(), rest)


def fit_parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="cl-ac sound fit",
        description="Trains HyperSound on a folder of wav files of one channel. Reconstructions of the clips that were "
        "not trained on, their measures and the model go to --out; the same command with --resume goes on where it was "
        "stopped.",
        exit_on_error=False,
    )
    parser.add_argument("folder", type=str, help="wav files, in folders or not")
    parser.add_argument("--out", type=str, default="runs/sound", help="a new folder")
    parser.add_argument(
        "--held_out", type=str | None, default=None, help="names of files that are not trained on, such as '*_theo_*'"
    )
    parser.add_class_arguments(HyperSound, "model")
    parser.add_class_arguments(SoundTraining, "training")
    parser.add_argument("--device", type=str, default="auto", help="cpu, cuda, cuda:1, …; auto takes a GPU if any")
    parser.add_argument("--resume", action="store_true", help="go on with a training that was stopped")
    return parser


def fit_command(parser: ArgumentParser, arguments: Sequence[str]) -> None:
    settings = parse(parser, arguments)
    options = settings.model.as_dict()
    training: SoundTraining = SoundTraining(**settings.training.as_dict())
    out, device = Path(settings.out), choose_device(settings.device)
    if (out / MODEL).exists() and not settings.resume:
        raise ConfigurationError(f"'{out}' holds a model; give another --out, or --resume")
    with global_stream(training.seed, "model"):
        model = HyperSound(**options)
    files = wave_files(Path(settings.folder).expanduser())
    held_out = [path for path in files if settings.held_out and fnmatch(path.name, settings.held_out)]
    learned = [path for path in files if path not in set(held_out)]
    if settings.held_out and not held_out:
        raise DataError(
            f"no wav file in '{settings.folder}' is called '{settings.held_out}'; nothing would be held out"
        )
    if not learned:
        raise DataError(
            f"all wav files in '{settings.folder}' are held out by '{settings.held_out}'; leave some to learn"
        )
    waves = read_waves(learned, model.rate)
    seen = held_out or learned[:: -(-len(learned) // AT_ONCE)]
    clips = torch.stack([middle(wave, model.samples) for wave in read_waves(seen, model.rate)])
    writable_folder(out)
    with phases(Console(stderr=True)) as progress:
        state = fit(model.to(device), waves, training, options, out / MODEL,
                    lambda done, loss: progress(f"loss {loss:.4f}", done, training.epochs))  # fmt: skip
    found = reconstructed(model, clips)
    rows = {"HyperSound": means(measures(clips, found, model.rate))}
    show(for_people(measure_table(rows)))
    size = f"A clip of {model.samples} samples is {model.emitted_weights} weights: {model.compression:.2f} to 1."
    text = f"Trained on {len(learned)} recordings for {training.epochs} epochs. {size} "
    text += f"Measured on {len(seen)} recordings that were {'held out' if held_out else 'trained on'}."
    named = {
        path.stem: {"recording": clips[place], "HyperSound": found[place]} for place, path in enumerate(seen[:SHOWN])
    }
    rates = dict.fromkeys(("recording", "HyperSound"), model.rate)
    print(text)
    print(write_sound_report(text, rows, named, rates, state.losses, out))


def reconstruct_parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="cl-ac sound reconstruct",
        description="Passes wav files through a model of `cl-ac sound fit`, clip after clip, and writes what its "
        "networks give, at any rate.",
        exit_on_error=False,
    )
    parser.add_argument("model", type=str, help="the folder of the model")
    parser.add_argument("files", type=str, nargs="+", help="wav files, or folders of them")
    parser.add_argument("--out", type=str, default="runs/reconstructed", help="a folder, for files of the same names")
    parser.add_argument("--sample_rate", type=int | None, default=None, help="samples a second of what is written")
    parser.add_argument("--device", type=str, default="auto", help="cpu, cuda, cuda:1, …; auto takes a GPU if any")
    return parser


def reconstruct_command(parser: ArgumentParser, arguments: Sequence[str]) -> None:
    settings = parse(parser, arguments)
    if settings.sample_rate is not None and settings.sample_rate < 1:
        raise ConfigurationError(f"--sample_rate is {settings.sample_rate}; it must be at least 1")
    model = State.load(Path(settings.model) / MODEL).build().to(choose_device(settings.device))
    rate, out = settings.sample_rate or model.rate, Path(settings.out)
    paths = [
        each for name in settings.files for each in (wave_files(Path(name)) if Path(name).is_dir() else [Path(name)])
    ]
    check_names(paths, out)
    for path, wave in zip(paths, read_waves(paths, model.rate), strict=True):
        found = reconstructed(model, in_clips(wave, model.samples), rate / model.rate).flatten()
        write_wave(out / path.name, found[: round(len(wave) * rate / model.rate)], rate)
        print(out / path.name)


def check_names(paths: Sequence[Path], out: Path) -> None:
    """Refuses recordings whose reconstructions in the folder `out` would replace one, or each other."""
    sources = {path.resolve() for path in paths}
    by_name: dict[str, Path] = {}
    for path in paths:
        if (out / path.name).resolve() in sources:
            raise ConfigurationError(f"--out is '{out}', where '{path.name}' would be overwritten; give another folder")
        if (other := by_name.setdefault(path.name, path)).resolve() != path.resolve():
            raise ConfigurationError(
                f"'{other}' and '{path}' have the same name, and so would their reconstructions in '{out}'; "
                "reconstruct them one after the other, each with an --out of its own"
            )


@torch.no_grad()
def reconstructed(model: HyperSound, clips: torch.Tensor, resampled: float = 1.0) -> torch.Tensor:
    """What the model's networks give for clips [B, N], on the CPU."""
    device = next(model.parameters()).device
    return torch.cat([model(part.to(device), resampled).cpu() for part in clips.split(AT_ONCE)])
