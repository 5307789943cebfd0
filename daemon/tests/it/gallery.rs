//! Checks against the gallery: names in any spelling, faces of other people, and a person twice in
//! a picture.

use std::path::Path;

use image::{DynamicImage, GenericImage};
use serde_json::{Value, json};

use crate::broker::Mosquitto;
use crate::support::{Subscriber, TestDaemon, ask, part_is_ok, photo, publish, text, wait_for};

const JPEG: [(&str, &str); 1] = [("content-type", "image/jpeg")];

/// Photographs in one picture: each with its height and the place of its upper left corner.
fn collage(pictures: &[(&str, u32, u32, u32)]) -> Vec<u8> {
    let mut whole = DynamicImage::new_rgb8(900, 640);
    for (name, height, left, top) in pictures {
        let one = image::open(photo(name)).unwrap();
        let width = one.width() * height / one.height();
        whole
            .copy_from(
                &one.resize_exact(width, *height, image::imageops::FilterType::Triangle),
                *left,
                *top,
            )
            .unwrap();
    }
    let mut bytes = std::io::Cursor::new(Vec::new());
    whole.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

fn enroll(daemon: &TestDaemon, query: &str, picture: &[u8]) -> (u16, Value) {
    wait_for("the engine", || {
        let (status, answer) = daemon.post_as_admin(&format!("/v1/people?{query}"), &JPEG, picture);
        (status != 503).then_some((status, answer))
    })
}

fn bytes(name: &str) -> Vec<u8> {
    std::fs::read(photo(name)).unwrap()
}

fn names(daemon: &TestDaemon) -> Vec<String> {
    daemon.sql("select name || ' ' || (select count(*) from person_images i where person_id = person.id) from person order by name")
}

#[test]
fn a_name_is_one_person_however_it_is_typed() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    let (status, made) = enroll(&daemon, "name=Eileen%20", &bytes("astronaut_1.jpg"));
    assert_eq!(
        (status, &made["person"]["name"]),
        (201, &json!("Eileen")),
        "{made}"
    );
    for spelled in [
        "Eileen%20",
        "%20EILEEN",
        "eileen%E2%80%8B",
        "%EF%BC%A5ileen",
    ] {
        let (status, again) = enroll(
            &daemon,
            &format!("name={spelled}"),
            &bytes("astronaut_1.jpg"),
        );
        assert_eq!(
            (status, &again["report"]["enrolment"]),
            (200, &json!("already_there")),
            "{spelled}: {again}"
        );
        assert_eq!(again["person"]["id"], made["person"]["id"]);
    }
    assert_eq!(
        enroll(&daemon, "name=EILEEN", &bytes("astronaut_2.jpg")).0,
        201
    );
    let (status, refused) = enroll(&daemon, "name=%E2%80%8B", &bytes("obama_1.jpg"));
    assert_eq!(status, 422);
    assert!(
        refused["detail"]
            .as_str()
            .unwrap()
            .contains("at least one visible character"),
        "{refused}"
    );

    // Two computers spell one person's sub-folder composed and decomposed.
    for (folder, picture) in [("Jos\u{e9}", "obama_1.jpg"), ("Jose\u{301}", "obama_2.jpg")] {
        let folder = daemon.folder.path().join("known").join(folder);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::copy(photo(picture), folder.join(picture)).unwrap();
    }
    let said = text(&daemon.kithd([
        "enroll",
        "--folder",
        daemon.folder.path().join("known").to_str().unwrap(),
    ]));
    assert_eq!(
        said.lines().filter(|line| line.starts_with("José")).count(),
        1,
        "{said}"
    );
    assert_eq!(names(&daemon), ["Eileen 2", "José 2"]);
    assert!(daemon.get_text("/people?name=JOSE%CC%81").contains("José"));
    assert!(
        daemon
            .get_text("/people?name=ANNA")
            .contains("No name contains this text")
    );
    let image = daemon.post_path(&daemon.put("obama_2.jpg", "Zoe\u{301} MÜLLER.jpg"));
    for sought in ["zo%C3%A9", "m%C3%BCller", "MULLER"] {
        assert_eq!(
            daemon.get(&format!("/v1/images?path={sought}"))["images"][0]["id"],
            image,
            "{sought}"
        );
    }

    let renamed = daemon.kithd(["people", "rename", "JOSE\u{301} ", " Jose\u{301}  Díaz"]);
    assert!(renamed.status.success(), "{}", text(&renamed));
    assert_eq!(names(&daemon), ["Eileen 2", "José Díaz 2"]);
    let forgotten = daemon.kithd(["forget", "--yes", " eileen "]);
    assert!(forgotten.status.success(), "{}", text(&forgotten));
    assert_eq!(names(&daemon), ["José Díaz 2"]);
}

