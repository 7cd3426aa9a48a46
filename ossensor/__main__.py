"""`python -m ossensor`."""

import sys

from ossensor.cli import main

if __name__ == "__main__":
    sys.exit(main())
