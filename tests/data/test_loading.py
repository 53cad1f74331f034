"""Batches of images that stay in their files."""

import os
import subprocess
import sys
from pathlib import Path

from PIL import Image

# 300 images of 600 × 600 are 324 MB as bytes, and 1.3 GB as floats.
READ_ALL = """
import resource, sys
import torch
from pathlib import Path
from cl_ac.data.augmentation import Augmentation
from cl_ac.data.loading import Loader
from cl_ac.data.samples import ImageFiles, Samples
from cl_ac.data.tasks import Task

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10

samples = Samples(ImageFiles([Path(sys.argv[1])] * 300, 600), torch.zeros(300, dtype=torch.int64))
loader = Loader(samples, Augmentation(flip=True), torch.device("cpu"))
task = Task(0, (1,), samples, samples, samples)
first = None
for batch in loader.shuffled(4, 300, torch.Generator().manual_seed(0), task):
    first = first or peak()
print(peak() - first)
"""


def test_an_epoch_takes_no_more_memory_than_a_few_batches(tmp_path):
    Image.new("RGB", (30, 30), "red").save(tmp_path / "red.png")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", READ_ALL, str(tmp_path / "red.png")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    # A batch is 17 MB of floats.
    assert float(done.stdout) < 5 * 17
