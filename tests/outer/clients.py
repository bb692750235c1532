"""MQTT clients that we did not write, behind one small interface: paho for Python, Mosquitto's commands, MQTT.js.

`version` is 4 for MQTT 3.1.1 and 5 for MQTT 5.0, as on the wire. A received message is a `Message`. A port may be a `Door`, which knows
what is spoken there; else it is MQTT over TCP.
"""

import base64
import itertools
import json
import queue
import socket
import subprocess
import threading
import time
from collections import namedtuple
from pathlib import Path

import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from doors import PATH, Door
from report import Failure, check

Message = namedtuple("Message", "topic payload qos retain properties")

ANSWER_S = 20


def properties(packet, **values):
    """Properties of a packet of MQTT 5.0, by paho's names."""
    made = Properties(getattr(PacketTypes, packet))
    for name, value in values.items():
        setattr(made, name, value)
    return made


class Received:
    """Messages in the order of their arrival."""

    def __init__(self):
        self.all = []
        self.changed = threading.Condition()

    def add(self, message):
        with self.changed:
            self.all.append(message)
            self.changed.notify_all()

    def take(self, count, seconds=ANSWER_S):
        """The first `count` messages, taken off; fails when they do not come in time."""
        with self.changed:
            came = self.changed.wait_for(lambda: len(self.all) >= count, seconds)
            if not came:
                raise Failure(f"{len(self.all)} of {count} messages within {seconds} s")
            taken, self.all[:count] = self.all[:count], []
            return taken

    def settle(self, seconds):
        """All that came, when for so long nothing more came."""
        with self.changed:
            while True:
                before = len(self.all)
                if not self.changed.wait_for(lambda: len(self.all) > before, seconds):
                    taken, self.all = self.all, []
                    return taken


class PahoClient(paho.Client):
    """paho 2.1 does not look at the reason code of a DISCONNECT without properties."""

    reason = None

    def _create_socket_connection(self):
        # Otherwise two small packets in a row cost 40 ms.
        opened = super()._create_socket_connection()
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return opened

    def _handle_disconnect(self):
        packet = self._in_packet["packet"]
        self.reason = packet[0] if packet else 0
        super()._handle_disconnect()


class Paho(Received):
    """A paho client that does not reconnect by itself."""

    def __init__(self, port, version, client_id="", window=20, connect_properties=None, keepalive=30, clean=True,
                 on_message=None, on_end=None, host="127.0.0.1", user=None):
        super().__init__()
        self.version = version
        self.answers = {}
        self.answered = threading.Condition()
        self.connack = None
        self.end = None
        self.on_end = on_end
        protocol = paho.MQTTv5 if version == 5 else paho.MQTTv311
        session = {} if version == 5 else {"clean_session": clean or not client_id}
        door = Door.of(port)
        self.paho = PahoClient(paho.CallbackAPIVersion.VERSION2, client_id, protocol=protocol,
                               reconnect_on_failure=False, transport="websockets" if door.is_websocket else "tcp", **session)
        self.paho.max_inflight_messages_set(window)
        self.paho.on_connect = self._on_connect
        self.paho.on_subscribe = lambda _c, _u, mid, codes, _p: self._answer(("subscribe", mid), codes)
        self.paho.on_unsubscribe = lambda _c, _u, mid, codes, _p: self._answer(("unsubscribe", mid), codes)
        self.paho.on_publish = lambda _c, _u, mid, code, _p: self._published(mid, code)
        self.paho.on_disconnect = self._on_disconnect
        if user:
            self.paho.username_pw_set(*user)
        if door.is_tls:
            self.paho.tls_set(ca_certs=str(door.ca))
        if door.is_websocket:
            self.paho.ws_set_options(PATH)
        handle = on_message or self.add
        self.paho.on_message = lambda _c, _u, m: handle(
            Message(m.topic, m.payload, m.qos, m.retain, getattr(m, "properties", None)))
        extra = {"clean_start": clean, "properties": connect_properties} if version == 5 else {}
        self.paho.connect(host, int(door), keepalive=keepalive, **extra)
        self.paho.loop_start()
        self._wait(lambda: self.connack or self.end is not None, "CONNACK")
        if not self.connack:
            raise Failure(f"the connection ended before CONNACK: {self.end}")
        code = self.connack[0]
        if code.is_failure:
            raise Failure(f"refused: {code}")

    def _on_connect(self, _client, _data, flags, code, props):
        self._change(lambda: setattr(self, "connack", (code, props, flags)))

    def _on_disconnect(self, _client, _data, _flags, code, _props):
        # paho tells twice: of the server's DISCONNECT, and of the end of the network connection.
        if self.end is None:
            self._change(lambda: setattr(self, "end", code if self.paho.reason is None else self.paho.reason))
        if self.on_end:
            self.on_end(code)

    def _answer(self, key, value):
        self._change(lambda: self.answers.__setitem__(key, value))

    def _published(self, mid, code):
        self._answer(("publish", mid), code)

    def _change(self, change):
        with self.answered:
            change()
            self.answered.notify_all()

    def _wait(self, condition, what, seconds=ANSWER_S):
        with self.answered:
            if not self.answered.wait_for(condition, seconds):
                raise Failure(f"no {what} within {seconds} s")

    def _answer_to(self, kind, mid, seconds=ANSWER_S):
        key = (kind, mid)
        self._wait(lambda: key in self.answers or self.end is not None, f"answer to {kind}", seconds)
        if key not in self.answers:
            raise Failure(f"the connection ended before the answer to {kind}: {self.end}")
        return self.answers.pop(key)

    def subscribe(self, *filters, options=None, subscription_id=None):
        """Each filter is a pair of filter and QoS; answers the reason codes as numbers."""
        if self.version == 5:
            wanted = [(name, options or SubscribeOptions(qos=qos)) for name, qos in filters]
            props = properties("SUBSCRIBE", SubscriptionIdentifier=subscription_id) if subscription_id else None
            _, mid = self.paho.subscribe(wanted, properties=props)
        else:
            _, mid = self.paho.subscribe(list(filters))
        return [code.value for code in self._answer_to("subscribe", mid)]

    def unsubscribe(self, *filters):
        _, mid = self.paho.unsubscribe(list(filters))
        self._answer_to("unsubscribe", mid)

    def send(self, topic, payload, qos, retain=False, props=None):
        """Hands a message over, and answers its number."""
        info = self.paho.publish(topic, payload, qos, retain, properties=props)
        if info.rc not in (paho.MQTT_ERR_SUCCESS, paho.MQTT_ERR_QUEUE_SIZE):
            raise Failure(f"publish: {paho.error_string(info.rc)}")
        return info.mid

    def outcome(self, mid, seconds=ANSWER_S):
        """Waits for the acknowledgement, and answers its reason code as a number."""
        return self._answer_to("publish", mid, seconds).value

    def publish(self, topic, payload, qos, retain=False, props=None):
        return self.outcome(self.send(topic, payload, qos, retain, props))

    def wait_end(self, seconds=ANSWER_S):
        """The reason code of the server's DISCONNECT, or paho's words for an end without one."""
        self._wait(lambda: self.end is not None, "end of the connection", seconds)
        return self.end

    def close(self):
        self.on_end = None
        self.paho.disconnect()
        self.paho.loop_stop()


