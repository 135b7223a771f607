//! The one door to people. Work tells a [`Reporter`] what happens; the listener behind it decides how it looks.

mod event;

use std::sync::Arc;

pub use event::Event;

/// Shows events. Called from any task; must not block for long.
pub trait Listener: Send + Sync {
    fn on(&self, event: &Event);
}

/// A cheap handle to the listener of this run.
#[derive(Clone)]
pub struct Reporter(Arc<dyn Listener>);

impl Reporter {
    pub fn new(listener: impl Listener + 'static) -> Self {
        Self(Arc::new(listener))
    }

    pub fn send(&self, event: Event) {
        self.0.on(&event);
    }
}
