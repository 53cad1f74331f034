"""A finished run put to use: loaded, measured, converted, given exits, exported."""
