//! Temperature and throttling of the board, as the kernel's files report them. For display only; no
//! decision depends on it.

use std::path::{Path, PathBuf};

use serde::Serialize;
use utoipa::ToSchema;

/// Plausible temperatures: a sensor that is off reports nonsense.
const SENSIBLE: std::ops::RangeInclusive<f64> = -60.0..=200.0;
/// Prefixes of drivers that cool by doing less; fans are no throttling.
const HOLDING_BACK: [&str; 6] = [
    "Processor",
    "cpufreq",
    "devfreq",
    "intel_powerclamp",
    "thermal-cpufreq",
    "thermal-devfreq",
];
/// Bits of a Raspberry Pi's firmware. The same bits shifted by 16 tell about any time since the
/// board started.
const FIRMWARE: [(u32, &str); 4] = [
    (0, "the supply voltage is too low"),
    (1, "the processor's clock is capped"),
    (2, "the firmware throttles the board"),
    (3, "the board has reached its soft limit of temperature"),
];

/// Reader of the kernel's files.
#[derive(Debug, Clone)]
pub struct Board {
    sys: PathBuf,
}

/// Temperature and throttling.
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
pub struct BoardReport {
    /// Hottest sensor; null without a sensor.
    pub celsius: Option<f64>,
    /// All sensors.
    pub sensors: Vec<Sensor>,
    /// Throttled now; null when the board does not say.
    pub throttled: Option<bool>,
    /// Reasons for throttling now, in words.
    pub reasons: Vec<String>,
    /// Reasons for throttling at some time since the board started, where it says.
    pub earlier: Vec<String>,
}

/// A temperature sensor.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Sensor {
    /// Name given by its driver.
    pub name: String,
    /// Temperature in degrees Celsius.
    pub celsius: f64,
}

impl Board {
    /// Returns a reader for this board.
    pub fn here() -> Self {
        Self::at(Path::new("/sys"))
    }

    /// Returns a reader with another `/sys`, for tests.
    pub fn at(sys: &Path) -> Self {
        Self { sys: sys.into() }
    }

    /// Reads all sensors, some of which are slow.
    pub async fn report(&self) -> BoardReport {
        let board = self.clone();
        tokio::task::spawn_blocking(move || board.look())
            .await
            .unwrap_or_default()
    }

    fn look(&self) -> BoardReport {
        let sensors = self.sensors();
        let (mut reasons, mut earlier) = (Vec::new(), Vec::new());
        let firmware = self.firmware();
        if let Some(bits) = firmware {
            let set = |shift: u32| {
                FIRMWARE
                    .iter()
                    .filter(move |(bit, _)| bits >> (bit + shift) & 1 == 1)
            };
            reasons.extend(set(0).map(|(_, what)| what.to_string()));
            earlier.extend(set(16).map(|(_, what)| what.to_string()));
        }
        let cooling = self.cooling();
        reasons.extend(
            cooling
                .iter()
                .filter(|(_, at, _)| *at > 0)
                .map(|(name, at, most)| format!("{name} at {at} of {most}")),
        );
        let supply = self.supply_too_low();
        if supply == Some(true) && firmware.is_none() {
            reasons.push(FIRMWARE[0].1.into());
        }
        let says = firmware.is_some() || supply.is_some() || !cooling.is_empty();
        BoardReport {
            celsius: sensors
                .iter()
                .map(|sensor| sensor.celsius)
                .max_by(f64::total_cmp),
            throttled: says.then_some(!reasons.is_empty()),
            sensors,
            reasons,
            earlier,
        }
    }

    fn sensors(&self) -> Vec<Sensor> {
        let zone = |folder: PathBuf| {
            let celsius = read(&folder.join("temp"))?.parse::<f64>().ok()? / 1000.0;
            let name = read(&folder.join("type")).unwrap_or_else(|| name(&folder));
            SENSIBLE
                .contains(&celsius)
                .then_some(Sensor { name, celsius })
        };
        folders(&self.sys.join("class/thermal"), "thermal_zone")
            .into_iter()
            .filter_map(zone)
            .collect()
    }

    /// Returns the devices that cool by doing less: name, current state and maximum state.
    fn cooling(&self) -> Vec<(String, i64, i64)> {
        let device = |folder: PathBuf| {
            let name = read(&folder.join("type"))?;
            let number = |file: &str| read(&folder.join(file))?.parse::<i64>().ok();
            let known = HOLDING_BACK.iter().any(|start| name.starts_with(start));
            known.then_some((name, number("cur_state")?, number("max_state")?))
        };
        folders(&self.sys.join("class/thermal"), "cooling_device")
            .into_iter()
            .filter_map(device)
            .collect()
    }

