"""The acceptance list: one function per item, in the order in which they run on one board.

A function's docstring is the sentence that it proves; it gives what was seen, or raises `Failed`. A new capability
adds a function under `@item`. Items start and end with kithd running on the packaged configuration: what an item
changes it takes back, also when it fails.
"""

import base64
import contextlib
import hashlib
import http.client
import json
import re
import shlex
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from board import ADDRESS, Board, Failed, wait

INBOX = "/srv/kithd/inbox"
STATE = "/var/lib/kithd"
CONFIG = "/etc/kithd/kithd.toml"
DROP_INS = "/etc/systemd/system/kithd.service.d"
# A picture takes this emulation some seconds, and the engine's start many more.
PICTURE, ENGINE = 240, 300
CUTS = 10

ITEMS = []


def item(function):
    ITEMS.append(function)
    return function


def sentence(function) -> str:
    return " ".join(function.__doc__.split())


def expect(true, otherwise: str):
    if not true:
        raise Failed(otherwise)


class Kit:
    """What the items work with: the board, and what is asked of kithd on it again and again."""

    def __init__(self, board: Board, deb: Path, previous: Path | None, root: Path):
        self.board, self.deb, self.previous = board, deb, previous
        self.photos = root / "daemon/tests/photos"
        self.pictures = 0

    def sh(self, command: str, timeout: float = 120) -> str:
        return self.board.sh(command, timeout)

    def property(self, name: str) -> str:
        return self.sh(f"systemctl show -P {name} kithd")

    def json(self, path: str):
        status, text = self.board.http(path)
        expect(status == 200, f"{path} answers {status}: {text}")
        return json.loads(text)

    def sql(self, query: str) -> list[list[str]]:
        text = self.sh(f"sqlite3 -readonly -separator '|' {STATE}/kithd.db {shlex.quote(query)}")
        return [line.split("|") for line in text.splitlines()]

    def settled(self):
        """Waits until the service runs and its engine has been tested."""
        wait("kithd is active", lambda: self.property("ActiveState") == "active", ENGINE)
        wait("the engine works", lambda: self.json("/v1/status")["parts"]["engine"]["condition"] == "ok", ENGINE)

    def restart(self) -> float:
        begun = time.monotonic()
        self.sh("systemctl restart kithd", timeout=ENGINE)
        return time.monotonic() - begun

    def place(self, folder: str = INBOX, photo: str = "obama_2.jpg") -> str:
        """Puts a picture into a folder under a name of its own."""
        self.pictures += 1
        path = f"{folder}/{self.pictures:03}-{photo}"
        self.board.put(self.photos / photo, path)
        return path

    def publish(self, path: str, login: str = ""):
        self.sh(f"mosquitto_pub {login} -q 1 -t kithd/board/image/post -m {shlex.quote(path)}")

    def image(self, path: str) -> dict:
        """The image of a path, once it is there."""
        found = [image for image in self.json("/v1/images?limit=500")["images"] if image["path"] == path]
        expect(found, f"no image with the path {path}")
        return self.json(f"/v1/images/{found[0]['id']}")

    def ended(self, path: str) -> dict:
        """The image of a path, once it is finished."""
        image = wait(f"{path} is finished",
                     lambda: (image := self.image(path))["state"] in ("processed", "failed") and image, PICTURE)
        expect(image["state"] == "processed", f"{path} failed: {image['reason']}")
        return image

    def is_obama(self, path: str) -> str:
        image = self.ended(path)
        names = [face["person"] for face in image["found"] if face["person"]]
        expect(image["outcome"] == "known" and names == ["Barack Obama"], f"{path} gave {image}")
        return f"{path}: {image['outcome']}, {names[0]}, in {image['duration_ms'] / 1000:.1f} s"

    def token(self) -> str:
        return self.sh("kithd token 2>/dev/null").strip()

    def upload(self, body: bytes) -> int:
        """Posts a picture from outside the board; gives its id."""
        boundary = "kithd-acceptance"
        form = (f'--{boundary}\r\nContent-Disposition: form-data; name="picture"; filename="p.jpg"\r\n'
                f"Content-Type: image/jpeg\r\n\r\n").encode() + body + f"\r\n--{boundary}--\r\n".encode()
        kind = {"Content-Type": f"multipart/form-data; boundary={boundary}",
                "Authorization": f"Bearer {self.token()}"}
        status, text = self.board.http("/v1/images", form, kind)
        expect(status == 202, f"the upload was answered {status}: {text}")
        return json.loads(text)["ids"][0]

    def refused_to_start(self):
        """Starts kithd and expects that it ends with 78 and is left alone."""
        self.board.run("systemctl restart kithd", ENGINE)
        wait("failed", lambda: self.property("ActiveState") == "failed", 60)
        time.sleep(5)  # longer than RestartSec
        seen = [self.property(name) for name in ("ActiveState", "ExecMainStatus", "NRestarts")]
        expect(seen == ["failed", "78", "0"], f"state, exit code and restarts are {seen}")

    @contextlib.contextmanager
    def drop_in(self, text: str):
        """Adds to the unit for a while."""
        self.board.write(f"{DROP_INS}/acceptance.conf", f"[Service]\n{text}\n")
        self.sh("systemctl daemon-reload")
        try:
            yield
        finally:
            self.sh(f"rm -f {DROP_INS}/acceptance.conf && systemctl daemon-reload && systemctl restart kithd", ENGINE)
            self.settled()

    @contextlib.contextmanager
    def configured(self, sed: str):
        """Edits the configuration for a while; kithd is not started on it."""
        self.sh(f"cp -p {CONFIG} /root/kithd.toml && sed -i {shlex.quote(sed)} {CONFIG}")
        expect(self.board.run(f"cmp -s {CONFIG} /root/kithd.toml").returncode, f"'{sed}' changed nothing in {CONFIG}")
        try:
            yield
        finally:
            self.sh(f"cp -p /root/kithd.toml {CONFIG} && systemctl reset-failed kithd; systemctl restart kithd", ENGINE)
            self.settled()

    def last_words(self) -> str:
        """What the board says when an item has failed."""
        try:
            return self.sh("systemctl status kithd --no-pager -n 0 | head -n 20;"
                           "journalctl -u kithd -n 30 -o cat --no-pager")
        except (Failed, OSError) as error:
            return str(error)


