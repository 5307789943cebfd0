//! One HTTP/1.1 client for devices and services of the LAN: cameras, Frigate's API, webhooks. It
//! keeps one connection, logs in by Basic or Digest, and reads what old cameras send; nothing of a
//! response is collected without a limit. It has no cookies, no compression, and follows to no
//! other host.

mod address;
mod login;
#[cfg(test)]
pub mod test_server;
#[cfg(test)]
mod tests;
mod trust;

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

pub use address::{Address, parse};
pub use login::Login;
pub use trust::{Trust, fingerprint};

use login::Answers;

/// Most bytes of a response's status line and header.
const MAX_HEAD: usize = 64 << 10;
/// Most bytes held of what a server sends at once.
const MAX_BUFFER: usize = 128 << 10;
/// Most bytes read of a response that only asks for a login or names another path.
const MAX_ASIDE: usize = 64 << 10;
/// Most redirects of one request.
const MAX_REDIRECTS: usize = 3;

/// Limits of the time that a server takes.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// For the name, the connection, and its encryption.
    pub connect: Duration,
    /// From a request to the end of the response's header.
    pub answer: Duration,
    /// Between bytes of a response's body.
    pub quiet: Duration,
    /// For all of a body that `Response::bytes` reads.
    pub body: Duration,
}

/// Reasons why a request has no response of use.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The name has no address, or the name server does not answer.
    #[error(
        "the name of {0} is not known in this network; check it, or write the address in figures"
    )]
    NameNotFound(Address),
    /// Nothing listens there.
    #[error("{0} refuses the connection; is the device on, and is this its port?")]
    Refused(Address),
    /// No connection in time, or no way to it.
    #[error("{0} cannot be reached: {1}; check the address and the network")]
    Unreachable(Address, String),
    /// The server's certificate is not one of those that are trusted.
    #[error(
        "the certificate of {0} is not trusted: {1}; if it is the device's own, give its \
         fingerprint or its authority"
    )]
    Untrusted(Address, String),
    /// No encryption could be agreed on.
    #[error(
        "no encrypted connection to {0} is possible: {1}; does its address begin with http:// instead?"
    )]
    Tls(Address, String),
    /// The server asks for a login: none was given, or it was refused.
    #[error("{0} {1}")]
    Unauthorised(Address, &'static str),
    /// The server names another host, port or scheme, to which no login is taken along.
    #[error("{0} sends on to {1} instead of answering; configure that address if it is right")]
    SentOn(Address, String),
    /// The server names one path after another.
    #[error("{0} sends on from path to path; check the path")]
    SentInCircles(Address),
    /// The request was answered without success.
    #[error("{0} answers {1}; check the path, and the log of that device")]
    Status(Address, StatusCode),
    /// The answer is no HTTP.
    #[error("{0} does not answer by HTTP: {1}; is this the right port?")]
    NotHttp(Address, String),
    /// More bytes than the caller takes.
    #[error("{0} sends more than {1} bytes where at most that many are taken")]
    TooLarge(Address, usize),
    /// The server is silent.
    #[error("{0} sends nothing more for {1:?}; restart the device if it stays like this")]
    Stalled(Address, Duration),
    /// The server closed the connection in the middle of a response, or before it.
    #[error("{0} closed the connection before its answer was complete")]
    Ended(Address),
}

/// A client of one server, with at most one connection.
pub struct Client {
    address: Address,
    answers: Answers,
    trust: Trust,
    tls: Option<Arc<rustls::ClientConfig>>,
    timeouts: Timeouts,
    kept: Option<Kept>,
}

/// A connection that can take a request.
struct Kept {
    sender: SendRequest<Full<Bytes>>,
    traffic: Traffic,
}

/// Moves the bytes of a connection while `during` is awaited, so that no task is needed for it.
struct Traffic(Option<Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>>);

impl Traffic {
    async fn during<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        poll_fn(|context| {
            if let Some(running) = &mut self.0
                && running.as_mut().poll(context).is_ready()
            {
                // The error, if it ended by one, reaches the request or the body.
                self.0 = None;
            }
            work.as_mut().poll(context)
        })
        .await
    }
}

/// A response whose body is still to be read. The connection is kept for the next request once the
/// body was read to its end, and closed otherwise.
pub struct Response<'c> {
    /// Its status; `success` makes an error of others than 2xx.
    pub status: StatusCode,
    /// Its header.
    pub headers: HeaderMap,
    body: Incoming,
    kept: Option<Kept>,
    client: &'c mut Client,
}

impl Client {
    /// Returns a client that has no connection yet.
    pub fn new(address: Address, login: Option<Login>, trust: Trust, timeouts: Timeouts) -> Self {
        Self {
            address,
            answers: Answers::new(login),
            trust,
            tls: None,
            timeouts,
            kept: None,
        }
    }

    /// Returns it so that it logs in by Digest only: for servers that may be anyone's.
    pub fn without_basic(mut self) -> Self {
        self.answers.basic = false;
        self
    }

