//! What senders may know of sockets without touching the library: whether one is open, how many
//! bytes there is room for, and who was told that there is none.
//!
//! Any thread asks, and any signal handler, whatever it has interrupted: nothing here takes a
//! lock, allocates or waits. A sender *takes* room before it puts bytes into the outbox or the
//! owner's tray, so what is in there always has its place, and the answer of a send is final. Only
//! the owner of the library opens and closes sockets, and finds new room for them.

#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::foreign::Failure;
use crate::numbers::{INDEX_BITS, PLACES_MAX, index_of};

/// A cell for each place of a handle's number.
pub(crate) struct Board {
    cells: [AtomicU64; PLACES_MAX],
    /// For a socket that is listed: who was listed before it, as a place and one; 0 for nobody.
    listed_before: [AtomicU32; PLACES_MAX],
    /// Who was listed last.
    listed_last: AtomicU32,
}

/// What can be done with a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Closed = 0,
    /// It listens or connects.
    Unconnected = 1,
    Open = 2,
    /// The connection is over, and its program is about to be told, or is being told.
    Ended = 3,
}

/// Where the bytes go for which room is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// By way of the outbox or the owner's tray, where they are counted until they land.
    Outbox,
    /// To the runtime, by its owner.
    Direct,
}

/// What a cell's number holds, in 11, 2, 1, 1, 19 and 30 bits:
/// - the turn: the upper bits of the handle's number;
/// - the standing;
/// - whether somebody was refused, and is owed a `WRITE`;
/// - whether it is in the list of those that were, whichever socket it was then;
/// - how many bytes are boxed: in the outbox or the owner's tray, or will be in a moment;
/// - the room: bytes that may be taken yet. There may be more, which the owner finds out.
///
/// It stays packed, as each PDU takes some room and gives some back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cell(u64);

impl Board {
    pub(crate) const fn new() -> Self {
        Self {
            cells: [const { AtomicU64::new(0) }; PLACES_MAX],
            listed_before: [const { AtomicU32::new(0) }; PLACES_MAX],
            listed_last: AtomicU32::new(0),
        }
    }

    /// From now on there is this socket.
    pub(crate) fn open(&self, number: i32, standing: Standing, room: usize) {
        let (turn, room) = (turn_of(number), small(room));
        self.change(number, |cell| {
            Some(
                Cell::EMPTY.with_turn(turn).with_standing(standing).with_room(room).listed_as(cell),
            )
        });
    }

    pub(crate) fn set_standing(&self, number: i32, standing: Standing) {
        self.change_own(number, |cell| Some(cell.with_standing(standing)));
    }

    /// From now on nobody takes room for this socket. What was taken before is counted still.
    pub(crate) fn close(&self, number: i32) {
        let standing = Standing::Closed;
        self.change_own(number, |cell| Some(cell.with_standing(standing).with(REFUSED, false)));
    }

    /// Whether bytes are boxed: in the outbox or the tray, or will be in a moment. A closed socket
    /// gets no more.
    pub(crate) fn has_boxed(&self, number: i32) -> bool {
        self.change_own(number, |_| None).is_some_and(|cell| cell.boxed() > 0)
    }

    /// From now on there is no such socket.
    pub(crate) fn clear(&self, number: i32) {
        self.change_own(number, |cell| Some(Cell::EMPTY.listed_as(cell)));
    }

    /// Takes room for as many of `len` bytes as there is. What is to be boxed is given back if it
    /// does not get in, and [landed](Self::land) when it comes out.
    pub(crate) fn take(&self, number: i32, len: usize, way: Way) -> Result<usize, Failure> {
        let (len, mut taken) = (small(len), 0);
        let before = self.change_own(number, |cell| {
            taken = cell.may_take(len, way);
            (taken > 0).then(|| cell.with_taken(taken, way))
        });
        match before.map_or(Standing::Closed, Cell::standing) {
            Standing::Open => Ok(taken as usize),
            Standing::Closed => Err(libc::EBADF),
            Standing::Unconnected => Err(libc::ENOTCONN),
            Standing::Ended => Err(libc::EPIPE),
        }
    }

    /// Takes room in the owner's tray for all of `len` bytes, or for none; whether it did.
    #[inline]
    pub(crate) fn take_whole(&self, number: i32, len: usize) -> Result<bool, Failure> {
        let (turn, len, mut is_taken) = (turn_of(number), small(len), false);
        self.change(number, |cell| {
            is_taken = cell.is_open_for(turn) && cell.may_take(len, Way::Outbox) == len;
            (is_taken && len > 0).then(|| cell.with_taken(len, Way::Outbox))
        });
        // Where it is open there is too little room; else this says what is wrong.
        if is_taken { Ok(true) } else { self.take(number, 0, Way::Outbox).map(|_| false) }
    }