def install(kit: Kit) -> str:
    """`apt install ./kithd.deb` on the running board, without a network, enables and starts the service and prints the
    page's address on the LAN."""
    kit.board.put(kit.deb, "/root/kithd.deb")
    said = kit.sh("cd /root && DEBIAN_FRONTEND=noninteractive apt-get install -y ./kithd.deb", timeout=ENGINE)
    address = f"http://{ADDRESS}:8000/"
    expect(address in said, f"{address} is not in what apt said: {said[-800:]}")
    kit.settled()
    return "\n".join(line for line in said.splitlines() if address in line)


@item
def active_and_hardened(kit: Kit) -> str:
    """The service is active after READY (Type=notify), enabled, runs as its own user, and `systemd-analyze security`
    gives an exposure of 1.4 at most on the board."""
    seen = kit.sh("systemctl is-active kithd; systemctl is-enabled kithd; systemctl show -P Type kithd; id kithd;"
                  "ps -o user= -p $(systemctl show -P MainPID kithd)").splitlines()
    expect(seen[:3] == ["active", "enabled", "notify"] and seen[4] == "kithd", str(seen))
    exposure = kit.sh("systemd-analyze security --no-pager kithd | tail -n 1")
    expect(float(re.search(r": ([\d.]+)", exposure)[1]) <= 1.4, exposure)
    return f"{', '.join(seen)}\n{exposure.strip('→ ')}\n{kit.property('StatusText')}"


@item
def page_answers(kit: Kit) -> str:
    """The page, /healthz, /readyz and /metrics answer on the board's network address, to another machine."""
    seen = []
    for path, wanted in [("/", "<html"), ("/healthz", "ok"), ("/readyz", ""), ("/metrics", "kithd_")]:
        status, text = kit.board.http(path)
        expect(status == 200 and wanted in text, f"{path} answers {status}: {text[:200]}")
        seen.append(f"{path} 200, {len(text)} bytes")
    listening = kit.sh("ss -Hltn 'sport = :8000'")
    expect("0.0.0.0:8000" in listening or "*:8000" in listening, listening)
    return "; ".join(seen)


@item
def identified_by_mqtt(kit: Kit) -> str:
    """A picture put into /srv/kithd/inbox and named by an MQTT message to the board's mosquitto is answered with
    outcome `known` and the enrolled person's name on kithd/board/result."""
    kit.board.put(kit.photos / "obama_1.jpg", "/root/obama_1.jpg")
    enrolled = kit.sh("kithd enroll --person 'Barack Obama' /root/obama_1.jpg", timeout=ENGINE)
    path = kit.place()
    kit.sh("systemd-run --quiet --unit=results sh -c 'mosquitto_sub -q 1 -t kithd/board/result >/root/results'")
    try:
        wait("the subscription", lambda: "ESTAB" in kit.sh("ss -Htnp 'dport = :1883' | grep mosquitto_sub"), 30)
        kit.publish(path)
        line = wait(f"a result for {path}",
                    lambda: kit.board.run(f"grep -F {path} /root/results").stdout.decode(), PICTURE)
    finally:
        kit.sh("systemctl stop results; systemctl reset-failed results 2>/dev/null || true")
    result = json.loads(line)
    names = [face["person"]["name"] for face in result["faces"] if face["person"]]
    expect(result["outcome"] == "known" and names == ["Barack Obama"], line)
    return (f"{enrolled.splitlines()[-1]}\nkithd/board/result: outcome {result['outcome']}, {names[0]}, "
            f"{result['duration_ms'] / 1000:.1f} s by {result['engine']}")


@item
def token_from_outside(kit: Kit) -> str:
    """The administrator's token lies readable for its owner alone; another machine may look, submit and change nothing
    without it, and everything with it."""
    mode = kit.sh("stat -c '%a %U' /var/lib/kithd/token").strip()
    expect(mode == "600 kithd", f"the token's file has {mode}")
    word, kind = b'{"command":"auto"}', {"Content-Type": "application/json"}
    bearer = {"Authorization": f"Bearer {kit.token()}"}
    seen = [kit.board.http("/v1/breaker", word, kind)[0], kit.board.http("/v1/images", b"no picture")[0],
            kit.board.http("/v1/backup")[0], kit.board.http("/v1/breaker", word, kind | bearer)[0]]
    expect(seen == [401, 401, 401, 200], f"breaker, submit, backup without it and breaker with it: {seen}")
    foreign = kit.board.http("/", None, {"Host": "elsewhere.example"})[0]
    expect(foreign == 421, f"another host name is answered {foreign}")
    return f"{mode}; without it 401, with it 200; under a foreign name 421"


