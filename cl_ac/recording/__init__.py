"""What a run leaves on disk and on screen: run folder, checkpoint, journal, loggers, progress."""
