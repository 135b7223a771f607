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
    owners: HashMap<Box<str>, u64>,
    epoch: u64,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self { state: Mutex::new(State { devices: HashMap::new(), owners: HashMap::new(), epoch: 0 }) }
    }
}

impl MemoryStore {
    pub fn add_device(&self, id: &str, record: DeviceRecord) {
        self.state.lock().devices.insert(id.into(), record);
    }

    pub(super) fn device(&self, id: &str) -> Option<DeviceRecord> {
        self.state.lock().devices.get(id).cloned()
    }

    pub(super) fn claim(&self, client_id: &str) -> u64 {
        let mut state = self.state.lock();
        state.epoch += 1;
        let epoch = state.epoch;
        state.owners.insert(client_id.into(), epoch);
        epoch
    }

    pub(super) fn release(&self, client_id: &str, epoch: u64) -> bool {
        let mut state = self.state.lock();
        let owned = state.owners.get(client_id) == Some(&epoch);
        if owned {
            state.owners.remove(client_id);
        }
        owned
    }
}