@item
def saved_erased_restored(kit: Kit) -> str:
    """`kithd backup` saves while the service runs; who is erased by `kithd forget` is in no file of the state folder,
    and `kithd restore` brings back who is in the backup, but not who was erased."""
    kit.board.put(kit.photos / "biden_1.jpg", "/root/biden_1.jpg")
    kit.sh("kithd enroll --person 'Joe Biden' /root/biden_1.jpg", timeout=ENGINE)
    kit.sh("rm -f /root/board.kithd; kithd backup /root/board.kithd", timeout=ENGINE)
    kit.sh("kithd forget --yes 'Joe Biden'", timeout=ENGINE)
    left = kit.sh("grep -rlF 'Joe Biden' /var/lib/kithd || true")
    expect(not left, f"somebody who was erased is still in {left}")
    said = kit.sh("kithd restore --yes /root/board.kithd", timeout=ENGINE)
    people = [person["name"] for person in kit.json("/v1/people?limit=500")["people"]]
    expect("Joe Biden" not in people and "Barack Obama" in people, f"people after the restore: {people}")
    return f"{kit.sh('ls -sh /root/board.kithd').strip()}\n{said.strip()}"


@item
def doctor_is_content(kit: Kit) -> str:
    """`kithd doctor` finds no problem on a board that works."""
    done = kit.board.run("kithd doctor", ENGINE)
    text = done.stdout.decode()
    expect(done.returncode == 0, f"kithd doctor ends with {done.returncode}: {text}")
    return text.strip()


@item
def engine_dies_and_recovers(kit: Kit) -> str:
    """After kill -9 of the engine process the daemon starts another, the next picture is identified, and the breaker's
    report says so."""
    engine = "pgrep -f 'kithd.* engine' --parent $(systemctl show -P MainPID kithd)"
    before = kit.sh(engine)
    kit.sh(f"kill -9 {before}")
    after = wait("another engine",
                 lambda: (now := kit.board.run(engine).stdout.decode().strip()) != before and now, ENGINE)
    path = kit.place()
    kit.publish(path)
    seen = kit.is_obama(path)
    breaker = kit.json("/v1/breaker")
    expect(breaker["breaker"]["state"] == "closed" and breaker["primary"]["up"], str(breaker))
    expect(kit.property("NRestarts") == "0", "the daemon was restarted")
    return f"engine process {before}, then {after}\n{seen}\nkithd breaker: {kit.sh('kithd breaker').splitlines()[0]}"


# A program with the service's view of the disk and its user.
IN_SERVICE = "nsenter -t $(systemctl show -P MainPID kithd) -m setpriv --reuid kithd --regid kithd"


def moves(kit: Kit, path: str) -> str:
    """Tries a move into done/ as the service; gives mv's complaint or nothing."""
    done = f"{path.rsplit('/', 1)[0]}/done/"
    return kit.board.run(f"{IN_SERVICE} --init-groups mv {path} {done}").stdout.decode().strip()


@item
def folder_under_home(kit: Kit) -> str:
    """A folder under /home is invisible to the service until `kithd allow PATH`, then pictures in it are identified; a
    move into done/ in the service's own mount namespace as user kithd is refused until `--write` (by hand with nsenter)."""
    folder = "/home/anna/pictures"
    kit.sh(f"useradd -m anna && install -d -o anna -g kithd -m 2775 {folder} {folder}/done && chmod 755 /home/anna")
    look = f"nsenter -t $(systemctl show -P MainPID kithd) -m ls {folder}"
    expect(kit.board.run(look).returncode, "the service sees the folder before it is allowed")
    said = kit.sh(f"kithd allow {folder}", ENGINE)
    kit.settled()
    path = kit.place(folder)
    kit.publish(path)
    seen = kit.is_obama(path)
    refused = moves(kit, path)
    expect("Read-only file system" in refused, f"the move without --write: {refused or 'was done'}")
    said += "\n" + kit.sh(f"kithd allow {folder} --write", ENGINE)
    kit.settled()
    complaint = moves(kit, path)
    expect(not complaint, f"the move with --write: {complaint}")
    return f"{said}\n{seen}\nwithout --write: {refused}\nwith --write: moved into done/"


