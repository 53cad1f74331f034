"""`python -m cl_ac` is `cl-ac`."""

import sys

from cl_ac.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
