"""Class-incremental learning with auxiliary classifiers."""

from pathlib import Path

__version__ = "0.1.0"

# In a checkout `approaches/`, `datasets/` and `kernels/` stand beside this package, in a wheel inside it.
if not (Path(__file__).parent / "approaches").is_dir():
    __path__.append(str(Path(__file__).parent.parent))
