//! Logging in and out, sessions, and forms of other pages.

use super::*;

#[tokio::test]
async fn a_logged_in_user_changes_things_only_by_our_own_forms() {
    let site = Site::new(true, false);
    let (cookie, csrf) = site.log_in().await;
    let own = format!("http://{BOARD}");
    let post = |url: &str| {
        site.ask("POST", url)
            .header("cookie", &format!("other=1; {cookie}"))
    };
    let signed = format!("/people?csrf={csrf}");
    assert_eq!(post(&signed).header("origin", &own).status().await, 200);
    assert_eq!(
        post(&signed)
            .header("sec-fetch-site", "same-origin")
            .status()
            .await,
        200
    );
    assert_eq!(
        post("/people?a=b")
            .header("origin", &own)
            .header("x-csrf-token", &csrf)
            .status()
            .await,
        200
    );
    // A proxy that encrypts passes on the name it was asked by.
    assert_eq!(
        post(&signed)
            .header("host", "localhost")
            .header("origin", "https://localhost")
            .status()
            .await,
        200
    );
    assert_eq!(post(&signed).status().await, 403, "no browser says nothing");
    for origin in [
        "null",
        "http://evil.example",
        "http://192.168.1.20",
        "http://192.168.1.20:8001",
        "ftp://192.168.1.20:8000",
        "",
    ] {
        assert_eq!(
            post(&signed).header("origin", origin).status().await,
            403,
            "{origin}"
        );
    }
    assert_eq!(
        post(&signed)
            .header("sec-fetch-site", "cross-site")
            .status()
            .await,
        403
    );
    assert_eq!(
        post(&signed)
            .header("origin", &own)
            .header("sec-fetch-site", "cross-site")
            .status()
            .await,
        403
    );
    for url in [
        "/people".to_string(),
        "/people?csrf=".into(),
        format!("/people?csrf={csrf}x"),
        format!("/people?csrf={}", &csrf[1..]),
    ] {
        assert_eq!(
            post(&url).header("origin", &own).status().await,
            403,
            "{url}"
        );
    }
    // The CSRF token of another session is not valid.
    let (_, theirs) = site.log_in().await;
    assert_eq!(
        post(&format!("/people?csrf={theirs}"))
            .header("origin", &own)
            .status()
            .await,
        403
    );
    // Over TLS, an unencrypted page of the same name is another origin, and the cookie has another
    // name.
    let secure = format!("__Host-{cookie}");
    let over_tls = |origin: &str| {
        site.ask("POST", &signed)
            .encrypted()
            .header("cookie", &secure)
            .header("origin", origin)
    };
    assert_eq!(over_tls(&format!("https://{BOARD}")).status().await, 200);
    assert_eq!(over_tls(&own).status().await, 403);
    assert_eq!(
        site.ask("GET", "/v1/backup")
            .encrypted()
            .header("cookie", &cookie)
            .status()
            .await,
        401
    );

    let response = post(&format!("/logout?csrf={csrf}"))
        .header("origin", &own)
        .send()
        .await;
    assert_eq!(response.status(), 303);
    let forgotten = response.headers()["set-cookie"].to_str().unwrap();
    assert!(
        forgotten.starts_with("kithd_session=; ") && forgotten.ends_with("; Max-Age=0"),
        "{forgotten}"
    );
    assert_eq!(
        post(&signed).header("origin", &own).status().await,
        401,
        "a cookie that was kept is worth nothing"
    );
}

#[tokio::test]
async fn a_new_token_ends_the_old_one_and_whoever_used_it() {
    let site = Site::new(true, false);
    let (cookie, _) = site.log_in().await;
    let asked = || site.ask("GET", "/v1/backup").header("cookie", &cookie);
    assert_eq!(asked().status().await, 200);
    let new = site.access.token(true).unwrap();
    assert_eq!(asked().status().await, 401);
    assert_eq!(
        site.ask("GET", "/v1/backup")
            .bearer(&site.token)
            .status()
            .await,
        401
    );
    assert_eq!(
        site.ask("GET", "/v1/backup").bearer(&new).status().await,
        200
    );
    assert_eq!(site.access.token(false).unwrap(), new);
}

#[tokio::test]
async fn logging_in_leads_only_to_our_own_pages_and_not_from_others() {
    let site = Site::new(true, false);
    for (next, place) in [
        ("/strangers/7%3Fa%3Db", "./strangers/7?a=b"),
        ("%2F%2Fevil.example", "./"),
        ("%2F%5Cevil.example", "./"),
        ("https%3A%2F%2Fevil.example", "./"),
        ("%2Fa%0d%0aSet-Cookie%3A%20x%3Dy", "./"),
        ("%2Fm%C3%BCnch%20en", "./m%C3%BCnch%20en"),
        ("", "./"),
    ] {
        let form = format!("next={next}&token={}", site.token);
        let response = site.ask("POST", "/login").form(&form).send().await;
        assert_eq!(
            (
                response.status().as_u16(),
                response.headers()["location"].to_str().unwrap()
            ),
            (303, place),
            "{next}"
        );
    }
    let form = format!("token={}", site.token);
    assert_eq!(
        site.ask("POST", "/login")
            .form(&form)
            .header("origin", "http://evil.example")
            .status()
            .await,
        403
    );
    assert_eq!(site.ask("POST", "/login").form("").status().await, 422);
    let response = site
        .ask("POST", "/login")
        .form(&form)
        .encrypted()
        .send()
        .await;
    let cookie = response.headers()["set-cookie"].to_str().unwrap();
    assert!(
        cookie.starts_with("__Host-kithd_session=")
            && cookie.contains("; SameSite=Strict; Secure; Path=/; "),
        "{cookie}"
    );
}

#[tokio::test]
async fn wrong_tokens_lock_nobody_out() {
    let site = Site::new(true, false);
    for _ in 0..300 {
        let response = site
            .ask("POST", "/login")
            .from("192.168.1.66")
            .form("token=guess&next=/people")
            .send()
            .await;
        assert_eq!(
            (
                response.status().as_u16(),
                &response.headers()["www-authenticate"]
            ),
            (401, &BEARER)
        );
        assert_eq!(
            site.ask("GET", "/v1/images")
                .from("192.168.1.66")
                .bearer("guess")
                .status()
                .await,
            401
        );
    }
    let page = site
        .ask("POST", "/login")
        .form("token=guess&next=/people")
        .send()
        .await;
    let page = String::from_utf8(
        page.into_body()
            .collect()
            .await
            .unwrap()
            .to_bytes()
            .to_vec(),
    )
    .unwrap();
    assert!(
        page.contains("That is not the administrator") && page.contains("value=\"/people\""),
        "{page}"
    );
    let form = format!("token={}", site.token);
    assert_eq!(
        site.ask("POST", "/login")
            .from("192.168.1.66")
            .form(&form)
            .status()
            .await,
        303
    );
    assert_eq!(
        site.ask("GET", "/v1/backup")
            .from("192.168.1.66")
            .bearer(&site.token)
            .status()
            .await,
        200
    );
}