#[test]
fn enrolment_says_who_a_face_is_instead() {
    let mut daemon = TestDaemon::new();
    daemon.start_with_everybody();
    let (status, refused) = enroll(&daemon, "name=Barack%20Obama", &bytes("biden_2.jpg"));
    let detail = refused["detail"].as_str().unwrap_or_default();
    assert_eq!(status, 422, "{refused}");
    for part in [
        "this face is Joe Biden (distance 0.",
        "enrol it as Joe Biden",
        "anyway",
    ] {
        assert!(detail.contains(part), "{detail}");
    }
    // Two names, one face.
    let newcomer = daemon.kithd([
        "enroll",
        "--person",
        "Newcomer",
        photo("biden_2.jpg").to_str().unwrap(),
    ]);
    assert!(
        !newcomer.status.success() && text(&newcomer).contains("this face is Joe Biden"),
        "{}",
        text(&newcomer)
    );
    assert_eq!(
        names(&daemon),
        ["Barack Obama 1", "Eileen Collins 1", "Joe Biden 1"]
    );
    // In a group the face of the person's earlier pictures is taken.
    let picture = photo("group.jpg");
    let group = daemon.kithd(["enroll", "--person", "joe biden", picture.to_str().unwrap()]);
    assert!(group.status.success(), "{}", text(&group));
    assert!(
        text(&group).contains("3 faces were found; the one like the earlier pictures of"),
        "{}",
        text(&group)
    );

    // Biden large in the middle, Obama small at the edge: by his earlier picture the right one is
    // taken.
    let both = collage(&[("biden_1.jpg", 480, 240, 60), ("obama_2.jpg", 240, 0, 0)]);
    let (status, taken) = enroll(&daemon, "name=barack%20obama", &both);
    assert_eq!(status, 201, "{taken}");
    let remark = taken["report"]["remark"].as_str().unwrap();
    assert!(
        remark.contains("2 faces were found; the one like the earlier pictures of"),
        "{remark}"
    );
    assert!(remark.contains("upper left, was taken"), "{remark}");
    // For a person without a picture the faces of enrolled people are left out.
    let with_stranger = collage(&[
        ("biden_1.jpg", 480, 240, 60),
        ("astronaut_2.jpg", 260, 0, 0),
    ]);
    daemon.kithd(["forget", "--yes", "Eileen Collins"]);
    // A face that differs from the earlier pictures is refused, although no one else has it.
    let (status, another) = enroll(&daemon, "name=Barack%20Obama", &bytes("astronaut_2.jpg"));
    assert_eq!(status, 422, "{another}");
    let detail = another["detail"].as_str().unwrap();
    assert!(
        detail.contains("another face than in the earlier pictures of Barack Obama (distance 0."),
        "{detail}"
    );
    let (status, eileen) = enroll(&daemon, "name=Eileen", &with_stranger);
    assert_eq!(status, 201, "{eileen}");
    assert!(
        eileen["report"]["remark"]
            .as_str()
            .unwrap()
            .contains("nobody else's"),
        "{eileen}"
    );

    // The same face in another file adds nothing.
    let mut again = std::io::Cursor::new(Vec::new());
    image::open(photo("obama_1.jpg"))
        .unwrap()
        .write_to(&mut again, image::ImageFormat::Png)
        .unwrap();
    let (status, same) = enroll(&daemon, "name=Barack%20Obama", again.get_ref());
    assert_eq!(status, 201, "{same}");
    let remark = same["report"]["remark"].as_str().unwrap();
    assert!(
        remark.contains("it adds nothing: the same face as obama_1.jpg, distance 0.0"),
        "{remark}"
    );

    // With `anyway` the face is taken, and the answer names the lookalike; the command line and the
    // page's form do the same.
    let (status, told) = enroll(
        &daemon,
        "name=Barack%20Obama&anyway=true",
        &bytes("biden_2.jpg"),
    );
    assert_eq!(
        (status, &told["report"]["resembles"]["name"]),
        (201, &json!("Joe Biden")),
        "{told}"
    );
    let twin = daemon.kithd([
        "enroll",
        "--person",
        "Twin",
        "--anyway",
        "--json",
        photo("biden_2.jpg").to_str().unwrap(),
    ]);
    let held: Value = serde_json::from_slice(&twin.stdout).unwrap();
    assert_eq!(
        held["remark"], "the same picture is enrolled as Barack Obama",
        "{held}"
    );
}