@item
def root_squashed_nfs(kit: Kit) -> str:
    """A root-squashed NFS export that root itself cannot enter: pictures in it are identified after `kithd allow PATH`,
    moves into done/ are refused until `--write`; with the server away and the hard mount hanging the page answers and
    `systemctl restart kithd` comes up; with the server back the picture that waited is identified."""
    folder = "/mnt/nas/inbox"
    kit.sh("install -d /srv/nas /mnt/nas && install -d -o kithd -g kithd -m 0700 /srv/nas/inbox /srv/nas/inbox/done &&"
           f"echo '/srv/nas {ADDRESS}(rw,sync,root_squash,no_subtree_check)' >/etc/exports")
    kit.sh(f"systemctl start nfs-server && mount -t nfs -o vers=4.2,hard {ADDRESS}:/srv/nas /mnt/nas", 300)
    expect("Permission denied" in kit.board.run(f"ls {folder}").stdout.decode(), "root may enter the export's inbox")
    path = kit.place("/srv/nas/inbox").replace("/srv/nas", "/mnt/nas")
    kit.sh("chown -R kithd:kithd /srv/nas/inbox")
    seen = [kit.sh(f"kithd allow {folder}", ENGINE)]
    kit.settled()
    kit.publish(path)
    seen.append(kit.is_obama(path))
    refused = moves(kit, path)
    expect("Read-only file system" in refused, f"the move without --write: {refused or 'was done'}")
    seen.append(f"without --write: {refused}")
    seen.append(kit.sh(f"kithd allow {folder} --write", ENGINE))
    kit.settled()
    complaint = moves(kit, path)
    expect(not complaint, f"the move with --write: {complaint}")
    seen.append("with --write: moved into done/")
    waiting = kit.place("/srv/nas/inbox").replace("/srv/nas", "/mnt/nas")
    kit.sh("chown -R kithd:kithd /srv/nas/inbox && systemctl stop nfs-server", 300)
    try:
        kit.publish(waiting)
        wait("the picture waits", lambda: kit.image(waiting)["reason"], 120)
        image = kit.image(waiting)
        expect(image["state"] in ("pending", "processing"), str(image))
        seen.append(f"server away: {image['state']}, {image['reason']}")
        local = kit.place()
        kit.publish(local)
        seen.append(f"server away, from the local disk: {kit.is_obama(local)}")
        seen.append(f"server away: systemctl restart kithd took {kit.restart():.0f} s")
        kit.settled()
        expect(kit.board.http("/")[0] == 200, "the page does not answer")
    finally:
        kit.sh("systemctl start nfs-server", 300)
    seen.append(f"server back: {kit.is_obama(waiting)}")
    return "\n".join(seen)


@item
def watched_nfs_folder(kit: Kit) -> str:
    """A folder on an NFS mount is watched: a picture put there by the server is taken by itself, identified and moved to
    done/. With the server stopped in the middle the folder is named as degraded within its `report_after`, pictures from
    elsewhere go on, and the page answers; with the server back what was put there meanwhile is taken, and nothing twice."""
    folder, served = "/mnt/watched", "/srv/watched"
    kit.sh(f"install -d {folder} && install -d -o kithd -g kithd -m 0770 {served} &&"
           f"echo '{served} {ADDRESS}(rw,sync,root_squash,no_subtree_check)' >>/etc/exports &&"
           "systemctl restart nfs-server && exportfs -ra", 300)
    kit.sh(f"mount -t nfs -o vers=4.2,hard {ADDRESS}:{served} {folder}", 300)
    seen = [kit.sh(f"kithd allow {folder} --write", ENGINE)]
    section = (f'[[folder]]\\npath = "{folder}"\\nthen = "move"\\nsettle = "2s"\\npoll = "2s"\\n'
               'report_after = "10s"\\nfull_scan = "1m"')

    def put() -> str:
        path = kit.place(served)
        kit.sh(f"chown kithd:kithd {path}")
        return path.replace(served, folder)

    def part() -> dict:
        return kit.json("/v1/status")["parts"].get(f"folder {folder}", {"condition": "not there", "text": ""})

    # Files are put away once a self-test has verified their results.
    with kit.configured(f's/^self_test = "5m"/self_test = "20s"/; $a {section}'):
        try:
            kit.restart()
            kit.settled()
            first = put()
            wait("the picture is taken", lambda: kit.sql(f"SELECT 1 FROM images WHERE path = '{first}'"), 120)
            seen.append(kit.is_obama(first))
            done = f"{served}/done/{first.rsplit('/', 1)[1]}"
            wait("it is moved", lambda: not kit.board.run(f"test -e {done}").returncode, PICTURE)
            seen.append("moved to done/")
            kit.sh("systemctl stop nfs-server", 300)
            begun = time.monotonic()
            try:
                said = wait("degraded", lambda: (now := part())["condition"] == "degraded" and now, 60)
                seen.append(f"server away: degraded after {time.monotonic() - begun:.0f} s: {said['text']}")
                meanwhile = put()
                local = kit.place()
                kit.publish(local)
                seen.append(f"server away, from the local disk: {kit.is_obama(local)}")
                expect(kit.board.http("/")[0] == 200, "the page does not answer")
            finally:
                kit.sh("systemctl start nfs-server", 300)
            wait("the folder is well again", lambda: part()["condition"] == "ok", 300)
            wait("the picture is taken", lambda: kit.sql(f"SELECT 1 FROM images WHERE path = '{meanwhile}'"), 300)
            seen.append(f"server back: {kit.is_obama(meanwhile)}")
            taken = kit.sql(f"SELECT count(*) FROM images WHERE path LIKE '{folder}/%'")
            expect(taken == [["2"]], f"two pictures were put there, {taken} were taken")
        finally:
            kit.sh(f"systemctl stop kithd; umount -f -l {folder}", ENGINE)
    # Not while it is watched.
    kit.sh(f"kithd allow {folder} --remove", ENGINE)
    kit.settled()
    return "\n".join(seen)


