"""What is done to the cluster. Each fault makes sure that it really happened, and answers what it measured."""

import shutil
import signal
import socket
import time
from pathlib import Path

from clients import Paho
from nodes import READY_WITHIN_S
from report import Failure, check, wait_until


def heal(rig):
    """Whatever a fault left behind: all nodes run, and no network is cut."""
    if rig.network:
        rig.network.heal()
    for node in rig.cluster.nodes:
        if node.process.poll() is None:
            node.signal(signal.SIGCONT)
        else:
            node.start()
    rig.cluster.wait_ready()


def hold(rig, shortest, longest):
    time.sleep(rig.random.uniform(shortest, longest))


def kill(node):
    node.kill()
    check(not Path(f"/proc/{node.process.pid}").exists(), f"{node.name} still runs")
    with socket.socket() as tried:
        check(tried.connect_ex((node.host, node.mqtt)) != 0, f"something listens in place of {node.name}")


def kill_one(rig, node=None):
    node = node or rig.random.choice(rig.cluster.nodes)
    at = time.monotonic()
    kill(node)
    hold(rig, 5, 7)
    until = time.monotonic()
    node.start()
    return {"gap": rig.longest_gap(at, until), "gap_aim": 1.0, "resumed": rig.resumed_after(node, at), "told": node.name}


def kill_number(number):
    return lambda rig: kill_one(rig, rig.cluster.nodes[number])


def kill_leader(rig):
    return kill_one(rig, rig.most_leading())


def kill_for_long(rig):
    """Long enough to be declared down."""
    node = rig.random.choice(rig.cluster.nodes)
    other = rig.cluster.others(node)[0]
    at = time.monotonic()
    kill(node)
    down = wait_until(f"{node.name} is declared down", 60, lambda: rig.state_of(node, other) == "down", every=0.2)
    time.sleep(3)
    until = time.monotonic()
    node.start()
    return {"gap": rig.longest_gap(at, until), "gap_aim": 1.0, "resumed": rig.resumed_after(node, at),
            "told": f"{node.name}, declared down after {down:.1f} s"}


def kill_two(rig):
    left, *gone = rig.random.sample(rig.cluster.nodes, 3)
    for node in gone:
        kill(node)
    at = time.monotonic()
    refused = wait_until("readiness fails", 20, lambda: left.readiness()[0] == 503)
    hold(rig, 3, 5)
    # What is acknowledged now was safe before.
    alone = rig.acknowledgements(at + 1, time.monotonic())
    check(alone == 0, f"{alone} acknowledgements without a majority")
    back = time.monotonic()
    for node in gone:
        node.start()
    connect = accepted(rig, [left], back)
    rig.cluster.wait_ready()
    return {"connect": connect, "told": f"{left.name} is left, and not ready after {refused:.1f} s"}


def kill_all(rig):
    for node in rig.cluster.nodes:
        node.process.kill()
    for node in rig.cluster.nodes:
        kill(node)
    at = time.monotonic()
    for node in rig.cluster.nodes:
        node.start()
    return {"connect": accepted(rig, rig.cluster.nodes, at)}


def accepted(rig, nodes, since):
    """After how long one of these accepts a CONNECT."""
    while time.monotonic() - since < 100:
        for node in nodes:
            try:
                Paho(node.mqtt, 5, host=node.host).close()
                return time.monotonic() - since
            except (OSError, Failure):
                time.sleep(0.1)
    raise Failure("no CONNECT is accepted within 100 s")


def pause(seconds):
    def fault(rig):
        node = rig.random.choice(rig.cluster.nodes)
        other = rig.cluster.others(node)[0]
        at = time.monotonic()
        node.signal(signal.SIGSTOP)
        wait_until(f"{node.name} is stopped", 20, lambda: state_of_process(node) == "T")
        time.sleep(seconds)
        until = time.monotonic()
        state = rig.state_of(node, other)
        check(state_of_process(node) == "T", f"{node.name} runs")
        node.signal(signal.SIGCONT)
        return {"gap": rig.longest_gap(at, until), "gap_aim": 2.0, "resumed": rig.resumed_after(node, at),
                "told": f"{node.name}, {state} to the others"}

    return fault


