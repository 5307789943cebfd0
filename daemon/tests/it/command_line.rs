//! The commands a person types: enroll, identify, status, check-config.

use serde_json::{Value, json};

use crate::support::{TestDaemon, as_plain_user, photo, text};

#[test]
fn a_folder_of_people_is_enrolled_by_file_and_folder_name() {
    let daemon = TestDaemon::new();
    let known = daemon.folder.path().join("known");
    std::fs::create_dir_all(known.join("Joe Biden")).unwrap();
    std::fs::copy(photo("obama_1.jpg"), known.join("obama_1.jpg")).unwrap();
    std::fs::copy(photo("obama_2.jpg"), known.join("obama_2.jpg")).unwrap();
    std::fs::copy(photo("biden_1.jpg"), known.join("Joe Biden/at home.jpg")).unwrap();
    std::fs::copy(photo("noface.jpg"), known.join("moon_1.jpg")).unwrap();
    std::fs::copy(photo("group.jpg"), known.join("team_1.jpg")).unwrap();
    std::fs::write(known.join("notes.txt"), "not a picture").unwrap();
    let folder = known.to_str().unwrap();
    let output = daemon.kithd(["enroll", "--folder", folder]);
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    for line in [
        "moon_1.jpg (moon) rejected: no face was found",
        "team_1.jpg (team) enrolled: 3 faces were found; the one that is nobody else's",
    ] {
        assert!(said.contains(line), "{line:?} is missing in:\n{said}");
    }
    let people = daemon.sql("select name, count(pi.id) from person join person_images pi on pi.person_id = person.id group by name order by name");
    assert_eq!(people, ["Joe Biden|1", "obama|2", "team|1"]);
    let again = text(&daemon.kithd(["enroll", "--folder", folder]));
    let counts: Vec<_> = again
        .lines()
        .find(|line| line.starts_with("obama"))
        .unwrap()
        .split_whitespace()
        .collect();
    assert_eq!(counts, ["obama", "0", "2", "0"], "{again}");
}

