"""The parts of the test: a broker, a Home Assistant in its chroot, and kithd; each a process that ends with the test."""

import base64
import json
import os
import re
import signal
import socket
import struct
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

PATIENCE = 120  # seconds; the machine may be busy


class Failed(Exception):
    """An expectation that was not met."""


def expect(condition, text):
    if not condition:
        raise Failed(text)


def wait_for(what, look, patience=PATIENCE):
    """Looks until there is something true, and returns it."""
    end = time.monotonic() + patience
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > end:
            raise Failed(f"waited {patience} s in vain for {what}")
        time.sleep(0.1)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Process:
    """A child process with its output in a file."""

    def __init__(self, folder: Path):
        self.folder, self.process = folder, None
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "log"

    def launch(self, *command, env=None):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(list(map(str, command)), stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                                            env=env, start_new_session=True)

    def end(self, how=signal.SIGTERM):
        if self.process and self.process.poll() is None:
            os.kill(self.process.pid, how)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        self.process = None


class Broker(Process):
    """mosquitto with persistence, as a board's broker should have."""

    def __init__(self, folder):
        super().__init__(folder)
        self.port = free_port()
        user = os.environ.get("USER") or "root"
        (folder / "mosquitto.conf").write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\npersistence true\nautosave_interval 1\n"
            f"persistence_location {folder}/\nset_tcp_nodelay true\nuser {user}\n")

    def start(self):
        self.launch("mosquitto", "-c", self.folder / "mosquitto.conf")
        wait_for("the broker", self.answers)

    def answers(self):
        with socket.socket() as s:
            return s.connect_ex(("127.0.0.1", self.port)) == 0

    def retained(self, topic):
        out = subprocess.run(["mosquitto_sub", "-p", str(self.port), "-t", topic, "-W", "2", "-F", "%t %p"],
                             capture_output=True, text=True, check=False).stdout
        return dict(line.split(" ", 1) for line in out.splitlines() if " " in line)


class Socket:
    """A client of Home Assistant's WebSocket API, as far as it is needed."""

    def __init__(self, port, token):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(f"GET /api/websocket HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: "
                            f"Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode())
        self.buffer, self.number, self.turn = b"", 0, threading.Lock()
        while b"\r\n\r\n" not in self.buffer:
            self.buffer += self.socket.recv(65536)
        self.buffer = self.buffer.split(b"\r\n\r\n", 1)[1]
        self.read()
        self.send({"type": "auth", "access_token": token})
        expect(self.read()["type"] == "auth_ok", "Home Assistant refuses the token")
        self.socket.settimeout(None)
        self.answers, self.events = {}, []
        self.came = threading.Condition()
        threading.Thread(target=self.follow, daemon=True).start()

    def send(self, message):
        data, mask = json.dumps(message).encode(), os.urandom(4)
        length = len(data)
        head = struct.pack("!BB", 0x81, 0x80 | length) if length < 126 else struct.pack("!BBH", 0x81, 0xFE, length)
        self.socket.sendall(head + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(data)))

    def take(self, count):
        while len(self.buffer) < count:
            more = self.socket.recv(65536)
            if not more:
                raise ConnectionError
            self.buffer += more
        taken, self.buffer = self.buffer[:count], self.buffer[count:]
        return taken

    def read(self):
        whole = b""
        while True:
            first, second = self.take(2)
            length = second & 127
            if length == 126:
                length = struct.unpack("!H", self.take(2))[0]
            elif length == 127:
                length = struct.unpack("!Q", self.take(8))[0]
            data = self.take(length)
            if first & 15 == 8:
                raise ConnectionError
            if first & 15 == 9:  # ping
                self.socket.sendall(struct.pack("!BB", 0x8A, 0x80) + b"\0\0\0\0")
                continue
            whole += data
            if first & 0x80:
                return json.loads(whole)

    def follow(self):
        try:
            while True:
                message = self.read()
                with self.came:
                    for one in message if isinstance(message, list) else [message]:
                        if one["type"] == "event":
                            self.events.append(one["event"])
                        else:
                            self.answers[one["id"]] = one
                    self.came.notify_all()
        except (ConnectionError, OSError):
            pass

    def ask(self, message):
        with self.turn:
            self.number += 1
            number = self.number
            self.send({"id": number, **message})
        with self.came:
            if not self.came.wait_for(lambda: number in self.answers, 60):
                raise Failed(f"Home Assistant does not answer {message['type']}")
            answer = self.answers.pop(number)
        expect(answer.get("success"), f"{message['type']}: {answer.get('error')}")
        return answer["result"]


