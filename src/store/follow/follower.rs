//! Decides which ids have not been read yet.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::{FollowedRows, IdOrder, MailIdRange};
use crate::store::{ListedMail, StoreReadError};

/// The state of one `list --follow`: which rows have been read. It outlives a lost connection.
pub struct Follower {
    /// Rows up to this id are no longer looked for.
    floor: u64,
    /// Rows up to this id have been looked for at least once.
    high: u64,
    /// Ids above `floor` that were found. At most [`WINDOW_IDS`] and those of one query.
    found: BTreeSet<u64>,
    /// Found ids whose mails have not been returned yet, in the order of their output.
    pending: VecDeque<u64>,
    /// Earlier values of `high` with their times, the oldest first.
    marks: VecDeque<(Instant, u64)>,
    /// Whether the last query did not reach the newest row, because there were too many.
    is_behind: bool,
    /// When the whole range from `floor` on was read again the last time.
    window_read_at: Instant,
}

impl Follower {
    /// Begins with the newest `first` mails, at most [`MAX_FIRST_MAILS`].
    ///
    /// # Errors
    /// [`StoreReadError`].
    pub fn start(
        rows: &mut dyn FollowedRows,
        first: usize,
        now: Instant,
    ) -> Result<Follower, StoreReadError> {
        let high = rows.newest_id()?;
        let floor = high.saturating_sub(WINDOW_IDS as u64);
        let range = |after| MailIdRange { after, up_to: high };
        let found = match rows.may_appear_out_of_order() {
            true => rows.ids(range(floor), IdOrder::OldestFirst, WINDOW_IDS)?,
            false => Vec::new(),
        };
        let first = rows.ids(range(0), IdOrder::NewestFirst, first.min(MAX_FIRST_MAILS))?;
        Ok(Follower {
            floor,
            high,
            found: found.into_iter().collect(),
            pending: first.into_iter().rev().collect(),
            marks: VecDeque::from([(now, high)]),
            is_behind: false,
            window_read_at: now,
        })
    }

    /// Returns mails that have not been returned yet, at most [`PAGE_MAILS`]; an empty list if none is known now. After an
    /// error nothing is lost: the next call returns the same mails.
    ///
    /// # Errors
    /// [`StoreReadError`].
    pub fn next_mails(
        &mut self,
        rows: &mut dyn FollowedRows,
        now: Instant,
    ) -> Result<Vec<ListedMail>, StoreReadError> {
        if self.pending.is_empty() {
            self.find_new_ids(rows, now)?;
        }
        let page: Vec<u64> = self.pending.iter().take(PAGE_MAILS).copied().collect();
        if page.is_empty() {
            return Ok(Vec::new());
        }
        let mails = rows.mails(&page)?;
        self.pending.drain(..page.len());
        Ok(mails)
    }