    /// Fetches `path_and_query`, as `parse` returns it. Responses of every status are returned, but
    /// those that ask for a login or name another path.
    pub async fn get(
        &mut self,
        path_and_query: &str,
        headers: &[(HeaderName, HeaderValue)],
    ) -> Result<Response<'_>, HttpError> {
        let request = self.request(Method::GET, path_and_query, headers, Bytes::new())?;
        self.answer(request).await
    }

    /// Posts `body`. A request that may have arrived is not sent again.
    pub async fn post(
        &mut self,
        path_and_query: &str,
        content_type: &'static str,
        headers: &[(HeaderName, HeaderValue)],
        body: Bytes,
    ) -> Result<Response<'_>, HttpError> {
        self.bring(Method::POST, path_and_query, content_type, headers, body)
            .await
    }

    /// Puts `body`. A request that may have arrived is not sent again.
    pub async fn put(
        &mut self,
        path_and_query: &str,
        content_type: &'static str,
        headers: &[(HeaderName, HeaderValue)],
        body: Bytes,
    ) -> Result<Response<'_>, HttpError> {
        self.bring(Method::PUT, path_and_query, content_type, headers, body)
            .await
    }

    async fn bring(
        &mut self,
        method: Method,
        path_and_query: &str,
        content_type: &'static str,
        headers: &[(HeaderName, HeaderValue)],
        body: Bytes,
    ) -> Result<Response<'_>, HttpError> {
        let mut request = self.request(method, path_and_query, headers, body)?;
        let content_type = HeaderValue::from_static(content_type);
        request
            .headers_mut()
            .insert(header::CONTENT_TYPE, content_type);
        self.answer(request).await
    }

    fn request(
        &self,
        method: Method,
        path_and_query: &str,
        headers: &[(HeaderName, HeaderValue)],
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, HttpError> {
        const AGENT: &str = concat!("kithd/", env!("CARGO_PKG_VERSION"));
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = path_and_query
            .parse()
            .map_err(|_| HttpError::NotHttp(self.address.clone(), "its path is no path".into()))?;
        let fields = request.headers_mut();
        if let Ok(host) = HeaderValue::from_str(&self.address.host_field()) {
            fields.insert(header::HOST, host);
        }
        fields.insert(header::USER_AGENT, HeaderValue::from_static(AGENT));
        fields.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
        fields.extend(headers.iter().cloned());
        Ok(request)
    }

    /// Sends a request until its response is none that asks for a login or names another path.
    async fn answer(
        &mut self,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<'_>, HttpError> {
        let (mut logins, mut redirects) = (0, 0);
        loop {
            let path = request.uri().to_string();
            if let Some(value) = self.answers.next(request.method(), &path) {
                request.headers_mut().insert(header::AUTHORIZATION, value);
            }
            let (kept, response) = self.exchange(&request).await?;
            let (head, body) = response.into_parts();
            let location = head.headers.get(header::LOCATION);
            match head.status {
                StatusCode::UNAUTHORIZED => {
                    self.answers
                        .challenged(&head.headers, logins)
                        .map_err(|why| HttpError::Unauthorised(self.address.clone(), why))?;
                    logins += 1;
                }
                StatusCode::MOVED_PERMANENTLY
                | StatusCode::FOUND
                | StatusCode::SEE_OTHER
                | StatusCode::TEMPORARY_REDIRECT
                | StatusCode::PERMANENT_REDIRECT
                    if location.is_some() && request.method() == Method::GET =>
                {
                    redirects += 1;
                    if redirects > MAX_REDIRECTS {
                        return Err(HttpError::SentInCircles(self.address.clone()));
                    }
                    let location = location.map(HeaderValue::as_bytes).unwrap_or_default();
                    let next = self
                        .address
                        .resolve(&path, &String::from_utf8_lossy(location))
                        .map_err(|other| HttpError::SentOn(self.address.clone(), other))?;
                    *request.uri_mut() = next.parse().map_err(|_| {
                        HttpError::SentOn(self.address.clone(), "no path of this host".into())
                    })?;
                }
                status => {
                    return Ok(Response {
                        status,
                        headers: head.headers,
                        body,
                        kept: Some(kept),
                        client: self,
                    });
                }
            }
            let mut aside = Response {
                status: head.status,
                headers: HeaderMap::new(),
                body,
                kept: Some(kept),
                client: self,
            };
            let mut read = 0;
            // Whether the connection is kept afterwards is all that depends on it.
            while let Ok(Some(chunk)) = aside.chunk().await {
                read += chunk.len();
                if read > MAX_ASIDE {
                    break;
                }
            }
        }
    }

    /// Sends one request and waits for the header of its response. A kept connection that proves
    /// dead is replaced once.
    async fn exchange(
        &mut self,
        request: &Request<Full<Bytes>>,
    ) -> Result<(Kept, hyper::Response<Incoming>), HttpError> {
        let limit = self.timeouts.answer;
        if let Some(mut kept) = self.kept.take() {
            let Kept { sender, traffic } = &mut kept;
            // A server that closed it in the meantime is noticed here.
            let ready = timeout(limit, traffic.during(sender.ready())).await;
            if matches!(ready, Ok(Ok(()))) {
                let sent = traffic.during(sender.send_request(request.clone()));
                match timeout(limit, sent).await {
                    Ok(Ok(response)) => return Ok((kept, response)),
                    Ok(Err(error)) if request.method() == Method::GET || error.is_canceled() => {}
                    Ok(Err(error)) => return Err(self.failure(&error)),
                    Err(_) => return Err(HttpError::Stalled(self.address.clone(), limit)),
                }
            }
        }
        let mut kept = self.connect().await?;
        let Kept { sender, traffic } = &mut kept;
        let sent = traffic.during(sender.send_request(request.clone()));
        match timeout(limit, sent).await {
            Ok(Ok(response)) => Ok((kept, response)),
            Ok(Err(error)) => Err(self.failure(&error)),
            Err(_) => Err(HttpError::Stalled(self.address.clone(), limit)),
        }
    }

    async fn connect(&mut self) -> Result<Kept, HttpError> {
        let limit = self.timeouts.connect;
        let connecting = async {
            let stream = self.address.connect(limit).await?;
            if self.address.https {
                self.encrypt(stream).await
            } else {
                self.begin(stream).await
            }
        };
        match timeout(limit, connecting).await {
            Ok(connected) => connected,
            Err(_) => {
                let why = format!("no connection in {limit:?}");
                Err(HttpError::Unreachable(self.address.clone(), why))
            }
        }
    }

    async fn encrypt(&mut self, stream: TcpStream) -> Result<Kept, HttpError> {
        let address = &self.address;
        let config = match &self.tls {
            Some(config) => config,
            None => {
                let made = self.trust.config().await;
                let made = made.map_err(|why| HttpError::Untrusted(address.clone(), why))?;
                self.tls.insert(made)
            }
        };
        let name = ServerName::try_from(address.host.clone())
            .map_err(|error| HttpError::Tls(address.clone(), error.to_string()))?;
        let connector = tokio_rustls::TlsConnector::from(config.clone());
        let stream = connector.connect(name, stream).await.map_err(|error| {
            let error = error.get_ref().and_then(|inner| inner.downcast_ref());
            match error {
                Some(rustls::Error::General(why)) => {
                    HttpError::Untrusted(address.clone(), why.clone())
                }
                Some(other) => HttpError::Tls(address.clone(), other.to_string()),
                None => HttpError::Tls(address.clone(), "the connection was closed".into()),
            }
        })?;
        self.begin(stream).await
    }

    async fn begin(
        &mut self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Result<Kept, HttpError> {
        let (sender, connection) = http1::Builder::new()
            .allow_spaces_after_header_name_in_responses(true)
            .allow_obsolete_multiline_headers_in_responses(true)
            .ignore_invalid_headers_in_responses(true)
            .max_buf_size(MAX_BUFFER)
            .max_header_size(MAX_HEAD)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.failure(&error))?;
        Ok(Kept {
            sender,
            traffic: Traffic(Some(Box::pin(connection))),
        })
    }

    fn failure(&self, error: &hyper::Error) -> HttpError {
        let address = self.address.clone();
        if error.is_parse_too_large() {
            HttpError::TooLarge(address, MAX_HEAD)
        } else if error.is_parse() {
            HttpError::NotHttp(address, error.to_string())
        } else {
            HttpError::Ended(address)
        }
    }
}

