#!/usr/bin/env python3
"""Runs the outer suites, each with a time limit, and sums them up. Without names: all."""

import argparse
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

# Name and time limit in seconds.
SUITES = {"interop": 660, "messenger": 420, "faults": 600, "durable": 600, "shares": 600, "attacks": 600, "bytefuzz": 240, "failpoints": 480, "rare": 480, "compose": 2400}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"of {', '.join(SUITES)}")
    parser.add_argument("--magpie", help="the binary; compose builds its own")
    parser.add_argument("--seed", type=int)
    arguments = parser.parse_args()
    if unknown := set(arguments.suites) - set(SUITES):
        parser.error(f"there is no suite {', '.join(unknown)}")
    # Whoever ends this process ends the suite too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    passed = failed = 0
    for name in arguments.suites or SUITES:
        one = run(name, arguments)
        passed, failed = passed + one[0], failed + one[1]
    print(f"{passed} passed, {failed} failed", flush=True)
    return 0 if failed == 0 else 1


def run(name, arguments):
    """How many steps passed and failed; a suite that does not end in order has failed once more."""
    command = [sys.executable, "-B", str(Path(__file__).with_name(f"{name}.py"))]
    if name != "compose":
        command += ["--magpie", str(Path(arguments.magpie).resolve())]
    if arguments.seed is not None:
        command += ["--seed", str(arguments.seed)]
    started = time.monotonic()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
                               env={**os.environ, "PYTHONUNBUFFERED": "1"}, start_new_session=True)
    deadline = time_limit(SUITES[name], process)
    last = ""
    try:
        for line in process.stdout:
            print(line, end="", flush=True)
            last = line
        code = process.wait()
    finally:
        deadline.cancel()
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(30)
    sums = re.fullmatch(r"(\d+) passed, (\d+) failed\n", last)
    passed, failed = (int(sums[1]), int(sums[2])) if sums else (0, 0)
    took = time.monotonic() - started
    if code != 0 and failed == 0 or sums is None:
        print(f"FAILED {name} ended with {code} after {took:.0f} s (limit {SUITES[name]} s)", flush=True)
        failed += 1
    print(f"   {name} took {took:.0f} s\n", flush=True)
    return passed, failed


def time_limit(seconds, process):
    """Ends the suite when its time is over; SIGINT first, so that it can clean up."""
    def end():
        process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(seconds, end)
    timer.start()
    return timer


if __name__ == "__main__":
    sys.exit(main())
