//! Description of the machine that was measured.

use std::path::Path;

use serde::Serialize;

/// Processor features that decide the speed of products: the kernel's name and the common one.
const ABILITIES: [(&str, &str); 9] = [
    ("asimddp", "dotprod"),
    ("asimdhp", "fp16"),
    ("i8mm", "i8mm"),
    ("sve", "sve"),
    ("avx2", "avx2"),
    ("fma", "fma"),
    ("avx_vnni", "avx_vnni"),
    ("avx512f", "avx512f"),
    ("avx512_vnni", "avx512_vnni"),
];

/// The machine that was measured.
#[derive(Debug, PartialEq, Serialize)]
pub struct Machine {
    /// Name of the board or its processor.
    pub model: String,
    /// Cores this process may use.
    pub cores: usize,
    /// Architecture kithd was built for.
    pub architecture: &'static str,
    /// Vector instructions that decide the speed.
    pub abilities: Vec<&'static str>,
    /// Version of the kernel.
    pub kernel: String,
    /// Frequency governor of the first core.
    pub governor: Option<String>,
    /// Highest frequency of the first core.
    pub megahertz: Option<u64>,
}

impl Machine {
    /// Reads the machine's description; `root` is `/` except in tests.
    pub fn read(root: &Path) -> Self {
        let read = |file: &str| {
            let text = std::fs::read_to_string(root.join(file)).ok()?;
            Some(
                text.trim_matches(|c: char| c.is_whitespace() || c == '\0')
                    .to_owned(),
            )
        };
        let processor = read("proc/cpuinfo").unwrap_or_default();
        let line = |key: &str| {
            let named = processor.lines().find(|line| {
                line.split(':')
                    .next()
                    .is_some_and(|name| name.trim() == key)
            });
            named
                .and_then(|line| line.split_once(':'))
                .map(|(_, value)| value.trim())
        };
        let has: Vec<_> = line("Features")
            .or(line("flags"))
            .unwrap_or_default()
            .split_whitespace()
            .collect();
        let unknown = || "an unknown board".to_owned();
        Self {
            model: read("proc/device-tree/model")
                .or_else(|| line("model name").map(str::to_owned))
                .unwrap_or_else(unknown),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            architecture: std::env::consts::ARCH,
            abilities: ABILITIES
                .iter()
                .filter(|(name, _)| has.contains(name))
                .map(|(_, name)| *name)
                .collect(),
            kernel: read("proc/sys/kernel/osrelease").unwrap_or_default(),
            governor: read("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            megahertz: read("sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq")
                .and_then(|kilohertz| Some(kilohertz.parse::<u64>().ok()? / 1000)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(files: &[(&str, &str)]) -> Machine {
        let root = tempfile::tempdir().unwrap();
        for (file, text) in files {
            let path = root.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        Machine::read(root.path())
    }

    #[test]
    fn a_raspberry_pi_is_named_with_what_its_processor_can_do() {
        let found = machine(&[
            ("proc/device-tree/model", "Raspberry Pi 5 Model B Rev 1.0\0"),
            (
                "proc/cpuinfo",
                "processor\t: 0\nFeatures\t: fp asimd asimdhp asimddp\nCPU part\t: 0xd0b\n",
            ),
            ("proc/sys/kernel/osrelease", "6.6.31+rpt-rpi-2712\n"),
            (
                "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor",
                "ondemand\n",
            ),
            (
                "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq",
                "2400000\n",
            ),
        ]);
        assert_eq!(found.model, "Raspberry Pi 5 Model B Rev 1.0");
        assert_eq!(found.abilities, ["dotprod", "fp16"]);
        assert_eq!(
            (found.kernel.as_str(), found.megahertz),
            ("6.6.31+rpt-rpi-2712", Some(2400))
        );
        assert_eq!(found.governor.as_deref(), Some("ondemand"));
    }

    #[test]
    fn a_pc_is_named_by_its_processor_and_silence_is_no_failure() {
        let found = machine(&[(
            "proc/cpuinfo",
            "model name\t: AMD EPYC\nflags\t\t: sse2 avx2 fma avx512_vnni\n",
        )]);
        assert_eq!((found.model.as_str(), found.governor), ("AMD EPYC", None));
        assert_eq!(found.abilities, ["avx2", "fma", "avx512_vnni"]);
        assert_eq!(machine(&[]).model, "an unknown board");
    }
}
