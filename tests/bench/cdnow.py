"""Replay a real shop's years with a rich program, in memory: `python -m tests.bench.cdnow [--purchases N]`.

Tiers by the spend of a rolling year, points that wait 14 days and expire at the end of a month 12 months later, double
points on the first purchase of a month, at most 500 points a month from the base rule. Writes one JSON object: what
came of it, and how many purchases a second one processor recorded.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

from loyalty.ops.demo import purchases
from tests import cdnow


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--purchases", type=int, help="Only the first ones. Default: all.")
    options = parser.parse_args()
    history = purchases(options.purchases)
    began = time.process_time()
    came = cdnow.replay(cdnow.terms(), history)
    seconds = time.process_time() - began
    figures = {
        "purchases": came.purchases,
        "members": came.members,
        "issued": came.issued["points"],
        "available": came.available["points"],
        "pending": came.pending["points"],
        "expired": came.expired["points"],
        "purchases_cut_by_the_cap": came.cut,
        "levels": dict(came.levels),
        "moves": {f"{before} to {after}": count for (before, after), count in sorted(came.moves.items())},
        "purchases_a_second_of_the_processor": round(came.purchases / seconds),
    }
    json.dump(figures, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
