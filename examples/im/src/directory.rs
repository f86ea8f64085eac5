//! The message servers that are registered, how full they are, and which of them is named next.
//!
//! Knows nothing of sockets: a server is told apart by the handle of its connection, which
//! `login.rs` reports here when it registers, counts and goes.

#![forbid(unsafe_code)]

use std::{error, fmt};

use uring_netlib::Handle;

use crate::messages::{MsgServInfo, UserAction, UserCntUpdate};

/// All registered message servers, in the order in which they came.
#[derive(Debug, Default)]
pub struct Directory {
    servers: Vec<(Handle, MsgServInfo)>,
}

impl Directory {
    /// Enters a server, or puts its new figures in the place of its old ones: a server that tells
    /// again does not count twice.
    ///
    /// ```
    /// use im_example::directory::{Choice, Directory};
    /// use im_example::messages::MsgServInfo;
    /// use uring_netlib::Handle;
    ///
    /// let mut directory = Directory::default();
    /// assert_eq!(directory.choose(), Choice::NoServer);
    /// let info = MsgServInfo { port: 8000, max_conn_cnt: 10, ..MsgServInfo::default() };
    /// directory.register(Handle::from_bits(1), info.clone())?;
    /// assert_eq!(directory.choose(), Choice::Server(&info));
    /// # Ok::<(), im_example::directory::DirectoryError>(())
    /// ```
    ///
    /// # Errors
    /// [`DirectoryError::Port`]: no client could connect there. Old figures stay.
    pub fn register(&mut self, server: Handle, info: MsgServInfo) -> Result<(), DirectoryError> {
        if !(1..=u32::from(u16::MAX)).contains(&info.port) {
            return Err(DirectoryError::Port(info.port));
        }
        match self.servers.iter_mut().find(|(handle, _)| *handle == server) {
            Some((_, old)) => *old = info,
            None => self.servers.push((server, info)),
        }
        Ok(())
    }

    /// Counts a user that came to a server or left it. A count does not fall below 0. Returns the
    /// server's figures.
    ///
    /// # Errors
    /// [`DirectoryError::NotRegistered`], [`DirectoryError::Action`]: nothing was counted.
    pub fn count(
        &mut self,
        server: Handle,
        update: UserCntUpdate,
    ) -> Result<&MsgServInfo, DirectoryError> {
        let found = self.servers.iter_mut().find(|(handle, _)| *handle == server);
        let (_, info) = found.ok_or(DirectoryError::NotRegistered)?;
        let action = i32::try_from(update.user_action).ok().map(UserAction::try_from);
        info.cur_conn_cnt = match action {
            Some(Ok(UserAction::Inc)) => info.cur_conn_cnt.saturating_add(1),
            Some(Ok(UserAction::Dec)) => info.cur_conn_cnt.saturating_sub(1),
            Some(Err(_)) | None => return Err(DirectoryError::Action(update.user_action)),
        };
        Ok(info)
    }

    /// Takes out a server whose connection is over, and its users with it. `None` where it had not
    /// registered.
    pub fn remove(&mut self, server: Handle) -> Option<MsgServInfo> {
        let position = self.servers.iter().position(|(handle, _)| *handle == server)?;
        Some(self.servers.remove(position).1)
    }

    /// The server with the fewest users of those that take more; of several the first.
    #[must_use]
    pub fn choose(&self) -> Choice<'_> {
        let infos = self.servers.iter().map(|(_, info)| info);
        let open = infos.filter(|info| info.cur_conn_cnt < info.max_conn_cnt);
        match open.min_by_key(|info| info.cur_conn_cnt) {
            Some(info) => Choice::Server(info),
            None if self.servers.is_empty() => Choice::NoServer,
            None => Choice::Full,
        }
    }

    /// Users of all servers together.
    #[must_use]
    pub fn users(&self) -> u64 {
        self.servers.iter().map(|(_, info)| u64::from(info.cur_conn_cnt)).sum()
    }

    /// How many servers are registered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.servers.len()
    }

    /// Whether no server is registered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.servers.is_empty()
    }
}

/// What a client that asks for a message server is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice<'d> {
    /// This one.
    Server(&'d MsgServInfo),
    /// None is registered.
    NoServer,
    /// All have as many users as they take.
    Full,
}

impl fmt::Display for Choice<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // A server cannot break the line, whatever it calls itself.
            Self::Server(info) => write!(f, "{}:{}", info.ip1.escape_debug(), info.port),
            Self::NoServer => f.write_str("no message server"),
            Self::Full => f.write_str("all message servers are full"),
        }
    }
}

/// Why what a message server told was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DirectoryError {
    /// A count came before the registration.
    NotRegistered,
    /// A count was neither one more nor one less.
    Action(u32),
    /// A port out of 1 to 65535.
    Port(u32),
}