CONFIGURATION = """homeassistant:
  name: test
  time_zone: UTC
  country: DE
  internal_url: http://127.0.0.1:{port}
http:
  server_host: 127.0.0.1
  server_port: {port}
api:
config:
recorder:
  commit_interval: 0
history:
image:
logger:
  default: warning
  logs:
    homeassistant.components.mqtt: info
    homeassistant.components.automation: info
notify:
  - platform: group
    name: mobile_app_phone
    services:
      - action: persistent_notification
light:
  - platform: group
    name: porch
    entities: [light.none]
automation: !include automations.json
"""


class HomeAssistant(Process):
    """Home Assistant in its chroot, with a configuration of this run."""

    def __init__(self, folder, chroot):
        super().__init__(folder)
        self.chroot, self.port, self.socket, self.refresh = chroot, free_port(), None, None
        self.config = folder / "config"
        (self.config / "www").mkdir(parents=True)
        (self.config / "configuration.yaml").write_text(CONFIGURATION.format(port=self.port))
        (self.config / "automations.json").write_text("[]")
        (chroot / "config").mkdir(exist_ok=True)

    @property
    def address(self):
        return f"http://127.0.0.1:{self.port}"

    def start(self):
        script = ("set -e; mount -t proc proc $1/proc; mount --bind /dev $1/dev; mount --bind $2 $1/config; "
                  "exec chroot $1 /usr/bin/env HOME=/root LANG=C.UTF-8 /ha/bin/hass -c /config")
        # What is mounted is seen by this process only, and goes with it.
        self.launch("unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh", self.chroot, self.config)
        wait_for("Home Assistant", self.answers, 300)
        if self.refresh is None:
            self.onboard()
        self.socket = Socket(self.port, self.token())
        wait_for("Home Assistant to be running", lambda: self.ask("get_config")["state"] == "RUNNING", 300)
        self.ask("subscribe_events")

    def answers(self):
        expect(self.process.poll() is None, f"Home Assistant has ended; see {self.log}")
        try:
            return self.http("GET", "/manifest.json")[0] == 200
        except OSError:
            return False

    def http(self, method, path, body=None, token=None, form=False):
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        data = None
        if body is not None:
            data = urllib.parse.urlencode(body).encode() if form else json.dumps(body).encode()
            headers["Content-Type"] = "application/x-www-form-urlencoded" if form else "application/json"
        request = urllib.request.Request(self.address + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.headers.get("Content-Type"), answer.read()
        except urllib.error.HTTPError as error:
            return error.code, None, error.read()

    def onboard(self):
        client = self.address + "/"
        user = {"client_id": client, "name": "Owner", "username": "owner", "password": "pass-word-1", "language": "en"}
        # The step is offered a moment after the web server.
        code = wait_for("onboarding", lambda: json.loads(
            self.http("POST", "/api/onboarding/users", user)[2] or b"{}").get("auth_code"))
        grant = {"grant_type": "authorization_code", "code": code, "client_id": client}
        self.refresh = json.loads(self.http("POST", "/auth/token", grant, form=True)[2])["refresh_token"]

    def token(self):
        grant = {"grant_type": "refresh_token", "refresh_token": self.refresh, "client_id": self.address + "/"}
        return json.loads(self.http("POST", "/auth/token", grant, form=True)[2])["access_token"]

    def use_broker(self, port):
        token, flows = self.token(), "/api/config/config_entries/flow"
        flow = json.loads(self.http("POST", flows, {"handler": "mqtt", "show_advanced_options": True}, token)[2])
        done = json.loads(self.http("POST", f"{flows}/{flow['flow_id']}", {"broker": "127.0.0.1", "port": port}, token)[2])
        expect(done.get("type") == "create_entry", f"the broker is not taken: {done}")

    def yaml(self, text):
        """Reads YAML with Home Assistant's own library."""
        program = "import json, sys, yaml; print(json.dumps(yaml.safe_load(sys.stdin.read())))"
        done = subprocess.run(["chroot", self.chroot, "/ha/bin/python", "-c", program], input=text, capture_output=True,
                              text=True, check=True)
        return json.loads(done.stdout)

    def ask(self, kind, **more):
        return self.socket.ask({"type": kind, **more})

    def state(self, entity):
        status, _, body = self.http("GET", f"/api/states/{entity}", token=self.token())
        return json.loads(body) if status == 200 else None

    def is_state(self, entity, wanted):
        state = self.state(entity)
        return state if state and state["state"] == wanted else None

    def image(self, entity):
        """Status and bytes of an image entity."""
        status, _, body = self.http("GET", f"/api/image_proxy/{entity}", token=self.token())
        return status, body

    def call(self, domain, action, entity, **data):
        self.ask("call_service", domain=domain, service=action, service_data=data, target={"entity_id": entity})

    def automate(self, automations):
        """Replaces all automations, and waits until they are on."""
        (self.config / "automations.json").write_text(json.dumps(automations))
        self.ask("call_service", domain="automation", service="reload")
        ids = {one["alias"]: "automation." + re.sub(r"[^a-z0-9]+", "_", one["alias"].lower()) for one in automations}
        for name, entity in ids.items():
            wait_for(f"the automation {name!r}", lambda entity=entity: self.is_state(entity, "on"))
        return ids

    def events(self, since=0):
        with self.socket.came:
            return list(self.socket.events[since:])

    def mark(self):
        return len(self.socket.events)

    def changes(self, entity, since=0):
        """The states that an entity went through."""
        return [event["data"]["new_state"] for event in self.events(since)
                if event["event_type"] == "state_changed" and event["data"]["entity_id"] == entity
                and event["data"]["new_state"]]

    def calls(self, domain, since=0):
        """The data of every call of an action of this domain."""
        return [event["data"]["service_data"] for event in self.events(since)
                if event["event_type"] == "call_service" and event["data"]["domain"] == domain]

    def warnings(self):
        """Lines of the log about MQTT or templates that are worse than information."""
        lines = self.log.read_text(errors="replace").splitlines()
        # It also withdraws what it was told to remove, and then warns of its own message.
        bad = [line for line in lines if any(level in line for level in (" WARNING ", " ERROR "))
               and "No device components to cleanup" not in line and "The connection was lost" not in line]
        return [line for line in bad if any(word in line for word in ("mqtt", "template", "kithd", "automation"))]

    def end(self, how=signal.SIGTERM):
        # `unshare` has become Home Assistant.
        super().end(how)
        self.socket = None


class Kithd(Process):
    """The built kithd, with a state folder of this run and one camera whose pictures the test chooses."""

    def __init__(self, folder, program, root, broker):
        super().__init__(folder)
        self.program, self.root, self.port = program, root, free_port()
        self.inbox, self.frame = folder / "inbox", folder / "frame.jpg"
        self.inbox.mkdir()
        self.look(None)
        # A camera that sends some seven frames a second: at less than five the board complains.
        camera = folder / "camera"
        camera.write_text(f"#!/bin/sh\nwhile cat {self.frame}; do sleep 0.15; done\n")
        camera.chmod(0o755)
        self.configuration = folder / "kithd.toml"
        self.settings = {
            "": {"device": "gate", "state_dir": str(folder / "state")},
            "http": {"listen": f"127.0.0.1:{self.port}", "open_submit": True},
            "intake": {"roots": [str(self.inbox)]},
            "mqtt": {"url": f"mqtt://127.0.0.1:{broker.port}", "commands": ["breaker"]},
            "homeassistant": {"enabled": True, "people": True, "page": f"http://127.0.0.1:{self.port}"},
            "sighting": {"gap": "5s"},
            "[camera]": {"name": "front", "command": [str(camera)], "every": "1s", "burst": 1},
        }

    def look(self, photo):
        """Chooses the picture that the camera sees; None: nobody. The camera's program may read this file only."""
        self.frame.write_bytes(self.photo(photo or "noface.jpg").read_bytes())

    def arguments(self):
        sections = [(f"[{name}]\n" if name else "") + "".join(f"{key} = {json.dumps(value)}\n" for key, value in of.items())
                    for name, of in self.settings.items()]
        self.configuration.write_text("\n".join(sections))
        return ["--config", self.configuration]

    def environment(self):
        return {**os.environ, "KITHD_PACKS": str(self.root / "models/packs")}

    def start(self):
        self.launch(self.program, *self.arguments(), "run", env=self.environment())
        wait_for("kithd", lambda: self.part("mqtt out") == "ok" and self.part("gallery") == "ok", 300)

    def command(self, *words):
        done = subprocess.run([self.program, *map(str, self.arguments()), *map(str, words)], env=self.environment(),
                              capture_output=True, text=True, check=False)
        expect(done.returncode == 0, f"kithd {' '.join(map(str, words))}: {done.stdout}{done.stderr}")
        return done.stdout

    def get(self, path):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=60) as answer:
                return answer.read()
        except OSError:
            return b""

    def json(self, path):
        return json.loads(self.get(path) or b"{}")

    def part(self, name):
        return self.json("/v1/status").get("parts", {}).get(name, {}).get("condition")

    def photo(self, name):
        return self.root / "daemon/tests/photos" / name

    def post(self, photo):
        """Hands in a photograph under a new name; returns the number of its image."""
        file = self.inbox / f"{time.monotonic_ns()}.jpg"
        file.write_bytes(self.photo(photo).read_bytes())
        return self.post_path(file)

    def post_path(self, path):
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/image/post",
                                         json.dumps({"path": str(path)}).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())["ids"][0]