@item
def broker_away(kit: Kit) -> str:
    """With mosquitto stopped `systemctl restart kithd` is active and /v1/status says degraded; a picture uploaded
    meanwhile has its result published once mosquitto is back."""
    kit.sh("systemctl stop mosquitto")
    try:
        seconds = kit.restart()
        part = wait("degraded",
                    lambda: (part := kit.json("/v1/status")["parts"]["mqtt"])["condition"] == "degraded" and part)
        expect(kit.property("ActiveState") == "active", "kithd is not active")
        status = kit.property("StatusText")
        number = kit.upload((kit.photos / "obama_2.jpg").read_bytes())
        wait("the picture is processed", lambda: kit.json(f"/v1/images/{number}")["state"] == "processed", PICTURE)
        unsent = kit.json("/v1/status")["counts"]["unsent"]
        expect(unsent >= 1, "no result waits for the broker")
    finally:
        kit.sh("systemctl start mosquitto")
    wait("the result is sent", lambda: kit.json("/v1/status")["counts"]["unsent"] == 0)
    return f"active after {seconds:.0f} s; mqtt: {part['text']}; {status}; {unsent} result waited and was sent"


@item
def bad_configuration(kit: Kit) -> str:
    """A bad configuration ends the service with exit code 78 and a sentence, and it is not started again until it is
    mended."""
    with kit.configured('s/^listen = .*/listen = "nonsense"/'):
        kit.refused_to_start()
        said = kit.sh("journalctl -u kithd -n 20 -o cat --no-pager | grep -F http.listen")
    return f"exit code 78, {said.splitlines()[-1].strip()}; mended: active"


@item
def newer_database(kit: Kit) -> str:
    """A program that meets the database of a newer version refuses it with exit code 78 and a sentence, without a
    restart loop (what an A/B update that falls back would see)."""
    kit.sh("systemctl stop kithd")
    version = kit.sql("pragma user_version")[0][0]
    try:
        kit.sh(f"sqlite3 {STATE}/kithd.db 'pragma user_version = {int(version) + 1}'")
        kit.refused_to_start()
        said = kit.sh("journalctl -u kithd -n 20 -o cat --no-pager | grep -F newer")
    finally:
        kit.sh(f"sqlite3 {STATE}/kithd.db 'pragma user_version = {version}' && chown kithd:kithd {STATE}/kithd.db*;"
               "systemctl reset-failed kithd; systemctl start kithd", ENGINE)
        kit.settled()
    return f"exit code 78, {said.splitlines()[-1].strip()}"


@item
def password_as_credential(kit: Kit) -> str:
    """A broker that wants a password gets it from the credential kithd.mqtt-password in /etc/credstore (0600, root),
    which the configuration never names."""
    kit.sh("mosquitto_passwd -b -c /etc/mosquitto/passwords kithd s3cret && chown mosquitto /etc/mosquitto/passwords &&"
           "cp /etc/mosquitto/conf.d/board.conf /root/ && sed -i 's/^allow_anonymous.*/allow_anonymous false\\n"
           "password_file \\/etc\\/mosquitto\\/passwords/' /etc/mosquitto/conf.d/board.conf &&"
           "install -d -m 700 /etc/credstore && install -m 600 /dev/null /etc/credstore/kithd.mqtt-password &&"
           "echo s3cret >/etc/credstore/kithd.mqtt-password && systemctl restart mosquitto")
    try:
        part = wait("refused by the broker", lambda: (part := kit.json("/v1/status")["parts"]["mqtt"])["condition"] ==
                    "degraded" and "os error" not in part["text"] and part)
        with kit.configured('s/^# username = .*/username = "kithd"/'):
            kit.restart()
            kit.settled()
            path = kit.place()
            wait("connected", lambda: kit.json("/v1/status")["parts"]["mqtt"]["condition"] == "ok")
            kit.publish(path, "-u kithd -P s3cret")
            seen = kit.is_obama(path)
    finally:
        kit.sh("cp /root/board.conf /etc/mosquitto/conf.d/ && rm -f /etc/credstore/kithd.mqtt-password &&"
               "systemctl restart mosquitto")
    wait("connected", lambda: kit.json("/v1/status")["parts"]["mqtt"]["condition"] == "ok")
    return f"without it: {part['text']}\nwith it: {seen}"


@item
def journal(kit: Kit) -> str:
    """The journal holds the service's lines with their own priorities and structured fields."""
    kit.sh("mosquitto_pub -q 1 -t kithd/board/image/post -m '{\"nonsense\": 1}'")
    read = "journalctl -u kithd -o json --no-pager _COMM=kithd"
    wait("a warning", lambda: kit.board.run(f"{read} -p warning | grep -F rejected").stdout, 30)
    lines = [json.loads(line) for line in kit.sh(read).splitlines()]
    priorities, fields = {}, {}
    for line in lines:
        priorities[line["PRIORITY"]] = priorities.get(line["PRIORITY"], 0) + 1
        for field in line:
            if field.startswith("KITHD_"):
                fields[field] = fields.get(field, 0) + 1
    expect(len(priorities) > 1 and "4" in priorities, f"priorities: {priorities}")
    expect(fields, f"no KITHD_ fields, only {sorted(lines[-1])}")
    return f"{len(lines)} lines; by priority {priorities}; fields {fields}"