#[test]
fn a_face_that_was_found_is_not_given_a_name_it_contradicts() {
    let mut daemon = TestDaemon::new();
    daemon.start_with_everybody();
    let image = daemon.post_path(&daemon.put("biden_2.jpg", "biden.jpg"));
    assert_eq!(daemon.ended(image)["found"][0]["person"], "Joe Biden");
    let name = |body: Value| {
        let place = format!("/v1/images/{image}/faces/1/person");
        daemon.post_as_admin(
            &place,
            &[("content-type", "application/json")],
            body.to_string().as_bytes(),
        )
    };
    let (status, refused) = name(json!({ "name": "Barack Obama" }));
    assert_eq!(status, 409, "{refused}");
    assert!(
        refused["detail"]
            .as_str()
            .unwrap()
            .contains("this face is Joe Biden"),
        "{refused}"
    );
    assert_eq!(name(json!({ "name": "JOE BIDEN" })).0, 200);
    assert_eq!(
        names(&daemon),
        ["Barack Obama 1", "Eileen Collins 1", "Joe Biden 2"]
    );
    assert_eq!(
        name(json!({ "name": "Someone New", "anyway": true })).0,
        409,
        "the picture is Joe Biden's now"
    );
}

#[test]
fn a_person_has_one_face_in_a_picture_unless_it_shows_mirrors() {
    let mut daemon = TestDaemon::new();
    daemon.start_with_everybody();
    let twice = collage(&[("obama_1.jpg", 480, 300, 60), ("obama_2.jpg", 300, 0, 0)]);
    let path = daemon.put_bytes(&twice, "twice.png");
    let found = |daemon: &TestDaemon| {
        let image = daemon.ended(daemon.post_path(&path));
        assert_eq!(image["outcome"], "known", "{image}");
        let faces = image["found"].as_array().unwrap().clone();
        assert_eq!(faces.len(), 2, "{image}");
        faces
    };
    let faces = found(&daemon);
    assert_eq!(
        (&faces[0]["person"], &faces[0]["outcome"]),
        (&json!("Barack Obama"), &json!("known"))
    );
    assert_eq!(
        (&faces[1]["person"], &faces[1]["outcome"]),
        (&Value::Null, &json!("uncertain"))
    );
    assert!(
        faces[1]["objection"]
            .as_str()
            .unwrap()
            .contains("Another face of this picture is nearer"),
        "{faces:?}"
    );
    assert_eq!(
        faces[1]["candidates"][0]["name"], "Barack Obama",
        "{faces:?}"
    );
    let page = daemon.get_text("/");
    assert_eq!(page.matches("<bdi>Barack Obama</bdi>").count(), 1, "{page}");
    let said = text(&daemon.kithd(["identify", &path]));
    assert_eq!(said.matches("  Barack Obama").count(), 1, "{said}");
    assert!(
        said.contains("Another face of this picture is nearer"),
        "{said}"
    );
    // Nor is the other face named so by hand, in the API or on the page.
    let image = daemon.sql("select max(id) from images").remove(0);
    let place = format!("images/{image}/faces/2/person");
    let body = json!({ "name": "barack OBAMA", "anyway": true }).to_string();
    let json = [("content-type", "application/json")];
    let (status, refused) = daemon.post_as_admin(&format!("/v1/{place}"), &json, body.as_bytes());
    let why = format!("face 1 of image {image} is Barack Obama already");
    assert_eq!(status, 409, "{refused}");
    assert!(
        refused["detail"].as_str().unwrap().contains(&why),
        "{refused}"
    );
    let form = [("content-type", "application/x-www-form-urlencoded")];
    daemon.post_as_admin(&format!("/{place}"), &form, b"name=Barack+Obama&anyway=on");
    let named = format!("select number from faces where image_id = {image} and outcome = 'known'");
    assert_eq!(daemon.sql(&named), ["1"]);
    // Two people in one picture both have their names.
    let both = daemon.put_bytes(
        &collage(&[("biden_1.jpg", 480, 300, 60), ("obama_2.jpg", 300, 0, 0)]),
        "both.png",
    );
    let both = daemon.ended(daemon.post_path(&both));
    let mut there: Vec<_> = both["found"]
        .as_array()
        .unwrap()
        .iter()
        .map(|face| face["person"].as_str().unwrap())
        .collect();
    there.sort_unstable();
    assert_eq!(there, ["Barack Obama", "Joe Biden"]);
    daemon.stop();

    daemon.set("recognition.mirrors", "true");
    daemon.start();
    assert!(
        found(&daemon)
            .iter()
            .all(|face| face["person"] == "Barack Obama")
    );
}

