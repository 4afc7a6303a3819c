//! The catalogue of files as a structure for the harness: what kernels and tools keep on their volumes.
//!
//! What a commit holds follows from its roots: every pointer carries the hash of what it leads to, and opening reads
//! and compares all of it. So the content that is compared is the roots themselves, and nothing else need be known.

use arenite_catalog::{visit_blocks, Catalog, Depth, Error as CatalogError, Kind};
use arenite_core::{Error, Roots, Store};
use arenite_shim::rng::{fill, Rng};
use arenite_shim::tree::Tree;
use std::ops::ControlFlow;

/// Bytes of a file that the next commit brings.
const FILE_LEN_BYTES: usize = 700;

/// The catalogue, apart from its store.
#[derive(Debug)]
pub struct Files {
    addresses: Vec<u64>,
    /// Files to be written when a commit is prepared.
    new: Vec<u64>,
}

impl Tree for Files {
    type Shape = ();
    type Content = ();

    fn open((): &(), store: &Store<'_, '_>) -> Result<Self, String> {
        let (mut addresses, mut bad) = (Vec::new(), None);
        let visited = visit_blocks(store, &store.roots(), Depth::Everything, &mut |block| {
            addresses.push(block.ptr.addr);
            if let Err(error) = block.outcome {
                bad = Some(format!("block {:#x}: {error}", block.ptr.addr));
            }
            ControlFlow::Continue(())
        });
        visited.map_err(|error| error.to_string())?;
        bad.map_or(Ok(Self { addresses, new: Vec::new() }), Err)
    }

    fn content(&self) {}

    fn addresses(&self) -> Vec<u64> {
        self.addresses.clone()
    }

    fn change(&mut self, _store: &Store<'_, '_>, rng: &mut Rng) -> Result<(), Error> {
        self.new.push(rng.next_u64());
        Ok(())
    }

    fn prepare(&mut self, store: &Store<'_, '_>) -> Result<Roots, Error> {
        let mut catalog = Catalog::open(store).map_err(plain)?;
        for number in std::mem::take(&mut self.new) {
            let mut bytes = [0; FILE_LEN_BYTES];
            fill(number, &mut bytes);
            let name = format!("crash-{number:016x}");
            match catalog.put_bytes(name.as_bytes(), Kind::File, 0o644, &bytes) {
                Err(CatalogError::Store(Error::Full { .. })) => make_room(&mut catalog)?,
                result => drop(result.map_err(plain)?),
            }
        }
        Ok(catalog.roots())
    }
}

/// Removes the first file.
fn make_room(catalog: &mut Catalog<'_, '_, '_>) -> Result<(), Error> {
    let first = catalog.next_after(b"").map_err(plain)?.map(|item| item.path().to_vec());
    first.map_or(Ok(()), |path| catalog.remove(&path).map(drop).map_err(plain))
}

fn plain(error: CatalogError) -> Error {
    match error {
        CatalogError::Store(error) => error,
        CatalogError::NotCatalog { addr, .. } => Error::BadAddress { addr },
        _ => Error::BadParameter { name: "catalogue", found: 0 },
    }
}