#[test]
fn a_folder_from_a_nas_a_mac_and_a_phone_enrols_people_only() {
    if !as_plain_user("command_line::a_folder_from_a_nas_a_mac_and_a_phone_enrols_people_only") {
        return;
    }
    use std::os::unix::fs::PermissionsExt;
    let daemon = TestDaemon::new();
    let known = daemon.folder.path().join("known");
    let put = |picture: &str, name: &str| {
        let file = known.join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::copy(photo(picture), file).unwrap();
    };
    for system in ["@eaDir/obama_1.jpg", "#recycle", "Joe/@eaDir", "__MACOSX"] {
        put("obama_1.jpg", &format!("{system}/SYNOPHOTO_THUMB_M.jpg"));
    }
    put("obama_1.jpg", "Jose\u{301}/a.JPG");
    put("obama_2.jpg", "JOSÉ (2)/b.jfif");
    put("biden_1.jpg", "Joe/IMG_20240101.jpg");
    put("astronaut_1.jpg", "IMG_20240101.jpg");
    put("astronaut_1.jpg", "20240101_123456.jpg");
    put("astronaut_1.jpg", "Eileen (2)");
    std::fs::write(known.join("IMG_1.HEIC"), "").unwrap();
    std::os::unix::fs::symlink(".", known.join("loop")).unwrap();
    std::fs::create_dir(known.join("closed")).unwrap();
    std::fs::set_permissions(known.join("closed"), std::fs::Permissions::from_mode(0o000)).unwrap();
    let output = daemon.kithd(["enroll", "--folder", known.to_str().unwrap()]);
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    let people = daemon.sql("select name, count(pi.id) from person join person_images pi on pi.person_id = person.id group by name order by name");
    assert_eq!(people, ["Eileen|1", "JOSÉ|2", "Joe|1"], "{said}");
    for line in [
        "4 files or folders of the system",
        "1 link (\"loop\"; links are not followed)",
        "1 HEIC file (\"IMG_1.HEIC\"; convert them",
        "2 pictures whose names are no person's (for example \"20240101_123456.jpg\"; put them into a folder",
        "closed\" cannot be read: Permission denied",
    ] {
        assert!(said.contains(line), "{line:?} is missing in:\n{said}");
    }
    let json = text(&daemon.kithd(["enroll", "--json", "--folder", known.to_str().unwrap()]));
    assert!(
        json.lines().any(|line| line.starts_with("{\"left_out\":[")),
        "{json}"
    );
    std::fs::set_permissions(known.join("closed"), std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn folders_with_odd_names_make_no_odd_people() {
    use std::os::unix::ffi::OsStrExt;
    let daemon = TestDaemon::new();
    let known = daemon.folder.path().join("known");
    let put = |picture: &str, folder: &[u8]| {
        let folder = known.join(std::ffi::OsStr::from_bytes(folder));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::copy(photo(picture), folder.join("a.jpg")).unwrap();
    };
    // Latin-1: both would be read as one name.
    put("obama_1.jpg", b"Jos\xe9");
    put("biden_1.jpg", b"Jos\xe8");
    put("biden_1.jpg", b"Joe/caf\xe9");
    put("astronaut_1.jpg", b"Eileen\nCollins");
    put("astronaut_2.jpg", "Ｅｉｌｅｅｎ Collins\u{200b}".as_bytes());
    put("biden_2.jpg", &[b'A'; 255]);
    put("biden_2.jpg", "\u{301}".as_bytes());
    let output = daemon.kithd(["enroll", "--folder", known.to_str().unwrap()]);
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    let people = "select name, count(pi.id) from person join person_images pi on pi.person_id = person.id group by name";
    assert_eq!(daemon.sql(people), ["Eileen Collins|2"], "{said}");
    for line in [
        "3 names that are not UTF-8 (for example \"Joe/caf\\xE9/a.jpg\"",
        "at most 200 characters; this one has 255",
        "1 picture whose name is no person's (\"\\u{301}/a.jpg\"",
    ] {
        assert!(said.contains(line), "{line:?} is missing in:\n{said}");
    }
}

#[test]
fn a_small_blurred_dark_or_cut_face_is_rejected_with_the_reason() {
    let daemon = TestDaemon::new();
    let face = image::open(photo("obama_1.jpg")).unwrap();
    let bundled = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../models/packs/sface/selftest.jpg"
    );
    let bundled = image::open(bundled).unwrap();
    let cut = daemon.folder.path().join("cut.png");
    bundled
        .crop_imm(178, 0, bundled.width() - 178, bundled.height())
        .save(&cut)
        .unwrap();
    let dark = daemon.folder.path().join("dark.png");
    let mut pixels = bundled.to_rgb8();
    pixels.iter_mut().for_each(|byte| *byte /= 16);
    pixels.save(&dark).unwrap();
    let small = daemon.folder.path().join("small.png");
    let scale = 40.0 / f64::from(face.height());
    face.thumbnail((f64::from(face.width()) * scale) as u32, 40)
        .save(&small)
        .unwrap();
    let blurred = daemon.folder.path().join("blurred.png");
    face.blur(12.0).save(&blurred).unwrap();
    for (picture, reason) in [
        (small, ["small", "no face"]),
        (blurred, ["blur", "sharp"]),
        (dark, ["too dark", "no face"]),
        (cut, ["cut by", "cut by"]),
    ] {
        let output = daemon.kithd(["enroll", "--person", "X", picture.to_str().unwrap()]);
        let said = text(&output);
        assert!(!output.status.success(), "{said}");
        assert!(reason.iter().any(|word| said.contains(word)), "{said}");
    }
}

#[test]
fn the_reason_of_a_poor_face_reaches_result_page_api_and_cli() {
    let mut daemon = TestDaemon::new();
    daemon.start_with_everybody();
    let mut blurred = std::io::Cursor::new(Vec::new());
    image::open(photo("obama_1.jpg"))
        .unwrap()
        .blur(12.0)
        .write_to(&mut blurred, image::ImageFormat::Png)
        .unwrap();
    let path = daemon.put_bytes(blurred.get_ref(), "blurred.png");
    let id = daemon.post_path(&path);
    daemon.ended(id);
    let face = &daemon.get(&format!("/v1/images/{id}"))["found"][0];
    let reason = face["objection"].as_str().unwrap();
    assert!(
        reason.starts_with("The face is too blurred: its sharpness is 0.00"),
        "{face}"
    );
    assert_ne!(face["outcome"], "known", "{face}");
    assert!(daemon.get_text(&format!("/images/{id}")).contains(reason));
    let said = text(&daemon.kithd(["identify", &path]));
    assert!(said.contains(reason), "{said}");
    let good = daemon.post_path(&daemon.put("obama_2.jpg", "good.jpg"));
    daemon.ended(good);
    assert_eq!(
        daemon.get(&format!("/v1/images/{good}"))["found"][0]["objection"],
        Value::Null
    );
}

/// The run also counts strangers that are taken for known people.
#[test]
fn one_eval_run_tells_accuracy_precision_and_use_of_quality() {
    let daemon = TestDaemon::new();
    let pairs = photo("pairs.csv");
    let options = [
        "--set",
        "models.precision=int8",
        "eval",
        "--against",
        "float32",
        "--pairs",
    ];
    let output = daemon.kithd(
        options
            .into_iter()
            .chain([pairs.to_str().unwrap(), "--json"]),
    );
    let found: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output)));
    assert_eq!(
        (&found["people"], &found["pictures"], &found["misses"]),
        (&json!(3), &json!(6), &json!(0))
    );
    assert_eq!(
        (&found["accuracy"], &found["stranger_comparisons"]),
        (&json!(1.0), &json!(12))
    );
    let rates: Vec<_> = found["true_match_rates"]
        .as_array()
        .unwrap()
        .iter()
        .map(|at| &at["false_match_rate"])
        .collect();
    assert_eq!(
        rates,
        [&json!(1e-2), &json!(1e-3), &json!(1e-4), &json!(1e-5)]
    );
    let against = &found["against"];
    assert_eq!(against["engine"], "sface float32 cpu");
    assert_eq!(
        (
            &against["answered_differently"],
            &against["accuracy_difference"]
        ),
        (&json!(0.0), &json!(0.0))
    );
    let curves = found["quality"]["curves"].as_array().unwrap();
    assert_eq!(
        (
            curves.len(),
            &curves[0]["measure"],
            &curves[0]["points"][0]["pairs"]
        ),
        (7, &json!("quality"), &json!(3))
    );
    let said = text(&daemon.kithd(options.into_iter().chain([pairs.to_str().unwrap()])));
    for words in [
        "TAR at FAR 1e-3",
        "0.00 % of pairs answered differently",
        "without the worst faces",
        "3 pairs missed",
    ] {
        assert!(said.contains(words), "{words:?} is missing in:\n{said}");
    }
    let half = daemon.kithd(["eval", "--half", "none", "--pairs", pairs.to_str().unwrap()]);
    assert!(text(&half).contains("tuning"), "{}", text(&half));
}

