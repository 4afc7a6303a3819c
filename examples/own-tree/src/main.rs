//! A structure of one's own under the whole harness: a linked list of numbers, copied on write, newest first. Each node
//! is a block with one number and the pointer to the next one; a change puts a number in front or drops everything
//! behind the third node. `cargo run`

use arenite_core::format::RawPtr;
use arenite_core::{Allocate, BlockPtr, Class, Error, Roots, Store};
use arenite_shim::climb::climb;
use arenite_shim::ladder::Setup;
use arenite_shim::rng::Rng;
use arenite_shim::tree::Tree;

/// The list, front first; a node that is to be written still has no pointer.
struct List(Vec<(u64, Option<BlockPtr>)>);

impl List {
    fn write(store: &Store<'_, '_>, value: u64, next: Option<BlockPtr>) -> Result<BlockPtr, Error> {
        let mut filling = store.allocate(Allocate::data().class(Class::Reclaim))?;
        filling.bytes_mut()[..8].copy_from_slice(&value.to_be_bytes());
        let _ = next.map_or(RawPtr::NULL, RawPtr::from).encode(filling.bytes_mut(), 8);
        Ok(store.enqueue(filling)?.ptr())
    }
}

impl Tree for List {
    type Shape = ();
    type Content = Vec<u64>;

    fn open(_: &(), store: &Store<'_, '_>) -> Result<Self, String> {
        let (mut nodes, mut next) = (Vec::new(), store.roots().root_ptr());
        while let Some(ptr) = next {
            let block = store.read(ptr).map_err(|error| error.to_string())?;
            let value = block.first_chunk().map(|bytes| u64::from_be_bytes(*bytes)).ok_or("a short block")?;
            nodes.push((value, Some(ptr)));
            next = RawPtr::decode(&block, 8).and_then(BlockPtr::from_raw);
        }
        Ok(Self(nodes))
    }

    fn content(&self) -> Vec<u64> {
        self.0.iter().map(|(value, _)| *value).collect()
    }

    fn addresses(&self) -> Vec<u64> {
        self.0.iter().filter_map(|(_, ptr)| Some(ptr.as_ref()?.addr)).collect()
    }

    fn change(&mut self, store: &Store<'_, '_>, rng: &mut Rng) -> Result<(), Error> {
        if self.0.len() > 12 {
            // The first three point at what goes: they are written anew.
            let (kept, dropped) = self.0.split_at_mut(3);
            let old = kept.iter_mut().chain(dropped).filter_map(|(_, ptr)| ptr.take());
            old.into_iter().try_for_each(|ptr| store.free(ptr))?;
            self.0.truncate(3);
        }
        self.0.insert(0, (rng.next_u64(), None));
        Ok(())
    }

    fn prepare(&mut self, store: &Store<'_, '_>) -> Result<Roots, Error> {
        let mut next = None;
        for (value, ptr) in self.0.iter_mut().rev() {
            next = Some(ptr.map_or_else(|| Self::write(store, *value, next), Ok)?);
            *ptr = next;
        }
        Ok(store.roots().with_root(next, 1))
    }
}

fn main() {
    let rows = climb::<List>(&(), 3, &Setup::default());
    for row in &rows {
        println!("{} {}: {} cases, {} states, failures: {:?}", row.rung, row.what, row.cases, row.states, row.failures);
    }
    assert!(rows.iter().all(|row| row.failures.is_empty()));
    println!("rungs without a failure: {}", rows.len());
}