#[test]
fn names_by_mqtt_are_names_and_make_one_topic() {
    let broker = Mosquitto::running();
    let mut daemon = TestDaemon::with_broker(broker.port());
    daemon.set("mqtt.commands", "[\"enroll\", \"forget\"]");
    daemon.start_connected();
    part_is_ok(&daemon, "engine");
    let told = |command: &str, message: Value| {
        ask(
            broker.port(),
            &format!("kithd/board/command/{command}"),
            &["-m", &message.to_string()],
        )
        .1
    };
    let obama = daemon.put("obama_1.jpg", "a.jpg");
    let enrolled = told(
        "enroll",
        json!({ "person": "Jose\u{301} Díaz\u{200b} ", "path": obama }),
    );
    assert_eq!(enrolled["result"]["person"], "José Díaz", "{enrolled}");
    let again = told("enroll", json!({ "person": "JOSÉ DÍAZ", "path": obama }));
    assert_eq!(
        (&again["result"]["person"], &again["result"]["enrolment"]),
        (&json!("José Díaz"), &json!("already_there"))
    );
    let other = daemon.put("obama_2.jpg", "b.jpg");
    let refused = told("enroll", json!({ "person": "Ann", "path": other }));
    assert_eq!(refused["result"]["enrolment"], "rejected", "{refused}");
    assert_eq!(
        refused["result"]["resembles"]["name"], "José Díaz",
        "{refused}"
    );
    let anyway = told(
        "enroll",
        json!({ "person": "Ann", "path": other, "anyway": true }),
    );
    assert_eq!(anyway["result"]["enrolment"], "enrolled", "{anyway}");
    assert!(told("forget", json!({ "person": " ANN" }))["result"].is_object());

    let mut events = Subscriber::new(broker.port(), "kithd/board/person/#");
    publish(broker.port(), "kithd/board/image/post", &other);
    let topic = wait_for("the event", || {
        events
            .messages()
            .first()
            .map(|message| message["topic"].clone())
    });
    assert_eq!(topic, "kithd/board/person/josé-díaz");
}

#[test]
fn a_board_of_the_dlib_pack_moves_over_by_itself() {
    let mut daemon = TestDaemon::new();
    let packs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/packs");
    daemon.set("models.pack", packs.join("dlib-mtcnn").to_str().unwrap());
    daemon.start_with_everybody();
    assert_eq!(daemon.stop(), Some(0));
    // The bundled pack finds no face in the picture kept of him.
    let picture: String = bytes("noface.jpg")
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let change = format!(
        "update enrolment_pictures set picture = x'{picture}' where person_image_id =
         (select i.id from person_images i join person p on p.id = i.person_id where p.name = 'Joe Biden')"
    );
    daemon.change(&change);

    daemon.unset("models.pack");
    daemon.start();
    for (picture, name) in [
        ("obama_2.jpg", "Barack Obama"),
        ("astronaut_2.jpg", "Eileen Collins"),
    ] {
        let image = daemon.ended(daemon.post_path(&daemon.put(picture, picture)));
        assert_eq!(image["persons"], json!([name]), "{image}");
        assert!(
            image["engine"].as_str().unwrap().starts_with("sface "),
            "{image}"
        );
    }
    // The report names him; he stays, with his embedding of the other pack.
    let gallery = daemon.get("/v1/status")["parts"]["gallery"]["text"]
        .as_str()
        .unwrap()
        .to_string();
    assert!(gallery.contains("biden_1.jpg of Joe Biden"), "{gallery}");
    assert_eq!(
        names(&daemon),
        ["Barack Obama 1", "Eileen Collins 1", "Joe Biden 1"]
    );
    assert_eq!(
        daemon.ended(daemon.post_path(&daemon.put("biden_2.jpg", "biden_2.jpg")))["outcome"],
        "unknown"
    );
}
