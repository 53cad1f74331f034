"""The page on streams names each of them."""

from pathlib import Path

from cl_ac.settings.plugins import classes
from cl_ac.streams.stream import Stream

PAGE = Path(__file__).parents[2] / "docs" / "streams.md"


def test_every_stream_is_in_the_table():
    rows = [row for row in PAGE.read_text().splitlines() if row.startswith("| **")]
    assert {name for name in classes("stream", Stream) if not any(f"`{name}`" in row for row in rows)} == set()
