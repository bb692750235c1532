#!/usr/bin/env python3
"""A client that must be served whatever others do: it publishes to itself all along, and tells how long each message took to come back.

In a process of its own, so that the times are not those of an attacker that is busy. On stdin each line asks for what came of the time
since the last one; the answer is a line of JSON. When stdin ends it ends.
"""

import json
import selectors
import subprocess
import sys
import time
from pathlib import Path

from packets import PUBACK, PUBLISH, SUBACK, Closed, Raw, acknowledge, connect, publish, split, subscribe
from packets import CONNACK
from report import Failure, check

# In turn at QoS 0 and QoS 1, so that the figures hold for both ways through a node.
EVERY_S = 0.02
# A message that takes so long counts as lost, with this time.
LOST_AFTER_S = 20.0


class Canary:
    """The process, from outside."""

    def __init__(self, port):
        self.process = subprocess.Popen([sys.executable, "-B", __file__, str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.process.stdout.readline()
        self.began = time.monotonic()

    def figures(self):
        """Since the last time: how many messages came back, the times in milliseconds, how many were lost, and what went wrong."""
        check(self.process.poll() is None, "the canary has ended")
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        check(line, "the canary has ended")
        return json.loads(line)

    def close(self):
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()


class Bird:
    """The client. It comes back when its connection ends, which counts."""

    def __init__(self, port):
        self.port = port
        self.raw = None
        self.number = 0
        self.sent = {}
        self.clear()

    def clear(self):
        self.times, self.lost, self.ends, self.longest_silence = [], 0, 0, 0.0

    def connect(self):
        while True:
            try:
                self.raw = Raw(self.port, connect("canary") + subscribe(["canary/song"], qos=1))
                self.raw.expect(CONNACK)
                self.raw.expect(SUBACK)
                self.raw.socket.setblocking(False)
                self.heard_at = time.monotonic()
                return
            except (Closed, TimeoutError):
                self.ends += 1
                time.sleep(0.1)

    def sing(self):
        self.number += 1
        qos = self.number % 2
        self.sent[self.number] = time.monotonic()
        self.raw.send(publish("canary/song", str(self.number).encode(), qos, self.number % 30_000 + 1))

    def hear(self):
        try:
            more = self.raw.socket.recv(262_144)
        except BlockingIOError:
            return
        except OSError as error:
            raise Closed(str(error)) from error
        if not more:
            raise Closed("by the node")
        now = time.monotonic()
        packets, self.raw.read = split(self.raw.read + more)
        for first, body in packets:
            if first >> 4 == PUBLISH:
                qos = first >> 1 & 3
                at = 2 + int.from_bytes(body[:2])
                if qos:
                    self.raw.send(acknowledge(PUBACK, int.from_bytes(body[at:at + 2])))
                # Topic, packet id, no properties.
                sung = self.sent.pop(int(body[at + 2 * (qos > 0) + 1:]), None)
                if sung is not None:
                    self.times.append(now - sung)
                    self.longest_silence = max(self.longest_silence, now - self.heard_at)
                    self.heard_at = now

    def count_lost(self):
        now = time.monotonic()
        late = [number for number, at in self.sent.items() if now - at > LOST_AFTER_S]
        for number in late:
            del self.sent[number]
        self.lost += len(late)

    def tell(self):
        # What has been on its way for longer than the worst so far counts with the time that it has been.
        now = time.monotonic()
        times = sorted(self.times + [now - at for at in self.sent.values() if now - at > max(self.times, default=0)])
        answer = {"count": len(times), "lost": self.lost, "ends": self.ends, "silence_ms": round(1000 * max(self.longest_silence, now - self.heard_at))}
        for name, part in (("p50_ms", 0.5), ("p99_ms", 0.99), ("max_ms", 1.0)):
            answer[name] = round(1000 * times[min(int(part * len(times)), len(times) - 1)], 1) if times else None
        print(json.dumps(answer), flush=True)
        self.clear()


def main():
    bird = Bird(int(sys.argv[1]))
    bird.connect()
    print("{}", flush=True)
    watch = selectors.DefaultSelector()
    watch.register(sys.stdin, selectors.EVENT_READ, "asked")
    watch.register(bird.raw.socket, selectors.EVENT_READ, "heard")
    due = time.monotonic()
    while True:
        try:
            for key, _ in watch.select(max(due - time.monotonic(), 0)):
                if key.data == "heard":
                    bird.hear()
                    continue
                if not sys.stdin.readline():
                    return
                bird.count_lost()
                bird.tell()
            if time.monotonic() >= due:
                # No more than the Receive Maximum is unanswered.
                if len(bird.sent) < 400:
                    bird.sing()
                due = max(due + EVERY_S, time.monotonic())
                bird.count_lost()
        except Closed:
            bird.ends += 1
            bird.lost += len(bird.sent)
            bird.sent.clear()
            watch.unregister(bird.raw.socket)
            bird.raw.close()
            bird.connect()
            watch.register(bird.raw.socket, selectors.EVENT_READ, "heard")


if __name__ == "__main__":
    main()
