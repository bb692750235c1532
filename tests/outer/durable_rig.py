"""The cluster, the load on it, and what came of it: what the faults of `durable.py` work with."""

import statistics
import time

from clients import Paho
from durable_clients import Mortal, Publisher, Subscriber
from durable_oracle import Oracle, Retained, Wills
from report import Failure, check, say, wait_until

USERS = 20
PUBLISHERS = 8
DRAINED_WITHIN_S = 60
# What a DISCONNECT may take to be committed while nothing is wrong.
GOODBYE_S = 1.5


class Rig:
    """Publishers, phones that sleep, stay or roam, and clients with wills, on random nodes of a cluster."""

    def __init__(self, cluster, network, random, seed, disks=None):
        self.disks = disks
        self.cluster, self.network, self.random, self.seed = cluster, network, random, seed
        self.oracle, self.retained, self.wills = Oracle(self.path), Retained(), Wills(self.path_of_will)
        self.disturbed_from = self.disturbed_until = 0.0
        kinds = ["sleeps", "stays", "sleeps", "roams"]
        self.subscribers = []
        self.sleepers = []
        for user in range(USERS):
            kind = kinds[user % 4]
            filters = [f"t/inbox/{user}"] + (["t/group"] if user % 3 == 0 else []) + (["t/inbox/+"] if user == 9 else [])
            self._subscriber(f"user{user}-{kind}", 4 + user // 4 % 2, filters, kind)
        for kind, version in (("stays", 5), ("sleeps", 4), ("roams", 5)):
            self._subscriber(f"observer-{kind}", version, ["t/#"], kind)
        self.watcher = self._subscriber("watcher-of-wills", 5, ["will/#"], "stays")
        # All combinations of version and memory; two publishers do the same each.
        self.publishers = [Publisher(self, f"pub{n}", 4 + n % 2, n // 2 % 2 == 0, 0.04) for n in range(PUBLISHERS)]
        self.mortals = [Mortal(self, f"mortal{n}", n % 2 == 1) for n in range(4)]

    def _subscriber(self, name, version, filters, kind):
        made = Subscriber(self, name, version, filters, kind == "roams")
        self.subscribers.append(made)
        if kind == "sleeps":
            self.sleepers.append(made)
        return made

    def topic_for(self, publisher):
        """Topic, QoS, and whether it is to be retained. Retained topics belong to one publisher and one QoS."""
        one = publisher.random.random()
        if one < 0.1:
            return f"{publisher.random.choice(('t/state', 'cleared'))}/{publisher.name}", 1 + int(publisher.name[3:]) % 2, True
        qos = publisher.random.choice((1, 2))
        if one < 0.3:
            return "t/group", qos, False
        if one < 0.4:
            return f"t/other/{publisher.random.randrange(5)}", qos, False
        return f"t/inbox/{publisher.random.randrange(USERS)}", qos, False

    def everyone(self):
        return [*self.subscribers, *self.publishers, *self.mortals]

    def start(self):
        for one in self.subscribers:
            one.start()
        took = wait_until("all are subscribed", 60, lambda: self._check_clients() or all(one.subscribed for one in self.subscribers))
        self.send_to_sleep()
        for one in (*self.publishers, *self.mortals):
            one.start()
        return f"{len(self.subscribers)} sessions subscribed after {took:.1f} s, {len(self.sleepers)} of them sleep"

    def _check_clients(self):
        for one in self.everyone():
            if one.error:
                raise one.error

    def send_to_sleep(self):
        for one in self.sleepers:
            one.wanted = False
        wait_until("sleepers sleep", 10, lambda: all(one.node is None for one in self.sleepers))

    def publishers_on(self, node):
        return sum(one.node is node for one in self.publishers)

    def spread(self):
        """The publishers spread over the nodes: on the one that a fault befalls there is a third of them."""
        for _ in self.publishers:
            crowded = max(self.cluster.nodes, key=self.publishers_on)
            if self.publishers_on(crowded) - min(map(self.publishers_on, self.cluster.nodes)) <= 1:
                return
            moving = next(one for one in self.publishers if one.node is crowded)
            moving.moves = True
            wait_until("a publisher has moved", 10, lambda: self._check_clients() or (not moving.moves and moving.node is not None))

    def stop(self):
        for one in self.everyone():
            one.stopping = True
        for one in self.everyone():
            if one.ident:
                one.join(10)

    def is_calm(self):
        """Whether no fault is near: what a node has just been told then is carried out."""
        return not self.disturbed_from <= time.monotonic() <= self.disturbed_until

    def disturb(self, in_s):
        """A fault comes in so many seconds. A goodbye that its node has taken is committed well before that, but for those of the last moment."""
        self.disturbed_from = time.monotonic() + in_s - GOODBYE_S
        self.disturbed_until = float("inf")

    def go_on(self):
        for one in self.publishers:
            one.publishing = True

    def drain(self):
        """Everybody comes back, all is acknowledged, and all that is owed arrives. Answers how long it took, and what was wrong."""
        started = time.monotonic()
        self.disturbed_until = started + 5
        for one in self.publishers:
            one.publishing = False
        for one in self.mortals:
            one.wanted = False
        for one in self.sleepers:
            one.wanted = True
        wrong = []
        for what, left in (("stuck", lambda: sum(len(one.under_way) for one in self.publishers)), ("away", self._away),
                           ("late", self.oracle.waiting), ("late", self.wills.open)):
            try:
                wait_until(what, DRAINED_WITHIN_S, lambda: self._check_clients() or left() == 0)
            except Failure:
                wrong.append((what, f"{what}: {left()} after {DRAINED_WITHIN_S} s"))
        took = time.monotonic() - started
        # What comes once more comes now.
        time.sleep(1.5)
        return took, wrong

    def _away(self):
        return sum(one.node is None and not getattr(one, "roams", False) for one in (*self.subscribers, *self.publishers))

    def judge(self):
        """Counts since the last time, and all that is wrong, and goes on."""
        counts, wrong = self.oracle.judge()
        counts["wills"], of_wills = self.wills.judge()
        wrong += of_wills
        for node in self.cluster.nodes:
            wrong += self.retained.judge(node.name, self._fresh_look(node))
        for one in self.mortals:
            one.wanted = True
        self.send_to_sleep()
        self.spread()
        return counts, wrong

    def _fresh_look(self, node):
        """What a new subscriber gets as retained on this node."""
        client = Paho(node.mqtt, 5, host=node.host)
        client.subscribe(("t/state/#", 1), ("cleared/#", 1))
        seen = client.settle(0.7)
        client.close()
        check(all(message.retain for message in seen), f"{node.name}: a retained message came without RETAIN")
        return {message.topic: int(message.payload.split(b" ")[1]) for message in seen}

    # What the faults ask about.

    def longest_gap(self, since, until):
        """The longest time without an acknowledgement of the median publisher, in seconds."""
        gaps = []
        for one in self.publishers:
            times = [since, *(at for at in list(one.acknowledged_at) if since < at < until), until]
            gaps.append(max(after - before for before, after in zip(times, times[1:])))
        return statistics.median(gaps)

    def acknowledgements(self, since, until):
        return sum(since < at < until for one in self.publishers for at in list(one.acknowledged_at))

    def resumed_after(self, node, since):
        """Median time in which the clients that were connected to this node were connected elsewhere, of those that stay online."""
        times = []
        for one in (*self.publishers, *self.subscribers):
            before = [where for at, where in list(one.connects) if at < since]
            after = [at for at, where in list(one.connects) if at > since and where is not node]
            if before and before[-1] is node and after and one not in self.sleepers and not getattr(one, "roams", False):
                times.append(after[0] - since)
        return statistics.median(times) if times else None

    def most_leading(self):
        """The node that leads the most partitions."""
        def leads(node):
            return sum(group["leading"] for group in node.status()["groups"] if group["group"] != "control")

        return max(self.cluster.nodes, key=leads)

    def path(self, name, at):
        """Where a subscriber was shortly before and after a time."""
        client = next(one for one in self.subscribers if one.name == name)
        before = [(when, what) for when, what in client.history if when < at][-3:]
        after = [(when, what) for when, what in client.history if when >= at][:3]
        return "it " + ", ".join(f"{what} {when - at:+.3f} s" for when, what in before + after)

    def path_of_will(self, will):
        """What its client did around it, and when."""
        client = next(one for one in self.mortals if will.startswith(f"{one.base}-"))
        at = [index for index, (_, what) in enumerate(client.history) if what.endswith(f" as {will}")]
        near = client.history[max(at[0] - 3, 0):at[0] + 9] if at else []
        return "its client " + ", ".join(f"{what} {when - near[0][0]:+.2f} s" for when, what in near)

    def state_of(self, node, seen_by):
        """The state of a member as another one shows it."""
        states = {member["cluster_addr"]: member["state"] for member in seen_by.status()["members"]}
        return states.get(f"{node.host}:{node.cluster}")


def told(wrong, most=6):
    """Shows the first of what was wrong."""
    for kind, words in wrong[:most]:
        say(f"       {kind}: {words}")
    if len(wrong) > most:
        say(f"       and {len(wrong) - most} more")