#[test]
fn eval_tells_people_from_strangers_by_the_number_enrolled() {
    let daemon = TestDaemon::new();
    let folder = daemon.folder.path().join("people");
    std::fs::create_dir_all(&folder).unwrap();
    for name in ["obama_1", "obama_2", "biden_1", "biden_2", "astronaut_1"] {
        std::fs::copy(
            photo(&format!("{name}.jpg")),
            folder.join(format!("{name}.jpg")),
        )
        .unwrap();
    }
    let det = daemon.folder.path().join("det.svg");
    let [folder, det] = [&folder, &det].map(|path| path.to_str().unwrap());
    let options = [
        "eval",
        "--gallery",
        folder,
        "--probes",
        folder,
        "--enrolled",
        "1",
        "--draws",
        "4",
        "--det",
        det,
    ];
    let output = daemon.kithd(options.into_iter().chain(["--json"]));
    let found: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output)));
    assert_eq!(
        (&found["people"], &found["pictures"], &found["without_face"]),
        (&json!(2), &json!(2), &json!([0, 0]))
    );
    let [one, both] = &found["sizes"].as_array().unwrap()[..] else {
        panic!("{found}")
    };
    assert_eq!(
        (
            &one["enrolled"],
            &one["galleries"],
            &one["searches_for_strangers"]
        ),
        (&json!(1), &json!(4), &json!(2))
    );
    assert_eq!(
        (
            &both["searches_for_enrolled"],
            &both["searches_for_strangers"]
        ),
        (&json!(2), &json!(1))
    );
    assert_eq!(
        (&both["rank_1"]["value"], &both["fnir"][0]["value"]),
        (&json!(1.0), &json!(0.0))
    );
    let balanced = &both["cautions"][1];
    assert_eq!(
        (&balanced["caution"], &balanced["known"]["value"]),
        (&json!("balanced"), &json!(1.0))
    );
    assert_eq!(balanced["strangers_named"]["value"], json!(0.0));
    assert!(
        std::fs::read_to_string(det)
            .unwrap()
            .contains(">2 enrolled</text>")
    );
    let said = text(&daemon.kithd(options));
    for words in [
        "FNIR at FPIR 1 %",
        "from too few strangers to trust",
        "strangers known 0.00 %",
        "2 people, 2 pictures",
    ] {
        assert!(said.contains(words), "{words:?} is missing in:\n{said}");
    }
    let one_known = daemon.folder.path().join("one");
    std::fs::create_dir(&one_known).unwrap();
    std::fs::copy(photo("obama_1.jpg"), one_known.join("obama_1.jpg")).unwrap();
    let one_known = one_known.to_str().unwrap();
    let looks = [
        "eval",
        "--gallery",
        one_known,
        "--probes",
        folder,
        "--looks",
        "1,2",
    ];
    let said = text(&daemon.kithd(looks));
    for words in [
        "1 people, 1 pictures; 2 searches for them, 3 for strangers\n",
        // A single picture shows this person.
        "1 people, 1 pictures; 1 searches for them, 1 for strangers by 2 looks each\n",
    ] {
        assert!(said.contains(words), "{words:?} is missing in:\n{said}");
    }
}

