"""Data sets one after the other."""

import pytest
import torch
from PIL import Image
from torchvision.transforms.v2.functional import resize

from cl_ac.benchmark import Benchmark
from cl_ac.cli.main import main
from cl_ac.data.samples import Samples
from cl_ac.datasets.image_folder import ImageFolder
from cl_ac.datasets.sequence import Sequence, fitted
from cl_ac.errors import ConfigurationError, DataError


class Shades(Benchmark):
    """Classes of two training images and a test image of one shade: 10 · label + first."""

    def __init__(self, classes, first=0, shape=(1, 4, 4), **splitting):
        super().__init__(**splitting)
        self.num_classes, self.first, self.image_shape = classes, first, shape

    def load(self):
        def samples(count):
            targets = torch.arange(self.num_classes).repeat(count)
            shades = (10 * targets + self.first).to(torch.uint8)
            return Samples(shades[:, None, None, None].expand(-1, *self.image_shape).contiguous(), targets)

        return samples(2), samples(1)


def _shades(samples):
    return samples.images[torch.arange(len(samples))][:, 0, 0, 0].tolist()


@pytest.mark.parametrize("in_memory", [True, False])
def test_each_data_set_is_a_task_with_labels_behind_those_before(in_memory):
    parts = [Shades(2), Shades(3, 100, (3, 6, 5)), Shades(1, 200)]
    benchmark = Sequence(parts, size=8, in_memory=in_memory, validation=0)
    benchmark.check()
    assert benchmark.image_shape == (3, 8, 8)
    assert benchmark.sizes == [2, 3, 1]
    assert [task.train.resident for task in benchmark] == [in_memory] * 3
    assert [_shades(task.train) for task in benchmark] == [[0, 10] * 2, [100, 110, 120] * 2, [200] * 2]
    assert [task.test.targets.tolist() for task in benchmark] == [[0, 1], [2, 3, 4], [5]]
    assert benchmark.class_names[:3] == ["Shades 0", "Shades 1", "Shades 0"]


def test_each_can_be_split_as_it_says_itself():
    parts = [Shades(4, tasks=2, order=[3, 2, 1, 0]), Shades(3, 100, tasks=1)]
    benchmark = Sequence(parts, split=True, validation=0, size=4)
    assert [_shades(task.test) for task in benchmark] == [[20, 30], [0, 10], [100, 110, 120]]
    assert benchmark.class_order == [3, 2, 1, 0, 4, 5, 6]
    assert [task.test.targets.unique().tolist() for task in benchmark] == [[0, 1], [2, 3], [4, 5, 6]]


def test_classes_that_a_data_set_leaves_out_do_not_shift_the_next():
    parts = [Shades(4, classes_per_task=[1, 2], order=[3, 2, 1, 0]), Shades(3, 100, tasks=1)]
    benchmark = Sequence(parts, split=True, validation=0, size=4)
    assert [_shades(task.test) for task in benchmark] == [[30], [10, 20], [100, 110, 120]]
    assert sorted(benchmark.class_order) == list(range(7))


def test_data_sets_with_the_same_classes_are_domains():
    benchmark = Sequence([Shades(3), Shades(3, 100)], same_classes=True, size=4)
    assert benchmark.num_classes == 3
    assert benchmark.domain_names == ["Shades 1", "Shades 2"]
    train, _ = benchmark.load()
    assert train.targets.tolist() == [0, 1, 2] * 4
    assert train.extras["domain"].tolist() == [0] * 6 + [1] * 6
    assert _shades(train) == [0, 10, 20] * 2 + [100, 110, 120] * 2


def test_files_are_read_when_they_are_asked_for(tmp_path):
    for part in ("train", "test"):
        for label, name in enumerate("ab"):
            (tmp_path / part / name).mkdir(parents=True)
            Image.new("RGB", (9, 7), (50 + label, 0, 0)).save(tmp_path / part / name / "1.png")
    benchmark = Sequence([Shades(2), ImageFolder(str(tmp_path), size=6)], size=4, in_memory=False)
    assert not benchmark.list_samples()[0].resident
    assert [_shades(task.test) for task in benchmark] == [[0, 10], [50, 51]]


def test_resizing_is_torchvisions():
    images = torch.randint(256, (3, 1, 9, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = resize(images, [5, 4], antialias=True).expand(-1, 3, -1, -1)
    assert (fitted(images, (3, 5, 4)).int() - expected.int()).abs().max() <= 1
    assert torch.equal(fitted(images, (1, 9, 12)), images)


@pytest.mark.parametrize(
    ("parts", "options", "said"),
    [
        ([Shades(2)], {}, "benchmark.parts names 1 data sets; a sequence needs at least two"),
        ([Shades(2), Shades(3)], {"same_classes": True}, "same_classes is true, but the data sets have 2, 3 classes"),
        ([Shades(2), Shades(2)], {"same_classes": True, "split": True}, "split and benchmark.same_classes are both"),
        ([Shades(2, shape=(2, 4, 4)), Shades(2, shape=(3, 4, 4))], {}, "images of 2 and 3 channels"),
        ([Shades(2), Shades(2, tasks=5)], {"split": True}, "benchmark.tasks is 5, but there are only 2 classes"),
    ],
)
def test_data_sets_that_do_not_go_together(parts, options, said):
    with pytest.raises(ConfigurationError, match=said):
        Sequence(parts, **options).check()


def test_what_a_data_set_gives_is_looked_at():
    wrong = Shades(2)
    wrong.load = lambda: (Samples(torch.zeros(2, 1, 4, 4), torch.arange(2)),) * 2
    with pytest.raises(DataError, match=r"Shades in benchmark\.parts gives samples whose images are"):
        Sequence([Shades(2), wrong]).load()


def test_parts_are_named_on_the_command_line(tmp_path, capsys):
    parts = "[Digits, {class_path: Digits, init_args: {order: 1}}]"
    arguments = ["run", "--benchmark", "Sequence", "--benchmark.parts", parts, "--benchmark.size", "8"]
    arguments += ["--benchmark.samples_per_class", "3", "--approach", "FineTuning", "--backbone", "SmallConvNet"]
    arguments += ["--training.epochs", "1", "--loggers", "[]", "--device", "cpu", "--out", str(tmp_path), "--name", "r"]
    assert main(arguments) == 0
    assert main([*arguments[:4], "[Digits]", *arguments[5:]]) == 2
    assert "needs at least two" in capsys.readouterr().err
    assert main([*arguments[:4], "[Digits, Digit]", *arguments[5:]]) == 2
    assert "did you mean 'Digits'" in capsys.readouterr().err
