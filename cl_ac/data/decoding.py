"""Pictures in files as bytes: every mode that Pillow reads is converted faithfully, or refused."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cl_ac.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

# PNG and PNM of more than 8 bits may come as 32-bit numbers; only of these formats is it known that white is 65,535.
SIXTEEN_BITS_AS_INTEGERS = {"PNG", "PPM"}


def square(path: Path, side: int) -> Tensor:
    """The picture in a file, the shorter side resized to `side`, cropped to the central square.

    It stands upright as its EXIF tag says, is laid on white where it is transparent, and of an animation the first
    picture counts.

    Returns:
        uint8 [3, side, side].
    Raises:
        DataError: if the file is no readable picture, or its pixels have no known range.
    """
    with readable(path) as image:
        return pixels(image, (3, side, side))


def pixels(image: "Image", shape: Sequence[int]) -> Tensor:
    """A picture as bytes: upright, in grey or colour, resized to fill the frame, its centre kept.

    Args:
        shape: 1 or 3 channels, height, width.
    Returns:
        uint8 of that shape.
    """
    import numpy
    from PIL import ExifTags, Image, ImageOps

    channels, height, width = shape
    # Pillow copies a picture even if it stands upright.
    turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    upright = _rgb(ImageOps.exif_transpose(image) if turned else image, image.format)
    filled = ImageOps.fit(
        upright if channels == 3 else upright.convert("L"), (width, height), Image.Resampling.BILINEAR
    )
    return torch.from_numpy(numpy.array(filled)).view(height, width, channels).permute(2, 0, 1)


@contextmanager
def readable(path: Path) -> Iterator["Image"]:
    """The opened picture, of which only the header is read so far.

    Raises:
        DataError: naming the file, for whatever goes wrong with it.
    """
    from PIL import Image

    try:
        # Opening a pipe would wait for ever.
        if path.exists() and not path.is_file():
            raise OSError("it is no regular file")
        with Image.open(path) as image:
            yield image
    # Given damaged bytes, Pillow's decoders raise nearly anything (OSError, SyntaxError, struct.error, …).
    except Exception as error:
        raise DataError(f"cannot read the image '{path}': {error}; mend it or remove it") from error


def _rgb(image: "Image", file_format: str | None) -> "Image":
    import numpy
    from PIL import Image

    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and file_format in SIXTEEN_BITS_AS_INTEGERS)
    if sixteen:
        # Pillow's own conversion cuts off what is above 255.
        bytes_ = numpy.round(numpy.asarray(image).astype(numpy.float32) / 257).clip(0, 255).astype(numpy.uint8)
        return Image.fromarray(bytes_).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"its pixels (mode {image.mode}) have no known range; save it with 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")
