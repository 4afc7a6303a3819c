//! Replies that are held back, until what they wait for has come.
#![forbid(unsafe_code)]

use super::script::Until;
use crate::rng::Rng;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// So many replies are held at most.
pub(crate) const MAX_HELD: usize = 1024;
/// Replies that wait for their like go when nothing has come for so long.
const IDLE: Duration = Duration::from_millis(10);

enum Release {
    Never,
    Requests(u64),
    Flush,
    At(Instant),
    Window,
    Due,
}

/// Replies of some kind, each with what it waits for.
pub(crate) struct Held<R> {
    replies: VecDeque<(Release, R)>,
    came: Came,
}

/// Requests that have come, all and flushes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Came {
    requests: u64,
    flushes: u64,
}

impl<R> Held<R> {
    pub(crate) fn new() -> Self {
        Self { replies: VecDeque::new(), came: Came::default() }
    }

    /// Holds a reply; false if there are too many. What its request waits for is counted from when that came, not from
    /// when it was carried out, so that it does not matter how far the two are apart.
    pub(crate) fn hold(&mut self, reply: R, until: Until, since: Came, rng: &mut Rng) -> bool {
        let missed = self.came.requests - since.requests;
        let release = match until {
            Until::Requests(count) if count <= missed => Release::Due,
            Until::Requests(count) => Release::Requests(count - missed),
            Until::Flush if self.came.flushes > since.flushes => Release::Due,
            Until::Never => Release::Never,
            Until::Flush => Release::Flush,
            Until::Time(time) => Release::At(Instant::now() + time),
            Until::Window(_) => Release::Window,
        };
        self.replies.push_back((release, reply));
        let gathered = self.replies.iter().filter(|(release, _)| matches!(release, Release::Window)).count();
        if matches!(until, Until::Window(window) if gathered >= window) {
            self.release_window(rng);
        }
        self.replies.len() <= MAX_HELD
    }

    /// A further request has come; what had come with it.
    pub(crate) fn request_came(&mut self, is_flush: bool) -> Came {
        self.came.requests += 1;
        self.came.flushes += u64::from(is_flush);
        for (release, _) in &mut self.replies {
            match release {
                Release::Requests(left) if *left > 1 => *left -= 1,
                Release::Requests(_) => *release = Release::Due,
                Release::Flush if is_flush => *release = Release::Due,
                _ => {}
            }
        }
        self.came
    }

    /// Nothing has come for as long as [`Held::patience`] said.
    pub(crate) fn nothing_came(&mut self, rng: &mut Rng) {
        self.release_window(rng);
    }

    /// A reply that is to be sent now.
    pub(crate) fn next_due(&mut self) -> Option<R> {
        let is_due = |release: &Release| match release {
            Release::Due => true,
            Release::At(time) => *time <= Instant::now(),
            _ => false,
        };
        let at = self.replies.iter().position(|(release, _)| is_due(release))?;
        self.replies.remove(at).map(|(_, reply)| reply)
    }

    /// How long to wait for the next request, if that has a limit.
    pub(crate) fn patience(&self) -> Option<Duration> {
        let limit = |release: &Release| match release {
            Release::At(time) => Some(time.saturating_duration_since(Instant::now())),
            Release::Window => Some(IDLE),
            _ => None,
        };
        self.replies.iter().filter_map(|(release, _)| limit(release)).min()
    }

    /// Makes all replies due that wait for their like, in random order.
    fn release_window(&mut self, rng: &mut Rng) {
        let (mut gathered, others): (Vec<_>, Vec<_>) =
            self.replies.drain(..).partition(|(release, _)| matches!(release, Release::Window));
        self.replies.extend(others);
        while !gathered.is_empty() {
            let at = rng.below(gathered.len() as u64) as usize;
            self.replies.push_back((Release::Due, gathered.swap_remove(at).1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_go_when_what_they_wait_for_has_come() {
        let (mut held, mut rng) = (Held::new(), Rng::new(3));
        for (reply, until) in [
            ("never", Until::Never),
            ("two", Until::Requests(2)),
            ("flush", Until::Flush),
            ("soon", Until::Time(Duration::ZERO)),
        ] {
            assert!(held.hold(reply, until, held.came, &mut rng));
        }
        assert_eq!((held.next_due(), held.next_due()), (Some("soon"), None));
        held.request_came(false);
        assert_eq!(held.next_due(), None);
        held.request_came(false);
        assert_eq!((held.next_due(), held.next_due()), (Some("two"), None));
        held.request_came(true);
        assert_eq!((held.next_due(), held.next_due()), (Some("flush"), None));
        assert_eq!(held.patience(), None);
    }

    #[test]
    fn what_came_before_it_was_held_counts() {
        let (mut held, mut rng) = (Held::new(), Rng::new(3));
        let since = held.request_came(false);
        held.request_came(true);
        held.hold("two", Until::Requests(2), since, &mut rng);
        held.hold("flush", Until::Flush, since, &mut rng);
        assert_eq!((held.next_due(), held.next_due()), (Some("flush"), None));
        held.request_came(false);
        assert_eq!(held.next_due(), Some("two"));
    }

    #[test]
    fn a_window_goes_as_a_whole_and_shuffled() {
        let (mut held, mut rng) = (Held::new(), Rng::new(3));
        let mut orders = std::collections::HashSet::new();
        for _ in 0..20 {
            for reply in 0..3 {
                assert_eq!(held.next_due(), None);
                held.hold(reply, Until::Window(3), held.came, &mut rng);
            }
            let mut order: Vec<_> = std::iter::from_fn(|| held.next_due()).collect();
            orders.insert(order.clone());
            order.sort();
            assert_eq!(order, [0, 1, 2]);
        }
        assert!(orders.len() > 2, "{orders:?}");
        held.hold(9, Until::Window(3), held.came, &mut rng);
        assert_eq!((held.next_due(), held.patience()), (None, Some(IDLE)));
        held.nothing_came(&mut rng);
        assert_eq!(held.next_due(), Some(9));
    }

    #[test]
    fn there_is_a_limit() {
        let (mut held, mut rng) = (Held::new(), Rng::new(3));
        assert!((0..MAX_HELD).all(|reply| held.hold(reply, Until::Never, Came::default(), &mut rng)));
        assert!(!held.hold(0, Until::Never, Came::default(), &mut rng));
    }
}
