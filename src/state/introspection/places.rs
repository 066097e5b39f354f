//! The limit on concurrent calls to one issuer, and who gets the next free place.
//!
//! Within a rank, the last to come is served first, since it has the most time left. Served in
//! order of arrival, all would wait until it is too late for each as soon as more come than can be
//! served.

use super::rank::Rank;
use std::collections::VecDeque;
use tokio::sync::oneshot::{self, Receiver, Sender};

/// A limit on concurrent calls.
#[derive(Debug, Default)]
pub(super) struct Places {
    most: usize,
    /// How many are reserved for tokens that were active before.
    kept: usize,
    taken: usize,
    waiting: [VecDeque<Sender<()>>; Rank::ALL.len()],
}

/// A place, or a position in the queue.
#[derive(Debug)]
pub(super) enum Place {
    /// A place, which must be given back.
    Taken,
    /// Notifies when a place is granted. A check that gives up must look once more.
    Awaited(Receiver<()>),
}

impl Places {
    /// Changes the limit. Waiting calls get places that become free now; running calls keep theirs.
    pub(super) fn resize(&mut self, most: usize) {
        if self.most == most {
            return;
        }
        self.most = most;
        // A quarter, and at least one; but a single place is for all.
        self.kept = (most / 4).max(1).min(most.saturating_sub(1));
        self.give();
    }

    /// A place for a token of this rank, or a position in its queue.
    pub(super) fn enter(&mut self, rank: Rank) -> Place {
        if self.has_room(rank) {
            self.taken = self.taken.saturating_add(1);
            return Place::Taken;
        }
        let (tell, told) = oneshot::channel();
        if let Some(waiting) = self.waiting_at(rank) {
            waiting.push_back(tell);
            if MOST_WAITING < waiting.len() {
                // Dropping the sender notifies the one that is dropped.
                waiting.pop_front();
            }
        }
        Place::Awaited(told)
    }

    /// Returns a place, and grants free ones.
    pub(super) fn leave(&mut self) {
        self.taken = self.taken.saturating_sub(1);
        self.give();
    }

    /// Grants free places to waiting calls.
    fn give(&mut self) {
        for rank in Rank::ALL {
            while self.has_room(rank)
                && let Some(next) = self.waiting_at(rank).and_then(VecDeque::pop_back)
            {
                // An error means that it gave up meanwhile.
                if next.send(()).is_ok() {
                    self.taken = self.taken.saturating_add(1);
                }
            }
        }
    }

    /// The number of running calls.
    pub(super) const fn taken(&self) -> usize {
        self.taken
    }

    /// The number of waiting calls.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.iter().flatten().filter(|it| !it.is_closed()).count()
    }

    fn has_room(&self, rank: Rank) -> bool {
        let most = match rank {
            Rank::Known => self.most,
            Rank::Returning | Rank::New => self.most.saturating_sub(self.kept),
        };
        self.taken < most
    }

    fn waiting_at(&mut self, rank: Rank) -> Option<&mut VecDeque<Sender<()>>> {
        let at = Rank::ALL.iter().position(|it| *it == rank)?;
        self.waiting.get_mut(at)
    }
}

/// The maximum number of waiting calls per rank; each costs some kilobytes.
const MOST_WAITING: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    fn places(most: usize) -> Places {
        let mut places = Places::default();
        places.resize(most);
        places
    }

    fn has_come(place: &mut Place) -> bool {
        match place {
            Place::Taken => true,
            Place::Awaited(told) => told.try_recv().is_ok(),
        }
    }

    #[test]
    fn a_part_of_the_places_is_kept_for_tokens_that_were_active() {
        for (most, others) in [(1, 1), (2, 1), (3, 2), (4, 3), (10, 8), (100, 75)] {
            let mut places = places(most);
            let mut entered = |rank| {
                (0..most)
                    .map(|_| places.enter(rank))
                    .filter_map(|mut it| has_come(&mut it).then_some(()))
                    .count()
            };
            assert_eq!(entered(Rank::New), others, "of {most}");
            assert_eq!(entered(Rank::Returning), 0, "of {most}");
            assert_eq!(entered(Rank::Known), most - others, "of {most}");
        }
    }

    #[test]
    fn more_places_are_given_at_once_and_fewer_as_they_become_free() {
        let mut places = places(2);
        let mut all: Vec<_> = (0..4).map(|_| places.enter(Rank::Known)).collect();
        assert_eq!((places.taken(), places.waiting()), (2, 2));
        places.resize(3);
        assert!(!has_come(&mut all[2]) && has_come(&mut all[3]));
        assert_eq!((places.taken(), places.waiting()), (3, 1));
        places.resize(1);
        places.leave();
        places.leave();
        assert!(!has_come(&mut all[2]));
        places.leave();
        assert!(has_come(&mut all[2]));
        assert_eq!((places.taken(), places.waiting()), (1, 0));
    }

    #[test]
    fn the_better_goes_first_and_among_equals_who_came_last() {
        let mut places = places(2);
        let ranks = [Rank::New, Rank::Known];
        assert!(ranks.map(|it| places.enter(it)).iter_mut().all(has_come));
        let waiting = [Rank::New, Rank::New, Rank::Returning, Rank::Returning, Rank::Known];
        let mut waiting = waiting.map(|it| places.enter(it));
        let mut seen = Vec::new();
        for _ in 0..6 {
            places.leave();
            seen.push(waiting.iter_mut().position(has_come));
        }
        // Of two places, the last that is free is not for those who come again, or new.
        assert_eq!(seen, [Some(4), None, Some(3), Some(2), Some(1), Some(0)]);
    }

    #[test]
    fn who_gave_up_gets_no_place_and_who_waits_too_many_is_dropped() {
        let mut places = places(1);
        assert!(has_come(&mut places.enter(Rank::New)));
        let mut first = places.enter(Rank::New);
        drop(places.enter(Rank::New));
        places.leave();
        assert!(has_come(&mut first));
        assert_eq!(places.taken(), 1);

        let mut waiting: Vec<_> = (0..=MOST_WAITING).map(|_| places.enter(Rank::New)).collect();
        let Place::Awaited(first) = &mut waiting[0] else { panic!("there is no place") };
        assert_eq!(first.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        places.leave();
        assert!(has_come(waiting.last_mut().unwrap()));
    }
}
