"""`python -m launcher`: the same as `tplaunch`."""

import sys

from launcher.cli import main

sys.exit(main())
