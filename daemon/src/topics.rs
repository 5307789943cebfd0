//! The names of this board's MQTT topics, in one place. Their publishers are `sources`, `sinks` and
//! `commands`.

/// Topics below `<prefix>/<device>/`.
#[derive(Debug, Clone)]
pub struct Topics {
    prefix: String,
    device: String,
}

impl Topics {
    /// Makes the topics of one board.
    pub fn new(prefix: &str, device: &str) -> Self {
        Self {
            prefix: prefix.into(),
            device: device.into(),
        }
    }

    fn below(&self, rest: &str) -> String {
        format!("{}/{}/{rest}", self.prefix, self.device)
    }

    /// A filter for the topics of all boards.
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

    /// Out and in: the test message of `kithd doctor`.
    pub fn echo(&self) -> String {
        self.below("echo")
    }

    /// Out: every finished image.
    pub fn results(&self) -> String {
        self.below("result")
    }

    /// Out: a sighting began, changed or ended.
    pub fn sightings(&self) -> String {
        self.below("sighting")
    }

    /// Out: a person was recognised.
    pub fn person(&self, level: &str) -> String {
        self.below(&format!("person/{level}"))
    }

    /// Out: the crop of the last image's best face.
    pub fn last_face(&self) -> String {
        self.below("face")
    }

    /// Out: where the last face comes from.
    pub fn last_face_origin(&self) -> String {
        self.below("face/origin")
    }

    /// Out: who is here.
    pub fn presence(&self) -> String {
        self.below("presence")
    }

    /// Out, retained: online or offline.
    pub fn status(&self) -> String {
        self.below("status")
    }

    /// Out, retained: the state of every part.
    pub fn health(&self) -> String {
        self.below("health")
    }
}
