//! WS-Discovery: asks the network by multicast for devices that send video. Reads the answers; asks
//! no device anything itself.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, bail};
use futures_util::future::join_all;
use percent_encoding::percent_decode_str;
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

use super::xml::Xml;
use crate::cli::camera::shown;

/// Group and port of WS-Discovery.
const GROUP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(239, 255, 255, 250)), 3702);
/// Time until the question is asked once more: datagrams get lost, on wireless networks often.
const AGAIN: Duration = Duration::from_millis(500);
/// Most bytes of a datagram.
const LARGEST: usize = 64 << 10;
/// Most devices that are listed.
pub const MOST: usize = 64;
/// Most addresses of a device that are looked at.
const MOST_ADDRESSES: usize = 8;

/// A device that has answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Address from which it has answered.
    pub from: IpAddr,
    /// Its own identifier.
    pub endpoint: String,
    /// Manufacturer's name for it, and its model, as far as it says so.
    pub name: Option<String>,
    /// Addresses of its service, as it wrote them.
    pub services: Vec<String>,
}

/// Returns this board's IPv4 addresses, one for each network.
pub fn interfaces() -> anyhow::Result<Vec<Ipv4Addr>> {
    let all = if_addrs::get_if_addrs().context("the network interfaces cannot be listed")?;
    let mut found: Vec<_> = all
        .into_iter()
        .filter(|interface| !interface.is_loopback() && !interface.is_p2p)
        .filter_map(|interface| match interface.ip() {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        })
        .collect();
    found.sort_unstable();
    found.dedup();
    if found.is_empty() {
        bail!("this board has no IPv4 address in a network; connect it to the cameras' network");
    }
    Ok(found)
}

/// Asks on these interfaces and waits so long for answers; returns the devices by address.
pub async fn search(interfaces: &[Ipv4Addr], time: Duration) -> anyhow::Result<Vec<Found>> {
    let question = question(&uuid::Uuid::now_v7().to_string());
    let until = Instant::now() + time;
    let asked = join_all(
        interfaces
            .iter()
            .map(|address| ask(*address, &question, until)),
    );
    let (mut found, mut failed) = (Vec::new(), Vec::new());
    for (interface, answers) in interfaces.iter().zip(asked.await) {
        match answers {
            Ok(answers) => found.extend(answers),
            Err(error) => failed.push(format!("{interface}: {error}")),
        }
    }
    if failed.len() == interfaces.len() {
        bail!("no network could be searched: {}", failed.join("; "));
    }
    found.sort_by_key(|device| device.from);
    Ok(without_repeats(found))
}

/// Keeps the first of each device. Copies of one firmware may all have the same identifier, so the
/// address belongs to it.
fn without_repeats(mut found: Vec<Found>) -> Vec<Found> {
    let mut known = HashSet::new();
    found.retain(|device| known.insert((device.from, device.endpoint.clone())));
    found.truncate(MOST);
    found
}

async fn ask(
    interface: Ipv4Addr,
    question: &str,
    until: Instant,
) -> Result<Vec<Found>, std::io::Error> {
    // Linux sends multicast through the interface to whose address the socket is bound.
    let socket = UdpSocket::bind((interface, 0)).await?;
    socket.send_to(question.as_bytes(), GROUP).await?;
    let again = (Instant::now() + AGAIN).min(until);
    let mut found = Vec::new();
    listen(&socket, again, &mut found).await;
    // The first time it went.
    let _ = socket.send_to(question.as_bytes(), GROUP).await;
    listen(&socket, until, &mut found).await;
    Ok(found)
}