def state_of_process(node):
    return Path(f"/proc/{node.process.pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


def wipe(rig):
    node = rig.random.choice(rig.cluster.nodes)
    was = node.status()["node_id"]
    at = time.monotonic()
    kill(node)
    shutil.rmtree(node.directory)
    until = at + 3
    time.sleep(3)
    node.start()
    joined = wait_until("the wiped node is ready", 2 * READY_WITHIN_S, node.is_ready)
    check(node.status()["node_id"] != was, f"{node.name} has its old identity")

    def whole():
        groups = node.status()["groups"]
        return len(groups) > 8 and all(len(group["voters"]) == 3 for group in groups)

    replaced = wait_until("the wiped node has all replicas", 2 * READY_WITHIN_S, whole, every=0.3)
    return {"gap": rig.longest_gap(at, until), "gap_aim": 1.0, "resumed": rig.resumed_after(node, at),
            "told": f"{node.name} is a new member after {joined:.1f} s and has all replicas after {joined + replaced:.1f} s"}


def cut(*pairs_of, seconds=(5, 8), also_clients=False, flaps=False):
    """Cuts between nodes in random roles: pairs of numbers, each a direction."""
    def fault(rig):
        nodes = rig.random.sample(rig.cluster.nodes, 3)
        pairs = [(nodes[a].host, nodes[b].host) for a, b in pairs_of]
        if also_clients:
            clients = f"{rig.network.net}.254"
            pairs += [(nodes[0].host, clients), (clients, nodes[0].host)]
        at = time.monotonic()
        dropped = 0
        if flaps:
            until = at + 12
            while time.monotonic() < until:
                rig.network.cut(*pairs)
                hold(rig, 0.3, 2)
                dropped += sum(dropped for dropped, _ in rig.network.counts().values())
                rig.network.heal()
                hold(rig, 0.2, 1.5)
            check(dropped > 0, "nobody sent during the cuts")
        else:
            rig.network.cut(*pairs)
            hold(rig, *seconds)
            dropped = rig.network.check_cut()
        until = time.monotonic()
        states = "; ".join(f"{node.name} {node.readiness()[1].strip()}" for node in nodes)
        rig.network.heal()
        return {"gap": rig.longest_gap(at, until), "gap_aim": 2.0, "resumed": rig.resumed_after(nodes[0], at),
                "told": f"{dropped} packets dropped; at the end {states}"}

    return fault


def all_alone(rig):
    """No node reaches another: nothing may be acknowledged."""
    hosts = [node.host for node in rig.cluster.nodes]
    rig.network.cut(*((a, b) for a in hosts for b in hosts if a != b))
    at = time.monotonic()
    hold(rig, 6, 9)
    dropped = rig.network.check_cut()
    alone = rig.acknowledgements(at + 1, time.monotonic())
    check(alone == 0, f"{alone} acknowledgements without a majority")
    refusing = [node.name for node in rig.cluster.nodes if node.readiness()[0] == 503]
    check(len(refusing) == 3, f"only {refusing} are not ready")
    back = time.monotonic()
    rig.network.heal()
    return {"connect": accepted(rig, rig.cluster.nodes, back), "told": f"{dropped} packets dropped, none ready"}


def rolling_restart(rig):
    at = time.monotonic()
    stops = []
    for node in rig.cluster.nodes:
        pid = node.process.pid
        stops.append(node.stop())
        node.start()
        check(node.process.pid != pid, f"{node.name} is the old process")
        rig.cluster.wait_ready()
        time.sleep(1)
    return {"gap": rig.longest_gap(at, time.monotonic()), "gap_aim": 0.5, "told": f"each stopped within {max(stops):.1f} s"}


def lose_power(number):
    """Of so many nodes at once: what they did not sync is gone."""
    def fault(rig):
        nodes = rig.random.sample(rig.cluster.nodes, number)
        disks = [rig.disks.by_node[node] for node in nodes]
        at = time.monotonic()
        for disk in disks:
            disk.write_canary()
        for node in nodes:
            node.signal(signal.SIGSTOP)
        for node in nodes:
            wait_until(f"{node.name} is stopped", 20, lambda node=node: state_of_process(node) == "T")
        for disk in disks:
            disk.copy()
        copied = time.monotonic() - at
        for node in nodes:
            kill(node)
        left = [disk.replace() for disk in disks]
        # Otherwise nothing was lost, and this was a kill -9.
        check(not any(left), f"of files that were not synced, {left} bytes are left")
        back = time.monotonic()
        for node in nodes:
            node.start()
        connect = accepted(rig, nodes, back) if number > 1 else None
        rig.cluster.wait_ready()
        return {"connect": connect, "told": f"{', '.join(node.name for node in nodes)}; copied after {copied:.1f} s, canaries gone"}

    return fault


BOTH_WAYS = ((0, 1), (1, 0), (0, 2), (2, 0))

# Name -> function, whether it cuts the network, whether it is in the short form.
FAULTS = {
    "kill -9 of one": (kill_one, False, True),
    "kill -9 of node1": (kill_number(0), False, False),
    "kill -9 of node2": (kill_number(1), False, False),
    "kill -9 of node3": (kill_number(2), False, False),
    "kill -9 of the leader of most": (kill_leader, False, False),
    "kill -9 of one, until it is declared down": (kill_for_long, False, False),
    "kill -9 of two": (kill_two, False, False),
    "kill -9 of all": (kill_all, False, True),
    "SIGSTOP for 1 s": (pause(1), False, False),
    "SIGSTOP for 3 s": (pause(3), False, False),
    "SIGSTOP for 5 s": (pause(5), False, True),
    "SIGSTOP for 15 s": (pause(15), False, False),
    "wiped data directory": (wipe, False, True),
    "one isolated": (cut(*BOTH_WAYS), True, True),
    "one isolated, from its clients too": (cut(*BOTH_WAYS, also_clients=True), True, False),
    "one isolated until it is declared down": (cut(*BOTH_WAYS, seconds=(14, 16)), True, False),
    "two cut from each other, not from the third": (cut((0, 1), (1, 0)), True, False),
    "one-way, one is not heard": (cut((0, 1), (0, 2)), True, False),
    "one-way, one hears nothing": (cut((1, 0), (2, 0)), True, False),
    "all alone": (all_alone, True, False),
    "flapping": (cut(*BOTH_WAYS, flaps=True), True, False),
    "rolling restart": (rolling_restart, False, True),
}

# The same, of faults that need each node on a disk of its own.
POWER_FAULTS = {
    "power loss of one": (lose_power(1), False, True),
    "power loss of two": (lose_power(2), False, False),
    "power loss of all": (lose_power(3), False, True),
}
