#!/usr/bin/env python3
"""The compose file as it is: built, started, used through the balancer, deprived of a container, healed, taken down."""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from clients import Paho, Patient
from doors import Door, make_certificate
from nodes import free_ports, http
from report import Failure, Suite, check, say, wait_until

NODES = ("node1", "node2", "node3")
DIRECTORY = Path(__file__).resolve().parents[2] / "deploy" / "compose"


class Compose:
    """One project of this run, beside whatever else the machine's Docker does."""

    def __init__(self, suite, profile):
        self.project = f"magpie-outer-{os.getpid()}"
        self.mqtt, self.http, self.ws = (base := free_ports(3)), base + 1, Door(base + 2, "ws")
        secrets = {name: f"{suite.random.getrandbits(128):032x}" for name in ("MAGPIE_CLUSTER_SECRET", "MAGPIE_API_TOKEN")}
        self.environment = {**os.environ, **secrets, "MQTT_PORT": str(self.mqtt), "HTTP_PORT": str(self.http),
                            "WS_PORT": str(int(self.ws)), "PROFILE": profile}
        plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0
        self.command = ["docker", "compose"] if plugin or not shutil.which("docker-compose") else ["docker-compose"]

    def run(self, *arguments, seconds=120):
        """The output of a command that must succeed."""
        return output([*self.command, "--project-name", self.project, *arguments], seconds, cwd=DIRECTORY, env=self.environment)

    def container(self, service):
        return self.run("ps", "--quiet", service).strip()

    def inspect(self, service):
        return json.loads(output(["docker", "inspect", self.container(service)], 30))[0]

    def address(self, service):
        (network,) = self.inspect(service)["NetworkSettings"]["Networks"].values()
        return network["IPAddress"], network["Gateway"]

    def clients(self, service="node1"):
        """All clients of all nodes as the API tells them."""
        told = json.loads(self.run("exec", "-T", service, "magpie", "ctl", "--json", "clients", "--all-nodes"))
        return told["clients"] if isinstance(told, dict) else told

    def wait_healthy(self, seconds=120):
        """By the images' own health check."""
        return wait_until("all nodes healthy", seconds, lambda: all(
            self.inspect(node)["State"].get("Health", {}).get("Status") == "healthy" for node in NODES), every=0.5)


def output(command, seconds, **keywords):
    ran = subprocess.run(command, capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL, check=False, **keywords)
    if ran.returncode:
        tail = "\n".join((ran.stdout + ran.stderr).splitlines()[-25:])
        raise Failure(f"{' '.join(command)} ended with {ran.returncode}:\n{tail}")
    return ran.stdout


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--profile", default="release", help="cargo profile of the image's binary")
    parser.add_argument("--build-seconds", type=int, default=1500)
    arguments = parser.parse_args()
    suite = Suite("compose", arguments.seed)
    compose = Compose(suite, arguments.profile)
    say(f"       {' '.join(compose.command)}, project {compose.project}")
    try:
        if suite.step("the images build", lambda: compose.run("build", seconds=arguments.build_seconds) and None) and \
                suite.step("three nodes and a balancer start", start, compose):
            suite.step("the image is small, and the node is not root", image, compose)
            suite.step("messages go through the balancer", through_the_balancer, compose)
            suite.step("the nodes know the clients' addresses", addresses, compose)
            suite.step("a client inside the network uses the plain listener", plain, compose)
            suite.step("node2 is killed: its clients go on elsewhere", lose, compose, "node2")
            suite.step("node2 is started again", recover, compose)
            suite.step("node3 is made anew, with another address", renew, compose, "node3")
            suite.step("one line makes it a cluster with users and TLS", secure, compose)
        if suite.failed:
            say(compose.run("logs", "--no-color", "--tail", "40"))
    finally:
        suite.step("everything is taken down", lambda: compose.run("down", "--volumes", "--remove-orphans") and None)
    return suite.end()


