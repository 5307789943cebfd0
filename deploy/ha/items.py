"""What is tried with a real Home Assistant, in this order; each item says in a sentence what must be."""

import json
import re
import signal
import time

from parts import expect, wait_for

EVENT = "event.kithd_gate_sighting"
FACE = "image.kithd_gate_last_face"
PICTURE = "image.kithd_gate_last_picture"
PROBLEM = "binary_sensor.kithd_gate_problem"
BREAKER = "binary_sensor.kithd_gate_circuit_breaker"
USE = "select.kithd_gate_use_of_the_engine"
BACKLOG = "sensor.kithd_gate_backlog"
LAST_PERSON = "sensor.kithd_gate_front_last_person"
OCCUPANCY = "binary_sensor.kithd_gate_front_occupancy"
ANN = "binary_sensor.kithd_gate_people_ann"
ANN_SEEN = "sensor.kithd_gate_people_ann_last_seen"


class Kit:
    """The running parts, and what items remember for each other."""

    def __init__(self, broker, home, kithd, root):
        self.broker, self.home, self.kithd, self.root = broker, home, kithd, root

    def sightings(self, since):
        """The attributes of every event of the entity that is of all sources."""
        return [state["attributes"] for state in self.home.changes(EVENT, since) if state["attributes"].get("event_type")]

    def nobody_is_here(self):
        """Waits until every sighting has ended."""
        self.kithd.look(None)
        wait_for("every sighting to end", lambda: not any(
            person["present"] for person in self.kithd.json("/v1/presence")["people"])
            and not any(source["uncertain"] or source["unknown"] for source in self.kithd.json("/v1/presence")["sources"]))

    def device(self, name):
        for device in self.home.ask("config/device_registry/list"):
            if device["name"] == name:
                return device
        return None

    def entities(self):
        return {entry["entity_id"]: entry for entry in self.home.ask("config/entity_registry/list")
                if entry["platform"] == "mqtt"}


def discovery(kit):
    """Board, camera and people are devices, each entity has a state, and Home Assistant warns of nothing."""
    home = kit.home
    wait_for("the entities", lambda: {EVENT, FACE, PICTURE, PROBLEM, BREAKER, USE, BACKLOG, LAST_PERSON, OCCUPANCY, ANN,
                                      ANN_SEEN} <= set(kit.entities()))
    board = kit.device("kithd gate")
    expect(board["configuration_url"] == kit.kithd.settings["homeassistant"]["page"], f"{board}")
    for name in ("kithd gate front", "kithd gate people"):
        expect(kit.device(name)["via_device_id"] == board["id"], f"{name} stands behind the board")
    off = sorted(entity for entity, entry in kit.entities().items() if entry["disabled_by"] == "integration")
    expect(len(off) == 5, f"off by default: {off}")
    for entity, wanted in [(PROBLEM, "off"), (BREAKER, "off"), (USE, "auto"), (BACKLOG, "0"), (ANN, "off"),
                           (LAST_PERSON, "nobody"), (OCCUPANCY, "off")]:
        wait_for(f"{entity} to be {wanted}", lambda entity=entity, wanted=wanted: home.is_state(entity, wanted))
    warnings = home.warnings()
    expect(not warnings, "\n".join(warnings[:5]))
    return f"{len(kit.entities())} entities, {len(off)} of them off by default"


def triggers(kit):
    """Device triggers are offered for each outcome and person."""
    offered = {}
    for name in ("kithd gate", "kithd gate front", "kithd gate people"):
        found = kit.home.ask("device_automation/trigger/list", device_id=kit.device(name)["id"])
        offered[name] = sorted(f"{one['subtype']} {one['type']}" for one in found if one["domain"] == "mqtt")
    outcomes = ["known person seen", "person left", "returning stranger seen", "uncertain person seen", "unknown person seen"]
    expect(offered["kithd gate"] == outcomes and offered["kithd gate front"] == outcomes, f"{offered}")
    expect(offered["kithd gate people"] == sorted(f"{who} {what}" for who in ("Ann", "Bob 😀 {{ 1 }}") for what in ("left", "seen")),
           f"{offered}")
    return json.dumps(offered, ensure_ascii=False)


