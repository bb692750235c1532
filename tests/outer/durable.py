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
import contextlib
import os
import signal
import sys
import time
from collections import Counter

import disks
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
    suite.magpie = arguments.magpie
    rows = []
    if arguments.local or os.geteuid() != 0:
        say("       without namespaces: the network is not cut")
        with_network(suite, arguments, None, rows)
    else:
        with Network() as network:
            with_network(suite, arguments, network, rows)
    show(rows)
    return suite.end()


def with_network(suite, arguments, network, rows):
    faults = {name: fault for name, fault in durable_faults.FAULTS.items() if network or not fault[1]}
    power, why_not = durable_faults.POWER_FAULTS, disks.why_not()
    if why_not:
        say(f"       without loss of power: {why_not}")
        power = {}
    if arguments.only:
        wanted = arguments.only.split(";")
        unknown = [name for name in wanted if name not in faults and name not in power]
        if not suite.step("the faults exist", check, not unknown, f"no {unknown}; there are: {', '.join([*faults, *power])}"):
            return
        with_cluster(suite, network, rows, [(name, faults[name][0]) for name in wanted if name in faults])
        with_cluster(suite, network, rows, [(name, power[name][0]) for name in wanted if name in power], has_disks=True)
    elif arguments.minutes:
        # On disks that may lose power, if there can be some.
        with_cluster(suite, network, rows, at_random({**faults, **power}, suite.random, arguments.minutes), has_disks=bool(power))
    else:
        for some in (faults, power):
            chosen = [(name, fault) for name, (fault, _, is_short) in some.items() if arguments.all or is_short]
            with_cluster(suite, network, rows, chosen, has_disks=some is power)


def at_random(faults, random, minutes):
    until = time.monotonic() + 60 * minutes
    while time.monotonic() < until:
        name = random.choice(list(faults))
        yield name, faults[name][0]


def with_cluster(suite, network, rows, faults, has_disks=False):
    """Makes these faults, names and functions, on a new cluster."""
    if faults == []:
        return
    cluster = Cluster(suite.magpie, network=network)
    with contextlib.ExitStack() as stack:
        # Unmounted when the nodes are gone, and before their directories are.
        own_disks = disks.Disks(cluster) if has_disks else None
        if own_disks:
            stack.enter_context(cluster.keeping_home())
            stack.enter_context(own_disks)
        if not suite.step("three nodes start" + (", each on a disk of its own" if has_disks else ""), lambda: cluster.__enter__() and None):
            return
        rig = Rig(cluster, network, suite.random, suite.seed, own_disks)
        try:
            if suite.step("clients start and subscribe", rig.start):
                for name, fault in faults:
                    suite.step(name, trial, rig, name, fault, rows)
        finally:
            rig.stop()
            cluster.__exit__(None, None, None)


def trial(rig, name, fault, rows):
    """One fault under load, then everybody comes back, and the oracle judges."""
    rig.go_on()
    before = sum(len(one.acknowledged_at) for one in rig.publishers)
    rig.disturb(in_s=2)
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
