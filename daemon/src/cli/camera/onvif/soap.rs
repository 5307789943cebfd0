//! Requests to one ONVIF device: its login by WS-UsernameToken or, if it asks for that, by HTTP
//! Digest. A password is never sent readable: any device of the network may answer a search.

use std::net::IpAddr;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hyper::StatusCode;
use quick_xml::escape::escape;
use sha1::{Digest, Sha1};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::answers::Refusal;
use crate::http_client::{self, Client, HttpError, Login, Timeouts, Trust};

/// Most bytes of an answer.
pub const LARGEST: usize = 256 << 10;
/// Limits of the time that a device takes for one answer.
const TIMES: Timeouts = Timeouts {
    connect: Duration::from_secs(3),
    answer: Duration::from_secs(5),
    quiet: Duration::from_secs(5),
    body: Duration::from_secs(5),
};
const CONTENT_TYPE: &str = "application/soap+xml; charset=utf-8";

/// A service of a device.
pub struct Service {
    /// Logs in by HTTP Digest if it is asked to.
    client: Client,
    /// Sends messages that contain the login: the same one by two ways at once counts twice where
    /// wrong ones are counted.
    plain: Client,
    path: String,
}

impl Service {
    /// Returns the service at this address, which must be the device's own.
    pub fn new(address: &str, device: IpAddr, login: Option<&Login>) -> Result<Self, String> {
        let (at, path, _) = http_client::parse(address)
            .map_err(|why| format!("{}: it {why}", crate::cli::camera::shown(address)))?;
        if at.host.parse() != Ok(device) {
            return Err(format!(
                "{} belongs to another device, which was not asked; correct the network settings \
                 of this one",
                crate::cli::camera::shown(address)
            ));
        }
        Ok(Self {
            client: Client::new(at.clone(), login.cloned(), Trust::System, TIMES).without_basic(),
            plain: Client::new(at, None, Trust::System, TIMES),
            path,
        })
    }
}

/// Reasons why a request has no answer of use.
#[derive(Debug, thiserror::Error)]
pub enum SoapError {
    /// The device wants a login, or another one.
    #[error("it asks for a login")]
    Unauthorised,
    /// The device says no.
    #[error("it says: {0}")]
    Fault(String),
    /// The device does not speak SOAP.
    #[error("{0}; is ONVIF switched on in it?")]
    Nonsense(String),
    /// There is no answer.
    #[error("{}", crate::cli::camera::shown(&.0.to_string()))]
    Http(HttpError),
}

impl SoapError {
    fn refused(refusal: Refusal, status: StatusCode) -> Self {
        match refusal {
            Refusal::Unauthorised => Self::Unauthorised,
            Refusal::Fault(words) => Self::Fault(words),
            Refusal::Nonsense(words) if status.is_success() => Self::Nonsense(words),
            Refusal::Nonsense(_) => Self::Nonsense(format!("it answers {status}")),
        }
    }
}

impl From<HttpError> for SoapError {
    fn from(error: HttpError) -> Self {
        match error {
            HttpError::Unauthorised(..) => Self::Unauthorised,
            other => Self::Http(other),
        }
    }
}

/// The login for a device, and how it is used there.
pub struct Session<'l> {
    /// The login, if there is one.
    pub login: Option<&'l Login>,
    /// Time by which the device's clock is ahead of this board's. A login contains the time.
    pub ahead: time::Duration,
    /// True once the device has taken a login in the message.
    signed: bool,
}

impl<'l> Session<'l> {
    /// Returns a session in which the login was not needed yet.
    pub fn new(login: Option<&'l Login>) -> Self {
        Self {
            login,
            ahead: time::Duration::ZERO,
            signed: false,
        }
    }