def start(compose):
    compose.run("up", "--detach", "--no-build")
    healthy = compose.wait_healthy()
    wait_until("the balancer has a ready node", 30, lambda: http(compose.http, "/readyz")[0] == 200)
    return f"healthy after {healthy:.1f} s"


def image(compose):
    size = json.loads(output(["docker", "image", "inspect", "magpiemq:local"], 30))[0]["Size"]
    user = compose.run("exec", "-T", "node1", "id", "--user").strip()
    check(user == "10001", f"the user is {user}")
    binary = int(compose.run("exec", "-T", "node1", "stat", "--format", "%s", "/usr/local/bin/magpie"))
    check(binary < 40 << 20, f"the binary has {binary >> 20} MiB")
    return f"binary {binary / (1 << 20):.1f} MiB, image {size >> 20} MiB"


def through_the_balancer(compose):
    """So many clients that each node has some; each publishes to all."""
    wait_until("the balancer has all nodes", 30, lambda: len(reached(compose)) == 3)
    count = 12
    doors = (compose.mqtt, compose.mqtt, compose.ws)
    clients = [Paho(doors[number % 3], 4 + number % 2, f"balanced{number}") for number in range(count)]
    for client in clients:
        client.subscribe(("room/#", 1))
    for number, client in enumerate(clients):
        client.publish(f"room/{number}", str(number).encode(), 1 + number % 2)
    for client in clients:
        got = sorted(int(m.payload) for m in client.take(count))
        check(got == list(range(count)), f"got {got}")
    nodes = {client["node"] for client in compose.clients()}
    check(len(nodes) == 3, f"the clients are on {nodes} only")
    for client in clients:
        client.close()


def reached(compose):
    """The nodes that some clients come to."""
    probes = [Paho(compose.mqtt, 5, f"probe{number}") for number in range(8)]
    try:
        return {client["node"] for client in compose.clients() if client["id"].startswith("probe")}
    finally:
        for probe in probes:
            probe.close()


def addresses(compose):
    client = Paho(compose.mqtt, 5, "visible")
    (told,) = [one for one in compose.clients() if one["id"] == "visible"]
    client.close()
    remote = told["remote"].rsplit(":", 1)[0].strip("[]").removeprefix("::ffff:")
    balancer, gateway = compose.address("balancer")
    # A client on this machine comes into the network by its gateway.
    check(remote != balancer, "the node takes the balancer for the client")
    check(remote == gateway, f"the client is {remote}, the gateway {gateway}")
    return f"{told['remote']} is the client, {balancer} the balancer"


def plain(compose):
    client = Paho(compose.mqtt, 5)
    client.subscribe(("inside", 1))
    compose.run("exec", "-T", "node2", "magpie", "pub", "-h", "node1", "-p", "1884", "-t", "inside", "-m", "hello", "-q", "1")
    check([m.payload for m in client.take(1)] == [b"hello"], "the message did not come")
    client.close()


def lose(compose, node):
    got, sent = {}, []
    clients = [Patient(f"survivor{number}", [compose.mqtt], ["life/#"], 5,
                       lambda client, message, _at: got.setdefault(client.name, set()).add(message.payload)) for number in range(12)]
    try:
        wait_until("all are online", 30, lambda: all(client.there.is_set() for client in clients))
        running = True
        errors = []

        def publish(number):
            while running:
                payload = f"{number} {len(sent)}".encode()
                first = time.monotonic()
                try:
                    clients[number].publish(f"life/{number}", payload)
                except Failure as error:
                    errors.append(error)
                    return
                sent.append((payload, first, time.monotonic()))
                time.sleep(0.02)

        threads = [threading.Thread(target=publish, args=(number,), daemon=True) for number in range(6)]
        for thread in threads:
            thread.start()
        time.sleep(2)
        output(["docker", "kill", "--signal", "KILL", compose.container(node)], 30)
        killed = time.monotonic()
        time.sleep(10)
        running = False
        for thread in threads:
            thread.join()
        check(not errors, f"{errors[:1]}")
        wait_until("all are online again", 30, lambda: all(client.there.is_set() for client in clients))
        time.sleep(8)
        moved = sum(client.connects > 1 for client in clients)
        check(moved > 0, "nobody was on that node")
        owed = 0
        for client in clients:
            for payload, first, acknowledged in sent:
                if client.was_there(first, acknowledged + 2):
                    owed += 1
                    check(payload in got.get(client.name, ()), f"{client.name} misses {payload}")
        after = [acknowledged - first for _, first, acknowledged in sent if acknowledged > killed]
        check(after, "nothing was acknowledged after the kill")
        return f"{len(sent)} acknowledged, {owed} deliveries owed and made, {moved} clients moved, slowest acknowledgement {max(after):.1f} s"
    finally:
        for client in clients:
            client.close()