@item
def watchdog(kit: Kit) -> str:
    """A daemon stopped by SIGSTOP is bitten by systemd's watchdog and started again, and what it had accepted is done
    (WatchdogSec is 15 s here instead of the unit's 60 s, to save time)."""
    with kit.drop_in("WatchdogSec=15s"):
        kit.restart()
        kit.settled()
        before, body = kit.property("MainPID"), (kit.photos / "obama_2.jpg").read_bytes()
        numbers = [kit.upload(body) for _ in range(3)]
        begun = time.monotonic()
        kit.sh(f"kill -STOP {before}")
        wait("another process", lambda: kit.property("MainPID") not in (before, "0"), 180)
        seconds = time.monotonic() - begun
        kit.settled()
        for number in numbers:
            wait(f"image {number}", lambda: kit.json(f"/v1/images/{number}")["state"] == "processed", PICTURE)
        said = kit.sh("journalctl -u kithd -o cat --no-pager -g 'watchdog timeout' -n 1")
    return f"{said}; another process after {seconds:.0f} s; the three pictures accepted before it are processed"


@item
def camera_drop_in(kit: Kit) -> str:
    """The kernel's test camera (vivid) is hidden from the service; with the packaged camera.conf v4l2-ctl, run under
    everything the unit forbids, takes pictures from it, at an exposure of 1.8 at most."""
    kit.sh("modprobe vivid n_devs=1 && udevadm settle")
    expect(kit.board.run(f"{IN_SERVICE} --init-groups test -e /dev/video0").returncode, "the service sees /dev/video0")
    try_it = "ExecStartPre=/usr/bin/v4l2-ctl -d /dev/video0 --stream-mmap --stream-count=3 --stream-poll"
    with kit.drop_in(f"{kit.sh('cat /usr/share/kithd/systemd/camera.conf')}\n{try_it}"):
        kit.restart()
        exposure = kit.sh("systemd-analyze security --no-pager kithd | tail -n 1")
        expect(float(re.search(r": ([\d.]+)", exposure)[1]) <= 1.8, exposure)
    return f"three pictures taken; {exposure.strip('→ ')}"


@item
def camera_source(kit: Kit) -> str:
    """With a [[camera]] on the kernel's test camera and the packaged camera.conf pictures come every second and end
    processed; unplugged (its driver unbound and removed) it is `degraded` by name and comes back by itself; a camera
    process that is stopped is killed and replaced; `kithd camera list` and `snapshot` see it too."""
    kit.sh("modprobe vivid n_devs=1 && udevadm settle")
    listed = kit.sh("kithd camera list")
    expect("/dev/video0  vivid" in listed and re.search(r"yuyv +320x180 ", listed), listed)
    shot = kit.sh("kithd camera snapshot --device /dev/video0 --output /root/snapshot.jpg")
    section = ('[[camera]]\\nname = "front"\\nresolution = "320x180"\\nformat = "yuyv"\\nrate = 10\\nevery = "1s"\\n'
               'burst = 1\\nstall_after = "5s"')

    def part():
        return kit.json("/v1/status")["parts"].get("camera front", {"condition": "", "text": ""})

    def taken(state: str = "%") -> int:
        return int(kit.sql(f"select count(*) from images where source = 'camera' and state like '{state}'")[0][0])

    def more(what: str):
        before = taken()
        wait(what, lambda: taken() >= before + 3, 120)

    process = "pgrep -f 'camera run' --parent $(systemctl show -P MainPID kithd)"
    with kit.drop_in(kit.sh("cat /usr/share/kithd/systemd/camera.conf")), kit.configured(f"$ a {section}"):
        kit.restart()
        kit.settled()
        wait("three pictures of the camera are processed", lambda: taken("processed") >= 3, PICTURE)
        begun, before = time.monotonic(), taken()
        wait("ten more pictures", lambda: taken() >= before + 10, 120)
        seen = [f"ten pictures in {time.monotonic() - begun:.0f} s; {part()['text']}",
                kit.sh("journalctl -u kithd -o cat --no-pager -g 'camera front: .* sends' -n 1")]
        expect(part()["condition"] == "ok", str(part()))
        kit.sh("echo vivid.0 >/sys/bus/platform/drivers/vivid/unbind")
        wait("degraded", lambda: part()["condition"] == "degraded", 60)
        wait("the driver is removed", lambda: not kit.board.run("modprobe -r vivid").returncode, 60)
        wait("unplugged", lambda: "unplugged: /dev/video0 is not there" in part()["text"], 60)
        seen.append(f"driver removed: {part()['text']}")
        kit.sh("modprobe vivid n_devs=1 && udevadm settle")
        more("pictures after the camera came back")
        stopped = kit.sh(process)
        kit.sh(f"kill -STOP {stopped}")
        wait("degraded", lambda: "the camera process was killed" in part()["text"], 60)
        seen.append(f"process {stopped} stopped: {part()['text']}")
        more("pictures of another process")
        seen.append(f"then process {kit.sh(process)}: {part()['text']}")
        failed = taken("failed")
        expect(not failed, f"{failed} pictures of the camera failed")
        expect(kit.property("NRestarts") == "0", "the daemon was restarted")
    # An emulated board falls behind a picture a second.
    wait("all are processed", lambda: taken("processed") == taken(), 4 * PICTURE, pause=5)
    lines = [line for line in listed.splitlines() if line.startswith("/dev") or re.search("yuyv +320x180 ", line)]
    return "\n".join([*lines, *shot.splitlines(), *seen, f"{taken()} pictures, all processed"])


