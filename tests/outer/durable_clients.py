"""Clients whose sessions outlive their connections: paho, each on a thread of its own."""

import random
import threading
import time

import paho.mqtt.client as paho
from paho.mqtt.client import MQTT_ERR_SUCCESS, mqtt_ms_resend_pubrel

from clients import PahoClient, properties

EXPIRY_S = 3600
KEEP_ALIVE_S = 5
TAKEN_OVER = 0x8E


class Resuming(PahoClient):
    """Mends what paho 2.1 does wrong when a session is resumed, so that what is wrong afterwards is the broker's fault."""

    on_refused = None

    def _messages_reconnect_reset_out(self):
        # When an attempt to connect fails, the next one would send PUBLISH again where PUBREC has come.
        completing = [message for message in self._out_messages.values() if message.state == mqtt_ms_resend_pubrel]
        super()._messages_reconnect_reset_out()
        for message in completing:
            message.state = mqtt_ms_resend_pubrel

    def _handle_pubrec(self):
        # paho goes on with PUBREL when PUBREC refuses.
        packet = self._in_packet["packet"]
        if self._protocol == paho.MQTTv5 and len(packet) > 2 and packet[2] >= 0x80:
            mid = int.from_bytes(packet[:2], "big")
            if self._out_messages.pop(mid, None):
                self.on_refused(mid)
            return MQTT_ERR_SUCCESS
        return super()._handle_pubrec()

    def drop(self, leave_open=False):
        """Ends the connection without a DISCONNECT; or leaves it open and forgets it: answers its socket then."""
        left, sock = (self._sock, None) if leave_open else (None, self._sock)
        self._sock = None
        if sock:
            sock.close()
        return left


class Client(threading.Thread):
    """Connects whenever it is wanted online and is not, to a random node that is not the one it just lost, and resumes its session."""

    clean = False
    expiry = EXPIRY_S

    def __init__(self, rig, name, version):
        super().__init__(name=name, daemon=True)
        self.rig, self.version = rig, version
        self.random = random.Random(f"{rig.seed} {name}")
        self.stopping = False
        self.wanted = True
        self.node = None
        self.lost = None
        self.known = False  # whether a CONNACK said that there is a session
        self.attempts = 0
        self.connects = []  # (when, node)
        self.history = []  # (when, what), in words
        self.error = None
        self.left = []  # connections that were left open for a takeover
        self.paho = self._make()

    def _make(self):
        session = {} if self.version == 5 else {"clean_session": self.clean}
        made = Resuming(paho.CallbackAPIVersion.VERSION2, self.name, protocol=paho.MQTTv5 if self.version == 5 else paho.MQTTv311,
                        reconnect_on_failure=False, **session)
        # Some do not wait long for a CONNACK, and so leave attempts behind.
        made.connect_timeout = 2
        made.max_inflight_messages_set(1000)
        made.on_connect = self._on_connect
        made.on_subscribe = lambda _c, _u, _m, codes, _p: setattr(self, "suback", [code.value for code in codes])
        made.on_publish = lambda _c, _u, mid, code, _p: self.published(mid, code.value)
        made.on_refused = self.refused
        made.on_message = lambda _c, _u, message: self.received(message)
        made.on_socket_open = lambda _c, _u, opened: opened.setsockopt(6, 1, 1)  # TCP_NODELAY
        return made

    def run(self):
        try:
            while not self.stopping:
                if not self.wanted:
                    time.sleep(0.05)
                elif self._connect():
                    self._serve()
                else:
                    time.sleep(self.random.uniform(0.05, 0.15))
        except Exception as error:  # noqa: BLE001 - shown by who looks after the clients
            self.error = error

    def _connect(self):
        others = [node for node in self.rig.cluster.nodes if node is not self.lost]
        node = self.choose(others)
        self.connack = None
        self.lost = None
        self.paho.reason = None
        tried_before, self.attempts = self.attempts > 0, self.attempts + 1
        extra = {"clean_start": self.clean, "properties": self.connect_properties()} if self.version == 5 else {}
        self.before_connect()
        try:
            self.paho.connect(node.host, node.mqtt, keepalive=KEEP_ALIVE_S, **extra)
            deadline = time.monotonic() + self.random.choice((1.5, 3, 12))
            while self.connack is None and time.monotonic() < deadline and not self.stopping:
                if self.paho.loop(0.05) != MQTT_ERR_SUCCESS:
                    break
        except OSError as error:
            self.last_error = error
        if self.connack is None or self.connack[0].is_failure:
            self.note(f"was {'not answered' if self.connack is None else 'refused'} by {node.name}")
            self.paho.drop()
            self.lost = node
            return False
        if not self.clean:
            expected = True if self.known else None if tried_before else False
            self.rig.oracle.session(self.name, expected, self.connack[1].session_present)
        self.known = True
        for left in self.left:
            left.close()
        self.left.clear()
        self.node = node
        self.connects.append((time.monotonic(), node))
        self.note(f"connected to {node.name}")
        return True

    def choose(self, nodes):
        return self.random.choice(nodes)

    def note(self, what):
        self.history.append((time.monotonic(), what))

    def connect_properties(self):
        return properties("CONNECT", SessionExpiryInterval=self.expiry)

    def before_connect(self):
        pass

    def _on_connect(self, _client, _data, flags, code, _props):
        self.connack = code, flags

    def _serve(self):
        self.on_connected()
        while self.wanted and not self.stopping:
            pause = self.step()
            if self.node is None:
                return
            if self.paho.loop(pause) != MQTT_ERR_SUCCESS:
                self._is_lost()
                return
        self.leave()

    def _is_lost(self):
        self.note("lost it" + (f" for {self.paho.reason:#x}" if self.paho.reason else ""))
        self.lost, self.node = self.node, None

    def leave(self):
        """In order, with DISCONNECT; answers whether the node closed the connection then."""
        self.paho.disconnect()
        until = time.monotonic() + 1
        ended = False
        while time.monotonic() < until and not ended:
            ended = self.paho.loop(0.05) != MQTT_ERR_SUCCESS
        self.paho.drop()
        self.node = None
        return ended

    def on_connected(self):
        pass

    def step(self):
        """What is to be done now; answers for how long at most to wait for the network then."""
        return 0.1

    def published(self, mid, code):
        pass

    def refused(self, mid):
        self.published(mid, 0x80)

    def received(self, message):
        pass