    /// Returns whether further mails are already known, so that the next call need not wait.
    pub fn has_more(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Records that the table could not be read for a while: rows that were being saved at that time may appear later than
    /// [`LATE_TIME`] after their neighbors were read.
    pub fn restart_clock(&mut self, now: Instant) {
        self.marks = VecDeque::from([(now, self.high)]);
    }

    fn find_new_ids(
        &mut self,
        rows: &mut dyn FollowedRows,
        now: Instant,
    ) -> Result<(), StoreReadError> {
        let newest = rows.newest_id()?;
        // The newest rows were removed, or the ids begin again (TRUNCATE, a restored backup). Of several databases, one may lag
        // behind the others, but it is not empty.
        let is_shorter = match rows.may_appear_out_of_order() {
            true => newest < self.floor || newest == 0,
            false => newest < self.high,
        };
        if is_shorter {
            self.found.clear();
            (self.floor, self.high) = (newest, newest);
            self.restart_clock(now);
            return Ok(());
        }
        let newest = newest.max(self.high);
        // While many rows are to be caught up with, no id is read again.
        let after = match rows.may_appear_out_of_order() && !self.is_behind {
            true => self.id_to_read_after(now),
            false => self.high,
        };
        let range = MailIdRange {
            after,
            up_to: newest,
        };
        // More ids than the window can hold, so that each query makes progress.
        let limit = WINDOW_IDS + PAGE_MAILS;
        let ids = match after < newest {
            true => rows.ids(range, IdOrder::OldestFirst, limit)?,
            false => Vec::new(),
        };
        self.is_behind = ids.len() == limit;
        self.high = match ids.last() {
            Some(last) if self.is_behind => *last,
            _ => newest,
        };
        let found = &mut self.found;
        self.pending
            .extend(ids.into_iter().filter(|id| found.insert(*id)));
        self.forget_old_ids(now);
        Ok(())
    }

    /// Returns the id after which ids are read: usually those of the last [`NEAR_TIME`], and every [`WINDOW_READ_INTERVAL`] the
    /// whole window. Not always the whole window, because for each row that is read again the database may read a page.
    fn id_to_read_after(&mut self, now: Instant) -> u64 {
        if now.duration_since(self.window_read_at) >= WINDOW_READ_INTERVAL {
            self.window_read_at = now;
            return self.floor;
        }
        self.mark_older_than(NEAR_TIME, now).unwrap_or(self.floor)
    }

    fn forget_old_ids(&mut self, now: Instant) {
        let is_due = |&(at, _): &(Instant, u64)| now.duration_since(at) >= MARK_INTERVAL;
        if self.marks.back().is_none_or(is_due) {
            self.marks.push_back((now, self.high));
        }
        let by_time = self.mark_older_than(LATE_TIME, now).unwrap_or(0);
        let by_count = self.high.saturating_sub(WINDOW_IDS as u64);
        self.floor = self.floor.max(by_time).max(by_count);
        self.found = self.found.split_off(&(self.floor + 1));
        let is_old = |&(at, _): &(Instant, u64)| now.duration_since(at) > LATE_TIME;
        while self.marks.get(1).is_some_and(is_old) {
            self.marks.pop_front();
        }
    }

    /// Returns the newest mark that is at least `age` old.
    fn mark_older_than(&self, age: Duration, now: Instant) -> Option<u64> {
        let mut marks = self.marks.iter().rev();
        let mark = marks.find(|(at, _)| now.duration_since(*at) >= age);
        mark.map(|(_, high)| *high)
    }
}

/// The most mails with which a [`Follower`] begins; their ids are in memory.
pub const MAX_FIRST_MAILS: usize = 50_000;
/// Mails that are read at once.
const PAGE_MAILS: usize = 200;
/// A row is found although up to this many ids above it were read before. 4,000 rows a second, more than any store of this
/// program saves in small batches, need twelve seconds for as many, longer than a statement may take (`CALL_TIMEOUT`).
const WINDOW_IDS: usize = 50_000;
/// A row is found if it becomes visible at most this long after a row with a larger id: about twice the longest time from an
/// INSERT to the end of its COMMIT (`BATCH_TIMEOUT` and `CALL_TIMEOUT` of the MySQL store, 30 s).
const LATE_TIME: Duration = Duration::from_secs(60);
/// Ids that were read at most this long ago are read again by every query.
const NEAR_TIME: Duration = Duration::from_secs(3);
/// Interval at which all ids of the window are read again.
const WINDOW_READ_INTERVAL: Duration = Duration::from_secs(10);
/// Interval of the values in `marks`, which has at most 61 of them.
const MARK_INTERVAL: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::ListedMailSize;

    /// A table in memory.
    #[derive(Default)]
    struct Rows {
        visible: BTreeSet<u64>,
        are_ordered: bool,
        fails: bool,
    }

    impl FollowedRows for Rows {
        fn newest_id(&mut self) -> Result<u64, StoreReadError> {
            match self.fails {
                true => Err(StoreReadError("away".to_owned())),
                false => Ok(self.visible.last().copied().unwrap_or(0)),
            }
        }

        fn ids(
            &mut self,
            range: MailIdRange,
            order: IdOrder,
            limit: usize,
        ) -> Result<Vec<u64>, StoreReadError> {
            let ids = self.visible.range(range.after + 1..=range.up_to).copied();
            Ok(match order {
                IdOrder::OldestFirst => ids.take(limit).collect(),
                IdOrder::NewestFirst => ids.rev().take(limit).collect(),
            })
        }

        fn mails(&mut self, ids: &[u64]) -> Result<Vec<ListedMail>, StoreReadError> {
            let mail = |id: &u64| ListedMail {
                hash: id.to_string(),
                date: None,
                from: None,
                to: None,
                recipient: None,
                size: ListedMailSize::Expired,
                subject: None,
            };
            Ok(ids.iter().map(mail).collect())
        }

        fn may_appear_out_of_order(&self) -> bool {
            !self.are_ordered
        }
    }

    fn read_all(follower: &mut Follower, rows: &mut Rows, now: Instant) -> Vec<u64> {
        let mut ids = Vec::new();
        loop {
            let mails = follower.next_mails(rows, now).unwrap();
            assert!(mails.len() <= PAGE_MAILS);
            ids.extend(mails.iter().map(|mail| mail.hash.parse::<u64>().unwrap()));
            if !follower.has_more() && mails.is_empty() {
                return ids;
            }
        }
    }

    #[test]
    fn follower_begins_with_the_newest_mails_in_ascending_order() {
        for are_ordered in [true, false] {
            let mut rows = Rows {
                visible: (1..=10).collect(),
                are_ordered,
                fails: false,
            };
            let now = Instant::now();
            let mut follower = Follower::start(&mut rows, 3, now).unwrap();
            assert_eq!(read_all(&mut follower, &mut rows, now), [8, 9, 10]);
            rows.visible.extend([11, 12]);
            assert_eq!(read_all(&mut follower, &mut rows, now), [11, 12]);
            assert_eq!(read_all(&mut follower, &mut rows, now), [0; 0]);
        }
    }

