"""That nothing is lost: `python -m benchmarks.kills [--rounds N] [--json]`.

So many times `kill -9` under load, a quarter each at `process` with ASYNC, `disk` with BSP, `replica` with ASYNC and `replica+disk` with BSP,
the two with BSP over two shards whose steps wait for a norm of both, each after a least number of pushes of each worker; with a replica it takes over, and once in a while it is the one that is hit. It ends with status 1 if one acknowledged push was lost or one was applied twice. The suite runs 20, a nightly job 200.
"""

import argparse
import json
import sys
from functools import partial

import numpy as np

from benchmarks._kills import Scene, kill_rounds
from headrace.parameters.v1 import stores_pb2

ROUNDS = 20
NIGHTLY_SEED = 2026


def kills(rounds: int, *, as_json: bool) -> int:
    """Run the rounds; return the exit status."""
    scenes = {
        "process, async": Scene(stores_pb2.DURABILITY_PROCESS, stores_pb2.CONSISTENCY_ASYNC),
        "disk, bsp": Scene(stores_pb2.DURABILITY_DISK, stores_pb2.CONSISTENCY_BSP, shards=2),
        "replica, async": Scene(stores_pb2.DURABILITY_REPLICA, stores_pb2.CONSISTENCY_ASYNC),
        "replica+disk, bsp": Scene(stores_pb2.DURABILITY_REPLICA_DISK, stores_pb2.CONSISTENCY_BSP, shards=2),
    }
    each = rounds // len(scenes)
    outcomes = {
        name: kill_rounds(scene, each, NIGHTLY_SEED, partial(_tell, name, each))
        for name, scene in scenes.items()
    }
    facts = {
        name: {
            "kills": len(outcome.outages_s),
            "acknowledged": outcome.acknowledged,
            "lost": outcome.lost,
            "twice": outcome.twice,
            "median_outage_s": round(float(np.median(outcome.outages_s)), 2),
            "longest_outage_s": round(max(outcome.outages_s), 2),
        }
        for name, outcome in outcomes.items()
    }
    print(
        json.dumps(facts, indent=2)
        if as_json
        else "\n".join(f"{name}: {fact}" for name, fact in facts.items())
    )
    return int(any(outcome.lost or outcome.twice for outcome in outcomes.values()))


def _tell(scene: str, rounds: int, kills: int) -> None:
    """Say how far it is: nothing else is seen until all rounds are over."""
    print(f"{scene}: {kills} of {rounds} kills", file=sys.stderr, flush=True)


def main() -> int:
    """Be the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kills")
    parser.add_argument(
        "--rounds", type=int, default=ROUNDS, help="4 or more; a quarter of them for each scene"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    if arguments.rounds < 4:
        parser.error(f"--rounds {arguments.rounds} is too few; use 4 or more")
    return kills(arguments.rounds, as_json=arguments.json)


if __name__ == "__main__":
    sys.exit(main())
