"""`deepemhancer download`: the authors' checkpoints."""

import argparse
from collections.abc import Sequence

from deepemhancer_plugin.core.commands.terminal import download_checkpoints


def main(arguments: Sequence[str]) -> int:
    """Run `deepemhancer download [DIR]`; returns its exit status."""
    p = argparse.ArgumentParser(
        "deepemhancer download",
        description="Fetch the authors' checkpoints (about 739 MB) from Zenodo, record 7432763; "
        "goes on where an earlier try ended, checks the checksum.",
    )
    p.add_argument("directory", nargs="?", help="default: ~/.local/share/deepEMhancerModels")
    return download_checkpoints(p.parse_args(arguments).directory)
