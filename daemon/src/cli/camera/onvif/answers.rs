//! Answers of ONVIF's services, read into what the list shows. Namespaces and prefixes are the
//! vendors' own and are not looked at.

use time::{Date, Month, OffsetDateTime, Time};

use super::xml::{Node, Xml};
use crate::cli::camera::shown;

/// Most profiles of a device that are listed.
const MOST_PROFILES: usize = 16;
/// Most bytes of a profile's token or of an address.
const LONGEST: usize = 2048;

/// Reasons why an answer is of no use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The device wants a login, or another one.
    Unauthorised,
    /// It says no, for this reason.
    Fault(String),
    /// It does not speak SOAP.
    Nonsense(String),
}

/// A media service: the address, and the edition that it speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Media {
    /// Its address, as the device wrote it.
    pub address: String,
    /// True if it is the second edition, which knows H.265.
    pub second: bool,
}

/// One way in which a camera sends its video.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    /// The device's own identifier of it.
    pub token: String,
    /// Name for people.
    pub name: String,
    /// Width and height in pixels.
    pub size: Option<(u32, u32)>,
    /// `H264`, `H265`, `JPEG`, …
    pub codec: Option<String>,
    /// Most frames a second.
    pub rate: Option<f64>,
}

/// Returns the body of an answer.
fn body(xml: &Xml) -> Result<Node<'_>, Refusal> {
    let envelope = xml.root().child("Envelope");
    let body = envelope.and_then(|envelope| envelope.child("Body"));
    let body = body.ok_or_else(|| Refusal::Nonsense("its answer is no SOAP".into()))?;
    let Some(fault) = body.child("Fault") else {
        return Ok(body);
    };
    // SOAP 1.2 has codes in `Value`, SOAP 1.1 in `faultcode`.
    let mut codes = fault.all("Value").chain(fault.all("faultcode"));
    let reason = fault.text_of("Text").or(fault.text_of("faultstring"));
    let reason = reason.unwrap_or_default();
    let refused = codes.any(|code| {
        let code = code.text();
        ["NotAuthorized", "FailedAuthentication", "InvalidSecurity"]
            .iter()
            .any(|wanted| code.ends_with(wanted))
    });
    let words = reason.to_ascii_lowercase();
    if refused || words.contains("not authorized") || words.contains("unauthorized") {
        return Err(Refusal::Unauthorised);
    }
    let code = fault.all("Value").last().map(Node::text);
    let text = match reason {
        "" => code.or(fault.text_of("faultcode")).unwrap_or("no reason"),
        reason => reason,
    };
    Err(Refusal::Fault(shown(text)))
}

fn document(bytes: &[u8]) -> Result<Xml, Refusal> {
    Xml::parse(bytes).map_err(|why| Refusal::Nonsense(format!("its answer is no XML: {why}")))
}

/// Reads the device's clock, in UTC; `None` if it does not say.
pub fn clock(bytes: &[u8]) -> Result<Option<OffsetDateTime>, Refusal> {
    let xml = document(bytes)?;
    let utc = body(&xml)?.find("UTCDateTime");
    Ok(utc.and_then(|utc| {
        let number = |name: &str| utc.text_of(name)?.parse::<u8>().ok();
        let year = utc.text_of("Year")?.parse().ok()?;
        let month = Month::try_from(number("Month")?).ok()?;
        let date = Date::from_calendar_date(year, month, number("Day")?).ok()?;
        // Devices count leap seconds as 60.
        let second = number("Second")?.min(59);
        let time = Time::from_hms(number("Hour")?, number("Minute")?, second).ok()?;
        Some(date.with_time(time).assume_utc())
    }))
}

/// Reads the media services among all services, the second edition first.
pub fn services(bytes: &[u8]) -> Result<Vec<Media>, Refusal> {
    let xml = document(bytes)?;
    let mut found: Vec<_> = body(&xml)?
        .all("Service")
        .filter_map(|service| {
            let second = match service.text_of("Namespace")? {
                "http://www.onvif.org/ver10/media/wsdl" => false,
                "http://www.onvif.org/ver20/media/wsdl" => true,
                _ => return None,
            };
            let address = bounded(service.text_of("XAddr")?)?;
            Some(Media { address, second })
        })
        .collect();
    found.sort_by_key(|media| !media.second);
    found.dedup_by_key(|media| media.second);
    Ok(found)
}

