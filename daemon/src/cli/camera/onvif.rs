//! `kithd camera list --lan`: finds the ONVIF cameras of the network and lists the addresses of
//! their streams and snapshots. Only this command does so; the daemon never searches. Devices of
//! the network are strangers: nothing of an answer is taken without a limit or shown with control
//! characters, and no address of another device is asked.

mod answers;
mod discovery;
mod soap;
mod xml;

use std::net::{IpAddr, Ipv4Addr};
use std::process::ExitCode;
use std::time::Duration;

use futures_util::future::join_all;
use quick_xml::escape::escape;
use time::OffsetDateTime;
use tokio::time::timeout;

use self::answers::Profile;
use self::discovery::Found;
use self::soap::{Service, Session, SoapError};
use super::shown;
use crate::config::Url;
use crate::http_client::Login;

/// Time for all questions to one device.
const PATIENCE: Duration = Duration::from_secs(30);

const GET_TIME: &str = "<GetSystemDateAndTime xmlns=\"http://www.onvif.org/ver10/device/wsdl\"/>";
const GET_SERVICES: &str = "<GetServices xmlns=\"http://www.onvif.org/ver10/device/wsdl\">\
     <IncludeCapability>false</IncludeCapability></GetServices>";
const GET_CAPABILITIES: &str = "<GetCapabilities xmlns=\"http://www.onvif.org/ver10/device/wsdl\">\
     <Category>All</Category></GetCapabilities>";
const GET_MODEL: &str = "<GetDeviceInformation xmlns=\"http://www.onvif.org/ver10/device/wsdl\"/>";
/// Namespaces of the two editions of the media service.
const MEDIA: &str = "http://www.onvif.org/ver10/media/wsdl";
const SECOND_MEDIA: &str = "http://www.onvif.org/ver20/media/wsdl";

/// A device, as far as it has answered.
struct Device {
    address: IpAddr,
    name: Option<String>,
    /// Profiles with the lines of their addresses.
    profiles: Vec<(Profile, Vec<String>)>,
    /// The reason why there is no more of it.
    problem: Option<String>,
}