@item
def clean_stop(kit: Kit) -> str:
    """`systemctl stop` in the middle of work ends well within TimeoutStopSec, nothing stays `processing`, and the work
    is done after the next start."""
    body = (kit.photos / "obama_2.jpg").read_bytes()
    numbers = [kit.upload(body) for _ in range(4)]
    wait("work", lambda: kit.json("/v1/status")["counts"]["processing"] > 0, 60, pause=0.2)
    begun = time.monotonic()
    kit.sh("systemctl stop kithd")
    seconds = time.monotonic() - begun
    seen = [kit.property(name) for name in ("ActiveState", "Result", "ExecMainStatus", "TimeoutStopUSec")]
    left = kit.sql(f"select state, count(*) from images where id in ({', '.join(map(str, numbers))}) group by state")
    kit.sh("systemctl start kithd", ENGINE)
    expect(seen[:3] == ["inactive", "success", "0"], f"state, result, exit code: {seen}")
    expect(all(state != "processing" for state, _ in left), f"{left}")
    for number in numbers:
        wait(f"image {number}", lambda: kit.json(f"/v1/images/{number}")["state"] == "processed", PICTURE)
    kit.settled()
    return f"stopped in {seconds:.1f} s of {seen[-1]}, Result=success; then {dict(left)}, all processed after the start"


@item
def clock_set_back(kit: Kit) -> str:
    """With the clock set back a year at a restart pictures get the next ids and are identified, and nothing is
    removed."""
    before = kit.sql("select count(*), max(id) from images")[0]
    kit.sh("systemctl stop kithd && date -s '1 year ago' >/dev/null && systemctl start kithd", ENGINE)
    try:
        year = kit.sh("date +%Y")
        kit.settled()
        path = kit.place()
        kit.publish(path)
        seen = kit.is_obama(path)
        number = kit.image(path)["id"]
        after = kit.sql("select count(*) from images")[0][0]
    finally:
        kit.sh(f"date -s @{time.time():.0f} >/dev/null && systemctl restart kithd", ENGINE)
        kit.settled()
    expect(number == int(before[1]) + 1, f"the next id was {number} after {before[1]}")
    expect(int(after) == int(before[0]) + 1, f"{before[0]} images before, {after} after one more")
    newest = kit.json("/v1/images?limit=1")["images"][0]["id"]
    expect(newest == number, f"image {newest} comes first on the page, not {number}")
    return f"in {year}: {seen}; image {number} after {before[1]}; {before[0]} images, then {after}"


# A grey JPEG of 64×64 pixels; a comment makes each upload different.
TINY = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABALDA4MChAODQ4SERATGCgaGBYWGDEjJR0oOjM9PDkzODdASFxOQERXRTc4UG1RV19iZ2hn"
    "Pk1xeXBkeFxlZ2P/wAALCABAAEABAREA/8QAFAABAAAAAAAAAAAAAAAAAAAAAP/EABQQAQAAAAAAAAAAAAAAAAAAAAD/2gAIAQEAAD8A"
    "AAAAAAAAAAAAAAAAAAAAAP/Z")