def recover(compose):
    compose.run("up", "--detach", "--no-build")
    return f"healthy after {compose.wait_healthy():.1f} s"


def renew(compose, node):
    before = compose.address(node)[0]
    # Takes the address that is free now, so that the container cannot get it again.
    compose.run("rm", "--stop", "--force", node)
    squatter = output(["docker", "run", "--detach", "--rm", "--network", f"{compose.project}_default", "--entrypoint", "sleep",
                       "magpiemq:local", "600"], 30).strip()
    try:
        compose.run("up", "--detach", "--no-build")
        healthy = compose.wait_healthy()
        after = compose.address(node)[0]
        check(before != after, f"{node} has its old address")
        through_the_balancer(compose)
    finally:
        output(["docker", "kill", squatter], 30)
    return f"from {before} to {after}, healthy after {healthy:.1f} s"


def secure(compose):
    """The switch of `.env`: a certificate, a user and a rule, and nobody else gets in."""
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        ca = make_certificate(home)
        tls = home / "tls"
        tls.mkdir()
        shutil.copy(home / "server.pem", tls / "tls.crt")
        shutil.copy(home / "server.key", tls / "tls.key")
        # The nodes are another user than the one who runs this.
        for path, mode in ((home, 0o755), (tls, 0o755), (tls / "tls.key", 0o644)):
            path.chmod(mode)
        door, websocket = Door(base := free_ports(2), "tls", ca), Door(base + 1, "wss", ca)
        compose.environment |= {"COMPOSE_FILE": "docker-compose.yml:secure.yml", "TLS_DIR": str(tls), "MQTTS_PORT": str(int(door)),
                                "WSS_PORT": str(int(websocket))}
        compose.run("up", "--detach", "--no-build")
        healthy = compose.wait_healthy()
        wait_until("the balancer has a ready node", 30, lambda: http(compose.http, "/readyz")[0] == 200)
        refused(door)
        ctl = lambda text: compose.run("exec", "-T", "node1", "sh", "-c", text)
        ctl("echo secret of anna | magpie ctl user add anna")
        ctl("magpie ctl acl add allow all 'home/#' --user anna")
        refused(door)
        refused(door, ("anna", "another"))
        refused(Door(compose.mqtt))
        # Through the balancer, so on whichever node.
        refused(websocket)
        clients = [Paho((door, websocket)[number % 2], 5, f"home{number}", user=("anna", "secret of anna")) for number in range(6)]
        for client in clients:
            client.subscribe(("home/#", 1))
        clients[0].publish("home/door", b"open", 1)
        for client in clients:
            check([m.payload for m in client.take(1)] == [b"open"], "the message did not come")
            client.close()
    return f"healthy after {healthy:.1f} s"


def refused(door, user=None):
    try:
        Paho(door, 5, "stranger", user=user).close()
    except (Failure, OSError):
        return
    raise Failure(f"{user or 'a client without credentials'} was let in on port {int(door)}")


if __name__ == "__main__":
    sys.exit(main())
