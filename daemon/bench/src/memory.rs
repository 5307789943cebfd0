//! `kithd-bench memory`: memory (PSS) of all processes idle, at work, and during large uploads.

use std::time::{Duration, Instant};

use kithd::for_bench::{load_pack, wall_clock_ms};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::Subject;
use crate::daemon::Daemon;
use crate::fill::{Size, fill};
use crate::requests::{connect, request};

/// Arguments of `kithd-bench memory`.
#[derive(Debug, clap::Args)]
pub struct Memory {
    /// Pictures to recognise
    #[arg(long, default_value_t = 200)]
    pictures: usize,
    /// People in the gallery
    #[arg(long, default_value_t = 0)]
    people: i64,
    /// Answers as JSON
    #[arg(long)]
    json: bool,
}

/// Uploads of the second measurement of memory, and their size.
const UPLOADS: usize = 60;
const UPLOAD_BYTES: usize = 20 << 20;

/// Measures PSS of the daemon idle with its engine loaded, and the maximum while it recognises;
/// then the maximum during large uploads, each without its last byte, and the PSS 10 s after they
/// broke off.
pub async fn memory(subject: &Subject, args: Memory) -> anyhow::Result<()> {
    let picture = subject.picture()?;
    let folder = tempfile::tempdir()?;
    if args.people > 0 {
        let size = Size {
            images: 0,
            faces: 0,
            people: args.people,
            sightings: 0,
        };
        let pack = load_pack(&subject.config.models)?;
        fill(folder.path(), size, pack.space(), wall_clock_ms())?;
    }
    let mut daemon = Daemon::start(subject, None, folder.path(), None).await?;
    let engine = daemon.wait_for_engine().await?;
    let idle = settled(&daemon).await?;
    let address = daemon.address.clone();
    let uploads = (0..UPLOADS).map(|_| begin_upload(&address, &picture));
    let mut uploads = std::pin::pin!(futures_util::future::try_join_all(uploads));
    let mut uploading = 0;
    let uploads = loop {
        uploading = uploading.max(daemon.pss_kib()?);
        if let Ok(begun) = tokio::time::timeout(Duration::from_millis(50), &mut uploads).await {
            break begun?;
        }
    };
    // Time to read the data that is still in the sockets.
    tokio::time::sleep(Duration::from_secs(2)).await;
    uploading = uploading.max(daemon.pss_kib()?);
    drop(uploads);
    tokio::time::sleep(Duration::from_secs(10)).await;
    let after = daemon.pss_kib()?;
    let mut client = connect(&daemon.address).await?;
    for _ in 0..args.pictures {
        request(&mut client, "POST", "/v1/images", picture.clone()).await?;
    }
    let mut most = 0;
    loop {
        most = most.max(daemon.pss_kib()?);
        let status = request(&mut client, "GET", "/v1/status", Vec::new()).await?;
        if status["counts"]["processed"].as_u64() == Some(args.pictures as u64) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    daemon.stop().await?;
    let mib = |kib: u64| kib as f64 / 1024.0;
    if args.json {
        let (uploading, after) = (mib(uploading), mib(after));
        println!(
            "{}",
            json!({ "engine": engine, "idle_mib": mib(idle), "at_work_mib": mib(most),
                    "uploading_mib": uploading, "after_uploads_mib": after })
        );
    } else {
        println!(
            "{engine}: PSS idle {:.1} MiB, at work {:.1} MiB ({} pictures, {} people)",
            mib(idle),
            mib(most),
            args.pictures,
            args.people
        );
        println!(
            "{UPLOADS} uploads of {} MiB under way: {:.1} MiB; 10 s after: {:.1} MiB",
            UPLOAD_BYTES >> 20,
            mib(uploading),
            mib(after)
        );
    }
    Ok(())
}

/// Waits until memory has stayed the same for five seconds, and returns it (PSS, KiB). After its
/// first start the engine measures its precisions, then starts again with the best of them.
async fn settled(daemon: &Daemon) -> anyhow::Result<u64> {
    let mut first = daemon.pss_kib()?;
    let mut since = Instant::now();
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = daemon.pss_kib()?;
        if now.abs_diff(first) > 1024 {
            (first, since) = (now, Instant::now());
        } else if since.elapsed() > Duration::from_secs(5) {
            return Ok(now);
        }
    }
}

/// Sends a picture of the largest size except for its last byte.
async fn begin_upload(address: &str, picture: &[u8]) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    let head = format!(
        "POST /v1/images HTTP/1.1\r\nHost: localhost\r\nContent-Length: {UPLOAD_BYTES}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(picture).await?;
    let zeros = vec![0; 64 << 10];
    let mut left = UPLOAD_BYTES.saturating_sub(picture.len() + 1);
    while left > 0 {
        let sent = left.min(zeros.len());
        stream.write_all(&zeros[..sent]).await?;
        left -= sent;
    }
    Ok(stream)
}
