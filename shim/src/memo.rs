//! Verdicts by what was read: of crash states that agree in all that the judge reads, only the first is judged.
//!
//! The judge is deterministic: where it reads next follows from what it has read so far. So its runs over the states of
//! one epoch form a tree. A node names the sectors that are read next, an edge what was found there, a leaf the
//! verdict:
//!
//! ```text
//!   superblock 0 --- old --- header 0 --- old ---> shows 4
//!               \                     \-- new --- header 1 --- ... ---> shows 4
//!                \-- new --- ...                                  ---> shows 5
//! ```
//!
//! A state that finds its way to a leaf costs a few look-ups. Sectors that are never read never tell states apart,
//! which is exactly what must not be counted twice.
#![forbid(unsafe_code)]

use crate::crash::{Choice, CrashSpace};
use std::collections::HashMap;
use std::ops::Range;

#[derive(Debug)]
struct Node<V> {
    /// What a run that ends here found.
    verdict: Option<V>,
    /// Sectors read next, and where each combination of them leads.
    asks: Option<(Range<usize>, Edges)>,
}

/// From the options of some sectors to the number of a node.
type Edges = HashMap<Box<Choice>, usize>;

impl<V> Node<V> {
    const EMPTY: Self = Self { verdict: None, asks: None };
}

/// The verdicts of one epoch.
#[derive(Debug)]
pub struct Memo<V> {
    nodes: Vec<Node<V>>,
    verdicts: u64,
}

impl<V> Default for Memo<V> {
    fn default() -> Self {
        Self { nodes: vec![Node::EMPTY], verdicts: 0 }
    }
}

impl<V: Copy> Memo<V> {
    /// The verdict on a state that reads like one judged before.
    pub fn find(&self, choice: &Choice) -> Option<V> {
        let mut node = self.nodes.first()?;
        loop {
            if node.verdict.is_some() {
                return node.verdict;
            }
            let (sites, edges) = node.asks.as_ref()?;
            node = self.nodes.get(*edges.get(choice.get(sites.clone())?)?)?;
        }
    }

    /// Notes a verdict together with where the judge read, in order.
    pub fn insert(&mut self, space: &CrashSpace<'_>, choice: &Choice, places: &[(u64, u64)], verdict: V) {
        let mut at = 0;
        // Ranges that were asked for on the way here are not asked for again.
        let mut asked: Vec<Range<usize>> = Vec::new();
        for (addr, len) in places {
            let sites = space.sites_in(*addr, *len);
            if sites.is_empty() || asked.iter().any(|known| known.start <= sites.start && sites.end <= known.end) {
                continue;
            }
            let Some(key) = choice.get(sites.clone()) else { return };
            asked.push(sites.clone());
            let fresh = self.nodes.len();
            let (known, edges) = self.nodes[at].asks.get_or_insert_with(|| (sites.clone(), HashMap::new()));
            if *known != sites {
                // Somebody read in another order. Such a state is judged each time.
                return;
            }
            at = *edges.entry(key.into()).or_insert(fresh);
            if at == fresh {
                self.nodes.push(Node::EMPTY);
            }
        }
        self.verdicts += u64::from(self.nodes[at].verdict.replace(verdict).is_none());
    }

    /// How many states were told apart.
    pub fn verdicts(&self) -> u64 {
        self.verdicts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crash::Limits;
    use crate::trace::{Epoch, PendingWrite};
    use std::ops::ControlFlow;

    #[test]
    fn states_are_told_apart_by_what_is_read_and_by_nothing_else() {
        let write = |at: u64| PendingWrite { addr: at * 512, bytes: vec![1; 512].into() };
        let pending = vec![write(0), write(1), write(2)];
        let epoch = Epoch { index: 0, base: vec![0; 2048].into(), pending, acknowledged: 0, begun: 0 };
        let space = CrashSpace::new(&epoch, Limits::DEFAULT);
        let mut memo = Memo::default();
        let (mut judged, mut states) = (0, 0);
        let _ = space.visit(0, |_, choice| {
            states += 1;
            // Reads sector 0, and sector 2 only if that was written.
            let (places, verdict): (&[(u64, u64)], _) = match choice {
                [0, ..] => (&[(0, 512), (1536, 512)], 7),
                [_, _, last] => (&[(0, 512), (1024, 1024), (0, 512)], usize::from(*last)),
                _ => unreachable!("three sectors"),
            };
            match memo.find(choice) {
                Some(found) => assert_eq!(found, verdict),
                None => {
                    judged += 1;
                    memo.insert(&space, choice, places, verdict);
                }
            }
            ControlFlow::Continue(())
        });
        assert_eq!((states, judged, memo.verdicts()), (8, 3, 3));
    }
}