/// Reads the media service among the capabilities of devices that know no list of services.
pub fn capabilities(bytes: &[u8]) -> Result<Vec<Media>, Refusal> {
    let xml = document(bytes)?;
    let media = body(&xml)?.find("Media");
    let address = media.and_then(|media| bounded(media.text_of("XAddr")?));
    Ok(address
        .map(|address| Media {
            address,
            second: false,
        })
        .into_iter()
        .collect())
}

/// Reads manufacturer and model.
pub fn model(bytes: &[u8]) -> Result<Option<String>, Refusal> {
    let xml = document(bytes)?;
    let body = body(&xml)?;
    let words: Vec<_> = ["Manufacturer", "Model"]
        .iter()
        .filter_map(|name| body.text_of(name).map(shown))
        .collect();
    Ok(match words.as_slice() {
        [] => None,
        [maker, model] if model.starts_with(maker) => Some(model.clone()),
        words => Some(words.join(" ")),
    })
}

/// Reads the profiles that have video.
pub fn profiles(bytes: &[u8]) -> Result<Vec<Profile>, Refusal> {
    let xml = document(bytes)?;
    let body = body(&xml)?;
    let profiles = body.all("Profiles").filter_map(|profile| {
        let token = bounded(profile.token()?)?;
        let encoder = profile
            .find("VideoEncoderConfiguration")
            .or_else(|| profile.find("VideoEncoder"));
        let video = profile
            .find("VideoSourceConfiguration")
            .or_else(|| profile.find("VideoSource"));
        // Sound or data only.
        encoder.or(video)?;
        let name = profile.child("Name").map(|name| shown(name.text()));
        let size = encoder.and_then(|encoder| {
            let size = encoder.find("Resolution")?;
            let number = |name: &str| size.text_of(name)?.parse().ok();
            Some((number("Width")?, number("Height")?))
        });
        let rate = encoder
            .and_then(|encoder| encoder.text_of("FrameRateLimit")?.parse().ok())
            .filter(|rate: &f64| (0.0..=1000.0).contains(rate));
        Some(Profile {
            name: name
                .filter(|name| !name.is_empty())
                .unwrap_or_else(|| shown(&token)),
            token,
            size,
            codec: encoder.and_then(|encoder| encoder.text_of("Encoding").map(shown)),
            rate: rate.filter(|rate| *rate > 0.0),
        })
    });
    Ok(profiles.take(MOST_PROFILES).collect())
}

/// Reads the address of a stream or of a snapshot, as the device wrote it.
pub fn address(bytes: &[u8]) -> Result<Option<String>, Refusal> {
    let xml = document(bytes)?;
    Ok(body(&xml)?.text_of("Uri").and_then(bounded))
}

