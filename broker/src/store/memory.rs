//! The store of a single node: in this process, gone with it.

use foldhash::{HashMap, HashMapExt};
use parking_lot::Mutex;

use crate::access::DeviceRecord;

#[derive(Debug)]
pub struct MemoryStore {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    devices: HashMap<Box<str>, DeviceRecord>,
    epoch: u64,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self { state: Mutex::new(State { devices: HashMap::new(), epoch: 0 }) }
    }
}

impl MemoryStore {
    pub fn add_device(&self, id: &str, record: DeviceRecord) {
        self.state.lock().devices.insert(id.into(), record);
    }

    pub fn remove_device(&self, id: &str) {
        self.state.lock().devices.remove(id);
    }

    /// Names in order, and whether each is disabled: at most `most` of those behind `after`.
    pub fn devices(&self, after: Option<&str>, most: usize) -> Vec<(Box<str>, bool)> {
        let state = self.state.lock();
        let behind = state.devices.iter().filter(|(id, _)| after.is_none_or(|after| &***id > after));
        let mut found: Vec<_> = behind.map(|(id, record)| (id.clone(), record.disabled)).collect();
        found.sort_unstable();
        found.truncate(most);
        found
    }

    pub fn device(&self, id: &str) -> Option<DeviceRecord> {
        self.state.lock().devices.get(id).cloned()
    }

    pub(super) fn claim(&self) -> u64 {
        let mut state = self.state.lock();
        state.epoch += 1;
        state.epoch
    }
}
