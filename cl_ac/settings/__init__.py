"""The settings of a run: read from signatures, files and the command line, and the objects they describe."""
