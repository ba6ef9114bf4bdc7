"""`python -m deepemhancer_plugin.core` is the `deepemhancer` program."""

import sys

from deepemhancer_plugin.core.commands.main import main

sys.exit(main())
