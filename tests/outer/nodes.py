"""Nodes as real processes on this machine, each on ports of its own."""

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from report import Failure, check, say, wait_until

# A machine that is busy compiling is slow; what must be quick is measured where it matters.
READY_WITHIN_S = 60


class Ports:
    """Free ports below those that the system gives to outgoing connections, each block after the last: one that was given and is not yet
    taken is not given again. Processes begin at different places."""

    def __init__(self):
        self.first, self.last = (int(port) for port in os.environ.get("OUTER_PORTS", "20000-32000").split("-"))
        self.next = random.SystemRandom().randrange(self.first, self.last)

    def take(self, count):
        for _ in range(200):
            base = self.next if self.next + count <= self.last else self.first
            self.next = base + count
            if all(map(is_free, range(base, base + count))):
                return base
        raise Failure(f"no {count} free ports in a row")


def is_free(port):
    with socket.socket() as tried:
        try:
            tried.bind(("127.0.0.1", port))
            return True
        except OSError:
            return False


PORTS = Ports()


def free_ports(count):
    """So many consecutive free ports."""
    return PORTS.take(count)


def http(port, path, method="GET", host="127.0.0.1", token=None, seconds=3):
    """Status and body; status 0 when nobody answers."""
    request = urllib.request.Request(f"http://{host}:{port}{path}", method=method)
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=seconds) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


class Node:
    """One node: `magpie start`; with a namespace, inside of that, on the address that it has there."""

    def __init__(self, name, magpie, home, mqtt, http_port, cluster, seeds, flags, host="127.0.0.1", namespace=None):
        self.name, self.host, self.mqtt, self.http, self.cluster = name, host, mqtt, http_port, cluster
        self.directory = home / name
        self.log = home / f"{name}.log"
        self.token = (home / "token").read_text()
        self.process = None
        self.environment = {}
        self.arguments = [
            *(("ip", "netns", "exec", namespace) if namespace else ()),
            str(magpie), "start",
            "--data-dir", str(self.directory),
            "--node-name", name,
            "--mqtt-listen", f"{host}:{mqtt}",
            "--http-listen", f"{host}:{http_port}",
            "--cluster-listen", f"{host}:{cluster}",
            "--seeds", seeds,
            "--allow-anonymous",
            "--api-token-file", str(home / "token"),
            "--cluster-secret-file", str(home / "secret"),
            *flags,
        ]

    def set_directory(self, directory):
        """Before the first start."""
        self.arguments[self.arguments.index(str(self.directory))] = str(directory)
        self.directory = directory

    def start(self):
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                self.arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env={**os.environ, **self.environment},
            )

    def readiness(self):
        return http(self.http, "/readyz", host=self.host)

    def is_ready(self):
        if self.process.poll() is not None:
            raise Failure(f"{self.name} ended with {self.process.returncode}:\n{self.log_tail()}")
        return self.readiness()[0] == 200

    def status(self):
        code, told = http(self.http, "/api/v1/status", host=self.host, token=self.token, seconds=30)
        check(code == 200, f"{self.name} does not tell its status: {code} {told}")
        return json.loads(told)

    def session(self, client):
        """What the node tells of a client's session, as text: `magpie ctl sessions show`."""
        return http(self.http, f"/api/v1/sessions/{client}", host=self.host, token=self.token)[1].strip()

    def signal(self, number):
        self.process.send_signal(number)

    def kill(self):
        """kill -9."""
        self.process.kill()
        self.process.wait()

    def stop(self, seconds=40):
        """SIGTERM, as an operator does; answers how long it took."""
        started = time.monotonic()
        self.process.terminate()
        code = self.process.wait(seconds)
        check(code == 0, f"{self.name} stopped with exit code {code}:\n{self.log_tail()}")
        return time.monotonic() - started

    def log_tail(self, lines=25):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


class Cluster:
    """Three nodes that know each other. As a context manager it ends what it started."""

    def __init__(self, magpie, count=3, flags=(), network=None):
        """With a network, each node is in a namespace of its own."""
        self.keeps_home = False
        self.home = Path(tempfile.mkdtemp(prefix="magpie-outer-"))
        for secret in ("secret", "token"):
            (self.home / secret).write_text(f"{random.SystemRandom().getrandbits(128):032x}")
        base = free_ports(3 * count)
        hosts = network.hosts if network else ["127.0.0.1"] * count
        seeds = ",".join(f"{hosts[number]}:{base + 2 * count + number}" for number in range(count))
        self.nodes = [
            Node(f"node{number + 1}", magpie, self.home, base + number, base + count + number, base + 2 * count + number, seeds, flags,
                 hosts[number], network.namespaces[number] if network else None)
            for number in range(count)
        ]

    def __enter__(self):
        started = time.monotonic()
        try:
            for node in self.nodes:
                node.start()
            self.wait_ready()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        say(f"       {len(self.nodes)} nodes ready after {time.monotonic() - started:.1f} s")
        return self

    def __exit__(self, kind, error, trace):
        for node in self.nodes:
            if node.process and node.process.poll() is None:
                node.process.send_signal(signal.SIGCONT)
                node.process.terminate()
        for node in self.nodes:
            if node.process:
                try:
                    node.process.wait(15)
                except subprocess.TimeoutExpired:
                    node.kill()
        if not self.keeps_home:
            self.remove_home()

    @contextlib.contextmanager
    def keeping_home(self):
        """The files outlive the nodes: until the end of this."""
        self.keeps_home = True
        try:
            yield
        finally:
            self.remove_home()

    def remove_home(self):
        if os.environ.get("KEEP_DATA"):
            say(f"       data and logs kept in {self.home}")
        else:
            shutil.rmtree(self.home, ignore_errors=True)

    def wait_ready(self, seconds=READY_WITHIN_S):
        """Until every node may accept clients; answers how long it took."""
        return wait_until("all nodes ready", seconds, lambda: all(node.is_ready() for node in self.nodes))

    def others(self, node):
        return [other for other in self.nodes if other is not node]


class Dev:
    """`magpie dev`, as a developer starts it."""

    def __init__(self, magpie):
        base = free_ports(9)
        self.mqtt = [base, base + 1, base + 2]
        self.http = [base + 3, base + 4, base + 5]
        self.log = tempfile.NamedTemporaryFile(prefix="magpie-dev-", suffix=".log")
        self.command = [
            str(magpie), "dev", "--mqtt-port", str(base), "--http-port", str(base + 3), "--cluster-port", str(base + 6),
        ]

    def __enter__(self):
        started = time.monotonic()
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, start_new_session=True
        )
        try:
            wait_until("magpie dev ready", READY_WITHIN_S, self.is_ready)
        except BaseException:
            say(self.log_tail())
            self.__exit__(None, None, None)
            raise
        say(f"       magpie dev ready after {time.monotonic() - started:.1f} s")
        return self

    def is_ready(self):
        check(self.process.poll() is None, "magpie dev ended")
        return all(http(port, "/readyz")[0] == 200 for port in self.http)

    def log_tail(self, lines=40):
        return "\n".join(Path(self.log.name).read_text(errors="replace").splitlines()[-lines:])

    def stop(self):
        """Ctrl-C; answers how long it took."""
        started = time.monotonic()
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(40)
        check(code == 0, f"magpie dev ended with exit code {code}:\n{self.log_tail()}")
        for port in self.mqtt + self.http:
            with socket.socket() as tried:
                check(tried.connect_ex(("127.0.0.1", port)) != 0, f"something still listens on port {port}")
        return time.monotonic() - started

    def __exit__(self, kind, error, trace):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.log.close()
