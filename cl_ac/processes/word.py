"""What a process of a run says to who started it, in the file that `torchrun` gives each for that."""

import json
import os
import time
from pathlib import Path


def leave_word(message: str) -> None:
    """Leaves why this process ends; nothing where nobody asks."""
    if file := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        told = {"message": message, "extraInfo": {"timestamp": str(int(time.time()))}}
        Path(file).write_text(json.dumps({"message": told}))
