//! Pure: which messages of one publisher have arrived at one subscriber.
//!
//! A publisher numbers its messages from 0. A message that comes late is told from one that comes twice by a window of
//! bits over the last [`WINDOW`] numbers; what is older than the window counts as a duplicate.

const WINDOW: u64 = 1024;
const WORDS: usize = (WINDOW / 64) as usize;

/// What a subscriber knows about one publisher.
#[derive(Debug, Clone)]
pub struct Tracker {
    /// One more than the highest number seen.
    next: u64,
    unique: u64,
    duplicates: u64,
    reordered: u64,
    seen: [u64; WORDS],
}

impl Default for Tracker {
    fn default() -> Self {
        Self { next: 0, unique: 0, duplicates: 0, reordered: 0, seen: [0; WORDS] }
    }
}

impl Tracker {
    /// Notes the arrival of message `number`; true if it is the first time.
    pub fn arrived(&mut self, number: u64) -> bool {
        let before = self.unique;
        if number >= self.next {
            self.forget(self.next, number);
            self.next = number + 1;
            self.mark(number);
            self.unique += 1;
        } else if self.next - number > WINDOW || self.is_marked(number) {
            self.duplicates += 1;
        } else {
            self.mark(number);
            self.unique += 1;
            self.reordered += 1;
        }
        self.unique > before
    }

    /// Different messages that arrived.
    #[must_use]
    pub fn unique(&self) -> u64 {
        self.unique
    }

    /// Messages that arrived again.
    #[must_use]
    pub fn duplicates(&self) -> u64 {
        self.duplicates
    }

    /// Messages that arrived after a later one.
    #[must_use]
    pub fn reordered(&self) -> u64 {
        self.reordered
    }

    /// Clears the bits of the numbers `from..=to`, which take the places of numbers that leave the window.
    fn forget(&mut self, from: u64, to: u64) {
        if to - from >= WINDOW {
            self.seen = [0; WORDS];
            return;
        }
        for number in from..=to {
            let (word, bit) = place(number);
            self.seen[word] &= !bit;
        }
    }

    fn mark(&mut self, number: u64) {
        let (word, bit) = place(number);
        self.seen[word] |= bit;
    }

    fn is_marked(&self, number: u64) -> bool {
        let (word, bit) = place(number);
        self.seen[word] & bit != 0
    }
}

/// Where a number's bit stands in the window.
fn place(number: u64) -> (usize, u64) {
    let slot = number % WINDOW;
    ((slot / 64) as usize, 1 << (slot % 64))
}

/// The trackers of one subscriber: for the publishers `first..first + list.len()`.
#[derive(Debug)]
pub struct Trackers {
    first: u32,
    list: Vec<Tracker>,
    strays: u64,
}

impl Trackers {
    /// A subscriber that expects messages of `count` publishers, from number `first` on.
    #[must_use]
    pub fn new(first: u32, count: u32) -> Self {
        Self { first, list: vec![Tracker::default(); count as usize], strays: 0 }
    }

    /// Notes the arrival of message `number` of `publisher`, and tells if it is the first time; one that is not ours
    /// counts as a stray.
    pub fn arrived(&mut self, publisher: u32, number: u64) -> bool {
        match publisher.checked_sub(self.first).and_then(|index| self.list.get_mut(index as usize)) {
            Some(tracker) => tracker.arrived(number),
            None => {
                self.strays += 1;
                false
            }
        }
    }

    /// Sums over all publishers.
    #[must_use]
    pub fn tally(&self) -> Arrivals {
        let mut sum = Arrivals { strays: self.strays, ..Arrivals::default() };
        for tracker in &self.list {
            sum.unique += tracker.unique;
            sum.duplicates += tracker.duplicates;
            sum.reordered += tracker.reordered;
        }
        sum
    }
}

/// What arrived, in numbers.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Arrivals {
    pub unique: u64,
    pub duplicates: u64,
    pub reordered: u64,
    /// Messages of nobody in this run.
    pub strays: u64,
}

impl std::ops::AddAssign for Arrivals {
    fn add_assign(&mut self, other: Self) {
        self.unique += other.unique;
        self.duplicates += other.duplicates;
        self.reordered += other.reordered;
        self.strays += other.strays;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(numbers: impl IntoIterator<Item = u64>) -> (u64, u64, u64) {
        let mut tracker = Tracker::default();
        for number in numbers {
            tracker.arrived(number);
        }
        (tracker.unique(), tracker.duplicates(), tracker.reordered())
    }

    #[test]
    fn in_order_is_all_unique() {
        assert_eq!(after(0..10_000), (10_000, 0, 0));
    }

    #[test]
    fn a_gap_is_missing_until_it_arrives_late() {
        assert_eq!(after([0, 1, 4]), (3, 0, 0));
        assert_eq!(after([0, 1, 4, 2, 3]), (5, 0, 2));
    }

    #[test]
    fn the_same_number_again_is_a_duplicate_late_or_at_once() {
        assert_eq!(after([0, 0, 1, 2, 1]), (3, 2, 0));
        assert_eq!(after([5, 3, 3]), (2, 1, 1));
    }

    #[test]
    fn places_are_free_again_when_the_window_moves_on() {
        // 1000 + WINDOW falls on the place of 1000; a jump over the whole window clears every place.
        assert_eq!(after([1000, 1000 + WINDOW, 1001]), (3, 0, 1));
        assert_eq!(after((0..2000).chain([5000, 4999])), (2002, 0, 1));
    }

    #[test]
    fn older_than_the_window_counts_as_a_duplicate() {
        assert_eq!(after([WINDOW + 5, 0]), (1, 1, 0));
    }

    #[test]
    fn foreign_publishers_are_strays() {
        let mut trackers = Trackers::new(3, 2);
        for publisher in [2, 3, 4, 5] {
            trackers.arrived(publisher, 0);
        }
        assert_eq!(trackers.tally(), Arrivals { unique: 2, strays: 2, ..Arrivals::default() });
    }
}