class Publisher(Client):
    """Publishes at QoS 1 and 2 to random topics. One that remembers resends what was not acknowledged; one that forgets starts a new session."""

    WINDOW = 8

    def __init__(self, rig, name, version, remembers, pause):
        self.clean = not remembers
        self.under_way = {}  # packet id -> (key, retained topic or None)
        self.number = 0
        self.next_at = 0.0
        self.pause = pause
        self.acknowledged_at = []
        self.publishing = True
        self.moves = False
        super().__init__(rig, name, version)
        if not remembers:
            self.expiry = 0

    def before_connect(self):
        if self.clean:
            self.paho.drop()
            self.paho = self._make()
            self.under_way = {}
        else:
            # What is resent may have been taken before.
            for key, _ in self.under_way.values():
                self.rig.oracle.sent[key].connection = None

    def choose(self, nodes):
        """As a balancer does that looks for the fewest connections."""
        self.random.shuffle(nodes)
        return min(nodes, key=self.rig.publishers_on)

    def step(self):
        if self.moves:
            self.moves = False
            self.leave()
            return 0.0
        now = time.monotonic()
        if not self.publishing or len(self.under_way) >= self.WINDOW or now < self.next_at:
            return 0.05 if not self.publishing else max(0.001, min(self.next_at - now, 0.05))
        self.next_at = max(self.next_at + self.random.uniform(0, 2 * self.pause), now - 0.1)
        self.number += 1
        topic, qos, retain = self.rig.topic_for(self)
        clears = retain and topic.startswith("cleared/") and self.random.random() < 0.4
        payload = b"" if clears else f"{self.name} {self.number} ".encode() + b"x" * self.random.randrange(100)
        key = self.name, self.number
        self.rig.oracle.send(*key, topic, qos, len(self.connects))
        if retain:
            self.rig.retained.send(topic, self.number, clears)
        mid = self.paho.publish(topic, payload, qos, retain).mid
        self.under_way[mid] = key, topic if retain else None
        return 0.0

    def published(self, mid, code):
        key, retained = self.under_way.pop(mid)
        # 0x92: the node does not know the packet id of PUBREL any more, since the message was completed before.
        if code >= 0x80 and code != 0x92:
            self.rig.oracle.refused(key, len(self.connects))
            return
        now = time.monotonic()
        self.acknowledged_at.append(now)
        self.rig.oracle.acknowledged(key, now)
        if retained:
            self.rig.retained.acknowledged(retained, key[1])