#[test]
fn the_same_picture_cannot_be_two_people() {
    let daemon = TestDaemon::new();
    daemon.enroll_everybody();
    let picture = photo("obama_1.jpg");
    let output = daemon.kithd([
        "enroll",
        "--person",
        "Somebody",
        "--anyway",
        picture.to_str().unwrap(),
    ]);
    assert!(
        text(&output).contains("the same picture is enrolled as Barack Obama"),
        "{}",
        text(&output)
    );
}

#[test]
fn identify_answers_as_text_and_json_and_changes_nothing() {
    let daemon = TestDaemon::new();
    daemon.enroll_everybody();
    let before =
        daemon.sql("select (select count(*) from images), (select count(*) from faces), (select count(*) from results)");
    let (obama, scene) = (photo("obama_2.jpg"), photo("noface.jpg"));
    let output = daemon.kithd(["identify", obama.to_str().unwrap(), scene.to_str().unwrap()]);
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("Barack Obama, distance 0.") && said.contains("noface.jpg: no_face"),
        "{said}"
    );
    let output = daemon.kithd(["identify", "--json", obama.to_str().unwrap()]);
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&answer["outcome"], &answer["faces"][0]["person"]["name"]),
        (&json!("known"), &json!("Barack Obama"))
    );
    let output = daemon.kithd(["identify", "/nowhere.jpg"]);
    assert!(
        !output.status.success() && text(&output).contains("/nowhere.jpg cannot be read"),
        "{}",
        text(&output)
    );
    let after =
        daemon.sql("select (select count(*) from images), (select count(*) from faces), (select count(*) from results)");
    assert_eq!(before, after);
}

#[test]
fn a_turned_picture_is_known_unless_turning_is_switched_off() {
    let daemon = TestDaemon::new();
    daemon.enroll_everybody();
    let upright = image::open(photo("obama_2.jpg")).unwrap();
    for (name, turned) in [
        ("side", upright.rotate90()),
        ("head", upright.rotate180()),
        ("other", upright.rotate270()),
    ] {
        let path = daemon.folder.path().join(format!("{name}.png"));
        turned.save(&path).unwrap();
        let identify = |settings: &[&str]| {
            let output =
                daemon.kithd([settings, &["identify", "--json", path.to_str().unwrap()]].concat());
            serde_json::from_slice::<Value>(&output.stdout).unwrap()
        };
        let answer = identify(&[]);
        assert_eq!(
            answer["faces"][0]["person"]["name"], "Barack Obama",
            "{name}: {answer}"
        );
        let once = identify(&["--set", "recognition.turned=false"]);
        assert_ne!(once["outcome"], "known", "{name}: {once}");
    }
}