/// Searches for so long on this interface, or on all, and prints what is there.
pub async fn list(
    interface: Option<Ipv4Addr>,
    login: Option<&Login>,
    time: Duration,
) -> anyhow::Result<ExitCode> {
    let interfaces = match interface {
        Some(address) => vec![address],
        None => discovery::interfaces()?,
    };
    let found = discovery::search(&interfaces, time).await?;
    if found.is_empty() {
        let searched: Vec<_> = interfaces.iter().map(ToString::to_string).collect();
        println!(
            "No ONVIF camera answered within {time:?} ({}). Many cameras have ONVIF switched off \
             until it is switched on in their settings; a firewall on this board may drop the \
             answers; cameras of other networks are not found.",
            searched.join(", ")
        );
        return Ok(ExitCode::SUCCESS);
    }
    let devices = join_all(found.iter().map(|found| look(found, login))).await;
    for device in &devices {
        print(device);
    }
    if devices.iter().any(|device| !device.profiles.is_empty()) {
        println!(
            "An address goes into a section [[camera]], with username and password_file. kithd \
             camera try ADDRESS says what it sends."
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn print(device: &Device) {
    let name = device.name.as_deref().unwrap_or("camera without a name");
    println!("{}  {name}", device.address);
    for (profile, lines) in &device.profiles {
        let size = profile
            .size
            .map(|(width, height)| format!("{width}x{height}"));
        let rate = profile.rate.map(|rate| format!("{rate} frames a second"));
        let facts = [size, profile.codec.clone(), rate];
        let facts: Vec<_> = facts.into_iter().flatten().collect();
        println!("  {:<16} {}", profile.name, facts.join(", "));
        for line in lines {
            println!("    {line}");
        }
    }
    if let Some(problem) = &device.problem {
        println!("  {problem}");
    }
}

/// Asks one device for all that is listed.
async fn look(found: &Found, login: Option<&Login>) -> Device {
    let mut device = Device {
        address: found.from,
        name: found.name.clone(),
        profiles: Vec::new(),
        problem: None,
    };
    device.problem = match timeout(PATIENCE, ask(&mut device, found, login)).await {
        Ok(Ok(())) => None,
        Ok(Err(problem)) => Some(problem),
        Err(_) => Some(format!("it did not answer everything within {PATIENCE:?}")),
    };
    device
}

async fn ask(device: &mut Device, found: &Found, login: Option<&Login>) -> Result<(), String> {
    let said = |error: SoapError| match (error, login) {
        (SoapError::Unauthorised, None) => "it asks for a login: add --username and \
             --password-file; many cameras have users for ONVIF apart from those of their page"
            .to_owned(),
        (SoapError::Unauthorised, Some(_)) => "it refuses this login; many cameras have users for \
             ONVIF apart from those of their page, and some lock a user after a few wrong logins"
            .to_owned(),
        (other, _) => other.to_string(),
    };
    // A camera's certificate is mostly its own, which nothing trusts.
    let mut addresses: Vec<&str> = found.services.iter().map(String::as_str).collect();
    addresses.sort_by_key(|address| address.starts_with("https"));
    let mut unusable = String::from("it names no address of its service");
    let mut own = None;
    for address in addresses {
        match Service::new(address, device.address, login) {
            Ok(service) => {
                own = Some((address, service));
                break;
            }
            Err(why) => unusable = why,
        }
    }
    let (address, mut service) = own.ok_or(unusable)?;

    let mut session = Session::new(login);
    // Asked without a login, which the device's clock decides about.
    let mut open = Service::new(address, device.address, None)?;
    match Session::new(None)
        .ask(&mut open, GET_TIME, answers::clock)
        .await
    {
        Ok(Some(clock)) => session.ahead = clock - OffsetDateTime::now_utc(),
        Err(error @ SoapError::Http(_)) => return Err(said(error)),
        Ok(None) | Err(_) => {}
    }
    let services = session
        .ask(&mut service, GET_SERVICES, answers::services)
        .await;
    let media = match services {
        Ok(media) if !media.is_empty() => media,
        Err(error @ (SoapError::Unauthorised | SoapError::Http(_))) => return Err(said(error)),
        // Devices of the first years know no list of services.
        Ok(_) | Err(_) => {
            let capabilities = session.ask(&mut service, GET_CAPABILITIES, answers::capabilities);
            capabilities.await.map_err(said)?
        }
    };
    let mut why = String::from("it offers no video by ONVIF");
    for media in media {
        let mut service = match Service::new(&media.address, device.address, login) {
            Ok(service) => service,
            Err(other) => {
                why = other;
                continue;
            }
        };
        let (get, _) = requests(media.second, "");
        match session.ask(&mut service, &get, answers::profiles).await {
            Ok(profiles) if !profiles.is_empty() => {
                device.profiles = addresses_of(
                    &mut session,
                    &mut service,
                    media.second,
                    device.address,
                    profiles,
                )
                .await
                .map_err(said)?;
                break;
            }
            Ok(_) => {}
            Err(error @ SoapError::Unauthorised) => return Err(said(error)),
            Err(error) => why = said(error),
        }
    }
    if device.profiles.is_empty() {
        return Err(why);
    }
    if device.name.is_none() {
        // Without it the device is told by its address alone.
        let model = session.ask(&mut service, GET_MODEL, answers::model).await;
        device.name = model.ok().flatten();
    }
    Ok(())
}

/// Returns the profiles with the lines of their addresses.
async fn addresses_of(
    session: &mut Session<'_>,
    service: &mut Service,
    second: bool,
    device: IpAddr,
    profiles: Vec<Profile>,
) -> Result<Vec<(Profile, Vec<String>)>, SoapError> {
    let mut found = Vec::new();
    for profile in profiles {
        let (_, requests) = requests(second, &profile.token);
        let mut lines = Vec::new();
        for (what, request) in ["stream", "snapshot"].into_iter().zip(requests) {
            match session.ask(service, &request, answers::address).await {
                Ok(Some(address)) => lines.push(line(&address, device, session.login)),
                Err(error @ (SoapError::Http(_) | SoapError::Unauthorised)) => return Err(error),
                // Many a camera has no snapshots.
                Ok(None) | Err(_) if what == "snapshot" => {}
                Ok(None) => lines.push("no address of a stream".into()),
                Err(error) => lines.push(format!("no address of a stream: {error}")),
            }
        }
        found.push((profile, lines));
    }
    Ok(found)
}

/// Returns the requests to a media service: for its profiles, and for the addresses of stream and
/// snapshot of one.
fn requests(second: bool, token: &str) -> (String, [String; 2]) {
    let token = escape(token);
    let profile = format!("<ProfileToken>{token}</ProfileToken>");
    if second {
        let profiles = "<Type>VideoSource</Type><Type>VideoEncoder</Type>";
        return (
            format!("<GetProfiles xmlns=\"{SECOND_MEDIA}\">{profiles}</GetProfiles>"),
            [
                format!(
                    "<GetStreamUri xmlns=\"{SECOND_MEDIA}\"><Protocol>RTSP</Protocol>{profile}\
                     </GetStreamUri>"
                ),
                format!("<GetSnapshotUri xmlns=\"{SECOND_MEDIA}\">{profile}</GetSnapshotUri>"),
            ],
        );
    }
    let schema = "xmlns=\"http://www.onvif.org/ver10/schema\"";
    (
        format!("<GetProfiles xmlns=\"{MEDIA}\"/>"),
        [
            format!(
                "<GetStreamUri xmlns=\"{MEDIA}\"><StreamSetup><Stream {schema}>RTP-Unicast\
                 </Stream><Transport {schema}><Protocol>RTSP</Protocol></Transport></StreamSetup>\
                 {profile}</GetStreamUri>"
            ),
            format!("<GetSnapshotUri xmlns=\"{MEDIA}\">{profile}</GetSnapshotUri>"),
        ],
    )
}

/// Returns the line of the configuration with this address, without the login in it.
fn line(address: &str, device: IpAddr, login: Option<&Login>) -> String {
    let url = match Url::parse(address) {
        Ok((url, _)) if shown(&url.path) == url.path => url,
        _ => return format!("an address that is none: {}", shown(address)),
    };
    let line = format!("url = {}", toml::Value::from(url.with_login(None)));
    let host = url
        .host
        .rsplit_once(':')
        .map_or(url.host.as_str(), |(host, _)| host);
    let password = login.map_or("", |login| login.password.as_str());
    if host.parse() != Ok(device) {
        format!("{line}  # another host than the camera's")
    } else if !password.is_empty() && url.path.contains(password) {
        format!("{line}  # contains the password")
    } else {
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_become_lines_of_the_configuration() {
        let device: IpAddr = "192.168.1.20".parse().unwrap();
        let login = Login {
            user: "me".into(),
            password: "s3cret".into(),
        };
        let line = |address: &str| line(address, device, Some(&login));
        for (address, wanted) in [
            (
                "rtsp://192.168.1.20:554/a?b=1&c=2",
                "url = \"rtsp://192.168.1.20:554/a?b=1&c=2\"",
            ),
            (
                "http://me:s3cret@192.168.1.20/s.jpg",
                "url = \"http://192.168.1.20/s.jpg\"",
            ),
            (
                "rtsp://10.0.0.1/x",
                "url = \"rtsp://10.0.0.1/x\"  # another host than the camera's",
            ),
            (
                "rtsp://192.168.1.20/user=me_password=s3cret_0.sdp",
                "url = \"rtsp://192.168.1.20/user=me_password=s3cret_0.sdp\"  # contains the password",
            ),
            (
                "rtsp://192.168.1.20/a\"b",
                "url = 'rtsp://192.168.1.20/a\"b'",
            ),
        ] {
            assert_eq!(line(address), wanted);
            let text = line(address);
            assert!(toml::from_str::<toml::Table>(&text).is_ok(), "{text}");
        }
        for wrong in [
            "nothing",
            "rtsp://192.168.1.20/\u{1b}[2J",
            "rtsp://192.168.1.20/\u{202E}x",
        ] {
            let text = line(wrong);
            assert!(text.starts_with("an address that is none"), "{text}");
            assert!(!text.contains(char::is_control), "{text:?}");
        }
    }

    #[test]
    fn requests_are_documents_with_an_escaped_token() {
        for second in [false, true] {
            let (profiles, addresses) = requests(second, "a<&\">b");
            xml::Xml::parse(profiles.as_bytes()).unwrap();
            for request in addresses {
                let xml = xml::Xml::parse(request.as_bytes()).unwrap();
                assert_eq!(xml.root().text_of("ProfileToken"), Some("a<&\">b"));
            }
        }
    }
}
