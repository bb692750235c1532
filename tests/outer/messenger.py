#!/usr/bin/env python3
"""A messenger: users with inboxes, groups, and an observer of everything, spread by a balancer over three nodes.

While all are online, every message arrives once, and in order per sender and conversation. A node is stopped in the middle: its
clients come back through the balancer and go on. Sessions are clean, so what is owed to a user is exactly this: every message that was acknowledged and
was first sent while the user was subscribed, if the user stayed so until it could arrive.
"""

import argparse
import json
import sys
import threading
import time
from collections import Counter, defaultdict

from balancer import balancer
from clients import Patient
from nodes import Cluster
from report import Suite, check, say, wait_until

USERS = 50
GROUPS = 5
# An acknowledged message must have arrived after this.
ARRIVES_WITHIN_S = 5.0


class Messenger:
    """The users, what they sent, and what each of them got."""

    def __init__(self, port, random):
        self.random = random
        self.sent = {}  # (sender, number) -> (topic, first sent, acknowledged, tries)
        self.got = defaultdict(list)  # name -> [(sender, number, topic)]
        self.numbers = Counter()
        self.members = {group: [user for user in range(USERS) if user % GROUPS == group] for group in range(GROUPS)}
        self.clients = {}
        for user in range(USERS):
            filters = [f"chat/user/{user}/inbox", f"chat/group/{user % GROUPS}"]
            self.clients[f"user{user}"] = Patient(f"user{user}", [port], filters, 4 + user % 2, self.received)
        self.clients["observer"] = Patient("observer", [port], ["chat/#"], 5, self.received)

    def wait_online(self, seconds=60):
        return wait_until("everybody is online", seconds, lambda: all(c.there.is_set() for c in self.clients.values()))

    def received(self, client, message, _at):
        told = json.loads(message.payload)
        self.got[client.name].append((told["from"], told["number"], message.topic))

    def audience(self, topic):
        """Who is to get what is published there."""
        _, kind, place, *_ = topic.split("/")
        users = [int(place)] if kind == "user" else self.members[int(place)]
        return [f"user{user}" for user in users] + ["observer"]

    def write(self, user, seconds, pause):
        """One user's part: one message after the other, to somebody or to the own group."""
        client = self.clients[f"user{user}"]
        until = time.monotonic() + seconds
        random = type(self.random)(f"{self.random.random()}")
        while time.monotonic() < until:
            topic = f"chat/group/{user % GROUPS}" if random.random() < 0.2 else f"chat/user/{random.randrange(USERS)}/inbox"
            self.numbers[user] += 1
            number = self.numbers[user]
            payload = json.dumps({"from": user, "number": number, "text": "x" * random.randrange(200)}).encode()
            first = time.monotonic()
            self.sent[user, number] = (topic, first, None, 0)
            tries = client.publish(topic, payload)
            self.sent[user, number] = (topic, first, time.monotonic(), tries)
            time.sleep(random.uniform(0, 2 * pause))

    def talk(self, seconds, pause=0.25, meanwhile=None):
        """Everybody writes for so long; something may happen meanwhile. Answers the keys of what was sent."""
        before = set(self.sent)
        errors = []

        def part(user):
            try:
                self.write(user, seconds, pause)
            except Exception as error:  # noqa: BLE001 - told by the caller's thread
                errors.append(error)

        writers = [threading.Thread(target=part, args=(user,), daemon=True) for user in range(USERS)]
        for writer in writers:
            writer.start()
        if meanwhile:
            meanwhile()
        for writer in writers:
            writer.join()
        if errors:
            raise errors[0]
        return set(self.sent) - before

    def settle(self):
        """Until nothing more arrives."""
        last, since = -1, time.monotonic()
        while time.monotonic() - since < ARRIVES_WITHIN_S:
            now = sum(len(got) for got in self.got.values())
            if now != last:
                last, since = now, time.monotonic()
            time.sleep(0.1)

    def check_exact(self, keys):
        """Each of these arrived once with each of its audience, in order, and with nobody else."""
        expected = defaultdict(Counter)
        for key in keys:
            for name in self.audience(self.sent[key][0]):
                expected[name][key] += 1
        for name in self.clients:
            got = Counter((sender, number) for sender, number, _ in self.got[name] if (sender, number) in keys)
            missing, extra = expected[name] - got, got - expected[name]
            check(not missing, f"{name} misses {sum(missing.values())} of {sum(expected[name].values())}: {list(missing)[:3]}")
            check(not extra, f"{name} has {sum(extra.values())} too many: {list(extra)[:3]}")
        self.check_order(keys)
        return sum(sum(one.values()) for one in expected.values())

    def check_order(self, keys):
        """Per sender and conversation the numbers rise; a repeat of what came before is no new message."""
        for name in self.clients:
            last = {}
            seen = set()
            for sender, number, topic in self.got[name]:
                if (sender, number) not in keys or (sender, number) in seen:
                    continue
                seen.add((sender, number))
                check(last.get((sender, topic), 0) < number, f"{name} got {number} of user{sender} on {topic} after {last.get((sender, topic))}")
                last[sender, topic] = number

    def check_owed(self, keys):
        """What clean sessions promise while connections come and go: see the head of this file."""
        owed = unowed_arrived = repeats = 0
        for name, client in self.clients.items():
            got = Counter((sender, number) for sender, number, _ in self.got[name])
            for key in keys:
                topic, first, acknowledged, tries = self.sent[key]
                if name not in self.audience(topic):
                    check(got[key] == 0, f"{name} got {key}, which is for others")
                    continue
                check(acknowledged is not None, f"{key} was not acknowledged")
                if client.was_there(first, acknowledged + ARRIVES_WITHIN_S):
                    owed += 1
                    check(got[key] >= 1, f"{name} misses {key} on {topic}, acknowledged after {acknowledged - first:.2f} s, {tries} tries")
                else:
                    unowed_arrived += min(got[key], 1)
                check(got[key] <= tries, f"{name} got {key} {got[key]} times, sent {tries} times")
                repeats += max(got[key] - 1, 0)
        self.check_order(keys)
        return owed, unowed_arrived, repeats

    def close(self):
        for client in self.clients.values():
            client.stopping.set()
            client.lost.set()
        for client in self.clients.values():
            client.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--magpie", required=True, help="the binary")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--seconds", type=float, default=10, help="of each phase")
    arguments = parser.parse_args()
    suite = Suite("messenger", arguments.seed)
    cluster = Cluster(arguments.magpie)
    if not suite.step("three nodes start", lambda: cluster.__enter__() and None):
        return suite.end()
    try:
        with balancer(cluster.nodes) as front:
            say(f"       the balancer is {front}")
            messenger = Messenger(front.port, suite.random)
            try:
                phases(suite, cluster, messenger, arguments.seconds)
            finally:
                messenger.close()
    finally:
        cluster.__exit__(None, None, None)
    return suite.end()


