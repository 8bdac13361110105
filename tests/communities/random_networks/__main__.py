"""``python -m tests.communities.random_networks --seeds 0:500``: a line for each network."""

from __future__ import annotations

import argparse
import multiprocessing
from functools import partial

import torch

from .verdicts import told


def main() -> None:
    """Judge the networks of a range of seeds."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--seeds", default="0:25", help="first:last")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--many", type=int, default=3, help="pairs, and selections of all")
    parser.add_argument("--least", action="store_true", help="shrink what fails")
    options = parser.parse_args()
    seeds = range(*map(int, options.seeds.split(":")))
    one = partial(told, many=options.many, least=options.least)
    context = multiprocessing.get_context("spawn")
    with context.Pool(options.jobs, torch.set_num_threads, (1,)) as pool:
        for lines in pool.imap(one, seeds):
            print(lines, flush=True)


if __name__ == "__main__":
    main()
