#!/usr/bin/env python3
"""Durable sessions under faults: what was acknowledged arrives, whatever node dies, once at QoS 2, in order, and no session is lost.

    tests/outer/durable.py --magpie target/release/magpie                        # the short form
    tests/outer/durable.py --magpie target/release/magpie --all [--seed N]       # every fault once
    tests/outer/durable.py --magpie target/release/magpie --minutes 60 [--seed N]  # faults at random for so long
    tests/outer/durable.py --magpie target/release/magpie --only "kill -9 of one;one isolated"

Each node runs in a network namespace of its own, which needs root; with `--local` all run on loopback, and no network is cut. Times are
reported, and are wrong only beyond ten times the aim.
"""

import argparse
import os
import signal
import sys
import time
from collections import Counter

import durable_faults
from durable_rig import Rig, told
from network import Network
from nodes import Cluster
from report import Failure, Suite, check, say

KINDS = ("missing", "doubles", "order", "sessions", "retained", "wills")
COLUMNS = ("fault", "acknowledged", "unknown", "deliveries", "repeats", *KINDS, "other", "gap s", "resumed s", "connect s")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--magpie", required=True, help="the binary")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--all", action="store_true", help="every fault once")
    parser.add_argument("--minutes", type=float, help="faults at random for so long")
    parser.add_argument("--only", help="names of faults, separated by semicolons")
    parser.add_argument("--local", action="store_true", help="without namespaces, hence without cuts")
    arguments = parser.parse_args()
    # Nodes and namespaces do not outlive this process.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    suite = Suite("durable", arguments.seed)
    if arguments.local or os.geteuid() != 0:
        say("       without namespaces: the network is not cut")
        return with_network(suite, arguments, None)
    with Network() as network:
        return with_network(suite, arguments, network)


def with_network(suite, arguments, network):
    cluster = Cluster(arguments.magpie, network=network)
    if not suite.step("three nodes start", lambda: cluster.__enter__() and None):
        return suite.end()
    rig = Rig(cluster, network, suite.random, suite.seed)
    rows = []
    try:
        if suite.step("clients start and subscribe", rig.start):
            for name, fault in faults_of(arguments, suite.random, network):
                suite.step(name, trial, rig, name, fault, rows)
    finally:
        rig.stop()
        cluster.__exit__(None, None, None)
    show(rows)
    return suite.end()


def faults_of(arguments, random, network):
    """Name and function of each fault to be made, in order."""
    possible = {name: fault for name, (fault, cuts, _) in durable_faults.FAULTS.items() if network or not cuts}
    if arguments.only:
        for name in arguments.only.split(";"):
            check(name in possible, f"there is no fault {name!r}; there are: {', '.join(possible)}")
            yield name, possible[name]
    elif arguments.minutes:
        until = time.monotonic() + 60 * arguments.minutes
        while time.monotonic() < until:
            name = random.choice(list(possible))
            yield name, possible[name]
    else:
        for name, fault in possible.items():
            if arguments.all or durable_faults.FAULTS[name][2]:
                yield name, fault


def trial(rig, name, fault, rows):
    """One fault under load, then everybody comes back, and the oracle judges."""
    rig.go_on()
    before = sum(len(one.acknowledged_at) for one in rig.publishers)
    # Who has said goodbye before this has been heard when the fault comes.
    rig.disturb()
    time.sleep(2)
    figures, problem = {}, None
    try:
        figures = fault(rig)
        rig.cluster.wait_ready()
        time.sleep(1)
    except Failure as error:
        problem = error
    finally:
        durable_faults.heal(rig)
    took, wrong = rig.drain()
    counts, found = rig.judge()
    wrong += found
    told(wrong)
    kinds = Counter(kind for kind, _ in wrong)
    row = {
        "fault": name,
        "acknowledged": sum(len(one.acknowledged_at) for one in rig.publishers) - before,
        "unknown": counts["unknown"],
        "deliveries": counts["delivered"],
        "repeats": counts["repeats"],
        **{kind: kinds[kind] for kind in KINDS},
        "other": sum(count for kind, count in kinds.items() if kind not in KINDS) + (problem is not None),
        "gap s": figures.get("gap"),
        "resumed s": figures.get("resumed"),
        "connect s": figures.get("connect"),
    }
    rows.append(row)
    if problem:
        raise problem
    check(not wrong, ", ".join(f"{kind} {count}" for kind, count in kinds.items()))
    for what, aim in (("gap", figures.get("gap_aim")), ("resumed", 2.0), ("connect", 10.0)):
        if aim and figures.get(what) is not None:
            check(figures[what] < 10 * aim, f"{what} {figures[what]:.1f} s, the aim is {aim} s")
    shown = [f"{row['acknowledged']} acknowledged, {row['deliveries']} delivered, {counts['wills']} wills, drained in {took:.1f} s"]
    shown += [f"{what} {figures[what]:.2f} s" for what in ("gap", "resumed", "connect") if figures.get(what) is not None]
    return ", ".join(shown) + (f"; {figures['told']}" if figures.get("told") else "")


def show(rows):
    say("\n| " + " | ".join(COLUMNS) + " |\n|---|" + "---:|" * (len(COLUMNS) - 1))
    for row in rows:
        cells = (row[column] for column in COLUMNS)
        say("| " + " | ".join("" if cell is None else f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in cells) + " |")
    say("")


if __name__ == "__main__":
    sys.exit(main())