#[test]
fn identify_needs_no_database() {
    let daemon = TestDaemon::new();
    let output = daemon.kithd(["identify", photo("obama_1.jpg").to_str().unwrap()]);
    assert!(
        output.status.success() && text(&output).contains("nobody known"),
        "{}",
        text(&output)
    );
    assert!(!daemon.folder.path().join("state").exists());
}

#[test]
fn status_shows_counts_and_results_with_and_without_the_daemon() {
    let mut daemon = TestDaemon::new();
    assert!(text(&daemon.kithd(["status"])).contains("there is no database"));
    daemon.start_with_everybody();
    daemon.ended(daemon.post_path(&daemon.put("obama_2.jpg", "x.jpg")));
    let said = text(&daemon.kithd(["status"]));
    for part in [
        "kithd is running",
        "1 processed",
        "people: 3",
        "MiB held by kithd",
        "engine: ok",
        "Barack Obama",
    ] {
        assert!(said.contains(part), "{part:?} is missing in:\n{said}");
    }
    daemon.stop();
    let said = text(&daemon.kithd(["status"]));
    assert!(
        said.contains("kithd is not running") && said.contains("1 processed"),
        "{said}"
    );
    let answer: Value = serde_json::from_slice(&daemon.kithd(["status", "--json"]).stdout).unwrap();
    assert_eq!(
        (&answer["running"], &answer["counts"]["processed"]),
        (&json!(false), &json!(1))
    );
}

#[test]
fn a_bad_configuration_ends_with_78_and_every_problem() {
    let daemon = TestDaemon::new();
    let file = daemon.folder.path().join("bad.toml");
    std::fs::write(
        &file,
        "colour = \"blue\"\n[http]\nlisten = 8000\n[mqtt]\nkeep_alive = \"1s\"\n",
    )
    .unwrap();
    for command in ["run", "check-config"] {
        let output = daemon.kithd(["--config", file.to_str().unwrap(), command]);
        assert_eq!(output.status.code(), Some(78));
        let said = text(&output);
        // The command line of this test sets http.listen and mqtt.url and overrides the file.
        for part in [
            "has 2 problems",
            "colour = \"blue\": is not a known key",
            "mqtt.keep_alive = \"1s\": must be a time",
        ] {
            assert!(said.contains(part), "{part:?} is missing in:\n{said}");
        }
    }
}

#[test]
fn the_shipped_configuration_is_in_order() {
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/kithd.toml");
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_kithd"))
        .args(["--config", shipped, "check-config"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
}

#[test]
fn two_daemons_cannot_share_a_state_folder() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    let output = daemon.kithd(["run"]);
    assert!(!output.status.success());
    assert!(
        text(&output).contains("is in use by another kithd"),
        "{}",
        text(&output)
    );
}

#[test]
fn a_database_of_another_version_is_refused_with_78() {
    for (schema, sentence) in [
        (999, "was written by a newer kithd"),
        (9, "was made by a development version of kithd (schema 9)"),
    ] {
        let mut daemon = TestDaemon::new();
        daemon.start();
        daemon.stop();
        let database = daemon.state("kithd.db");
        rusqlite::Connection::open(database)
            .unwrap()
            .pragma_update(None, "user_version", schema)
            .unwrap();
        let output = daemon.kithd(["run"]);
        assert_eq!(output.status.code(), Some(78));
        assert!(text(&output).contains(sentence), "{}", text(&output));
    }
}

#[test]
fn idle_connections_to_the_control_socket_are_given_up() {
    use std::io::Write;
    let mut daemon = TestDaemon::new();
    daemon.start();
    let socket = daemon.state("control.sock");
    let mut idle: Vec<_> = (0..100)
        .map(|_| std::os::unix::net::UnixStream::connect(&socket).unwrap())
        .collect();
    idle[0]
        .write_all(b"GET /v1/status HTTP/1.1\r\nHost: ")
        .unwrap();
    let files = std::fs::read_dir(format!("/proc/{}/fd", daemon.pid()));
    assert!(files.unwrap().count() < 200);
    assert_eq!(daemon.get_text("/healthz"), "ok\n");
    // Waits in the backlog until those that say nothing are given up.
    let said = daemon.kithd(["breaker"]);
    assert!(said.status.success(), "{}", text(&said));
    drop(idle);
}
