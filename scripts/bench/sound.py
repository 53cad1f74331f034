#!/usr/bin/env python3
"""HyperSound on spoken digits of a speaker that it never heard, beside what needs no hypernetwork.

Trains on all recordings of other speakers, then reconstructs clips of the held-out one: by HyperSound in one pass; by a
network of the same size that is trained for each clip alone; by a spectrogram codec of as many numbers, the largest
coefficients of a lapped cosine transform, each with its place; and by the mean of all training clips. Seconds are those
of one clip. A training that was stopped goes on from --out.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console

from cl_ac.data.seeding import global_stream
from cl_ac.recording.files import write_atomically
from cl_ac.recording.provenance import provenance
from cl_ac.report.sound import for_people, means, measure_table, write_sound_report
from cl_ac.run import choose_device
from cl_ac.sound.clips import middle, read_waves, wave_files
from cl_ac.sound.codec import keep_largest
from cl_ac.sound.metrics import measures
from cl_ac.sound.model import HyperSound
from cl_ac.sound.single import fit_clip, fresh
from cl_ac.sound.training import SoundTraining, fit

MODEL = {"channels": 4, "strides": [8, 8, 4], "latent": 32, "hidden": [256]}


def clock(device: torch.device) -> float:
    """Seconds, which other programs on a busy processor do not change."""
    return time.process_time() if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("~/data/spoken-digits"), help="<digit>_<speaker>_<take>.wav")
    parser.add_argument("--speaker", default="theo", help="who is held out")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--lr", type=float, default=0.002)
    parser.add_argument("--mel", type=float, default=0.1, help="weight of the distance in mel spectra")
    parser.add_argument("--square", type=float, default=30.0, help="weight of the mean squared difference")
    parser.add_argument("--test", type=int, default=100, help="clips of the held-out speaker to measure on")
    parser.add_argument("--single", type=int, default=10, help="of them, those that a network is trained for alone")
    parser.add_argument("--single_steps", type=int, default=500)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("runs/sound_bench"), help="the model, the page and the waves")
    parser.add_argument("--results", type=Path, help="a file for the numbers and what made them")
    arguments = parser.parse_args()
    device, console = choose_device(arguments.device), Console()
    files = wave_files(arguments.root.expanduser())
    unheard = [path for path in files if f"_{arguments.speaker}_" in path.name]
    learned = [path for path in files if path not in set(unheard)]
    training = SoundTraining(
        arguments.epochs, arguments.batch_size, arguments.lr, wave=0.0, square=arguments.square, mel=arguments.mel
    )
    with global_stream(training.seed, "model"):
        model = HyperSound(**MODEL).to(device)
    waves = read_waves(learned, model.rate)
    began = clock(device)
    told = lambda epoch, loss: console.print(f"epoch {epoch}: loss {loss:.4f}, {clock(device) - began:.0f} s")  # noqa: E731
    state = fit(model, waves, training, MODEL, arguments.out / "model.pt", told)
    trained_for = clock(device) - began
    chosen = unheard[:: max(1, len(unheard) // arguments.test)][: arguments.test]
    clips = torch.stack([middle(wave, model.samples) for wave in read_waves(chosen, model.rate)])
    mean_clip = torch.stack([middle(wave, model.samples) for wave in waves]).mean(0)
    every = max(1, len(clips) // arguments.single)
    alone = clips[::every][: arguments.single]

    def timed(make: Callable[[torch.Tensor], torch.Tensor], given: torch.Tensor) -> tuple[torch.Tensor, float]:
        """What each clip becomes, one at a time, and the seconds of one."""
        with torch.no_grad():
            make(given[:1])
        start = clock(device)
        made = torch.cat([make(clip[None]) for clip in given])
        return made, (clock(device) - start) / len(given)

    target = model.hypernetwork.target
    with torch.no_grad():
        ways = {
            "HyperSound": timed(lambda clip: model(clip.to(device)).cpu(), clips),
            "mean of training clips": timed(lambda clip: mean_clip[None].expand(len(clip), -1), clips),
            "codec of equal size": timed(lambda clip: keep_largest(clip, model.emitted_weights), clips),
        }
    start = clock(device)
    steps = arguments.single_steps
    fitted = [
        fit_clip(fresh(target, place).to(device), wave.to(device), steps).cpu() for place, wave in enumerate(alone)
    ]
    ways["network of one clip"] = torch.stack(fitted), (clock(device) - start) / len(alone)
    rows = {}
    for name, (found, seconds) in ways.items():
        against = alone if name == "network of one clip" else clips
        rows[name] = {**means(measures(against, found, model.rate)), "seconds": seconds}
    heard = torch.stack([middle(wave, model.samples) for wave in waves[:: max(1, len(waves) // len(clips))]])
    with torch.no_grad():
        rows["HyperSound, speakers it heard"] = means(measures(heard, model(heard.to(device)).cpu(), model.rate))
    console.print(for_people(measure_table(rows)))
    shown = {
        chosen[place * every].stem: {
            "recording": clips[place * every],
            "HyperSound": ways["HyperSound"][0][place * every],
            "network of one clip": fitted[place],
            "codec": ways["codec of equal size"][0][place * every],
        }
        for place in range(min(3, len(fitted)))
    }
    text = (
        f"Trained on {len(learned)} recordings for {arguments.epochs} epochs ({trained_for:.0f} s); measured on "
        f"{len(clips)} of {arguments.speaker}, whom it never heard. {model.samples} samples are "
        f"{model.emitted_weights} weights: {model.compression:.2f} to 1."
    )
    rates = dict.fromkeys(next(iter(shown.values())), model.rate)
    console.print(write_sound_report(text, rows, shown, rates, state.losses, arguments.out))
    if arguments.results is not None:
        options = {
            name: str(value) for name, value in vars(arguments).items() if name not in ("results", "root", "out")
        }
        sizes = {"samples": model.samples, "weights": model.emitted_weights, "compression": model.compression}
        kept = {"settings": options, "model": MODEL, **sizes, "training_seconds": trained_for, "losses": state.losses}
        content = json.dumps({**kept, "rows": rows, "clips": len(clips), "provenance": provenance()}, indent=2)
        write_atomically(arguments.results, lambda file: file.write_text(content + "\n"))


if __name__ == "__main__":
    main()
