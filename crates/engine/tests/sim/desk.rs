//! Where the clients' calls wait: each blocks its thread until the scheduler answers it.
//!
//! A client that crashed has lost its life: its calls fail at once, so that its verb unwinds without touching anything.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use seawall_engine::store::{Capabilities, Created, ObjectInfo, Store, StoreError};

use super::client::Ended;
use super::world::{Answer, Operation, failure};

/// How long the scheduler sleeps before it looks whether all threads wait for each other.
const PATIENCE: Duration = Duration::from_millis(20);

/// A call that waits for its answer.
pub struct Waiting {
    pub client: usize,
    pub operation: Operation,
    pub answer: SyncSender<Result<Answer, StoreError>>,
}

#[derive(Default)]
struct Tray {
    waiting: Vec<Waiting>,
    ended: Vec<Ended>,
    dead: BTreeSet<u64>,
}

impl Tray {
    fn has(&self, client: usize) -> bool {
        self.waiting.iter().any(|it| it.client == client) || self.ended.iter().any(|it| it.client == client)
    }
}

#[derive(Default)]
pub struct Desk {
    tray: Mutex<Tray>,
    arrived: Condvar,
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, Tray> {
        self.tray.lock().unwrap()
    }

    /// Waits until this client has called or ended, or some time has passed; others of its threads may still run then.
    pub fn await_client(&self, client: usize) {
        let tray = self.lock();
        let is_idle = |tray: &mut Tray| !tray.has(client);
        drop(self.arrived.wait_timeout_while(tray, PATIENCE, is_idle).unwrap());
    }

    /// True if the client has called or ended.
    pub fn has(&self, client: usize) -> bool {
        self.lock().has(client)
    }

    /// The calls of this client, in an order that does not depend on which thread was faster.
    pub fn calls(&self, client: usize) -> Vec<Operation> {
        let mut calls: Vec<Operation> =
            self.lock().waiting.iter().filter(|it| it.client == client).map(|it| it.operation.clone()).collect();
        calls.sort_by_key(ToString::to_string);
        calls
    }

    /// Takes one of the client's calls off the desk.
    pub fn take(&self, client: usize, operation: &Operation) -> Waiting {
        let mut tray = self.lock();
        let place = tray.waiting.iter().position(|it| it.client == client && it.operation == *operation);
        tray.waiting.remove(place.expect("the scheduler takes what it saw"))
    }

    /// The calls of this life fail from now on.
    pub fn kill(&self, life: u64) {
        self.lock().dead.insert(life);
    }

    /// Fails all calls that wait: their clients are dead, and nobody else answers them.
    pub fn refuse_all(&self) {
        for waiting in std::mem::take(&mut self.lock().waiting) {
            let _ = waiting.answer.send(Err(failure("", "the run is over")));
        }
    }

    pub fn end(&self, ended: Ended) {
        self.lock().ended.push(ended);
        self.arrived.notify_all();
    }

    pub fn take_ended(&self, client: usize) -> Option<Ended> {
        let mut tray = self.lock();
        let place = tray.ended.iter().position(|it| it.client == client)?;
        Some(tray.ended.remove(place))
    }
}

/// A client's way to the store.
pub struct Connection {
    pub desk: Arc<Desk>,
    pub client: usize,
    pub life: u64,
}

impl Connection {
    fn ask(&self, operation: Operation) -> Result<Answer, StoreError> {
        let what = operation.to_string();
        let (answer, answered) = sync_channel(1);
        {
            let mut tray = self.desk.lock();
            if tray.dead.contains(&self.life) {
                return Err(failure(&what, "this process has crashed"));
            }
            tray.waiting.push(Waiting { client: self.client, operation, answer });
        }
        self.desk.arrived.notify_all();
        answered.recv().unwrap_or_else(|_| Err(failure(&what, "the run is over")))
    }
}

impl Store for Connection {
    fn location(&self) -> String {
        "simulated".to_owned()
    }

    fn get(&self, name: &str, range: Option<Range<u64>>) -> Result<Vec<u8>, StoreError> {
        match self.ask(Operation::Get(name.to_owned(), range.map(|range| (range.start, range.end))))? {
            Answer::Bytes(bytes) => Ok(bytes),
            other => unreachable!("{other:?}"),
        }
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.ask(Operation::Put(name.to_owned(), bytes.into())).map(drop)
    }

    fn create(&self, name: &str, bytes: &[u8]) -> Result<Created, StoreError> {
        match self.ask(Operation::Create(name.to_owned(), bytes.into()))? {
            Answer::Created(created) => Ok(created),
            other => unreachable!("{other:?}"),
        }
    }

    fn head(&self, name: &str) -> Result<ObjectInfo, StoreError> {
        match self.ask(Operation::Head(name.to_owned()))? {
            Answer::Info(info) => Ok(info),
            other => unreachable!("{other:?}"),
        }
    }

    fn list(&self, prefix: &str, each: &mut dyn FnMut(ObjectInfo)) -> Result<(), StoreError> {
        match self.ask(Operation::List(prefix.to_owned()))? {
            Answer::Listed(found) => found.into_iter().for_each(each),
            other => unreachable!("{other:?}"),
        }
        Ok(())
    }

    fn delete(&self, name: &str) -> Result<(), StoreError> {
        self.ask(Operation::Delete(name.to_owned())).map(drop)
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { atomic_create: true, ranged_get: true }
    }
}
