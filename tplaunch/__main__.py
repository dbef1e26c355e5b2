"""`python -m tplaunch`: the same as `tplaunch`."""

import sys

from tplaunch.launcher.entry import main

sys.exit(main())