    /// Gives back what was taken to be boxed and did not get in.
    pub(crate) fn give_back(&self, number: i32, len: usize) {
        let len = small(len);
        self.change_own(number, |cell| {
            let room = (cell.room() + len).min(ROOM_MAX);
            Some(cell.with_boxed(cell.boxed().saturating_sub(len)).with_room(room))
        });
    }

    /// What was boxed has come out. The room that is left, as far as the board knows.
    pub(crate) fn land(&self, number: i32, len: usize) -> usize {
        let boxed = small(len);
        let before = self
            .change_own(number, |cell| Some(cell.with_boxed(cell.boxed().saturating_sub(boxed))));
        before.map_or(usize::MAX, |cell| cell.room() as usize)
    }

    /// A socket has room for so many bytes, those that are boxed included.
    pub(crate) fn renew(&self, number: i32, room: usize) {
        let room = small(room);
        self.change_own(number, |cell| Some(cell.with_room(room.saturating_sub(cell.boxed()))));
    }

    /// Notes that somebody was told that there is no room for all. Whether it is news.
    pub(crate) fn refuse(&self, number: i32) -> bool {
        let before = self.change_own(number, |cell| {
            let is_news = cell.standing() == Standing::Open && !cell.is(REFUSED);
            is_news.then_some(cell.with(REFUSED | LISTED, true))
        });
        let Some(before) = before else { return false };
        let is_news = before.standing() == Standing::Open && !before.is(REFUSED);
        if is_news && !before.is(LISTED) {
            let place = index_of(number);
            let mut last = self.listed_last.load(Ordering::Relaxed);
            loop {
                self.listed_before[place as usize].store(last, Ordering::Relaxed);
                let (order, failed) = (Ordering::AcqRel, Ordering::Relaxed);
                match self.listed_last.compare_exchange_weak(last, place + 1, order, failed) {
                    Ok(_) => break,
                    Err(newer) => last = newer,
                }
            }
        }
        is_news
    }

    pub(crate) fn has_listed(&self) -> bool {
        self.listed_last.load(Ordering::Acquire) != 0
    }

    /// Takes out of the list who was refused since, the last one first.
    pub(crate) fn take_listed(&self, mut each: impl FnMut(i32)) {
        let mut last = self.listed_last.swap(0, Ordering::AcqRel);
        while let Some(place) = last.checked_sub(1) {
            // Before the mark goes, after which it may be listed again.
            last = self.listed_before[place as usize].load(Ordering::Relaxed);
            let number = i32::try_from(place).expect("20 bits");
            let cell = self.change(number, |cell| Some(cell.with(LISTED, false)));
            if cell.is(REFUSED) {
                each(i32::try_from(cell.turn()).expect("11 bits") << INDEX_BITS | number);
            }
        }
    }

    /// Whether somebody is owed a `WRITE`; not any more from now on.
    pub(crate) fn forgive(&self, number: i32) -> bool {
        let before =
            self.change_own(number, |cell| cell.is(REFUSED).then_some(cell.with(REFUSED, false)));
        before.is_some_and(|cell| cell.is(REFUSED))
    }

    /// Changes the cell of a number, if it is that number's. What it was, if so.
    #[inline]
    fn change_own(
        &self,
        number: i32,
        mut change: impl FnMut(Cell) -> Option<Cell>,
    ) -> Option<Cell> {
        let turn = turn_of(number);
        let is_own = |cell: Cell| cell.turn() == turn;
        let before = self.change(number, |cell| if is_own(cell) { change(cell) } else { None });
        is_own(before).then_some(before)
    }

    /// Changes the cell of a place. What it was, also where it was left so.
    #[inline]
    fn change(&self, number: i32, mut change: impl FnMut(Cell) -> Option<Cell>) -> Cell {
        let cell = &self.cells[index_of(number) as usize];
        let change = |bits| change(Cell(bits)).map(|cell| cell.0);
        let before = cell.fetch_update(Ordering::SeqCst, Ordering::SeqCst, change);
        Cell(before.unwrap_or_else(|same| same))
    }
}

impl Cell {
    const EMPTY: Self = Self(0);

    /// How many of `len` bytes there is room for.
    #[inline]
    fn may_take(self, len: u32, way: Way) -> u32 {
        match (self.standing(), way) {
            (Standing::Open, Way::Outbox) => len.min(self.room()).min(BOXED_MAX - self.boxed()),
            (Standing::Open, Way::Direct) => len.min(self.room()),
            _ => 0,
        }
    }

    #[inline]
    fn with_taken(self, taken: u32, way: Way) -> Self {
        // Neither part overflows, as it may be taken, so each stays by itself.
        let boxed = if way == Way::Outbox { u64::from(taken) << BOXED_SHIFT } else { 0 };
        Self(self.0 + boxed - u64::from(taken))
    }