def examples(kit):
    """Every automation of docs/home-assistant.md is taken, and does what it says."""
    home, kithd = kit.home, kit.kithd
    blocks = re.findall(r"```yaml\n(.*?)```", (kit.root / "docs/home-assistant.md").read_text(), re.DOTALL)
    automations = [home.yaml(block) for block in blocks]
    board = kit.device("kithd gate")["id"]
    text = json.dumps(automations).replace("0123456789abcdef" * 2, board)
    # Any time is night.
    text = text.replace('"22:00:00"', '"00:00:00"').replace('"06:00:00"', '"23:59:59"')
    ids = home.automate(json.loads(text))
    names = list(ids)
    since = home.mark()
    fired = lambda: {name for name in names if any(
        event["event_type"] == "automation_triggered" and event["data"]["entity_id"] == ids[name]
        for event in home.events(since))}
    # Known: Ann at the camera; she goes; somebody unknown; a stranger again and again; trouble.
    kithd.look("obama_2.jpg")
    wait_for("those about a known person", lambda: {"Tell who came", "Light for known people", "Ann comes and goes",
                                                    "Greet at the door"} <= fired())
    wait_for("Ann to be greeted", lambda: any(call.get("message") == "Good day, Ann" for call in home.calls("notify", since)))
    expect(any(call.get("title") == "Ann" and call.get("message") == "at front" for call in home.calls("notify", since)),
           f"{home.calls('notify', since)}")
    expect(home.calls("light", since), "the light is not switched on")
    kit.nobody_is_here()
    wait_for("Ann to be away", lambda: any(call.get("message") == "Ann is away" for call in home.calls("notify", since)))
    for _ in range(3):
        kithd.look("biden_2.jpg")
        wait_for("the stranger", lambda: home.is_state(LAST_PERSON, "unknown"))
        wait_for("their number", lambda: any(one.get("stranger") for one in kit.sightings(since)))
        kit.nobody_is_here()
    wait_for("those about strangers", lambda: {"Unknown person at night", "A stranger comes again and again"} <= fired())
    home.call("select", "select_option", USE, option="open")
    wait_for("the one about trouble", lambda: "Something is wrong with the board" in fired())
    home.call("select", "select_option", USE, option="close")
    wait_for("the trouble to end", lambda: home.is_state(PROBLEM, "off"))
    home.automate([])
    messages = [call.get("message", "").strip() for call in home.calls("notify", since)]
    return f"{len(names)} automations; notified: " + " | ".join(dict.fromkeys(messages))


def the_face_first(kit):
    """The image has the face of a sighting before its event: a snapshot by the event shows that face, three times of three."""
    home, kithd = kit.home, kit.kithd
    automation = [{"alias": "snapshot", "mode": "queued",
                   "triggers": [{"trigger": "mqtt", "topic": "kithd/gate/sighting"}],
                   "conditions": "{{ trigger.payload_json.step == 'begin' }}",
                   "actions": [{"action": "image.snapshot", "target": {"entity_id": FACE}, "data": {
                       "filename": "/config/www/{{ trigger.payload_json.after.face.image_id }}.jpg"}}]}]
    home.automate(automation)
    said = []
    for photo in ("obama_2.jpg", "biden_2.jpg", "astronaut_2.jpg"):
        image = kithd.post(photo)
        file = home.config / "www" / f"{image}.jpg"
        wait_for(f"the snapshot of {photo}", file.exists)
        face = wait_for("the face", lambda image=image: kithd.get(f"/v1/images/{image}/faces/1.jpg")
                        or kithd.get(f"/v1/images/{image}/faces/1/crop.jpg"))
        wait_for(f"the snapshot of {photo} to be its face", lambda: file.read_bytes() == face, 5)
        said.append(photo)
    home.automate([])
    status, picture = home.image(PICTURE)
    expect(status == 200 and picture[:2] == b"\xff\xd8", f"the whole picture: {status}")
    kit.nobody_is_here()
    return ", ".join(said)


def attributes(kit):
    """A person and a stranger in one picture are two events, each with its attributes."""
    since = kit.home.mark()
    image = kit.kithd.post("group.jpg")
    wait_for("the picture", lambda: kit.kithd.json(f"/v1/images/{image}").get("state") == "processed")
    faces = kit.kithd.json(f"/v1/images/{image}")["found"]
    told = lambda: [one for one in kit.sightings(since) if one["image_id"] == image]
    ids = lambda kind: {one["sighting_id"] for one in told() if (one["event_type"] == "left") == (kind == "left")}
    wait_for("an event for each face", lambda: len(ids("here")) == len(faces))
    kit.nobody_is_here()
    wait_for("every end", lambda: ids("left") == ids("here"))
    events = told()
    for one in events:
        for key in ("text", "source", "sighting_id", "arrived", "last_seen", "looks", "url", "supersedes", "perhaps"):
            expect(key in one, f"{key} is missing in {one}")
    return " | ".join(f"{one['event_type']}: {one['text']}" for one in events)