class MosquittoSub(Received):
    """`mosquitto_sub` with several filters."""

    def __init__(self, port, version, filters, qos):
        super().__init__()
        command = ["mosquitto_sub", *mosquitto_door(port), "-V", name_of(version), "-q", str(qos), "-d", "-F", "message %j"]
        for name in filters:
            command += ["-t", name]
        self.process = subprocess.Popen(["stdbuf", "-oL", *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                        stdin=subprocess.DEVNULL, text=True)
        self.subscribed = threading.Event()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        check(self.subscribed.wait(ANSWER_S), "mosquitto_sub is not subscribed")

    def _read(self):
        for line in self.process.stdout:
            if line.startswith("Subscribed"):
                self.subscribed.set()
            elif line.startswith("message "):
                fields = json.loads(line.removeprefix("message "))
                payload = fields["payload"]
                payload = payload if isinstance(payload, str) else json.dumps(payload)
                self.add(Message(fields["topic"], payload.encode(), fields["qos"], bool(fields["retain"]), None))

    def close(self):
        self.process.terminate()
        self.process.wait(5)


def mosquitto_pub(port, version, topic, payload, qos):
    """Publishes one message, and waits until the command has ended."""
    subprocess.run(
        ["mosquitto_pub", *mosquitto_door(port), "-V", name_of(version), "-t", topic, "-m", payload, "-q", str(qos)],
        check=True, timeout=ANSWER_S, stdin=subprocess.DEVNULL,
    )


def mosquitto_door(port):
    """Its commands know TCP and TLS, in the version that Debian 12 has."""
    door = Door.of(port)
    return ["-h", "127.0.0.1", "-p", str(int(door)), *(["--cafile", str(door.ca)] if door.is_tls else [])]


def name_of(version):
    return "mqttv5" if version == 5 else "mqttv311"


class MqttJs:
    """A process with MQTT.js, which is told what to do line by line: see mqttjs.js. In a page of headless Chromium, if wanted."""

    def __init__(self, chromium=False):
        self.process = subprocess.Popen(["node", str(Path(__file__).with_name("mqttjs.js")), *(["--chromium"] if chromium else [])],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.numbers = itertools.count()
        self.waiting = {}
        self.clients = {}
        threading.Thread(target=self._read, daemon=True).start()
        # A browser that comes from a cold disk takes its time.
        self.call(120, do="nothing")

    def _read(self):
        for line in self.process.stdout:
            told = json.loads(line)
            if "message" in told:
                m = told["message"]
                self.clients[told["client"]].add(
                    Message(m["topic"], base64.b64decode(m["payload"]), m["qos"], m["retain"], m.get("properties")))
            else:
                self.waiting.pop(told["number"]).put(told)

    def call(self, seconds=ANSWER_S, **request):
        number = next(self.numbers)
        answer = self.waiting[number] = queue.Queue()
        self.process.stdin.write(json.dumps({"number": number, **request}) + "\n")
        self.process.stdin.flush()
        try:
            told = answer.get(timeout=seconds)
        except queue.Empty:
            raise Failure(f"MQTT.js does not answer to {request['do']}") from None
        check("error" not in told, f"MQTT.js, {request['do']}: {told.get('error')}")
        return told.get("result")

    def connect(self, port, version):
        return MqttJsClient(self, port, version)

    def close(self):
        self.process.stdin.close()
        self.process.wait(10)


class MqttJsClient(Received):
    """One client in that process."""

    def __init__(self, process, port, version):
        super().__init__()
        self.owner, self.name = process, f"js{next(process.numbers)}"
        process.clients[self.name] = self
        door = Door.of(port)
        process.call(do="connect", client=self.name, url=door.url, version=version, ca=str(door.ca) if door.is_tls else None)

    def subscribe(self, filters, qos):
        return self.owner.call(do="subscribe", client=self.name, filters=filters, qos=qos)

    def publish(self, topic, payload, qos):
        self.owner.call(do="publish", client=self.name, topic=topic,
                        payload=base64.b64encode(payload).decode(), qos=qos)

    def publish_many(self, topic, count, qos):
        """Numbers from 0 on, many under way at a time."""
        self.owner.call(do="publishMany", client=self.name, topic=topic, count=count, qos=qos)

    def close(self):
        self.owner.call(do="end", client=self.name)


class Patient:
    """A paho client that comes back by itself, subscribes again, and remembers when it was there for what.

    `intervals` holds (since, until) in monotonic seconds: from the SUBACK to the end of the connection.
    """

    def __init__(self, name, ports, filters, version=5, on_message=None, window=20):
        self.name, self.ports, self.filters, self.version, self.window = name, ports, filters, version, window
        self.on_message = on_message
        self.intervals = []
        self.since = None
        self.current = None
        self.connects = 0
        self.last_error = None
        self.stopping = threading.Event()
        self.lost = threading.Event()
        self.there = threading.Event()
        self.lock = threading.Lock()
        self.thread = threading.Thread(target=self._keep, daemon=True)
        self.thread.start()

    def _keep(self):
        for attempt in itertools.count():
            if self.stopping.is_set():
                return
            try:
                self.lost.clear()
                client = Paho(self.ports[attempt % len(self.ports)], self.version, self.name, window=self.window,
                              on_message=self._message, on_end=self._ended, keepalive=5)
                try:
                    if self.filters:
                        codes = client.subscribe(*[(name, 1) for name in self.filters])
                        check(all(code < 0x80 for code in codes), f"SUBACK {codes}")
                except Exception:
                    client.close()
                    raise
                with self.lock:
                    self.current = client
                    self.connects += 1
                    self.since = time.monotonic()
                self.there.set()
            except (OSError, Failure) as error:
                self.last_error = error
                self.stopping.wait(0.2)
                continue
            self.lost.wait()
            self._close_interval()
            client.close()

    def _message(self, message):
        if self.on_message:
            self.on_message(self, message, time.monotonic())

    def _ended(self, _code):
        self._close_interval()
        self.lost.set()

    def _close_interval(self):
        with self.lock:
            self.there.clear()
            self.current = None
            if self.since is not None:
                self.intervals.append((self.since, time.monotonic()))
                self.since = None

    def was_there(self, since, until):
        """Whether it was subscribed without interruption all this time."""
        with self.lock:
            intervals = list(self.intervals)
            if self.since is not None:
                intervals.append((self.since, float("inf")))
        return any(begin <= since and until <= end for begin, end in intervals)

    def publish(self, topic, payload, seconds=60):
        """Publishes at QoS 1 until it is acknowledged, over as many connections as it takes; answers how often it was sent."""
        deadline = time.monotonic() + seconds
        for tries in itertools.count(1):
            check(time.monotonic() < deadline, f"{self.name}: not acknowledged within {seconds} s ({self.last_error})")
            self.there.wait(1)
            client = self.current
            if client is None:
                continue
            try:
                code = client.outcome(client.send(topic, payload, 1), 15)
                if code < 0x80:
                    return tries
                self.last_error = f"PUBACK {code:#x}"
            except (Failure, ValueError) as error:
                self.last_error = error
            time.sleep(0.05)

    def close(self):
        self.stopping.set()
        self.lost.set()
        self.thread.join(10)