    /// Reads a Raspberry Pi's firmware flags, at `soc/soc:firmware` or with the bus's address in
    /// both names.
    fn firmware(&self) -> Option<u32> {
        let inside = |bus: PathBuf| {
            folders(&bus, "soc")
                .into_iter()
                .filter(|folder| name(folder).ends_with(":firmware"))
        };
        let mut places = folders(&self.sys.join("devices/platform"), "soc")
            .into_iter()
            .flat_map(inside);
        let bits = places.find_map(|place| read(&place.join("get_throttled")))?;
        u32::from_str_radix(bits.trim_start_matches("0x"), 16).ok()
    }

    /// Reads the supply voltage alarm of a Raspberry Pi through the driver of newer kernels.
    fn supply_too_low(&self) -> Option<bool> {
        let drivers = folders(&self.sys.join("class/hwmon"), "hwmon").into_iter();
        let mut volts = drivers
            .filter(|folder| read(&folder.join("name")).is_some_and(|name| name == "rpi_volt"));
        Some(read(&volts.next()?.join("in0_lcrit_alarm"))? == "1")
    }
}

fn read(file: &Path) -> Option<String> {
    Some(std::fs::read_to_string(file).ok()?.trim().to_string())
}

fn name(folder: &Path) -> String {
    folder
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// Returns the entries of a folder with this prefix, sorted.
fn folders(folder: &Path, start: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(Result::ok);
    let mut found: Vec<_> = entries
        .map(|entry| entry.path())
        .filter(|path| name(path).starts_with(start))
        .collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the report for a `/sys` with these files.
    fn look(files: &[(&str, &str)]) -> BoardReport {
        let sys = tempfile::tempdir().unwrap();
        for (file, text) in files {
            let path = sys.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, format!("{text}\n")).unwrap();
        }
        Board::at(sys.path()).look()
    }

    #[test]
    fn a_silent_board_is_neither_hot_nor_throttled_nor_well() {
        assert_eq!(look(&[]), BoardReport::default());
    }

    #[test]
    fn a_raspberry_pi_tells_its_heat_and_its_firmwares_throttling() {
        let zone = [
            ("class/thermal/thermal_zone0/type", "cpu-thermal"),
            ("class/thermal/thermal_zone0/temp", "81234"),
        ];
        for place in [
            "devices/platform/soc/soc:firmware",
            "devices/platform/soc@107c000000/soc@107c000000:firmware",
        ] {
            let file = format!("{place}/get_throttled");
            let report = look(&[&zone[..], &[(&file, "50004")]].concat());
            assert_eq!(
                (report.celsius, report.throttled),
                (Some(81.234), Some(true))
            );
            assert_eq!(report.sensors[0].name, "cpu-thermal");
            assert_eq!(report.reasons, ["the firmware throttles the board"]);
            assert_eq!(
                report.earlier,
                [
                    "the supply voltage is too low",
                    "the firmware throttles the board"
                ]
            );
            assert_eq!(look(&[(&file, "0")]).throttled, Some(false));
        }
        let volts = |alarm| {
            look(&[
                ("class/hwmon/hwmon1/name", "rpi_volt"),
                ("class/hwmon/hwmon1/in0_lcrit_alarm", alarm),
            ])
        };
        assert_eq!(
            (volts("0").throttled, volts("1").throttled),
            (Some(false), Some(true))
        );
    }

    #[test]
    fn a_jetsons_dead_sensors_and_its_fan_are_no_throttling() {
        let files = [
            ("class/thermal/thermal_zone0/type", "cpu-thermal"),
            ("class/thermal/thermal_zone0/temp", "52343"),
            ("class/thermal/thermal_zone1/type", "gpu-thermal"),
            ("class/thermal/thermal_zone1/temp", "50875"),
            ("class/thermal/thermal_zone2/type", "cv0-thermal"),
            ("class/thermal/thermal_zone2/temp", "-256000"),
            ("class/thermal/thermal_zone3/type", "soc"),
            ("class/thermal/cooling_device0/type", "pwm-fan"),
            ("class/thermal/cooling_device0/cur_state", "3"),
            ("class/thermal/cooling_device0/max_state", "3"),
            ("class/thermal/cooling_device1/type", "thermal-cpufreq-0"),
            ("class/thermal/cooling_device1/cur_state", "0"),
            ("class/thermal/cooling_device1/max_state", "19"),
        ];
        let report = look(&files);
        assert_eq!(
            (report.celsius, report.sensors.len(), report.throttled),
            (Some(52.343), 2, Some(false))
        );
        let mut hot = files;
        hot[11].1 = "4";
        assert_eq!(look(&hot).reasons, ["thermal-cpufreq-0 at 4 of 19"]);
    }

    #[test]
    fn a_pc_with_an_idle_power_clamp_is_not_throttled() {
        let report = look(&[
            ("class/thermal/cooling_device0/type", "intel_powerclamp"),
            ("class/thermal/cooling_device0/cur_state", "-1"),
            ("class/thermal/cooling_device0/max_state", "50"),
        ]);
        assert_eq!(report.throttled, Some(false));
    }
}
