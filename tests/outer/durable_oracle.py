"""What was promised to durable clients, and what they got: judged message by message, as it comes."""

from collections import Counter, defaultdict

import paho.mqtt.client as paho


class Sent:
    """A message that a publisher handed over; `acknowledged` is when its PUBACK or PUBCOMP came, None as long as that is unknown."""

    __slots__ = ("topic", "qos", "connection", "acknowledged", "refused")

    def __init__(self, topic, qos, connection):
        self.topic, self.qos, self.connection = topic, qos, connection
        self.acknowledged = None
        self.refused = False


class Oracle:
    """Knows every message by its publisher and number. Each publisher and each subscriber tells from one thread.

    Wrong is, of what a subscriber gets: an acknowledged message that is missing; one of QoS 2 twice; one of a publisher, topic and QoS for
    the first time after a later one; one that was refused; one that it did not ask for. What was not acknowledged may arrive or not.
    """

    def __init__(self, path):
        """`path(name, at)` tells in words where a subscriber was around a time."""
        self.path = path
        self.sent = {}
        self.subscribers = {}  # name -> filters
        self.audiences = {}  # topic -> names
        self.arrived = defaultdict(Counter)  # name -> key -> times
        self.owed = defaultdict(set)  # name -> keys that were acknowledged and did not arrive yet
        self.last = defaultdict(dict)  # name -> (publisher, topic, QoS) -> number
        self.wrong = []  # (kind, words)
        self.counts = Counter()
        self.judged = 0  # of those sent

    def subscribe(self, name, filters):
        """To be told before anything is published."""
        self.subscribers[name] = filters

    def audience(self, topic):
        if topic not in self.audiences:
            self.audiences[topic] = [
                name for name, filters in self.subscribers.items() if any(paho.topic_matches_sub(one, topic) for one in filters)
            ]
        return self.audiences[topic]

    def send(self, publisher, number, topic, qos, connection):
        """Told before the message leaves."""
        self.sent[publisher, number] = Sent(topic, qos, connection)

    def acknowledged(self, key, at):
        self.sent[key].acknowledged = at
        self.counts["acknowledged"] += 1
        for name in self.audience(self.sent[key].topic):
            if key not in self.arrived[name]:
                self.owed[name].add(key)

    def refused(self, key, connection):
        """An error code says that the message was never proposed: true of all of it only if it was sent on this connection alone."""
        self.counts["refused"] += 1
        self.sent[key].refused = self.sent[key].connection == connection

    def received(self, name, message):
        publisher, number = message.payload.split(b" ", 2)[:2]
        key = publisher.decode(), int(number)
        sent = self.sent.get(key)
        what = f"{name}: {key[1]} of {key[0]} on {message.topic}, QoS {message.qos}, id {message.mid}, dup {int(message.dup)}"
        if sent is None or name not in self.audience(message.topic) or (message.topic, message.qos) != (sent.topic, sent.qos):
            self._is_wrong("strange", f"{what} was never sent so")
            return
        arrived = self.arrived[name]
        arrived[key] += 1
        self.owed[name].discard(key)
        self.counts["delivered"] += 1
        if sent.refused:
            self._is_wrong("refused", f"{what} was refused and arrived")
        if arrived[key] > 1:
            self.counts["repeats"] += 1
            if sent.qos == 2:
                self._is_wrong("doubles", f"{what} came {arrived[key]} times")
            return
        line = key[0], sent.topic, sent.qos
        if self.last[name].get(line, 0) > number_of(key):
            self._is_wrong("order", f"{what} came after {self.last[name][line]}")
        self.last[name][line] = max(number_of(key), self.last[name].get(line, 0))

    def _is_wrong(self, kind, words):
        self.wrong.append((kind, words))

    def session(self, name, expected, present):
        """A CONNACK; `expected` is None where an earlier one may have been lost."""
        if expected is not None and expected != present:
            self._is_wrong("sessions", f"{name}: session present {int(present)}, not {int(expected)}")

    def waiting(self):
        """How many deliveries are owed and not made."""
        return sum(len(self._missing(name)) for name in list(self.owed))

    def _missing(self, name):
        return [key for key in list(self.owed[name]) if key not in self.arrived[name]]

    def judge(self):
        """Counts and all that was wrong since the last time; what is missing now is missing."""
        for name in self.owed:
            missing = sorted(self._missing(name))
            self.owed[name].clear()
            for key in missing:
                sent = self.sent[key]
                self._is_wrong("missing", f"{name}: {key[1]} of {key[0]} on {sent.topic}, QoS {sent.qos}; {self.path(name, sent.acknowledged)}")
        recent = list(self.sent.values())[self.judged:]
        self.judged += len(recent)
        self.counts["unknown"] = sum(1 for sent in recent if sent.acknowledged is None and not sent.refused)
        counts, wrong = self.counts, self.wrong
        self.counts, self.wrong = Counter(), []
        return counts, wrong


def number_of(key):
    return key[1]


class Retained:
    """The retained messages of topics that one publisher each writes to, one after the other."""

    def __init__(self):
        self.sent = defaultdict(dict)  # topic -> number -> whether it clears
        self.last = {}  # topic -> number of the last acknowledged one

    def send(self, topic, number, clears):
        self.sent[topic][number] = clears

    def acknowledged(self, topic, number):
        self.last[topic] = max(number, self.last.get(topic, 0))

    def judge(self, where, seen):
        """`seen`: topic -> number, as a fresh subscriber got it. Right is the last acknowledged one, or an unknown one that was sent after it."""
        wrong = []
        for topic, last in self.last.items():
            possible = {number: clears for number, clears in self.sent[topic].items() if number >= last}
            got = seen.get(topic)
            if got is None and not any(possible.values()):
                wrong.append(("retained", f"{where}: nothing on {topic}, acknowledged is {last}"))
            elif got is not None and possible.get(got, True):
                wrong.append(("retained", f"{where}: {got} on {topic}, acknowledged is {last}, which {'clears' if possible[last] else 'stays'}"))
        return wrong


class Wills:
    """Each connection with a will has a number; how it ended says how often the will has to come: 1, 0, or None for either."""

    def __init__(self, path):
        """`path(will)` tells in words what its client did."""
        self.path = path
        self.due = {}  # will -> 1, 0 or None
        self.either = []  # sets of wills, of each of which one has to come
        self.came = Counter()

    def one_of(self, *wills):
        for will in wills:
            self.due[will] = None
        self.either.append(wills)

    def open(self):
        due = sum(1 for will, due in list(self.due.items()) if due == 1 and not self.came[will])
        return due + sum(1 for wills in list(self.either) if not any(self.came[will] for will in wills))

    def judge(self):
        """The number of wills that were due and came, and what was wrong."""
        wrong, exact = [], 0
        for wills in self.either:
            if not any(self.came[will] for will in wills):
                wrong.append(("wills", f"none of the wills {', '.join(wills)} came; {self.path(wills[0])}"))
        self.either.clear()
        for will, due in list(self.due.items()):
            came = self.came[will]
            if came > 1 or (due is not None and due != came):
                wrong.append(("wills", f"will {will} came {came} times, due was {'0 or 1' if due is None else due}; {self.path(will)}"))
                # Told once.
                due = None
            elif due == 1:
                exact += 1
            # Those that came are kept, so that a later repeat is found.
            self.due[will] = 1 if came else due
        return exact, wrong