fn bounded(text: &str) -> Option<String> {
    (text.len() <= LONGEST).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soap(body: &str) -> Vec<u8> {
        format!(
            "<?xml version=\"1.0\"?><SOAP-ENV:Envelope xmlns:SOAP-ENV=\"http://www.w3.org/2003/05/\
             soap-envelope\"><SOAP-ENV:Header/><SOAP-ENV:Body>{body}</SOAP-ENV:Body>\
             </SOAP-ENV:Envelope>"
        )
        .into_bytes()
    }

    #[test]
    fn refusals_of_every_vendor_are_told_apart() {
        // Hikvision, gSOAP, Dahua, SOAP 1.1, and one with words only.
        for refused in [
            "<env:Fault><env:Code><env:Value>env:Sender</env:Value><env:Subcode><env:Value>\
             ter:NotAuthorized</env:Value></env:Subcode></env:Code><env:Reason><env:Text \
             xml:lang=\"en\">The action requested requires authorization</env:Text></env:Reason>\
             </env:Fault>",
            "<s:Fault><s:Code><s:Value>s:Sender</s:Value><s:Subcode><s:Value>\
             wsse:FailedAuthentication</s:Value></s:Subcode></s:Code></s:Fault>",
            "<Fault><faultcode>ns1:FailedAuthentication</faultcode><faultstring>x</faultstring>\
             </Fault>",
            "<Fault><Reason><Text>Sender Not Authorized</Text></Reason></Fault>",
        ] {
            assert_eq!(
                profiles(&soap(refused)),
                Err(Refusal::Unauthorised),
                "{refused}"
            );
        }
        for (fault, words) in [
            (
                "<Fault><Code><Value>Receiver</Value><Subcode><Value>ter:ActionNotSupported\
                 </Value></Subcode></Code></Fault>",
                "ter:ActionNotSupported",
            ),
            (
                "<Fault><Reason><Text>no\u{9b}2J such</Text></Reason></Fault>",
                "no\u{FFFD}2J such",
            ),
            ("<Fault/>", "no reason"),
        ] {
            let refusal = address(&soap(fault));
            assert_eq!(refusal, Err(Refusal::Fault(words.into())), "{fault}");
        }
        for nonsense in [
            "",
            "<html><body>404</body></html>",
            "{\"error\": 1}",
            "<Envelope><Header/></Envelope>",
            "<!DOCTYPE x [<!ENTITY a \"b\">]><Envelope><Body>&a;</Body></Envelope>",
            "<Envelope><Body>",
        ] {
            let refusal = services(nonsense.as_bytes());
            assert!(matches!(refusal, Err(Refusal::Nonsense(_))), "{nonsense}");
        }
    }

    #[test]
    fn the_clock_of_a_device_is_read_or_left_out() {
        let time = |utc: &str| {
            soap(&format!(
                "<tds:GetSystemDateAndTimeResponse><tds:SystemDateAndTime>\
                 <tt:DateTimeType>NTP</tt:DateTimeType>{utc}<tt:LocalDateTime><tt:Time>\
                 <tt:Hour>9</tt:Hour></tt:Time></tt:LocalDateTime></tds:SystemDateAndTime>\
                 </tds:GetSystemDateAndTimeResponse>"
            ))
        };
        let utc = |hour: u32, month: u32, second: u32| {
            format!(
                "<tt:UTCDateTime><tt:Time><tt:Hour>{hour}</tt:Hour><tt:Minute>50</tt:Minute>\
                 <tt:Second>{second}</tt:Second></tt:Time><tt:Date><tt:Year>2010</tt:Year>\
                 <tt:Month>{month}</tt:Month><tt:Day>16</tt:Day></tt:Date></tt:UTCDateTime>"
            )
        };
        let read = clock(&time(&utc(7, 9, 45))).unwrap().unwrap();
        assert_eq!(read, time::macros::datetime!(2010-09-16 07:50:45 UTC));
        let leap = clock(&time(&utc(7, 9, 60))).unwrap().unwrap();
        assert_eq!(leap.second(), 59);
        assert_eq!(clock(&time(&utc(25, 9, 45))), Ok(None));
        assert_eq!(clock(&time(&utc(7, 13, 45))), Ok(None));
        assert_eq!(clock(&time("")), Ok(None));
    }

    #[test]
    fn media_services_are_found_in_both_kinds_of_lists() {
        let service = |namespace: &str, address: &str| {
            format!(
                "<tds:Service><tds:Namespace>{namespace}</tds:Namespace><tds:XAddr>{address}\
                 </tds:XAddr><tds:Version><tt:Major>2</tt:Major></tds:Version></tds:Service>"
            )
        };
        let list = [
            service("http://www.onvif.org/ver10/device/wsdl", "http://c/device"),
            service("http://www.onvif.org/ver10/media/wsdl", "http://c/media"),
            service("http://www.onvif.org/ver20/media/wsdl", "http://c/media2"),
            service("http://www.onvif.org/ver10/media/wsdl", ""),
        ];
        let media = |address: &str, second| Media {
            address: address.into(),
            second,
        };
        let found = services(&soap(&list.concat())).unwrap();
        assert_eq!(
            found,
            [
                media("http://c/media2", true),
                media("http://c/media", false)
            ]
        );
        let old = "<tds:Capabilities><tt:Device><tt:XAddr>http://c/d</tt:XAddr></tt:Device>\
                   <tt:Media><tt:XAddr>http://c/m</tt:XAddr><tt:StreamingCapabilities/></tt:Media>\
                   </tds:Capabilities>";
        let found = capabilities(&soap(old)).unwrap();
        assert_eq!(found, [media("http://c/m", false)]);
        assert!(
            capabilities(&soap("<tds:Capabilities/>"))
                .unwrap()
                .is_empty()
        );
        assert!(services(&soap("")).unwrap().is_empty());
    }

    #[test]
    fn profiles_of_both_editions_are_read() {
        let first = "<trt:GetProfilesResponse><trt:Profiles fixed=\"true\" token=\"Profile_1\">\
            <tt:VideoSourceConfiguration token=\"V\"><tt:Name>Source</tt:Name><tt:Bounds \
            height=\"1\" width=\"2\"/></tt:VideoSourceConfiguration><tt:Name>mainStream</tt:Name>\
            <tt:VideoEncoderConfiguration token=\"E\"><tt:Name>Enc</tt:Name>\
            <tt:Encoding>H264</tt:Encoding><tt:Resolution><tt:Width>2688</tt:Width>\
            <tt:Height>1520</tt:Height></tt:Resolution><tt:RateControl>\
            <tt:FrameRateLimit>25</tt:FrameRateLimit></tt:RateControl>\
            </tt:VideoEncoderConfiguration></trt:Profiles>\
            <trt:Profiles token=\"sound\"><tt:AudioEncoderConfiguration/></trt:Profiles>\
            <trt:Profiles token=\"bare\"><tt:VideoSourceConfiguration/></trt:Profiles>\
            <trt:Profiles><tt:Name>no token</tt:Name></trt:Profiles></trt:GetProfilesResponse>";
        let found = profiles(&soap(first)).unwrap();
        let main = Profile {
            token: "Profile_1".into(),
            name: "mainStream".into(),
            size: Some((2688, 1520)),
            codec: Some("H264".into()),
            rate: Some(25.0),
        };
        assert_eq!(found.len(), 2);
        assert_eq!(found[0], main);
        assert_eq!((found[1].name.as_str(), found[1].size), ("bare", None));
        let second = "<tr2:GetProfilesResponse><tr2:Profiles token=\"p&quot;0\"><tr2:Name>a</tr2:Name>\
            <tr2:Configurations><tr2:VideoSource token=\"s\"/><tr2:VideoEncoder token=\"e\">\
            <tt:Encoding>H265</tt:Encoding><tt:Resolution><tt:Width>x</tt:Width>\
            <tt:Height>-1</tt:Height></tt:Resolution><tt:RateControl ConstantBitRate=\"false\">\
            <tt:FrameRateLimit>12.5</tt:FrameRateLimit></tt:RateControl></tr2:VideoEncoder>\
            </tr2:Configurations></tr2:Profiles></tr2:GetProfilesResponse>";
        let found = profiles(&soap(second)).unwrap();
        assert_eq!(found[0].token, "p\"0");
        assert_eq!((found[0].size, found[0].rate), (None, Some(12.5)));
        assert_eq!(found[0].codec.as_deref(), Some("H265"));
        let many = "<Profiles token=\"t\"><VideoEncoder/></Profiles>".repeat(100);
        assert_eq!(profiles(&soap(&many)).unwrap().len(), MOST_PROFILES);
        let long = format!(
            "<Profiles token=\"{}\"><VideoEncoder/></Profiles>",
            "t".repeat(5000)
        );
        assert!(profiles(&soap(&long)).unwrap().is_empty());
        for odd in ["NaN", "inf", "-5", "0", "1e9"] {
            let text = second.replace("12.5", odd);
            assert_eq!(profiles(&soap(&text)).unwrap()[0].rate, None, "{odd}");
        }
    }

    #[test]
    fn addresses_and_models_are_read_as_far_as_they_are_there() {
        let first = "<trt:GetStreamUriResponse><trt:MediaUri><tt:Uri>\n rtsp://192.168.1.20:554/\
                     cam?a=1&amp;b=2 </tt:Uri><tt:Timeout>PT0S</tt:Timeout></trt:MediaUri>\
                     </trt:GetStreamUriResponse>";
        let read = address(&soap(first)).unwrap();
        assert_eq!(read.as_deref(), Some("rtsp://192.168.1.20:554/cam?a=1&b=2"));
        let second =
            "<tr2:GetStreamUriResponse><tr2:Uri>rtsp://c/</tr2:Uri></tr2:GetStreamUriResponse>";
        assert_eq!(
            address(&soap(second)).unwrap().as_deref(),
            Some("rtsp://c/")
        );
        assert_eq!(address(&soap("<Uri/>")), Ok(None));
        let of = |text: &str| model(&soap(text)).unwrap();
        let both = "<Manufacturer>Dahua</Manufacturer><Model>IPC-HDW</Model>";
        assert_eq!(of(both).as_deref(), Some("Dahua IPC-HDW"));
        let twice = "<Manufacturer>AXIS</Manufacturer><Model>AXIS M1</Model>";
        assert_eq!(of(twice).as_deref(), Some("AXIS M1"));
        assert_eq!(of("<Model>x</Model>").as_deref(), Some("x"));
        assert_eq!(of(""), None);
    }
}
