//! The engine's tests from outside, in one binary.

#![allow(clippy::unwrap_used, missing_docs)]

/// The calls of a store that are passed on to the field `store`.
macro_rules! pass_on {
    (location) => {
        fn location(&self) -> String {
            self.store.location()
        }
    };
    (put) => {
        fn put(&self, name: &str, bytes: &[u8]) -> Result<(), seawall_engine::store::StoreError> {
            self.store.put(name, bytes)
        }
    };
    (create) => {
        fn create(
            &self,
            name: &str,
            bytes: &[u8],
        ) -> Result<seawall_engine::store::Created, seawall_engine::store::StoreError> {
            self.store.create(name, bytes)
        }
    };
    (head) => {
        fn head(&self, name: &str) -> Result<seawall_engine::store::ObjectInfo, seawall_engine::store::StoreError> {
            self.store.head(name)
        }
    };
    (list) => {
        fn list(
            &self,
            prefix: &str,
            each: &mut dyn FnMut(seawall_engine::store::ObjectInfo),
        ) -> Result<(), seawall_engine::store::StoreError> {
            self.store.list(prefix, each)
        }
    };
    (delete) => {
        fn delete(&self, name: &str) -> Result<(), seawall_engine::store::StoreError> {
            self.store.delete(name)
        }
    };
    (capabilities) => {
        fn capabilities(&self) -> seawall_engine::store::Capabilities {
            self.store.capabilities()
        }
    };
    ($($name:ident),+) => {
        $(pass_on!($name);)+
    };
}

mod adaptive;
mod bases;
mod beforehand;
mod beside;
mod browse;
mod checkpoints;
mod compare;
mod concurrency;
mod copies;
mod crash;
mod damage;
mod divided;
mod endings;
mod failing;
mod fidelity;
mod floods;
mod forget;
mod hand;
mod healing;
mod hostile;
mod leftovers;
mod lengths;
mod masters;
mod members;
mod misled;
mod model;
mod namesakes;
mod old_repositories;
mod parity;
mod place;
mod poison;
mod properties;
mod prune;
mod rebase;
mod repair;
mod resume;
mod rotation;
mod roundtrip;
mod sectors;
mod session;
mod steady;
mod substitution;
mod tables;
mod tensor_files;
mod tensors;
mod tree_nodes;
mod undecided;
mod unfinished;
mod views;
mod writers;
