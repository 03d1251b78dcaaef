"""kill −9 at every step of joining, on either side: each node ends enrolled, with one roster entry.

An undisturbed enrolment by real processes tells what they come by: durable file operations,
requests and answers. Every such point, just before it, in it and just after it, is then reached:
several in one fresh enrolment, one after the other, and what is not come by that way in one of its
own. Whoever is killed is started again by the same command, until joining ends well.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from bench.measure import write_result
from tests.faults.enrolment import Enrolment, Outcome, Template
from tests.faults.points import Point, candidates

FOLDER = Path("runs/enrolment_kills")
GOAL = "every point: enrolled in the end, exactly one roster entry"


def main() -> None:
    """Reach every point and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--points", type=int, default=0, help="at most so many; 0 for all")
    parser.add_argument("--chain", type=int, default=8, help="kills in one enrolment")
    options = parser.parse_args()
    shutil.rmtree(FOLDER, ignore_errors=True)
    templates: SimpleQueue[Template] = SimpleQueue()
    for number in range(options.workers):  # each with ports of its own
        templates.put(Template.found((FOLDER / f"template-{number}").absolute()))

    def enrol(name: str, plan: list[Point], counting: bool = False) -> Outcome:
        template, folder = templates.get(), (FOLDER / name).absolute()
        try:
            outcome = Enrolment(template, folder, plan, counting).run()
        finally:
            templates.put(template)
        if not outcome.wrong:
            shutil.rmtree(folder)
        return outcome

    undisturbed = enrol("undisturbed", [], counting=True)
    if undisturbed.wrong:
        raise SystemExit(f"the undisturbed enrolment went wrong: {undisturbed.wrong}")
    points = [point for group in candidates(undisturbed.operations) for point in group]
    points = points[: options.points or None]
    chains = [points[n : n + options.chain] for n in range(0, len(points), options.chain)]
    failures: list[dict[str, Any]] = []
    reached: list[Point] = []
    with ThreadPoolExecutor(options.workers) as pool:

        def run(name: str, plans: list[list[Point]]) -> None:
            jobs = [pool.submit(enrol, f"{name}-{n:03d}", plan) for n, plan in enumerate(plans)]
            for plan, job in zip(plans, jobs, strict=True):
                outcome = job.result()
                reached.extend(outcome.reached)
                if outcome.wrong:
                    failures.append({"plan": list(map(str, plan)), "wrong": outcome.wrong})
                told = "; ".join(outcome.wrong) or "enrolled, once"
                print(f"{len(outcome.reached)} of {len(plan)} kills: {told}", flush=True)

        run("chain", chains)
        run("alone", [[point] for point in points if point not in reached])
    result = {
        "points": len(reached),
        "failures": len(failures),
        "failed": failures,
        "enrolments": len(chains),
        "of_process": dict(Counter(point.process for point in reached)),
        "of_operation": dict(Counter(point.op for point in reached)),
        "not_come_by": sorted({str(p) for p in points} - {str(p) for p in reached}),
    }
    write_result("enrolment_kills", {**result, "goal": GOAL})
    print(f"{len(reached)} points, {len(failures)} failures")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
