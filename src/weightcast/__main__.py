"""``python -m weightcast`` is the command ``weightcast``."""

import sys

from weightcast.cli.main import main

sys.exit(main())