    const fn turn(self) -> u32 {
        (self.0 >> TURN_SHIFT) as u32
    }

    /// Whether it is the cell of that turn, and its socket is open.
    const fn is_open_for(self, turn: u32) -> bool {
        self.0 >> STANDING_SHIFT
            == (turn as u64) << (TURN_SHIFT - STANDING_SHIFT) | Standing::Open as u64
    }

    const fn standing(self) -> Standing {
        match self.0 >> STANDING_SHIFT & 3 {
            0 => Standing::Closed,
            1 => Standing::Unconnected,
            2 => Standing::Open,
            _ => Standing::Ended,
        }
    }

    /// Whether it has that mark.
    const fn is(self, mark: u64) -> bool {
        self.0 & mark != 0
    }

    #[expect(clippy::cast_possible_truncation, reason = "it is cut to its width")]
    const fn boxed(self) -> u32 {
        (self.0 >> BOXED_SHIFT) as u32 & BOXED_MAX
    }

    #[expect(clippy::cast_possible_truncation, reason = "it is cut to its width")]
    const fn room(self) -> u32 {
        self.0 as u32 & ROOM_MAX
    }

    const fn with_turn(self, turn: u32) -> Self {
        self.with_part(TURN_SHIFT, TURN_MAX, turn)
    }

    const fn with_standing(self, standing: Standing) -> Self {
        self.with_part(STANDING_SHIFT, 3, standing as u32)
    }

    const fn with(self, marks: u64, is_set: bool) -> Self {
        Self(if is_set { self.0 | marks } else { self.0 & !marks })
    }

    const fn listed_as(self, other: Self) -> Self {
        self.with(LISTED, other.is(LISTED))
    }

    const fn with_boxed(self, boxed: u32) -> Self {
        self.with_part(BOXED_SHIFT, BOXED_MAX, boxed)
    }

    const fn with_room(self, room: u32) -> Self {
        self.with_part(0, ROOM_MAX, room)
    }

    const fn with_part(self, shift: u32, max: u32, part: u32) -> Self {
        Self(self.0 & !((max as u64) << shift) | (part as u64) << shift)
    }
}

const fn turn_of(number: i32) -> u32 {
    number.cast_unsigned() >> INDEX_BITS
}

/// A count of bytes; of more than a cell can hold, that much.
fn small(len: usize) -> u32 {
    u32::try_from(len).map_or(ROOM_MAX, |len| len.min(ROOM_MAX))
}

const ROOM_MAX: u32 = (1 << 30) - 1;
const BOXED_MAX: u32 = (1 << 19) - 1;
const TURN_MAX: u32 = (1 << 11) - 1;

