"""``python -m weightcast`` is the command ``weightcast``."""

import sys

from weightcast.cli import main

sys.exit(main())