impl Response<'_> {
    /// Returns it, or an error of its status if that is not 2xx.
    pub fn success(self) -> Result<Self, HttpError> {
        match self.status {
            status if status.is_success() => Ok(self),
            status => Err(HttpError::Status(self.client.address.clone(), status)),
        }
    }

    /// Returns the next bytes of the body as they come, `None` at its end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, HttpError> {
        let limit = self.client.timeouts.quiet;
        loop {
            let Some(kept) = &mut self.kept else {
                return Ok(None);
            };
            let frame = timeout(limit, kept.traffic.during(self.body.frame())).await;
            let frame = match frame {
                Ok(Some(Ok(frame))) => frame,
                Ok(None) => {
                    self.client.kept = self.kept.take();
                    return Ok(None);
                }
                Ok(Some(Err(error))) => {
                    self.kept = None;
                    return Err(self.client.failure(&error));
                }
                Err(_) => {
                    self.kept = None;
                    return Err(HttpError::Stalled(self.client.address.clone(), limit));
                }
            };
            if let Ok(data) = frame.into_data()
                && !data.is_empty()
            {
                return Ok(Some(data));
            }
        }
    }

    /// Returns the whole body of at most `limit` bytes.
    pub async fn bytes(mut self, limit: usize) -> Result<Bytes, HttpError> {
        let (address, time) = (self.client.address.clone(), self.client.timeouts.body);
        let reading = async {
            let mut whole = BytesMut::new();
            while let Some(chunk) = self.chunk().await? {
                if whole.len() + chunk.len() > limit {
                    return Err(HttpError::TooLarge(self.client.address.clone(), limit));
                }
                whole.extend_from_slice(&chunk);
            }
            Ok(whole.freeze())
        };
        match timeout(time, reading).await {
            Ok(read) => read,
            Err(_) => Err(HttpError::Stalled(address, time)),
        }
    }
}
