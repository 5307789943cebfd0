//! [`Engines`], the handle for everyone who has a picture.
//!
//! Not for the calls themselves (`calls`), not for starting and testing engines (`supervisor`) and
//! not for the breaker's own rules (`breaker`).

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use kith_vision::{Device, Pack};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, watch};

use crate::config::Elsewhere;
use crate::domain::{BreakerCommand, BreakerState, ImageId};
use crate::engines::admission::{Admission, Class, Places, TooManyWait, queue_pictures};
use crate::engines::breaker::Breaker;
use crate::engines::calls::{Recognised, Route};
use crate::engines::client::{EngineReply, Picture};
use crate::engines::instance::{EngineInstance, Place};
use crate::engines::process::ChildSettings;
use crate::engines::state::{Inner, Settings};
use crate::engines::status::EngineReport;
use crate::engines::supervisor::{EngineSupervisor, Persistence};
use crate::queue::Failure;
use crate::status::health::Health;

/// The engines behind the breaker; clones share them. The handle exists before the model pack is
/// loaded; until then every call fails with [`Failure::engine_away`].
#[derive(Clone)]
pub struct Engines {
    inner: Arc<Inner>,
}

impl Engines {
    /// Makes engines that are not running yet, and the task that runs them.
    pub fn new(
        settings: Settings,
        health: Health,
        persistence: Option<Persistence>,
    ) -> (Self, EngineSupervisor) {
        let child = |device: Device, name: &str| ChildSettings {
            device,
            socket: settings.sockets.join(format!("engine-{name}.sock")),
            configuration: settings.configuration.clone(),
            start_deadline: settings.engine.start_deadline,
        };
        let device = settings.engine.device;
        let place = match &settings.engine.elsewhere {
            None => Place::Child(child(device, &device.to_string())),
            Some(Elsewhere::Recognizer { address, paths }) => Place::Recognizer {
                address: address.clone(),
                paths: *paths,
            },
            Some(Elsewhere::Facerecog { address }) => Place::Facerecog(address.clone()),
        };
        let instance = |place| EngineInstance::new(place, settings.deadlines, settings.threads);
        let fallback = settings
            .engine
            .fallback
            .then(|| instance(Place::Child(child(Device::Cpu, "fallback"))));
        let (transitions, written) = mpsc::unbounded_channel();
        let inner = Inner {
            primary: instance(place),
            fallback,
            breaker: Mutex::new(Breaker::new(settings.breaker.clone(), Instant::now())),
            settings,
            pack: OnceLock::new(),
            health,
            places: Places::new(),
            changed: watch::Sender::new(0),
            wake: Notify::new(),
            fallback_calls: AtomicU64::new(0),
            timings: watch::Sender::default(),
            transitions,
        };
        let engines = Self {
            inner: Arc::new(inner),
        };
        let inner = Arc::clone(&engines.inner);
        let supervisor = EngineSupervisor::new(inner, persistence, written);
        (engines, supervisor)
    }

    /// Returns the model pack; `None` until it is loaded.
    pub fn pack(&self) -> Option<&Arc<Pack>> {
        self.inner.pack.get()
    }

    /// Waits until the model pack is loaded.
    pub async fn loaded(&self) -> Arc<Pack> {
        let mut changes = self.changes();
        loop {
            if let Some(pack) = self.pack() {
                return Arc::clone(pack);
            }
            // The sender lives as long as this handle.
            let _ = changes.changed().await;
        }
    }

    /// Returns the number of pictures that the queue may have in flight or being read; 0 while no
    /// engine takes any.
    pub fn capacity(&self) -> usize {
        match self.inner.route() {
            Route::Primary(up) | Route::Fallback(up) => queue_pictures(up.threads()),
            Route::Nowhere(_) => 0,
        }
    }

    /// Returns a channel that changes whenever [`Engines::capacity`] may have changed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changed.subscribe()
    }

    /// Waits until an engine takes pictures, at most this long; the error says why none does.
    pub async fn available(&self, patience: Duration) -> Result<(), String> {
        let mut changes = self.changes();
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            changes.borrow_and_update();
            let Route::Nowhere(why) = self.inner.route() else {
                return Ok(());
            };
            if matches!(
                tokio::time::timeout_at(deadline, changes.changed()).await,
                Err(_) | Ok(Err(_))
            ) {
                return Err(why);
            }
        }
    }

    /// Works like [`Engines::available`], but gives up once the breaker is open and no fallback can
    /// start.
    pub async fn started(&self) -> Result<(), String> {
        let mut changes = self.changes();
        loop {
            changes.borrow_and_update();
            let state = self.inner.breaker().state();
            match self.inner.route() {
                Route::Nowhere(why)
                    if state != BreakerState::Closed && !self.inner.fallback_may_come() =>
                {
                    return Err(why);
                }
                Route::Nowhere(_) => changes.changed().await.map_err(|error| error.to_string())?,
                _ => return Ok(()),
            }
        }
    }

    /// Admits a caller that waits for the answer. To be asked before its picture is in memory.
    pub async fn admit(&self) -> Result<Admission, TooManyWait> {
        self.inner.places.admit().await
    }

    /// Recognises a picture with the engine that takes it now.
    pub async fn recognise(
        &self,
        admission: &Admission,
        image: Option<ImageId>,
        picture: &Picture,
    ) -> Result<Recognised, Failure> {
        self.call(admission.class, image, || picture.clone()).await
    }

    /// Looks for the faces of a camera's frame, once the engine has a thread that nobody else
    /// wants. `newest` gives the frame then. Counts for the breaker as any picture does, and is
    /// never repeated.
    pub async fn look(&self, newest: impl FnOnce() -> Bytes) -> Result<Recognised, Failure> {
        let frame = || Picture {
            bytes: newest(),
            path: None,
            faces_only: true,
        };
        self.call(Class::Look, None, frame).await
    }

    /// Calls the engine that takes pictures now; makes the picture when a thread is free for it.
    async fn call(
        &self,
        class: Class,
        image: Option<ImageId>,
        picture: impl FnOnce() -> Picture,
    ) -> Result<Recognised, Failure> {
        let inner = &self.inner;
        match inner.route() {
            Route::Nowhere(why) => Err(Failure::engine_away(why)),
            Route::Fallback(up) => inner.call_fallback(&up, class, picture).await,
            Route::Primary(up) => inner.call_primary(&up, class, image, picture).await,
        }
    }

    /// Returns the quality of the best face in a camera's frame, 0 to 1; `None` without a face.
    pub async fn best_face(&self, bytes: Bytes) -> Result<Option<f32>, Failure> {
        let picture = Picture {
            bytes,
            path: None,
            faces_only: true,
        };
        let recognised = self.recognise(&Admission::queue(), None, &picture).await?;
        match recognised.answer {
            EngineReply::Faces(reply) => Ok(reply
                .faces
                .iter()
                .map(|face| face.quality)
                .max_by(f32::total_cmp)),
            EngineReply::Name(_) => Err(Failure::engine_away(
                "the configured engine does not return faces",
            )),
        }
    }

    /// Returns the state of breaker and engines.
    pub fn report(&self) -> EngineReport {
        self.inner.report()
    }

    /// Gives the breaker an operator's command; returns its state after it.
    pub fn command(&self, command: BreakerCommand) -> BreakerState {
        let transition = self.inner.breaker().command(command, Instant::now());
        self.inner.announce(transition);
        self.inner.breaker().state()
    }
}
