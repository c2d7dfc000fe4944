"""`python -m tests.model --examples 20000`: the long search for a history on which engine and model differ."""

from __future__ import annotations

import multiprocessing
import sys
import time
from itertools import islice

import click

from tests.model.machines import MACHINES, attempt
from tests.model.search import BLOCK, seeds


@click.command()
@click.option("--examples", default=20_000, show_default=True, help="Histories in all.")
@click.option("--processes", default=multiprocessing.cpu_count(), show_default=True, help="How many search at once.")
@click.option("--machine", "names", multiple=True, type=click.Choice(sorted(MACHINES)), help="Only these.")
@click.option("--seed", "number", type=int, help="Only the block of this seed, as a failure names it.")
def main(examples: int, processes: int, names: tuple[str, ...], number: int | None) -> None:
    """Search until all examples are done or one of them fails; the shortest failing history is printed."""
    chosen = list(names or MACHINES)
    blocks = -(-examples // BLOCK)
    numbers = [number] if number is not None else list(islice(seeds(), blocks))
    work = [(name, block) for place, block in enumerate(numbers) for name in [chosen[place % len(chosen)]]]
    if number is not None:
        work = [(name, number) for name in chosen]
    started, done = time.monotonic(), 0
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for name, block, failure in pool.imap_unordered(attempt, work):
            if failure:
                print(failure)
                print(f"again: python -m tests.model --machine {name} --seed {block}")
                pool.terminate()
                sys.exit(1)
            done += BLOCK
            seconds = time.monotonic() - started
            print(f"\r{done:,} of {len(work) * BLOCK:,} examples, {done / seconds:,.0f} a second", end="", flush=True)
    print(f"\n{done:,} examples, no difference, {time.monotonic() - started:,.0f} s")


if __name__ == "__main__":
    main()
