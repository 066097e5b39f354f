//! The places among the calls to one issuer, and who gets the next that becomes free.
//!
//! Whoever comes last of a rank is served first: it has the most time left. Served in the order in
//! which they came, all would wait until it is too late for each, as soon as more come than can be
//! served.

use super::rank::Rank;
use std::collections::VecDeque;
use tokio::sync::oneshot::{self, Receiver, Sender};

/// So many calls at once.
#[derive(Debug, Default)]
pub(super) struct Places {
    most: usize,
    /// So many of them are for tokens that were active before, and no others.
    kept: usize,
    taken: usize,
    waiting: [VecDeque<Sender<()>>; Rank::ALL.len()],
}

/// A place, or the hope of one.
#[derive(Debug)]
pub(super) enum Place {
    /// It must be given back.
    Taken,
    /// This tells when there is one. Whoever goes must look once more whether it has come.
    Awaited(Receiver<()>),
}

impl Places {
    /// From here on there are so many places. Who waits for one gets it if it is free now; nobody
    /// who has one loses it.
    pub(super) fn resize(&mut self, most: usize) {
        if self.most == most {
            return;
        }
        self.most = most;
        // A quarter, and one at least; but a single place is for all.
        self.kept = (most / 4).max(1).min(most.saturating_sub(1));
        self.give();
    }

    /// A place for a token of this rank.
    pub(super) fn enter(&mut self, rank: Rank) -> Place {
        if self.has_room(rank) {
            self.taken = self.taken.saturating_add(1);
            return Place::Taken;
        }
        let (tell, told) = oneshot::channel();
        if let Some(waiting) = self.waiting_at(rank) {
            waiting.push_back(tell);
            if MOST_WAITING < waiting.len() {
                // Who is dropped is told so.
                waiting.pop_front();
            }
        }
        Place::Awaited(told)
    }

    /// Gives a place back, and with it those that have become free.
    pub(super) fn leave(&mut self) {
        self.taken = self.taken.saturating_sub(1);
        self.give();
    }

    /// Gives the places that are free to those who wait.
    fn give(&mut self) {
        for rank in Rank::ALL {
            while self.has_room(rank)
                && let Some(next) = self.waiting_at(rank).and_then(VecDeque::pop_back)
            {
                // An error says that it has gone meanwhile.
                if next.send(()).is_ok() {
                    self.taken = self.taken.saturating_add(1);
                }
            }
        }
    }

    /// How many are taken.
    pub(super) const fn taken(&self) -> usize {
        self.taken
    }

    /// How many wait for one.
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

/// So many may wait at each rank: each costs some kilobytes.
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