    /// Sends a request and reads its answer. The login goes along once the device has asked for
    /// it; a wrong one is tried at most twice, because devices lock accounts.
    pub async fn ask<T>(
        &mut self,
        service: &mut Service,
        request: &str,
        read: impl Fn(&[u8]) -> Result<T, Refusal>,
    ) -> Result<T, SoapError> {
        if !self.signed {
            let message = envelope("", request);
            match post(&mut service.client, &service.path, message, &read).await {
                Err(SoapError::Unauthorised) => {}
                other => return other,
            }
        }
        let Some(login) = self.login else {
            return Err(SoapError::Unauthorised);
        };
        let nonce = uuid::Uuid::now_v7().into_bytes();
        let now = OffsetDateTime::now_utc() + self.ahead;
        let header = token(login, &nonce, now);
        let message = envelope(&header, request);
        let answer = post(&mut service.plain, &service.path, message, &read).await;
        self.signed |= !matches!(answer, Err(SoapError::Unauthorised));
        answer
    }
}

async fn post<T>(
    client: &mut Client,
    path: &str,
    message: String,
    read: impl Fn(&[u8]) -> Result<T, Refusal>,
) -> Result<T, SoapError> {
    let response = client.post(path, CONTENT_TYPE, &[], message.into()).await?;
    let status = response.status;
    let bytes = response.bytes(LARGEST).await?;
    // Refusals come with any status.
    read(&bytes).map_err(|refusal| SoapError::refused(refusal, status))
}

fn envelope(header: &str, body: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\
         <s:Envelope xmlns:s=\"http://www.w3.org/2003/05/soap-envelope\">\
         <s:Header>{header}</s:Header><s:Body>{body}</s:Body></s:Envelope>"
    )
}

/// Returns the login as a header: WS-UsernameToken with a digest of the password, a number used
/// once, and the time.
fn token(login: &Login, nonce: &[u8], now: OffsetDateTime) -> String {
    const TOKENS: &str = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-";
    let whole = now.replace_nanosecond(0).unwrap_or(now);
    let created = whole.format(&Rfc3339).unwrap_or_default();
    let digest = Sha1::new()
        .chain_update(nonce)
        .chain_update(&created)
        .chain_update(&login.password)
        .finalize();
    let (digest, nonce) = (
        BASE64_STANDARD.encode(digest),
        BASE64_STANDARD.encode(nonce),
    );
    let user = escape(login.user.as_str());
    format!(
        "<w:Security s:mustUnderstand=\"1\" xmlns:w=\"{TOKENS}wssecurity-secext-1.0.xsd\" \
         xmlns:u=\"{TOKENS}wssecurity-utility-1.0.xsd\"><w:UsernameToken>\
         <w:Username>{user}</w:Username>\
         <w:Password Type=\"{TOKENS}username-token-profile-1.0#PasswordDigest\">{digest}\
         </w:Password>\
         <w:Nonce EncodingType=\"{TOKENS}soap-message-security-1.0#Base64Binary\">{nonce}\
         </w:Nonce><u:Created>{created}</u:Created></w:UsernameToken></w:Security>"
    )
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    /// The example of ONVIF's Application Programmer's Guide.
    #[test]
    fn the_digest_of_a_login_is_that_of_onvifs_guide() {
        let login = Login {
            user: "a<b&c".into(),
            password: "userpassword".into(),
        };
        let nonce = BASE64_STANDARD.decode("LKqI6G/AikKCQrN0zqZFlg==").unwrap();
        let now = datetime!(2010-09-16 07:50:45.25 UTC);
        let header = token(&login, &nonce, now);
        for part in [
            ">tuOSpGlFlIXsozq4HFNeeGeFLEI=<",
            ">LKqI6G/AikKCQrN0zqZFlg==<",
            ">2010-09-16T07:50:45Z<",
            ">a&lt;b&amp;c<",
        ] {
            assert!(header.contains(part), "{part} is missing in {header}");
        }
        assert!(!header.contains("userpassword"));
    }

    #[test]
    fn a_service_of_another_device_is_not_asked() {
        let device: IpAddr = "192.168.1.20".parse().unwrap();
        assert!(Service::new("http://192.168.1.20:8080/onvif", device, None).is_ok());
        for other in [
            "http://192.168.1.21/onvif",
            "http://router.lan/onvif",
            "http://127.0.0.1/onvif",
            "http://192.168.1.20@10.0.0.1/onvif",
            "http://[::1]/onvif",
            "file:///etc/passwd",
            "\u{1b}[31m",
        ] {
            let error = Service::new(other, device, None).err().expect(other);
            assert!(!error.contains(char::is_control), "{error:?}");
        }
    }
}
