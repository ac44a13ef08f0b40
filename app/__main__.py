"""Make `python -m app` the same as `limner`."""

import sys

from app.cli.main import main

sys.exit(main())
