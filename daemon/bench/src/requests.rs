//! Requests to the daemon under load, over one connection that stays open.

use anyhow::bail;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

/// Opens an HTTP connection.
pub async fn connect(address: &str) -> anyhow::Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // The connection ends with its sender, at the end of the measurement.
    tokio::spawn(connection);
    Ok(sender)
}

/// Sends a request and returns the JSON of the answer; an error status is an error.
pub async fn request(
    client: &mut SendRequest<Full<Bytes>>,
    method: &str,
    uri: &str,
    body: Vec<u8>,
) -> anyhow::Result<Value> {
    Ok(serde_json::from_slice(
        &send(client, method, uri, body).await?,
    )?)
}

/// Sends a request and returns the body of the answer; an error status is an error.
pub async fn send(
    client: &mut SendRequest<Full<Bytes>>,
    method: &str,
    uri: &str,
    body: Vec<u8>,
) -> anyhow::Result<Bytes> {
    let request = hyper::Request::builder()
        .method(method)
        .uri(uri)
        .header(hyper::header::HOST, "127.0.0.1")
        .body(Full::new(Bytes::from(body)))?;
    client.ready().await?;
    let response = client.send_request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    if !status.is_success() {
        bail!(
            "{method} {uri} was answered with {status}: {}",
            String::from_utf8_lossy(&body)
        );
    }
    Ok(body)
}