const BOXED_SHIFT: u32 = 30;
const LISTED: u64 = 1 << 49;
const REFUSED: u64 = 1 << 50;
const STANDING_SHIFT: u32 = 51;
const TURN_SHIFT: u32 = 53;

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const ONE: i32 = 5 << INDEX_BITS | 3;
    const LATER: i32 = 6 << INDEX_BITS | 3;
    const OTHER: i32 = 1 << INDEX_BITS | 4;

    /// A board with room for a thousand bytes on one socket.
    fn prepared(board: &'static Board) -> &'static Board {
        board.open(ONE, Standing::Open, 1000);
        board
    }

    fn listed(board: &Board) -> Vec<i32> {
        let mut all = Vec::new();
        board.take_listed(|number| all.push(number));
        all
    }

    /// Room is taken as far as it goes, by whichever way, and is there again when it is given back.
    #[test]
    fn room_is_taken_once() {
        static BOARD: Board = Board::new();
        let board = prepared(&BOARD);
        assert_eq!(board.take(ONE, 600, Way::Outbox), Ok(600));
        assert_eq!(board.take(ONE, 600, Way::Direct), Ok(400));
        assert_eq!(board.take(ONE, 1, Way::Outbox), Ok(0));
        board.give_back(ONE, 600);
        assert_eq!(board.take(ONE, 700, Way::Outbox), Ok(600));
        assert_eq!(board.land(ONE, 600), 0);
        board.renew(ONE, 50);
        assert_eq!(board.take(ONE, 60, Way::Outbox), Ok(50));
        board.renew(ONE, 70);
        assert_eq!(board.take(ONE, 60, Way::Outbox), Ok(20), "the rest is in the outbox");
    }

    /// All or nothing is taken, and counted as what goes to the outbox is.
    #[test]
    fn room_is_taken_whole() {
        static BOARD: Board = Board::new();
        let board = prepared(&BOARD);
        assert_eq!(board.take_whole(ONE, 0), Ok(true));
        assert!(!board.has_boxed(ONE));
        assert_eq!(board.take_whole(ONE, 600), Ok(true));
        assert!(board.has_boxed(ONE));
        assert_eq!(board.take_whole(ONE, 401), Ok(false));
        assert_eq!(board.take_whole(ONE, 400), Ok(true));
        assert_eq!(board.take_whole(ONE, 1), Ok(false));
        assert_eq!((board.land(ONE, 1000), board.has_boxed(ONE)), (0, false));
        board.renew(ONE, 1 << 29);
        assert_eq!(board.take_whole(ONE, BOXED_MAX as usize + 1), Ok(false));
        assert_eq!(board.take_whole(ONE, BOXED_MAX as usize), Ok(true));
        assert_eq!(board.take_whole(LATER, 0), Err(libc::EBADF));
        board.set_standing(ONE, Standing::Ended);
        assert_eq!(board.take_whole(ONE, 0), Err(libc::EPIPE));
    }

    /// A number that is not open takes nothing, and is told why.
    #[test]
    fn each_standing_has_its_answer() {
        static BOARD: Board = Board::new();
        let board = prepared(&BOARD);
        for unknown in [0, -1, 3, i32::MIN, i32::MAX, LATER, OTHER] {
            assert_eq!(board.take(unknown, 1, Way::Outbox), Err(libc::EBADF), "{unknown}");
            assert!(!board.refuse(unknown));
        }
        for (standing, failure) in [
            (Standing::Unconnected, libc::ENOTCONN),
            (Standing::Ended, libc::EPIPE),
            (Standing::Closed, libc::EBADF),
        ] {
            board.set_standing(ONE, standing);
            assert_eq!(board.take(ONE, 0, Way::Outbox), Err(failure));
            assert_eq!(board.take(ONE, 1, Way::Outbox), Err(failure));
            assert!(!board.refuse(ONE));
        }
    }

    /// Who is refused is listed once, also when its place has gone to another meanwhile.
    #[test]
    fn the_refused_are_listed_once() {
        static BOARD: Board = Board::new();
        let board = prepared(&BOARD);
        board.open(OTHER, Standing::Open, 1);
        assert!(board.refuse(ONE) && !board.refuse(ONE) && board.refuse(OTHER));
        assert_eq!(listed(board), [OTHER, ONE]);
        assert_eq!(listed(board), []);
        assert!(!board.refuse(ONE), "it is owed its message still");
        assert!(board.forgive(ONE) && !board.forgive(ONE));
        assert!(board.refuse(ONE));
        board.close(ONE);
        board.clear(ONE);
        board.open(LATER, Standing::Open, 1);
        assert!(board.refuse(LATER) && !board.forgive(OTHER | 1));
        assert_eq!(listed(board), [LATER]);
    }

    /// What was taken before a close is counted until it has landed or was given back, whatever
    /// others take meanwhile.
    #[test]
    fn a_closed_socket_is_done_with_what_was_taken() {
        static BOARD: Board = Board::new();
        let board = prepared(&BOARD);
        board.open(OTHER, Standing::Open, 1000);
        assert_eq!(board.take(ONE, 600, Way::Outbox), Ok(600));
        board.close(ONE);
        assert_eq!(board.take(ONE, 1, Way::Outbox), Err(libc::EBADF));
        assert_eq!(board.take(OTHER, 1, Way::Outbox), Ok(1));
        board.give_back(ONE, 100);
        assert!(board.has_boxed(ONE));
        board.land(ONE, 500);
        assert!(!board.has_boxed(ONE) && board.has_boxed(OTHER));
        board.clear(ONE);
        board.open(LATER, Standing::Open, 1);
        board.land(ONE, 1);
        assert!(!board.has_boxed(ONE) && !board.has_boxed(LATER));
        assert_eq!(board.take(ONE, 1, Way::Outbox), Err(libc::EBADF));
    }

    /// Threads that take and give back at once never have more than there is, and lose nothing.
    #[test]
    fn threads_share_the_room() {
        static BOARD: Board = Board::new();
        let board = prepared(&BOARD);
        thread::scope(|scope| {
            for len in [300, 600, 900] {
                scope.spawn(move || {
                    for _ in 0..20_000 {
                        let taken = board.take(ONE, len, Way::Outbox).unwrap();
                        assert!(taken <= 1000);
                        if taken.is_multiple_of(2) {
                            board.give_back(ONE, taken);
                        } else {
                            board.land(ONE, taken);
                            board.refuse(ONE);
                        }
                    }
                });
            }
            for _ in 0..2000 {
                listed(board);
            }
        });
        board.renew(ONE, 1000);
        assert_eq!(board.take(ONE, 2000, Way::Outbox), Ok(1000));
    }
}
