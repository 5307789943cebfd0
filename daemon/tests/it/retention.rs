//! Retention as an operator meets it: set in the configuration, seen on the page.

use std::path::Path;

use crate::support::{TestDaemon, mount_memory, photo, wait_for, with_own_mounts};

fn status_of(daemon: &TestDaemon, path: &str) -> u16 {
    ureq::get(daemon.url(path))
        .config()
        .http_status_as_error(false)
        .build()
        .call()
        .unwrap()
        .status()
        .as_u16()
}

/// Thumbnails and files go with their images.
#[test]
fn the_newest_images_are_kept_and_the_metrics_count_the_rest() {
    let mut daemon = TestDaemon::new();
    daemon.set("retention.images.count", "4");
    daemon.set("retention.thumbnails.count", "2");
    daemon.set("retention.uploads.count", "1");
    daemon.set("breaker.self_test", "1s");
    daemon.start();
    let bytes = std::fs::read(photo("noface.jpg")).unwrap();
    let upload = |bytes: &[u8]| {
        let (status, answer) = daemon.post("/v1/images", &[("content-type", "image/jpeg")], bytes);
        assert_eq!(status, 202, "{answer}");
        answer["ids"][0].as_i64().unwrap()
    };
    let mut ids: Vec<_> = (0..4).map(|_| upload(&bytes)).collect();
    ids.extend((0..2).map(|_| upload(&bytes[..bytes.len() / 2])));
    let left = |sql: &str| {
        daemon
            .sql(sql)
            .iter()
            .map(|id| id.parse().unwrap())
            .collect::<Vec<i64>>()
    };
    wait_for("the oldest to go", || {
        (left("select id from images order by id") == ids[2..]).then_some(())
    });
    wait_for("their thumbnails to go", || {
        (left("select image_id from thumbnails") == ids[2..4]).then_some(())
    });
    // The file of the newest failed one is kept to be looked at.
    wait_for("their files to go", || {
        (left("select id from images where file is not null") == ids[5..]).then_some(())
    });
    wait_for("what the rows forgot to be deleted", || {
        (std::fs::read_dir(daemon.state("spool")).unwrap().count() == 1).then_some(())
    });
    assert_eq!(status_of(&daemon, &format!("/images/{}", ids[0])), 404);
    assert_eq!(status_of(&daemon, &format!("/images/{}", ids[2])), 200);
    let metrics = daemon.get_text("/metrics");
    for line in [
        "kithd_removed_total{kind=\"images\"} 2",
        "kithd_removed_total{kind=\"uploads\"} 5",
        &format!(
            "kithd_disk_used_bytes{{kind=\"uploads\"}} {}",
            bytes.len() / 2
        ),
        "# TYPE kithd_disk_free_bytes gauge",
    ] {
        assert!(metrics.contains(line), "{line} is missing in:\n{metrics}");
    }
    assert!(
        daemon.get("/v1/status")["disk"]["used_bytes"]["database"]
            .as_u64()
            .unwrap()
            > 50_000
    );
}

#[test]
fn with_a_synchronised_clock_strangers_expire_and_images_stay() {
    if !with_own_mounts("retention::with_a_synchronised_clock_strangers_expire_and_images_stay") {
        return;
    }
    // systemd-timesyncd makes this file once a time server has answered.
    mount_memory(Path::new("/run"), "1m");
    std::fs::create_dir_all("/run/systemd/timesync").unwrap();
    std::fs::write("/run/systemd/timesync/synchronized", "").unwrap();
    let mut daemon = TestDaemon::new();
    daemon.set("retention.strangers", "3s");
    daemon.set("retention.thumbnails.age", "3s");
    daemon.set("breaker.self_test", "1s");
    daemon.start();
    let obama = photo("obama_1.jpg");
    assert!(
        daemon
            .kithd([
                "enroll",
                "--person",
                "Barack Obama",
                obama.to_str().unwrap()
            ])
            .status
            .success()
    );
    let known = daemon.post_path(&daemon.put("obama_2.jpg", "known.jpg"));
    let group = daemon.post_path(&daemon.put("group.jpg", "group.jpg"));
    assert_eq!(daemon.ended(known)["outcome"], "known");
    let strangers = |id: i64| {
        let found = daemon.ended(id)["found"].as_array().unwrap().clone();
        found
            .into_iter()
            .filter(|face| face["outcome"] == "unknown")
            .collect::<Vec<_>>()
    };
    let before = strangers(group);
    assert!(!before.is_empty(), "the group has no stranger");
    wait_for("the strangers to be forgotten", || {
        strangers(group)
            .iter()
            .all(|face| face["crop"] == false)
            .then_some(())
    });
    let after = strangers(group);
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(
            (&before["box"], &before["number"]),
            (&after["box"], &after["number"])
        );
        let crop = format!("/v1/images/{group}/faces/{}.jpg", after["number"]);
        assert_eq!(status_of(&daemon, &crop), 404);
    }
    assert_eq!(
        daemon.sql(
            "select distinct outcome from faces where length(embedding) = 0 or length(crop) = 0"
        ),
        ["unknown"]
    );
    assert_eq!(
        status_of(&daemon, &format!("/v1/images/{known}/faces/1.jpg")),
        200
    );
    wait_for("the thumbnails to go", || {
        (daemon.sql("select count(*) from thumbnails") == ["0"]).then_some(())
    });
    let page = daemon.get_text(&format!("/images/{group}"));
    assert!(page.contains("<span class=\"badge unknown\">"), "{page}");
    assert!(
        !after
            .iter()
            .any(|face| page.contains(&format!("faces/{}.jpg", face["number"]))),
        "{page}"
    );
    assert_eq!(
        daemon.sql("select count(*) from images where dated = 1"),
        ["2"]
    );
}
