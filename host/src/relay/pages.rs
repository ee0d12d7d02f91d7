//! Reads rows page by page and sends them; while one page is sent, the next one is read.

use super::flight::{Flight, Sending};
use crate::store::{Outbox, OutboxRow, Page, Slices, Unavailable};
use futures_util::future::{OptionFuture, join3};

/// Rows of one page.
const ROWS: usize = 1_000;
/// Bytes of one page: while it is read they are in memory several times.
const BYTES: usize = 8 << 20;

/// What was read and not sent yet.
pub(super) struct Found {
    rows: Vec<OutboxRow>,
    /// There may be more behind it.
    more: bool,
    /// With it, everything up to this number has been read.
    complete: i64,
}

impl Found {
    /// `settled` was so before the page was read.
    fn new(rows: Vec<OutboxRow>, bytes: usize, settled: i64) -> Self {
        let more = rows.len() == ROWS || size(&rows) >= bytes;
        // A full page has everything up to its last row.
        let last = rows.last().filter(|_| more).map_or(i64::MAX, |row| row.id);
        Self { rows, more, complete: last.min(settled) }
    }

    /// Where the next page begins; none if a row that is not settled might be missing before it.
    fn next(&self) -> Option<i64> {
        let last = self.rows.last().filter(|_| self.more)?.id;
        (last == self.complete).then_some(last)
    }
}

/// A page that was read before its turn.
pub(super) struct Ahead {
    /// It begins above this number.
    after: i64,
    slices: Slices,
    found: Found,
}

fn size(rows: &[OutboxRow]) -> usize {
    rows.iter().map(OutboxRow::size).sum()
}

impl Flight<'_> {
    /// Sends what is new and forgets what was acknowledged meanwhile; true if there may be more.
    pub(super) async fn turn_page(&mut self, outbox: &Outbox) -> Result<bool, Unavailable> {
        self.held_up = false;
        if !self.has_room() || self.slices.is_empty() {
            return Ok(false);
        }
        self.floor.look(outbox, self.highest).await?;
        let found = match self.ahead.take().filter(|ahead| self.is_next(ahead)) {
            Some(ahead) => ahead.found,
            None => self.read(outbox).await?,
        };
        self.clock.check()?;
        let next = found.next().filter(|_| !self.leaves_out());
        let (settled, slices) = (self.floor.settled(), self.slices);
        let bytes = self.room().saturating_sub(size(&found.rows)).min(BYTES);
        let known = next.map_or_else(Vec::new, |after| self.known(after));
        let page =
            next.filter(|_| bytes > 0).map(|after| Page { after, known: &known, slices, rows: ROWS as i64, bytes: bytes as i64 });
        // In this order on one connection: what is forgotten is not read again.
        let gone = std::mem::take(&mut self.acknowledged);
        let reading = OptionFuture::from(page.as_ref().map(|page| outbox.fetch(page)));
        let (forgotten, read, sent) = join3(outbox.delete(&gone), reading, self.send_all(outbox, found.rows)).await;
        forgotten?;
        Ok(match sent? {
            Sending::Done => {
                self.floor.raise(found.complete);
                if let (Some(after), Some(rows)) = (next, read.transpose()?) {
                    self.ahead = Some(Ahead { after, slices, found: Found::new(rows, bytes, settled) });
                }
                found.more
            }
            Sending::ReadAgain => true,
            Sending::Wait => {
                self.held_up = true;
                false
            }
        })
    }

    /// Whether the page is what would be read now: everything that makes rows be sent again resets the floor.
    fn is_next(&self, ahead: &Ahead) -> bool {
        ahead.after == self.floor.value() && ahead.slices == self.slices && !self.leaves_out()
    }

    /// Rows that are not to be read: they are on their way, or blocked.
    fn known(&self, after: i64) -> Vec<i64> {
        self.in_flight.range(after..).map(|(id, _)| *id).chain(self.blocked.rows()).collect()
    }

    async fn read(&mut self, outbox: &Outbox) -> Result<Found, Unavailable> {
        // Nothing else leaves it out.
        self.forget(outbox).await?;
        let (after, settled) = (self.floor.value(), self.floor.settled());
        let bytes = self.room().min(BYTES);
        let known = self.known(after);
        let page = Page { after, known: &known, slices: self.slices, rows: ROWS as i64, bytes: bytes as i64 };
        let rows = match self.leaves_out() {
            false => outbox.fetch(&page).await?,
            true => outbox.fetch_beside(&page, &self.beside()).await?,
        };
        Ok(Found::new(rows, bytes, settled))
    }

    async fn send_all(&mut self, outbox: &Outbox, rows: Vec<OutboxRow>) -> Result<Sending, Unavailable> {
        for row in rows {
            match self.send(outbox, row).await? {
                Sending::Done => {}
                stopped => return Ok(stopped),
            }
        }
        Ok(Sending::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(rows: usize, settled: i64) -> Found {
        let row =
            |id| OutboxRow { id, slice: 0, topic: "t".to_owned(), key: None, value: None, headers: Vec::new(), timestamp: 0 };
        Found::new((1..=rows as i64).map(row).collect(), BYTES, settled)
    }

    #[test]
    fn nothing_is_read_ahead_behind_a_row_that_may_be_missing() {
        let next = |rows, settled| (found(rows, settled).complete, found(rows, settled).next());
        assert_eq!(next(ROWS, 5_000), (1_000, Some(1_000)));
        assert_eq!(next(ROWS, 999), (999, None));
        // Nothing more is there: a row up to what is settled would have been seen.
        assert_eq!(next(10, 5_000), (5_000, None));
        assert_eq!(next(10, 5), (5, None));
        assert_eq!(next(0, 7), (7, None));
    }
}