def phases(suite, cluster, messenger, seconds):
    def online():
        messenger.wait_online()
        counts = [node.status().get("clients") for node in cluster.nodes]
        check(all(counts), f"the balancer leaves a node without clients: {counts}")
        return f"clients per node {counts}"

    def steady():
        keys = messenger.talk(seconds)
        messenger.settle()
        deliveries = messenger.check_exact(keys)
        return f"{len(keys)} messages, {deliveries} deliveries, {len(keys) / seconds:.0f} messages/s"

    def disturbed(disturb):
        def disturb_in_the_middle():
            time.sleep(seconds / 2)
            times.append(disturb())

        times = []
        before = {name: client.connects for name, client in messenger.clients.items()}
        keys = messenger.talk(2 * seconds, meanwhile=disturb_in_the_middle)
        messenger.wait_online()
        messenger.settle()
        owed, beyond, repeats = messenger.check_owed(keys)
        moved = sum(client.connects > before[name] for name, client in messenger.clients.items())
        check(moved > 0, "nobody had to move")
        slowest = max(messenger.sent[key][2] - messenger.sent[key][1] for key in keys)
        return (f"{len(keys)} messages, {owed} deliveries owed and made, {beyond} more, {repeats} repeats of repeated sends; "
                f"{moved} clients moved, slowest acknowledgement {slowest:.2f} s, the disturbance took {times[0]:.1f} s")

    stopped, killed, _ = suite.random.sample(cluster.nodes, 3)

    def back(node):
        node.start()
        return f"ready after {cluster.wait_ready():.1f} s"

    def kill():
        killed.kill()
        return 0.0

    suite.step("users, groups and observer are online on all nodes", online)
    suite.step("everybody writes: each message once, in order", steady)
    suite.step(f"{stopped.name} is stopped in the middle: its clients go on elsewhere", disturbed, stopped.stop)
    suite.step("with two nodes: each message once, in order", steady)
    suite.step(f"{stopped.name} returns", back, stopped)
    suite.step(f"{killed.name} is killed in the middle: its clients go on elsewhere", disturbed, kill)
    suite.step(f"{killed.name} returns", back, killed)
    suite.step("with three nodes again: each message once, in order", steady)


if __name__ == "__main__":
    sys.exit(main())