class Subscriber(Client):
    """A phone: subscribes once in its life. A roaming one goes from node to node, in one of three ways."""

    def __init__(self, rig, name, version, filters, roams=False):
        super().__init__(rig, name, version)
        self.filters, self.roams = filters, roams
        self.suback = None
        self.subscribed = False
        self.takeovers = 0
        rig.oracle.subscribe(name, filters)

    def on_connected(self):
        self.move_at = time.monotonic() + self.random.uniform(0.3, 2.5)
        if not self.subscribed:
            self.paho.subscribe([(one, 2) for one in self.filters])

    def step(self):
        if not self.subscribed and self.suback is not None:
            if any(code != 2 for code in self.suback):
                raise AssertionError(f"{self.name}: SUBACK {self.suback}")
            self.subscribed = True
        if self.roams and self.subscribed and time.monotonic() > self.move_at:
            self._move()
        return 0.05

    def _move(self):
        way = self.random.choice(("takeover", "drop", "leave"))
        self.note({"takeover": "left it open", "drop": "dropped it", "leave": "took leave"}[way])
        if way == "leave":
            self.leave()
        else:
            left = self.paho.drop(leave_open=way == "takeover")
            if left:
                self.left.append(left)
                self.takeovers += 1
            self.node = None

    def received(self, message):
        if message.topic.startswith("will/"):
            self.rig.wills.came[message.payload.decode()] += 1
        else:
            self.rig.oracle.received(self.name, message)


class Mortal(Client):
    """Lives with a will, again and again. `due` of the will says what its end was."""

    clean = True

    def __init__(self, rig, name, delayed):
        self.life = 0
        self.delayed = delayed
        self.base = name
        self.pending = None  # the will that a resume cancels, and until when
        self.given_up = []  # wills of attempts to connect, in this session, that were not answered in time
        super().__init__(rig, name, 5)
        self.clean = False
        self.expiry = 300 if delayed else 0

    def before_connect(self):
        resumes = self.pending is not None
        if not resumes:
            self.given_up = []
            self.name = f"{self.base}-{self.life}"
            self.paho = self._make()
            self.known, self.attempts = False, 1
        self.life += 1
        self.will = f"{self.base}-{self.life}"
        props = properties("WILLMESSAGE", WillDelayInterval=2) if self.delayed else None
        self.paho.will_set(f"will/{self.base}", self.will, 2, properties=props)
        self.note(f"tries as {self.will}")
        # Until CONNACK comes, nobody knows whether there is a will.
        self.rig.wills.due[self.will] = None

    def _connect(self):
        is_in = super()._connect()
        if not is_in:
            self.given_up.append(self.will)
        return is_in

    def on_connected(self):
        if self.pending:
            will, until = self.pending
            self.rig.wills.due[will] = 0 if time.monotonic() < until else None
            self.pending = None
        self.rig.wills.due.pop(self.will)
        self.ends_at = time.monotonic() + self.random.uniform(1, 5)

    def step(self):
        if time.monotonic() > self.ends_at:
            self._end()
        return 0.05

    def _end(self):
        wills, way = self.rig.wills, self.random.choice(("leave", "drop", "resume" if self.delayed else "drop"))
        self.note(f"ends: {way}")
        if way == "leave":
            calm = self.rig.is_calm()
            ended = self.leave()
            wills.due[self.will] = 0 if calm and ended and self.rig.is_calm() else None
            return
        self.paho.drop()
        self.node = None
        if way == "resume":
            self.pending = self.will, time.monotonic() + 1.9
            wills.due[self.will] = None
        else:
            wills.due[self.will] = 1

    def leave(self):
        ended = super().leave()
        # At the end of the test, or because it is not wanted for a while.
        self.rig.wills.due.setdefault(self.will, None)
        return ended

    def _is_lost(self):
        super()._is_lost()
        if self.paho.reason == TAKEN_OVER and self.given_up:
            # An attempt to resume that was given up came through late. If its node saw the client there, its will is due in place of this one.
            self.rig.wills.one_of(self.will, *self.given_up)
        else:
            self.rig.wills.due[self.will] = 1