impl fmt::Display for DirectoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRegistered => f.write_str("it counts users and has not registered"),
            Self::Action(action) => write!(f, "{action} is no way to count users"),
            Self::Port(port) => write!(f, "{port} is no port for clients to connect to"),
        }
    }
}

impl error::Error for DirectoryError {}

#[cfg(test)]
mod tests {
    use super::*;

    const INC: UserCntUpdate = UserCntUpdate { user_action: 1, user_id: 7 };
    const DEC: UserCntUpdate = UserCntUpdate { user_action: 2, user_id: 7 };

    fn handle(number: u64) -> Handle {
        Handle::from_bits(1 << 32 | number)
    }

    fn info(port: u32, users: u32, max: u32) -> MsgServInfo {
        MsgServInfo { port, cur_conn_cnt: users, max_conn_cnt: max, ..MsgServInfo::default() }
    }

    /// Servers with these users and limits, at the ports 1, 2, 3 and so on.
    fn directory(servers: &[(u32, u32)]) -> Directory {
        let mut directory = Directory::default();
        for (port, &(users, max)) in (1..).zip(servers) {
            directory.register(handle(u64::from(port)), info(port, users, max)).unwrap();
        }
        directory
    }

    fn chosen_port(directory: &Directory) -> Option<u32> {
        match directory.choose() {
            Choice::Server(info) => Some(info.port),
            Choice::NoServer | Choice::Full => None,
        }
    }

    /// The fewest users win among those with room, and the first of equals.
    #[test]
    fn the_emptiest_server_with_room_is_chosen() {
        for (servers, port) in [
            (&[(5, 10), (3, 10), (4, 10)][..], 2),
            (&[(5, 10), (5, 10)], 1),
            (&[(2, 2), (3, 10), (3, 10)], 2),
            (&[(0, 0), (9, 10)], 2),
        ] {
            assert_eq!(chosen_port(&directory(servers)), Some(port), "{servers:?}");
        }
    }

    /// Having none and having none with room are told apart.
    #[test]
    fn no_server_and_no_room_are_different() {
        assert_eq!(directory(&[]).choose(), Choice::NoServer);
        assert_eq!(directory(&[(2, 2), (3, 2)]).choose(), Choice::Full);
    }

    /// A server that registers again has its new figures, once, and keeps its place among equals.
    #[test]
    fn a_registration_that_is_sent_again_replaces_the_first() {
        let mut directory = directory(&[(4, 10), (4, 10)]);
        directory.register(handle(1), info(9, 4, 20)).unwrap();
        assert_eq!((directory.len(), directory.users()), (2, 8));
        assert_eq!(chosen_port(&directory), Some(9));
    }

    /// The users of a server that goes are gone with it.
    #[test]
    fn a_server_that_goes_takes_its_users_along() {
        let mut directory = directory(&[(4, 10), (5, 10)]);
        assert_eq!(directory.remove(handle(1)), Some(info(1, 4, 10)));
        assert_eq!(directory.remove(handle(1)), None);
        assert_eq!((directory.len(), directory.users()), (1, 5));
        assert_eq!(chosen_port(&directory), Some(2));
    }

    /// Each update moves one server's count by one, and the choice with it.
    #[test]
    fn counting_moves_the_choice() {
        let mut directory = directory(&[(1, 3), (2, 3)]);
        for (update, users, port) in
            [(INC, 2, Some(1)), (INC, 3, Some(2)), (DEC, 2, Some(1)), (INC, 3, Some(2))]
        {
            assert_eq!(directory.count(handle(1), update).unwrap().cur_conn_cnt, users);
            assert_eq!(chosen_port(&directory), port);
        }
        directory.count(handle(2), INC).unwrap();
        assert_eq!(directory.choose(), Choice::Full);
    }

    /// A count ends at 0 and at the largest number, whatever a server says.
    #[test]
    fn a_count_stays_within_its_bounds() {
        let mut directory = directory(&[(0, 3), (u32::MAX, 3)]);
        assert_eq!(directory.count(handle(1), DEC).unwrap().cur_conn_cnt, 0);
        assert_eq!(directory.count(handle(2), INC).unwrap().cur_conn_cnt, u32::MAX);
        assert_eq!(directory.users(), u64::from(u32::MAX));
    }

    /// What makes no sense is refused, and changes nothing.
    #[test]
    fn nonsense_is_refused_and_changes_nothing() {
        let mut directory = directory(&[(4, 10)]);
        for port in [0, 65536, u32::MAX] {
            let refused = directory.register(handle(1), info(port, 0, 10));
            assert_eq!(refused, Err(DirectoryError::Port(port)));
        }
        for action in [0, 3, u32::MAX] {
            let update = UserCntUpdate { user_action: action, user_id: 1 };
            assert_eq!(directory.count(handle(1), update), Err(DirectoryError::Action(action)));
        }
        assert_eq!(directory.count(handle(2), INC), Err(DirectoryError::NotRegistered));
        assert_eq!(directory.choose(), Choice::Server(&info(1, 4, 10)));
    }
}
