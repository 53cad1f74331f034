"""Every mode of picture is seen as it is meant, or refused by name."""

import os

import numpy
import pytest
import torch
from PIL import Image

from cl_ac.data.decoding import readable, square
from cl_ac.errors import DataError


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "PA", "RGB", "RGBA"])
def test_every_kind_of_picture_becomes_rgb(tmp_path, mode):
    name = "image.tif" if mode == "PA" else "image.png"
    if mode == "PA":
        pytest.importorskip("PIL", minversion="12.0")
        name = "image.gif"
    value = 255 if mode == "1" else 90
    Image.new("L", (4, 4), value).convert("P" if mode == "PA" else mode).save(tmp_path / name)
    assert square(tmp_path / name, 4)[:, 0, 0].tolist() == [value] * 3


@pytest.mark.parametrize("name", ["grey.png", "grey.tif", "grey.pgm"])
def test_sixteen_bits_keep_their_brightness(tmp_path, name):
    values = numpy.linspace(0, 65535, 16).astype(numpy.uint16).reshape(4, 4)
    if name == "grey.pgm":
        (tmp_path / name).write_bytes(b"P5 4 4 65535\n" + values.astype(">u2").tobytes())
    else:
        Image.fromarray(values).save(tmp_path / name)
    assert torch.equal(square(tmp_path / name, 4)[0], torch.from_numpy((values / 257).round()).to(torch.uint8))


@pytest.mark.parametrize("dtype", [numpy.float32, numpy.int32])
def test_pixels_without_a_known_range_are_refused(tmp_path, dtype):
    Image.fromarray(numpy.ones((4, 4), dtype)).save(tmp_path / "image.tif")
    with pytest.raises(DataError, match=r"image\.tif.*no known range"):
        square(tmp_path / "image.tif", 4)


@pytest.mark.parametrize("colour", [(0, 0, 0, 0), (200, 0, 0, 0)])
def test_what_is_transparent_is_white(tmp_path, colour):
    Image.new("RGBA", (4, 4), colour).save(tmp_path / "image.png")
    assert (square(tmp_path / "image.png", 4) == 255).all()


def test_a_transparent_palette_entry_is_white(tmp_path):
    Image.new("P", (4, 4), 0).save(tmp_path / "image.png", transparency=0)
    assert (square(tmp_path / "image.png", 4) == 255).all()


def test_a_picture_stands_upright(tmp_path):
    picture = numpy.zeros((4, 4, 3), numpy.uint8)
    picture[:2] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter: what is stored above is seen on the right
    Image.fromarray(picture).save(tmp_path / "image.png", exif=exif)
    assert square(tmp_path / "image.png", 4)[0, 0].tolist() == [0, 0, 255, 255]


@pytest.mark.parametrize("content", [b"", b"no image", "truncated"])
def test_unreadable_picture_is_named(tmp_path, content):
    path = tmp_path / "bad.png"
    Image.effect_noise((5, 5), 50).save(path)
    path.write_bytes(path.read_bytes()[:-40] if content == "truncated" else content)
    with pytest.raises(DataError, match=r"cannot read the image '.*bad\.png'.*mend it or remove it"):
        square(path, 5)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(DataError, match=r"pipe\.png.*no regular file"), readable(tmp_path / "pipe.png"):
        pass