def presence(kit):
    """Who is at a camera is a state that clears; a person's occupancy and last seen follow."""
    home, since = kit.home, kit.home.mark()
    kit.kithd.look("obama_2.jpg")
    wait_for("Ann at the camera", lambda: home.is_state(LAST_PERSON, "Ann"))
    wait_for("Ann's occupancy", lambda: home.is_state(ANN, "on"))
    expect(home.state(ANN)["attributes"]["source"] == "front", f"{home.state(ANN)}")
    wait_for("the camera's occupancy", lambda: home.is_state(OCCUPANCY, "on"))
    kit.kithd.look(None)
    for entity, wanted in [(LAST_PERSON, "nobody"), (ANN, "off"), (OCCUPANCY, "off")]:
        wait_for(f"{entity} to clear", lambda entity=entity, wanted=wanted: home.is_state(entity, wanted))
    seen = home.state(ANN_SEEN)["state"]
    expect(re.match(r"\d{4}-\d\d-\d\dT", seen), f"last seen {seen}")
    states = [state["state"] for state in home.changes(LAST_PERSON, since)]
    expect(set(states) <= {"Ann", "nobody"}, f"{states}")
    return f"last person: {' → '.join(states)}; last seen {seen}"


def broker_restart(kit):
    """What waited while the broker was away arrives when Home Assistant is back, and is not lost."""
    home, since = kit.home, kit.home.mark()
    kit.broker.end(signal.SIGKILL)
    image = kit.kithd.post("obama_2.jpg")
    wait_for("the picture", lambda: kit.kithd.json(f"/v1/images/{image}").get("state") == "processed")
    begun = time.monotonic()
    kit.broker.start()
    event = wait_for("the event", lambda: [one for one in kit.sightings(since) if one.get("image_id") == image
                                           and one["event_type"] == "known"])[0]
    took = time.monotonic() - begun
    kit.nobody_is_here()
    return f"{event['text']}, {took:.0f} s after the broker's start"


def old_events(kit):
    """An event that is no news any more is not told, and coming back makes no event of an old one."""
    home, kithd = kit.home, kit.kithd
    kithd.end()
    kithd.settings["mqtt"]["event_expiry"] = "3s"
    kithd.start()
    since = home.mark()
    kit.broker.end(signal.SIGKILL)
    image = kithd.post("obama_2.jpg")
    done = wait_for("the picture", lambda: kithd.json(f"/v1/images/{image}").get("state") == "processed"
                    and kithd.json(f"/v1/images/{image}"))
    wait_for("it to be no news", lambda: time.time() * 1000 > done["accepted_at_ms"] + 4000)
    kit.broker.start()
    wait_for("the connections", lambda: kithd.part("mqtt out") == "ok" and home.state(EVENT)["state"] != "unavailable")
    kit.nobody_is_here()
    newer = kithd.post("biden_2.jpg")
    wait_for("a newer event", lambda: any(one.get("image_id") == newer for one in kit.sightings(since)))
    told = [one for one in kit.sightings(since) if one.get("image_id") == image and one["event_type"] == "known"]
    # The state comes back with its old time and attributes; a new event has a time after the start of the item.
    states = [state for state in home.changes(EVENT, since) if state["attributes"].get("image_id") == image
              and state["attributes"].get("event_type") == "known"]
    expect(not told, f"told late: {states}")
    kit.nobody_is_here()
    kithd.end()
    del kithd.settings["mqtt"]["event_expiry"]
    kithd.start()
    return "not told"


def one_problem(kit):
    """An opening of the breaker with a restart in between is one problem; a part that is degraded is one with its sentence."""
    home, kithd = kit.home, kit.kithd
    wait_for("no problem", lambda: home.is_state(BREAKER, "off") and home.is_state(PROBLEM, "off"))
    since = home.mark()
    home.call("select", "select_option", USE, option="open")
    wait_for("the problem", lambda: home.is_state(BREAKER, "on") and home.is_state(PROBLEM, "on"))
    sentences = home.state(PROBLEM)["attributes"]["degraded"]
    expect(home.is_state(USE, "open"), f"{home.state(USE)}")
    kithd.end(signal.SIGKILL)
    wait_for("the board to be unavailable", lambda: home.is_state(BREAKER, "unavailable"))
    kithd.launch(kithd.program, *kithd.arguments(), "run", env=kithd.environment())
    wait_for("kithd", lambda: kithd.part("mqtt out") == "ok")
    wait_for("the breaker's state", lambda: not home.is_state(BREAKER, "unavailable"))
    home.call("select", "select_option", USE, option="close")
    wait_for("the end of the problem", lambda: home.is_state(BREAKER, "off") and home.is_state(PROBLEM, "off"))
    states = [state["state"] for state in home.changes(BREAKER, since)]
    kept = [state for i, state in enumerate(states) if i == 0 or states[i - 1] != state]
    expect("unknown" not in kept, f"{kept}")
    wait_for("the gallery", lambda: kithd.part("gallery") == "ok")
    return f"{' → '.join(kept)}; {json.dumps(sentences)}"