    #[test]
    fn rows_that_appear_below_larger_ids_are_returned_once_within_their_time() {
        let mut rows = Rows {
            visible: BTreeSet::from([1, 2, 9]),
            ..Rows::default()
        };
        let started = Instant::now();
        let at = |seconds| started + Duration::from_secs(seconds);
        let mut follower = Follower::start(&mut rows, 0, started).unwrap();
        rows.visible.insert(5);
        assert_eq!(read_all(&mut follower, &mut rows, at(0)), [5]);
        rows.visible.extend([20, 21]);
        assert_eq!(read_all(&mut follower, &mut rows, at(1)), [20, 21]);
        rows.visible.extend([12, 30]);
        assert_eq!(read_all(&mut follower, &mut rows, at(2)), [12, 30]);
        for second in 3..50 {
            assert_eq!(read_all(&mut follower, &mut rows, at(second)), [0; 0]);
        }
        rows.visible.insert(13);
        let mut late = Vec::new();
        for second in 50..=61 {
            late.extend(read_all(&mut follower, &mut rows, at(second)));
        }
        assert_eq!(late, [13]);
        for second in 62..70 {
            assert_eq!(read_all(&mut follower, &mut rows, at(second)), [0; 0]);
        }
        assert!(follower.found.is_empty(), "{:?}", follower.found);
        // The table was unreachable for an hour, and a row of that time was committed late.
        follower.restart_clock(at(3_600));
        rows.visible.extend([40, 42]);
        assert_eq!(read_all(&mut follower, &mut rows, at(3_600)), [40, 42]);
        rows.visible.insert(41);
        assert_eq!(read_all(&mut follower, &mut rows, at(3_601)), [41]);
    }

    #[test]
    fn memory_is_bounded_and_no_row_is_left_out_after_a_long_absence() {
        let mut rows = Rows::default();
        let now = Instant::now();
        let mut follower = Follower::start(&mut rows, 20, now).unwrap();
        assert_eq!(read_all(&mut follower, &mut rows, now), [0; 0]);
        let rows_meanwhile = 3 * WINDOW_IDS as u64 + 7;
        rows.visible.extend(1..=rows_meanwhile);
        rows.fails = true;
        assert!(follower.next_mails(&mut rows, now).is_err());
        rows.fails = false;
        let mut read = 0;
        while read < rows_meanwhile {
            for mail in follower.next_mails(&mut rows, now).unwrap() {
                read += 1;
                assert_eq!(mail.hash, read.to_string());
            }
            assert!(follower.found.len() <= 2 * WINDOW_IDS + PAGE_MAILS);
            assert!(follower.pending.len() <= WINDOW_IDS + PAGE_MAILS);
            assert!(follower.marks.len() <= 62);
        }
        assert_eq!(read_all(&mut follower, &mut rows, now), [0; 0]);
    }

    #[test]
    fn follower_goes_on_after_ids_have_begun_again() {
        for are_ordered in [true, false] {
            let mut rows = Rows {
                visible: (1..=100).collect(),
                are_ordered,
                fails: false,
            };
            let now = Instant::now();
            let mut follower = Follower::start(&mut rows, 0, now).unwrap();
            // At once, and when the ids of the rows need not be known any more.
            for later in [now, now + 2 * LATE_TIME] {
                assert_eq!(read_all(&mut follower, &mut rows, later), [0; 0]);
                rows.visible.clear();
                assert_eq!(read_all(&mut follower, &mut rows, later), [0; 0]);
                rows.visible.extend([1, 2]);
                assert_eq!(read_all(&mut follower, &mut rows, later), [1, 2]);
            }
        }
    }

    #[test]
    fn follower_goes_on_after_a_file_was_replaced_by_its_backup() {
        let mut rows = Rows {
            visible: (1..=100).collect(),
            are_ordered: true,
            fails: false,
        };
        let now = Instant::now();
        let mut follower = Follower::start(&mut rows, 0, now).unwrap();
        rows.visible.split_off(&91);
        assert_eq!(read_all(&mut follower, &mut rows, now), [0; 0]);
        rows.visible.extend([91, 92]);
        assert_eq!(read_all(&mut follower, &mut rows, now), [91, 92]);
    }

    #[test]
    fn rows_of_a_database_that_lags_behind_are_returned_once() {
        let mut rows = Rows {
            visible: (1..=100).collect(),
            ..Rows::default()
        };
        let now = Instant::now();
        let mut follower = Follower::start(&mut rows, 0, now).unwrap();
        let not_yet = rows.visible.split_off(&91);
        assert_eq!(read_all(&mut follower, &mut rows, now), [0; 0]);
        rows.visible.extend(not_yet);
        rows.visible.insert(101);
        assert_eq!(read_all(&mut follower, &mut rows, now), [101]);
    }
}