def distinct(number: int) -> bytes:
    """A small JPEG like no other."""
    comment = f"picture {number} {'.' * (number % 3000)}".encode()
    return TINY[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + TINY[2:]


class Uploads:
    """Uploads from several clients at once, until the power goes; remembers what was answered with 202."""

    def __init__(self, kit: Kit, first: int):
        self.kit, self.accepted, self.sent = kit, {}, 0
        self.next, self.lock, self.stop = first, threading.Lock(), False
        self.clients = [threading.Thread(target=self.client) for _ in range(4)]
        for client in self.clients:
            client.start()

    def client(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.kit.board.http_port, timeout=20)
        while not self.stop:
            with self.lock:
                number, self.next = self.next, self.next + 1
            body = distinct(number)
            try:
                connection.request("POST", "/v1/images?name=cut.jpg", body, {"Content-Type": "image/jpeg"})
                answer = connection.getresponse()
                text = answer.read()
            except (OSError, http.client.HTTPException):
                connection.close()
                if not self.stop:
                    time.sleep(0.2)
                continue
            if answer.status == 202:
                with self.lock:
                    self.accepted[json.loads(text)["ids"][0]] = hashlib.sha256(body).hexdigest()

    def end(self):
        self.stop = True
        for client in self.clients:
            client.join()


def lost(kit: Kit, accepted: dict[int, str]) -> list[str]:
    """Accepted pictures without a row whose bytes are right: the spooled file's until they are processed, then the
    row's sum, which is that of the bytes that were processed."""
    table = kit.sql("select id, coalesce(file, ''), coalesce(picture_key, '') from images")
    rows = {int(row[0]): row[1:] for row in table}
    sums = dict(reversed(line.split(None, 1)) for line in
                kit.sh(f"cd {STATE} && find spool -type f -exec sha256sum {{}} +").splitlines())
    wrong = []
    for number, sha in accepted.items():
        file, key = rows.get(number, (None, None))
        if file is None:
            wrong.append(f"image {number} has no row")
        elif (sums.get(file) if file else key) != sha:
            wrong.append(f"image {number}: {file or 'processed'} is {sums.get(file) if file else key}, sent was {sha}")
    return wrong


@item
def power_cuts(kit: Kit) -> str:
    """Ten times the power goes while four clients upload: every picture answered with 202 has its row and its bytes
    (by SHA-256) after the reboot, and `PRAGMA integrity_check` says ok. QEMU is killed, and of the writes since the
    disk's last flush none survives at the odd cuts, at the even ones a random half does, as with a disk whose cache
    loses them or has written them in an order of its own."""
    board, accepted, seen, first = kit.board, {}, [], 0
    board.power_off()
    try:
        board.boot(log_writes=True)
        for cut in range(1, CUTS + 1):
            wait("the page", lambda: board.http("/healthz", timeout=5)[0] == 200, ENGINE, pause=0.5)
            uploads = Uploads(kit, first)
            try:
                wait("twenty uploads", lambda: len(uploads.accepted) >= 20, 120, pause=0.1)
                time.sleep(cut * 0.37)
                disk = board.cut_power(0.5 if cut % 2 == 0 else 0, seed=cut)
            finally:
                uploads.end()
            first, accepted = uploads.next, accepted | uploads.accepted
            booted = board.boot(log_writes=True)
            kit.sh("systemctl stop kithd", ENGINE)
            wrong, integrity = lost(kit, accepted), kit.sql("pragma integrity_check")[0][0]
            kit.sh("systemctl start --no-block kithd")
            expect(not wrong, f"cut {cut}: {len(wrong)} of {len(accepted)} lost or changed: {wrong[:3]}")
            expect(integrity == "ok", f"cut {cut}: integrity_check says {integrity}")
            seen.append(f"cut {cut}: {len(uploads.accepted)} accepted, {disk}; boot {booted:.0f} s; "
                        f"{len(accepted)} of {len(accepted)} there and right, integrity_check ok")
    finally:
        board.power_off()
        board.boot()
    kit.settled()
    return "\n".join(seen)


def with_version(deb: Path, version: str, to: Path) -> Path:
    """The same package under another version number."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["dpkg-deb", "-R", deb, folder], check=True)
        control = Path(folder, "DEBIAN/control")
        control.write_text(re.sub(r"(?m)^Version: .*", f"Version: {version}", control.read_text()))
        made = to / f"kithd_{version}.deb"
        subprocess.run(["dpkg-deb", "-Zgzip", "-b", "--root-owner-group", folder, made], check=True,
                       stdout=subprocess.DEVNULL)
        return made


@item
def upgrade_remove_purge(kit: Kit) -> str:
    """An upgrade from the previous version keeps people, pictures and the edited configuration, with the service
    running after it; removing the package keeps them too; purging erases state folder, configuration and account."""
    board = kit.board
    apt = "DEBIAN_FRONTEND=noninteractive apt-get -y"
    kit.sh(f"{apt} purge kithd", ENGINE)
    previous = kit.previous or with_version(kit.deb, "0.0.1~acceptance", board.work)
    board.put(previous, "/root/previous.deb")
    kit.sh(f"{apt} install /root/previous.deb", ENGINE)
    before = kit.sh("dpkg-query -W -f '${Version}' kithd")
    kit.settled()
    board.put(kit.photos / "obama_1.jpg", "/root/obama_1.jpg")
    kit.sh("kithd enroll --person 'Barack Obama' /root/obama_1.jpg", ENGINE)
    kit.sh(f"sed -i 's/^level = .*/level = \"debug\"/' {CONFIG}")
    path = kit.place()
    kit.publish(path)
    kit.is_obama(path)
    kit.sh(f"{apt} install /root/kithd.deb", ENGINE)
    after = kit.sh("dpkg-query -W -f '${Version}' kithd")
    kit.settled()
    path = kit.place()
    kit.publish(path)
    known, images = kit.is_obama(path), kit.sql("select count(*) from images")[0][0]
    seen = [f"upgrade from {before} to {after}: {known}, {images} images"]
    expect(images == "2", "the picture of before is gone")
    expect(kit.sh(f"grep '^level' {CONFIG}").startswith('level = "debug"'), "the edited configuration is lost")
    if not kit.previous:
        seen.append("the previous version is this package under a lower number")
    kit.sh(f"{apt} remove kithd", ENGINE)
    expect(board.run("systemctl is-active kithd").returncode, "the service runs after removal")
    kept = kit.sh(f"ls {CONFIG} {STATE}/kithd.db && id kithd")
    seen.append(f"removed, kept: {', '.join(kept.splitlines())}")
    kit.sh(f"{apt} purge kithd", ENGINE)
    left = [place for place in ("/etc/kithd", STATE, DROP_INS) if not board.run(f"test -e {place}").returncode]
    expect(not left, f"purging left {left}")
    expect(board.run("id kithd").returncode, "purging left the account")
    seen.append("purged: state folder, /etc/kithd and account are gone")
    return "\n".join(seen)
