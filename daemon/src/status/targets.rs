//! Targets of notifications: counts, the last result, and a test, for API, command line and metrics.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use serde::Serialize;
use utoipa::ToSchema;

/// Sends a test to a target; both results are a sentence.
pub type Test = Arc<dyn Fn() -> BoxFuture<'static, Result<String, String>> + Send + Sync>;

/// Each target by its name; clones share them.
#[derive(Clone, Default)]
pub struct Targets(Arc<Mutex<BTreeMap<String, (TargetReport, Test)>>>);

/// A target of notifications. Counts are since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct TargetReport {
    /// Its name.
    pub name: String,
    /// webhook or ntfy.
    pub service: &'static str,
    /// Its server, without the path.
    pub address: String,
    /// Notifications that wait, or are tried again.
    pub waiting: u64,
    /// Sent ones.
    pub sent: u64,
    /// Notifications that the target refused for good.
    pub refused: u64,
    /// Notifications that were no news any more before they could be sent.
    pub expired: u64,
    /// Notifications that were not true any more before they were sent.
    pub dropped: u64,
    /// When the last one was sent, wall clock.
    pub last_sent_ms: Option<i64>,
    /// Reason why the last attempt failed.
    pub trouble: Option<String>,
}

impl Targets {
    /// Adds a target.
    pub fn add(&self, report: TargetReport, test: Test) {
        self.0.lock().insert(report.name.clone(), (report, test));
    }

    /// Changes the report of a target, and returns it.
    pub fn update(&self, name: &str, change: impl FnOnce(&mut TargetReport)) -> TargetReport {
        let mut targets = self.0.lock();
        let Some((report, _)) = targets.get_mut(name) else {
            return TargetReport::default();
        };
        change(report);
        report.clone()
    }

    /// Returns all reports.
    pub fn all(&self) -> Vec<TargetReport> {
        let targets = self.0.lock();
        targets.values().map(|(report, _)| report.clone()).collect()
    }

    /// Returns the test of a target.
    pub fn test(&self, name: &str) -> Option<Test> {
        self.0.lock().get(name).map(|(_, test)| Arc::clone(test))
    }
}
