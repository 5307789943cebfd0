//! Decodes the body of a request according to `Content-Encoding`, in pieces, so that the limits of
//! each route apply to the decoded bytes. Unsupported encodings are refused.

use std::io;

use async_compression::tokio::bufread::{GzipDecoder, ZlibDecoder};
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::TryStreamExt;
use tokio::io::AsyncRead;
use tokio_util::io::{ReaderStream, StreamReader};

use crate::problem::Problem;

/// Supported encodings, for clients that ask (RFC 9110, 12.5.3).
const UNDERSTOOD: HeaderValue = HeaderValue::from_static("gzip, deflate, identity");
/// Size of decoded pieces.
const PIECE: usize = 16 << 10;

/// The layer of all routes.
pub async fn undo(mut request: Request, next: Next) -> Response {
    let named: Vec<String> = request
        .headers()
        .get_all(header::CONTENT_ENCODING)
        .iter()
        .flat_map(|value| {
            String::from_utf8_lossy(value.as_bytes())
                .split(',')
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .map(|name| name.trim().to_ascii_lowercase())
        .filter(|name| !name.is_empty() && name != "identity")
        .collect();
    if named.is_empty() {
        return next.run(request).await;
    }
    let body = std::mem::take(request.body_mut())
        .into_data_stream()
        .map_err(io::Error::other);
    let body = StreamReader::new(body);
    let undone = match named.join(", ").as_str() {
        "gzip" | "x-gzip" => {
            let mut decoder = GzipDecoder::new(body);
            decoder.multiple_members(true);
            pieces(decoder)
        }
        "deflate" => pieces(ZlibDecoder::new(body)),
        other => {
            let detail = format!(
                "the body's Content-Encoding {other:.100} is not supported; send it with gzip or deflate, or without"
            );
            let mut refused =
                Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail).into_response();
            refused
                .headers_mut()
                .insert(header::ACCEPT_ENCODING, UNDERSTOOD);
            return refused;
        }
    };
    *request.body_mut() = undone;
    for gone in [header::CONTENT_ENCODING, header::CONTENT_LENGTH] {
        request.headers_mut().remove(gone);
    }
    next.run(request).await
}

fn pieces(decoder: impl AsyncRead + Send + 'static) -> Body {
    let stream = ReaderStream::with_capacity(decoder, PIECE);
    Body::from_stream(
        stream.map_err(|error| format!("it does not match its Content-Encoding ({error})")),
    )
}