/// Collects answers until then.
async fn listen(socket: &UdpSocket, until: Instant, found: &mut Vec<Found>) {
    let mut buffer = vec![0; LARGEST];
    while found.len() < MOST {
        match timeout_at(until, socket.recv_from(&mut buffer)).await {
            Ok(Ok((length, from))) => {
                for device in answers(&buffer[..length], from.ip()) {
                    if found.len() < MOST && !found.contains(&device) {
                        found.push(device);
                    }
                }
            }
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

fn question(id: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\
         <s:Envelope xmlns:s=\"http://www.w3.org/2003/05/soap-envelope\" \
         xmlns:a=\"http://schemas.xmlsoap.org/ws/2004/08/addressing\" \
         xmlns:d=\"http://schemas.xmlsoap.org/ws/2005/04/discovery\" \
         xmlns:dn=\"http://www.onvif.org/ver10/network/wsdl\"><s:Header>\
         <a:MessageID>uuid:{id}</a:MessageID>\
         <a:To>urn:schemas-xmlsoap-org:ws:2005:04:discovery</a:To>\
         <a:Action>http://schemas.xmlsoap.org/ws/2005/04/discovery/Probe</a:Action>\
         </s:Header><s:Body><d:Probe><d:Types>dn:NetworkVideoTransmitter</d:Types></d:Probe>\
         </s:Body></s:Envelope>"
    )
}

/// Reads the devices of an answer; anything else is no device.
fn answers(datagram: &[u8], from: IpAddr) -> Vec<Found> {
    let Ok(xml) = Xml::parse(datagram) else {
        return Vec::new();
    };
    let devices = xml.root().all("ProbeMatch").filter_map(|answer| {
        let services = answer.text_of("XAddrs")?.split_whitespace();
        let endpoint = answer.find("EndpointReference");
        let endpoint = endpoint.and_then(|endpoint| endpoint.text_of("Address"));
        Some(Found {
            from,
            endpoint: endpoint.unwrap_or_default().into(),
            name: name(answer.text_of("Scopes").unwrap_or_default()),
            services: services.take(MOST_ADDRESSES).map(String::from).collect(),
        })
    });
    devices.take(MOST).collect()
}

/// Returns name and model among the scopes: `onvif://www.onvif.org/name/Front%20door`.
fn name(scopes: &str) -> Option<String> {
    let of = |kind: &str| {
        let mut scopes = scopes.split_whitespace();
        let value = scopes.find_map(|scope| {
            let (_, rest) = scope.split_once("://www.onvif.org/")?;
            let (key, value) = rest.split_once('/')?;
            key.eq_ignore_ascii_case(kind).then_some(value)
        })?;
        let value = shown(&percent_decode_str(value).decode_utf8_lossy());
        (!value.is_empty()).then_some(value)
    };
    match (of("name"), of("hardware")) {
        (Some(name), Some(model)) if !name.contains(&model) => Some(format!("{name} {model}")),
        (name, model) => name.or(model),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FROM: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 1, 20));

    /// Hikvision's form, with its many prefixes.
    const HIKVISION: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<env:Envelope xmlns:env="http://www.w3.org/2003/05/soap-envelope" xmlns:wsadis="http://schemas.xmlsoap.org/ws/2004/08/addressing" xmlns:d="http://schemas.xmlsoap.org/ws/2005/04/discovery" xmlns:dn="http://www.onvif.org/ver10/network/wsdl">
<env:Header><wsadis:MessageID>urn:uuid:1</wsadis:MessageID><wsadis:RelatesTo>uuid:2</wsadis:RelatesTo>
<d:AppSequence InstanceId="1637072188" MessageNumber="17"/></env:Header>
<env:Body><d:ProbeMatches><d:ProbeMatch>
<wsadis:EndpointReference><wsadis:Address>urn:uuid:aa-bb</wsadis:Address></wsadis:EndpointReference>
<d:Types>dn:NetworkVideoTransmitter tds:Device</d:Types>
<d:Scopes>onvif://www.onvif.org/type/video_encoder onvif://www.onvif.org/hardware/DS-2CD2042WD-I onvif://www.onvif.org/name/HIKVISION%20DS-2CD2042WD-I onvif://www.onvif.org/location/city/hangzhou</d:Scopes>
<d:XAddrs>http://192.168.1.20/onvif/device_service http://[fe80::1]/onvif/device_service</d:XAddrs>
<d:MetadataVersion>10</d:MetadataVersion></d:ProbeMatch></d:ProbeMatches></env:Body></env:Envelope>"#;

    #[test]
    fn a_device_is_read_from_its_answer_to_the_search() {
        let found = answers(HIKVISION.as_bytes(), FROM);
        assert_eq!(
            found,
            [Found {
                from: FROM,
                endpoint: "urn:uuid:aa-bb".into(),
                name: Some("HIKVISION DS-2CD2042WD-I".into()),
                services: vec![
                    "http://192.168.1.20/onvif/device_service".into(),
                    "http://[fe80::1]/onvif/device_service".into()
                ],
            }]
        );
        // The least that a device says, with other prefixes.
        let least = "<SOAP-ENV:Envelope><SOAP-ENV:Body><w:ProbeMatches><w:ProbeMatch><w:XAddrs>\
                     http://192.168.1.20:8899/onvif</w:XAddrs></w:ProbeMatch></w:ProbeMatches>\
                     </SOAP-ENV:Body></SOAP-ENV:Envelope>";
        let found = answers(least.as_bytes(), FROM);
        assert_eq!((found.len(), &found[0].name), (1, &None));
        for nonsense in [
            "",
            "HTTP/1.1 200 OK\r\n",
            "<Envelope><Body/></Envelope>",
            "<ProbeMatch><XAddrs> </XAddrs></ProbeMatch>",
            "<ProbeMatch/>",
            &HIKVISION[..600],
        ] {
            assert!(answers(nonsense.as_bytes(), FROM).is_empty(), "{nonsense}");
        }
    }

    #[test]
    fn names_of_devices_are_free_of_control_characters() {
        let scopes = "onvif://www.onvif.org/name/%1B%5B31mred%0Ax%E2%80%AEtxt%FF";
        let name = name(scopes).unwrap();
        assert!(!name.contains(char::is_control), "{name:?}");
        assert!(!name.contains('\u{202E}'), "{name:?}");
        let scopes = "ONVIF://www.onvif.org/Name/IPC onvif://www.onvif.org/hardware/H264";
        assert_eq!(super::name(scopes).unwrap(), "IPC H264");
        assert_eq!(super::name("onvif://www.onvif.org/name/ x"), None);
    }

    #[test]
    fn a_device_counts_once_and_a_flood_of_them_ends() {
        let one = &answers(HIKVISION.as_bytes(), FROM)[0];
        let other = Found {
            from: IpAddr::V4(Ipv4Addr::new(192, 168, 1, 21)),
            ..one.clone()
        };
        let found = without_repeats(vec![one.clone(), one.clone(), other.clone()]);
        assert_eq!(found, [one.clone(), other]);
        let many = (0..1000).map(|number| Found {
            endpoint: number.to_string(),
            ..one.clone()
        });
        assert_eq!(without_repeats(many.collect()).len(), MOST);
        let answer = "<a><ProbeMatch><XAddrs>http://x</XAddrs></ProbeMatch></a>";
        assert_eq!(answers(answer.repeat(200).as_bytes(), FROM).len(), MOST);
    }

    #[test]
    fn the_question_is_one_that_the_reader_understands() {
        let text = question("1-2");
        let xml = Xml::parse(text.as_bytes()).unwrap();
        assert_eq!(xml.root().text_of("MessageID"), Some("uuid:1-2"));
        assert_eq!(
            xml.root().text_of("Types"),
            Some("dn:NetworkVideoTransmitter")
        );
    }
}
