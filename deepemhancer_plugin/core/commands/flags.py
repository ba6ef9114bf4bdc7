"""Flags that several commands have."""

import argparse


def add_sampling_rate(parser: argparse.ArgumentParser) -> None:
    """Add `-s`, the sampling rate in A/voxel in place of the headers'."""
    parser.add_argument(
        "-s",
        "--samplingRate",
        type=float,
        metavar="A",
        help="sampling rate in A/voxel, if a header's is wrong or missing",
    )


def add_gpus(parser: argparse.ArgumentParser) -> None:
    """Add `-g`, the devices that the network runs on."""
    parser.add_argument(
        "-g",
        "--gpuIds",
        dest="gpu",
        metavar="IDS",
        help="GPUs, e.g. 0 or 0,1: indices into what CUDA_VISIBLE_DEVICES shows; all; -1: the CPU "
        "(default: a GPU where there is one)",
    )