def backlog(kit):
    """A short burst is seen, and a picture that waits for its file is no backlog."""
    home, since = kit.home, kit.home.mark()
    late = kit.kithd.inbox / "late.jpg"
    kit.kithd.post_path(late)
    for _ in range(30):
        kit.kithd.post("noface.jpg")
    wait_for("the backlog", lambda: any(int(float(state["state"])) > 0 for state in home.changes(BACKLOG, since)
                                        if state["state"].replace(".", "").isdigit()))
    wait_for("its end", lambda: home.is_state(BACKLOG, "0"))
    late.write_bytes(kit.kithd.photo("noface.jpg").read_bytes())
    states = [state["state"] for state in home.changes(BACKLOG, since)]
    return " → ".join(states)


def home_assistant_restart(kit):
    """After a restart of Home Assistant every image answers, presence is told again, and nothing old is an event."""
    home = kit.home
    home.end()
    home.start()
    wait_for("the last face", lambda: home.image(FACE)[0] == 200)
    wait_for("the last picture", lambda: home.image(PICTURE)[0] == 200)
    for entity, wanted in [(LAST_PERSON, "nobody"), (ANN, "off"), (PROBLEM, "off"), (BACKLOG, "0")]:
        wait_for(f"{entity} to be {wanted}", lambda entity=entity, wanted=wanted: home.is_state(entity, wanted))
    warnings = home.warnings()
    expect(not warnings, "\n".join(warnings[:5]))
    return f"the last face has {len(home.image(FACE)[1])} bytes"


def rename_a_person(kit):
    """A renamed person keeps the entity, and the old name is in no retained message."""
    kit.kithd.command("people", "rename", "Ann", "Anna")
    wait_for("the new name", lambda: (kit.home.state(ANN) or {"attributes": {}})["attributes"].get("friendly_name")
             == "kithd gate people Anna")
    kept = json.dumps(kit.broker.retained("homeassistant/#"))
    expect('\\"Ann\\"' not in kept and "Ann last" not in kept, "the old name is still there")
    return "the entity keeps its id"


def forget_a_person(kit):
    """An erased person's entities go, no retained message has the name, and the last face is neutral."""
    home, kithd = kit.home, kit.kithd
    image = kithd.post("obama_2.jpg")
    face = wait_for("the face", lambda: kithd.get(f"/v1/images/{image}/faces/1.jpg"))
    wait_for("the last face", lambda: home.image(FACE)[1] == face)
    kithd.command("forget", "--yes", "Anna")
    wait_for("the entities to go", lambda: not {ANN, ANN_SEEN} & set(kit.entities()))
    kept = json.dumps(kit.broker.retained("#"))
    expect("Anna" not in kept, "the name is still there")
    status, neutral = wait_for("the picture of no face", lambda: home.image(FACE) if home.image(FACE)[1] != face else None)
    expect(status == 200 and neutral[:2] == b"\xff\xd8", f"the image answers {status}")
    return f"the image answers {status}"


def rename_the_board(kit):
    """A renamed board is the same device with its area and entities, and leaves nothing under its old name."""
    home, kithd = kit.home, kit.kithd
    before = kit.device("kithd gate")
    area = home.ask("config/area_registry/create", name="Porch")["area_id"]
    home.ask("config/device_registry/update", device_id=before["id"], area_id=area)
    kithd.end()
    kithd.settings[""]["device"] = "door"
    kithd.start()
    after = wait_for("the new name", lambda: kit.device("kithd door"))
    expect(after["id"] == before["id"] and after["area_id"] == area, f"{after}")
    wait_for("the old name to be cleared", lambda: not kit.broker.retained("kithd/gate/#"), 180)
    wait_for("its entities", lambda: home.is_state(PROBLEM, "off"))
    return f"device {after['id']} keeps its area"


def switched_off(kit):
    """Switched off, every device goes."""
    kit.kithd.end()
    kit.kithd.settings["homeassistant"]["enabled"] = False
    kit.kithd.start()
    wait_for("the devices to go", lambda: not any(
        (device["name"] or "").startswith("kithd ") for device in kit.home.ask("config/device_registry/list")))
    wait_for("the messages to go", lambda: not kit.broker.retained("homeassistant/#"))
    warnings = kit.home.warnings()
    expect(not warnings, "\n".join(warnings[:5]))
    return "no device, no message"


ITEMS = [discovery, triggers, the_face_first, attributes, presence, examples, backlog, one_problem, broker_restart,
         old_events, home_assistant_restart, rename_a_person, forget_a_person, rename_the_board, switched_off]
