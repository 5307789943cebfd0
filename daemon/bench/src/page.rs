//! `kithd-bench page`: measures how fast page and list answer on a board with a long history, while
//! pictures are processed.

use std::time::{Duration, Instant};

use anyhow::bail;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::SendRequest;
use kithd::for_bench::{Moment, load_pack, wall_clock_ms};
use serde_json::json;

use crate::Subject;
use crate::daemon::Daemon;
use crate::fill::{Size, fill};
use crate::requests::{connect, request};

/// Arguments of `kithd-bench page`.
#[derive(Debug, clap::Args)]
pub struct Page {
    /// Finished images in the database
    #[arg(long, default_value_t = 1_000_000)]
    images: i64,
    /// Faces in them
    #[arg(long, default_value_t = 100_000)]
    faces: i64,
    /// Enrolled people
    #[arg(long, default_value_t = 1000)]
    people: i64,
    /// Sightings
    #[arg(long, default_value_t = 1_000_000)]
    sightings: i64,
    /// Requests of each kind
    #[arg(long, default_value_t = 300)]
    requests: usize,
    /// Answers as JSON
    #[arg(long)]
    json: bool,
}

/// A kind of request, and the address of one example of it.
type Kind = (&'static str, Box<dyn Fn(i64) -> String>);

struct Row {
    name: &'static str,
    first_byte: Vec<Duration>,
    whole: Vec<Duration>,
}

/// Fills a database, starts a daemon on it, keeps it busy, and measures its answers.
pub async fn page(subject: &Subject, args: Page) -> anyhow::Result<()> {
    let picture = subject.picture()?;
    // On a disk: a database in memory would measure something else, and a board has too little
    // memory.
    let folder = tempfile::tempdir_in(std::env::current_dir()?)?;
    let begun = Instant::now();
    let size = Size {
        images: args.images,
        faces: args.faces,
        people: args.people,
        sightings: args.sightings,
    };
    let pack = load_pack(&subject.config.models)?;
    fill(folder.path(), size, pack.space(), wall_clock_ms())?;
    eprintln!(
        "{} images are in the database after {:.0} s",
        args.images,
        begun.elapsed().as_secs_f64()
    );
    let mut daemon = Daemon::start(subject, None, folder.path(), None).await?;
    let engine = daemon.wait_for_engine().await?;
    wait_for_groups(&daemon).await?;
    let sender = connect(&daemon.address).await?;
    let feeding = tokio::spawn(feed(sender, picture));
    let mut client = connect(&daemon.address).await?;
    let mut rows: Vec<Row> = Vec::new();
    let middle = args.images / 2;
    let half = args.sightings / 2;
    let kinds: [Kind; 23] = [
        ("page, newest", Box::new(|_| "/".into())),
        (
            "page, deep",
            Box::new(move |n| format!("/?cursor={}", middle + n * 7)),
        ),
        (
            "page, one outcome",
            Box::new(move |n| format!("/?outcome=uncertain&cursor={}", middle + n * 7)),
        ),
        (
            "page, one person",
            Box::new(|n| format!("/?person={}", 1 + n % 1000)),
        ),
        ("list, newest", Box::new(|_| "/v1/images".into())),
        (
            "list, deep",
            Box::new(move |n| format!("/v1/images?cursor={}", middle + n * 7)),
        ),
        (
            "list, failed",
            Box::new(move |n| format!("/v1/images?state=failed&cursor={}", middle + n * 7)),
        ),
        (
            "list, a day",
            Box::new(|_| "/v1/images?since=2026-06-01T00:00:00Z&until=2026-06-02T00:00:00Z".into()),
        ),
        (
            "list, searched",
            Box::new(move |n| format!("/v1/images?path=nowhere&cursor={}", middle + n * 7)),
        ),
        ("people", Box::new(|n| format!("/people?from={}", n % 900))),
        ("person", Box::new(|n| format!("/people/{}", 1 + n % 1000))),
        ("strangers", Box::new(|_| "/strangers".into())),
        ("timeline, newest", Box::new(|_| "/sightings".into())),
        (
            "timeline, deep",
            Box::new(move |n| format!("/sightings?cursor={}", half + n * 7)),
        ),
        (
            "timeline, a day",
            Box::new(move |n| format!("/sightings?day={}", day_before(n % 90))),
        ),
        (
            "timeline, a person",
            Box::new(|n| format!("/sightings?person={}", 1 + n % 1000)),
        ),
        (
            "timeline, a source",
            Box::new(move |n| format!("/sightings?source=camera-3&cursor={}", half + n * 7)),
        ),
        (
            "timeline, an outcome",
            Box::new(move |n| format!("/sightings?outcome=uncertain&cursor={}", half + n * 7)),
        ),
        (
            "timeline, a stranger",
            Box::new(|n| format!("/sightings?stranger={}", 1 + n % 1000)),
        ),
        (
            "list of sightings",
            Box::new(move |n| format!("/v1/sightings?cursor={}", half + n * 7)),
        ),
        ("presence", Box::new(|_| "/v1/presence".into())),
        ("health", Box::new(|_| "/health?hours=168".into())),
        (
            "image",
            Box::new(move |n| format!("/images/{}", middle + n * 7)),
        ),
    ];
    for (name, url) in &kinds {
        let mut row = Row {
            name,
            first_byte: Vec::new(),
            whole: Vec::new(),
        };
        for n in 0..args.requests as i64 {
            let (first_byte, whole) = ask(&mut client, &url(n)).await?;
            row.first_byte.push(first_byte);
            row.whole.push(whole);
        }
        row.first_byte.sort_unstable();
        row.whole.sort_unstable();
        rows.push(row);
    }
    feeding.abort();
    let waiting =
        request(&mut client, "GET", "/v1/health", Vec::new()).await?["counts"]["processed"].clone();
    let processed = waiting.as_i64().unwrap_or_default() - (args.images - args.images / 500);
    daemon.stop().await?;
    show(&rows, &engine, processed, args.json);
    Ok(())
}

/// Returns a day of the past as it is written in an address.
fn day_before(days: i64) -> String {
    let moment = Moment::from_ms(wall_clock_ms() - days * 86_400_000);
    moment.iso.chars().take(10).collect()
}

fn show(rows: &[Row], engine: &str, processed: i64, as_json: bool) {
    let ms = |sorted: &[Duration], part: f64| {
        let place =
            ((sorted.len() as f64 * part).ceil() as usize).clamp(1, sorted.len().max(1)) - 1;
        sorted
            .get(place)
            .map_or(f64::NAN, |time| time.as_secs_f64() * 1000.0)
    };
    if as_json {
        let rows = rows.iter().map(|row| {
            json!({ "name": row.name, "first_byte_median_ms": ms(&row.first_byte, 0.5),
                    "median_ms": ms(&row.whole, 0.5), "p99_ms": ms(&row.whole, 0.99) })
        });
        println!(
            "{}",
            json!({ "engine": engine, "processed_meanwhile": processed, "rows": rows.collect::<Vec<_>>() })
        );
        return;
    }
    println!("{engine}; {processed} pictures were processed meanwhile");
    println!(
        "{:20} {:>18} {:>10} {:>10}",
        "ms", "first byte, median", "median", "p99"
    );
    for row in rows {
        println!(
            "{:20} {:18.1} {:10.1} {:10.1}",
            row.name,
            ms(&row.first_byte, 0.5),
            ms(&row.whole, 0.5),
            ms(&row.whole, 0.99)
        );
    }
}

/// Waits until the groups are stable: the measurement is about a board with a long history, not
/// about its first clustering.
async fn wait_for_groups(daemon: &Daemon) -> anyhow::Result<()> {
    let mut client = connect(&daemon.address).await?;
    let (mut before, mut same) = (serde_json::Value::Null, 0);
    // Groups are updated every few seconds.
    while same < 4 {
        tokio::time::sleep(Duration::from_secs(3)).await;
        let health = request(&mut client, "GET", "/v1/health", Vec::new()).await?;
        let now = health["parts"]["strangers"]["text"].clone();
        same = if now == before && !now.is_null() {
            same + 1
        } else {
            0
        };
        before = now;
    }
    eprintln!("{}", before.as_str().unwrap_or_default());
    Ok(())
}

/// Sends pictures as fast as they are accepted, with a few waiting at any time.
async fn feed(mut sender: SendRequest<Full<Bytes>>, picture: Vec<u8>) -> anyhow::Result<()> {
    loop {
        request(&mut sender, "POST", "/v1/images", picture.clone()).await?;
        while request(&mut sender, "GET", "/v1/health", Vec::new()).await?["counts"]["pending"]
            .as_u64()
            > Some(8)
        {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn ask(
    client: &mut SendRequest<Full<Bytes>>,
    uri: &str,
) -> anyhow::Result<(Duration, Duration)> {
    let asked = hyper::Request::builder()
        .uri(uri)
        .header(hyper::header::HOST, "127.0.0.1")
        .header(hyper::header::ACCEPT, "text/html")
        .body(Full::new(Bytes::new()))?;
    client.ready().await?;
    let begun = Instant::now();
    let response = client.send_request(asked).await?;
    let (status, mut body) = (response.status(), response.into_body());
    let mut first_byte = None;
    while let Some(frame) = body.frame().await {
        frame?;
        first_byte.get_or_insert_with(|| begun.elapsed());
    }
    let whole = begun.elapsed();
    if !status.is_success() {
        bail!("GET {uri} was answered with {status}");
    }
    Ok((first_byte.unwrap_or(whole), whole))
}
