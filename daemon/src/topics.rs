//! The names of this board's MQTT topics, in one place. Who publishes what there is in `sources`,
//! `sinks` and `commands`.

/// `<prefix>/<device>/…`.
#[derive(Debug, Clone)]
pub struct Topics {
    prefix: String,
    device: String,
}

impl Topics {
    /// Those of one board.
    pub fn new(prefix: &str, device: &str) -> Self {
        Self {
            prefix: prefix.into(),
            device: device.into(),
        }
    }

    fn below(&self, rest: &str) -> String {
        format!("{}/{}/{rest}", self.prefix, self.device)
    }

    /// A filter for those of all boards.
    pub fn of_all_boards(&self) -> String {
        format!("{}/#", self.prefix)
    }

    /// In: paths of pictures.
    pub fn paths(&self) -> String {
        self.below("image/post")
    }

    /// In: the bytes of a picture.
    pub fn pictures(&self) -> String {
        self.below("image")
    }

    /// In: a command.
    pub fn command(&self, name: &str) -> String {
        self.below(&format!("command/{name}"))
    }

    /// Out: the answer to a command whose sender named no other topic.
    pub fn answer(&self, name: &str) -> String {
        self.below(&format!("answer/{name}"))
    }

    /// Out and in: what `kithd doctor` says to itself.
    pub fn echo(&self) -> String {
        self.below("echo")
    }

    /// Out: every finished image.
    pub fn results(&self) -> String {
        self.below("result")
    }

    /// Out: somebody was recognised.
    pub fn person(&self, level: &str) -> String {
        self.below(&format!("person/{level}"))
    }

    /// Out: the crop of the last image's best face.
    pub fn last_face(&self) -> String {
        self.below("face")
    }

    /// Out, retained: online or offline.
    pub fn status(&self) -> String {
        self.below("status")
    }

    /// Out, retained: how every part is.
    pub fn health(&self) -> String {
        self.below("health")
    }
}
